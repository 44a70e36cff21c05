"""Writes an image set of random pictures into a cache of the hub, to stream from it: two gigabytes unless told.

    make_large_set.py <folder of the cache> [gigabytes]
    HF_HUB_CACHE=<folder of the cache> HF_HUB_OFFLINE=1 cargo run --release --example hub_images candle/large

Wants pyarrow, numpy and Pillow.
"""

import io
import json
import sys
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
from course import command
from PIL import Image

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PER_SHARD, PER_GROUP, SIDE = 2_000, 100, 256


def picture(generator) -> bytes:
    """A JPEG of noise over a slope, about 100 kB."""
    slope = numpy.linspace(0, 160, SIDE)[:, None, None] * numpy.ones((1, SIDE, 3))
    pixels = (slope + generator.integers(0, 90, (SIDE, SIDE, 3))).astype(numpy.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "jpeg", quality=97, subsampling=0)
    return out.getvalue()


def main(cache: Path, gigabytes: float) -> None:
    generator = numpy.random.default_rng(1)
    # A few hundred pictures, each many times: what is streamed must be large, not manifold.
    pictures = [picture(generator) for _ in range(200)]
    size = sum(map(len, pictures)) / len(pictures)
    shards = max(1, round(gigabytes * 1e9 / size / PER_SHARD))
    folder = cache / "datasets--candle--large"
    snapshot = folder / "snapshots" / COMMIT / "data"
    snapshot.mkdir(parents=True, exist_ok=True)
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["even", "odd"]}}
    noted = {"huggingface": json.dumps({"info": {"features": features}})}
    total = 0
    for shard in range(shards):
        rows = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        images = [{"bytes": pictures[row % len(pictures)] + row.to_bytes(4, "little"), "path": None} for row in rows]
        table = pyarrow.table({"image": pyarrow.array(images, kind), "label": pyarrow.array([row % 2 for row in rows], pyarrow.int64())})
        path = snapshot / f"train-{shard:05}-of-{shards:05}.parquet"
        pyarrow.parquet.write_table(table.replace_schema_metadata(noted), path, row_group_size=PER_GROUP, compression="snappy", use_dictionary=False)
        total += path.stat().st_size
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    print(f"{shards * PER_SHARD:,} pictures of {size / 1e3:.0f} kB in {shards} files, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    command.guard()
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: make_large_set.py <folder of the cache> [gigabytes]")
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) == 3 else 2.0)
