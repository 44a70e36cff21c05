"""Files and facts of GDAL and values of spyndex, with which the crate's scenes are compared.

    reference_scene.py              writes them to candle_course/tests/data/scene
    reference_scene.py MAP.tif      checks the map of `cargo run --example scene` with GDAL

Wants rasterio 1.4.4 (GDAL 3.10.3) and spyndex 0.12.0 from PyPI.
"""

import base64
import json
import sys
from pathlib import Path

import numpy
import rasterio
import spyndex
from rasterio.io import MemoryFile
from rasterio.transform import Affine, from_origin

DATA = Path(__file__).resolve().parents[1] / "candle_course" / "tests" / "data" / "scene"
HEIGHT, WIDTH, COUNT = 21, 19, 3
PLACE = {"crs": "EPSG:31983", "transform": from_origin(333_000.5, 7_394_321.25, 10, 20)}


def pixels(kind: str, count: int = COUNT):
    """What the crate's test computes too: every value is told by its place."""
    band, row, column = numpy.meshgrid(range(count), range(HEIGHT), range(WIDTH), indexing="ij")
    value = (band * 7919 + row * 104_729 + column * 1_299_709) % 65_521
    if kind == "uint8":
        return (value % 251).astype(kind)
    if kind == "int16":
        return (value - 32_760).astype(kind)
    return value.astype(kind) / 16 if kind == "float32" else value.astype(kind)


def file(kind: str, band_facts=True, bands: int = COUNT, **options) -> bytes:
    with MemoryFile() as memory:
        profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": bands, "dtype": kind} | options
        with memory.open(**profile) as out:
            out.write(pixels(kind, bands))
            if band_facts:
                for number in range(1, bands + 1):
                    out.set_band_description(number, f"band <{number}> & co")
                out.scales, out.offsets = [0.0001] * bands, [-0.1] * bands
        return memory.read()


def files():
    """Every way of GDAL to store samples that the crate promises to read."""
    for kind in ("uint8", "uint16", "int16", "float32"):
        for layout in ({"tiled": True, "blockxsize": 16, "blockysize": 32}, {"blockysize": 5}):
            for interleave in ("band", "pixel"):
                for compress, predictor in (("none", 1), ("deflate", 2), ("lzw", 2), ("packbits", 1), ("deflate", 3)):
                    if (predictor == 3 and kind != "float32") or (compress == "packbits" and kind != "uint8"):
                        continue
                    if compress == "none" and "tiled" in layout and kind != "int16":
                        continue
                    options = {"interleave": interleave, **layout}
                    if compress != "none":
                        options["compress"] = compress
                    if compress in ("deflate", "lzw"):
                        options["predictor"] = predictor
                    yield kind, options
    yield "uint16", {"ENDIANNESS": "BIG", "compress": "lzw", "predictor": 2, **PLACE}
    yield "float32", {"BIGTIFF": "YES", "compress": "deflate", "predictor": 3, **PLACE}
    yield "uint16", {"ENDIANNESS": "BIG", "BIGTIFF": "YES", "interleave": "pixel"}
    # Aerial photographs: red, green, blue, and near infrared as an "extra" sample.
    yield "uint8", {"photometric": "RGB", "interleave": "pixel", "compress": "lzw", "predictor": 2, "bands": 4}
    yield "uint16", {"photometric": "RGB", "interleave": "pixel", "compress": "deflate", "predictor": 2, "bands": 4}
    yield "uint8", {"photometric": "MINISWHITE", "bands": 1}
    yield "int16", {"nodata": -9999, **PLACE}
    yield "float32", {"nodata": float("nan"), "crs": "EPSG:4326", "transform": from_origin(-46.7, -23.5, 0.001, 0.001)}
    yield "uint8", {"transform": Affine(3, 4, 100, 4, -3, 200), "crs": "EPSG:31983"}
    yield "uint8", {"crs": "+proj=laea +lat_0=-10 +lon_0=-55", "transform": from_origin(0, 0, 30, 30)}
    yield "uint16", {"SPARSE_OK": "TRUE", "nodata": 7, "empty": True, "tiled": True, "blockxsize": 16, "blockysize": 16}


def empty_file(kind: str, **options) -> bytes:
    """A sparse file: a tile is written, the others are not there."""
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", height=HEIGHT, width=WIDTH, count=COUNT, dtype=kind, **options) as out:
            for band in range(1, COUNT + 1):
                out.write(pixels(kind)[band - 1, :16, 16:], band, window=((0, 16), (16, WIDTH)))
        return memory.read()


def facts(content: bytes) -> dict:
    with MemoryFile(content) as memory, memory.open() as file:
        place = file.transform.to_gdal() if file.transform != Affine.identity() else None
        nodata = None if file.nodata is None else repr(float(file.nodata))
        return {"dtype": file.dtypes[0], "count": file.count, "transform": place, "nodata": nodata,
                "epsg": file.crs.to_epsg() if file.crs else None, "scale": file.scales[0], "offset": file.offsets[0],
                "name": file.descriptions[0]}


def cases():
    for kind, options in files():
        options = dict(options)
        empty = options.pop("empty", False)
        bands = options.pop("bands", COUNT)
        content = empty_file(kind, **options) if empty else file(kind, bands=bands, **options)
        told = {key: str(value) for key, value in options.items()}
        yield {"options": told, "sparse": empty, "file": base64.b64encode(content).decode()} | facts(content)


def indices():
    """Of random reflectances, by spyndex's formulas."""
    generator = numpy.random.default_rng(18)
    bands = {name: generator.uniform(0.01, 0.6, 50).astype(numpy.float32) for name in ("blue", "green", "red", "nir", "swir1", "swir2")}
    letters = dict(zip(("B", "G", "R", "N", "S1", "S2"), (numpy.float64(values) for values in bands.values())))
    constants = {"g": 2.5, "C1": 6.0, "C2": 7.5, "L": 1.0}
    values = {}
    for name in ("NDVI", "GNDVI", "EVI", "EVI2", "SAVI", "MSAVI", "NDWI", "MNDWI", "NDMI", "NBR", "NDBI", "BI"):
        own = {"L": 0.5} if name == "SAVI" else {}
        # spyndex calls Rikimaru's bare soil index BI.
        values["BSI" if name == "BI" else name] = spyndex.computeIndex(name, letters | constants | own).tolist()
    return {"bands": {name: values.tolist() for name, values in bands.items()}, "indices": values}


def check(path: str) -> None:
    """The example's map has the place, the projection, the colours and the names that the example gave it."""
    with rasterio.open(path) as file:
        assert file.crs.to_epsg() == 32_723, file.crs
        assert file.transform == from_origin(300_000, 7_500_000, 10, 10), file.transform
        assert (file.count, file.dtypes, file.shape, file.nodata) == (1, ("uint8",), (300, 300), 255.0)
        assert file.colormap(1)[0] == (33, 112, 181, 255) and file.colormap(1)[3] == (26, 107, 46, 255), file.colormap(1)
        assert file.descriptions == ("class",) and file.tags()["CLASS_1"] == "bare soil", file.tags()
        classes, counts = numpy.unique(file.read(1), return_counts=True)
        print(file.crs, tuple(file.bounds), dict(zip(classes.tolist(), counts.tolist())))


def main() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    for name, content in (("files.json", {"height": HEIGHT, "width": WIDTH, "cases": list(cases())}), ("indices.json", indices())):
        (DATA / name).write_text(json.dumps(content) + "\n")
        print(name, (DATA / name).stat().st_size, "bytes; GDAL", rasterio.__gdal_version__, "spyndex", spyndex.__version__)


if __name__ == "__main__":
    sys.exit(check(sys.argv[1]) if len(sys.argv) == 2 else main())
