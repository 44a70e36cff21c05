#!/usr/bin/env python3
"""Make the small fonts that figures are rasterised with.

    subset_fonts.py <LiberationSans-Regular.ttf> <LiberationSans-Bold.ttf> <DejaVuSans.ttf> <output folder>

Liberation Sans 2 has the same advance widths as Arial and Helvetica, so a figure measures the same
in a browser (which takes one of those) and in the PNG. DejaVu Sans gives the signs that it lacks.
Needs fonttools. Prints the advance widths of ASCII, in thousandths of an em, for `plot/text.rs`.
"""

import pathlib
import sys

from course import command
from fontTools import subset
from fontTools.ttLib import TTFont

CHARACTERS = (
    [*range(0x20, 0x7F), *range(0xA0, 0x180)]  # Latin with every Western accent
    + [0x2C6, 0x2C7, 0x2DC]
    + [*range(0x391, 0x3A2), *range(0x3A3, 0x3CA), 0x3D1, 0x3D5]  # Greek
    + [0x2013, 0x2014, 0x2018, 0x2019, 0x201C, 0x201D, 0x2020, 0x2022, 0x2026, 0x2030, 0x2032]
    + [0xB9, 0xB2, 0xB3, 0x2074, 0x207F, 0x2113, *range(0x2190, 0x2195)]
    + [0x2202, 0x2206, 0x220F, 0x2211, 0x2212, 0x221A, 0x221E, 0x2229, 0x222B]
    + [0x2248, 0x2260, 0x2261, 0x2264, 0x2265, 0x25A0, 0x25CF]
)
SYMBOLS = [
    *[0x302, 0x2016, 0x2070, *range(0x2075, 0x207F), *range(0x2080, 0x208F)],
    *[0x2207, 0x2208, 0x221D, 0x222A, 0x2295, 0x2297, 0x22C5, 0x1D7D9, 0x25B2, 0x25BC, 0x2605, 0x2713, 0x2717],
]


def write(source: str, characters: list[int], family: str, target: pathlib.Path) -> None:
    options = subset.Options(
        layout_features=["kern"], name_IDs=[0, 1, 2, 6, 13, 14], hinting=False, notdef_outline=True, drop_tables=["+FFTM"]
    )
    font = TTFont(source)
    if missing := [chr(c) for c in characters if c not in font.getBestCmap()]:
        sys.exit(f"{source} has no {missing}")
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=characters)
    subsetter.subset(font)
    # The licences reserve the originals' names for the originals.
    for record in font["name"].names:
        if record.nameID in (1, 6):
            record.string = family if record.nameID == 1 else target.stem
    metrics, names, em = font["hmtx"], font.getBestCmap(), font["head"].unitsPerEm
    font.save(target)
    print(target.name, [round(1000 * metrics[names[c]][0] / em) for c in range(0x20, 0x7F) if c in names])


if __name__ == "__main__":
    command.guard()
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    regular, bold, dejavu, folder = sys.argv[1:]
    write(regular, CHARACTERS, "Plot Sans", pathlib.Path(folder) / "PlotSans-Regular.ttf")
    write(bold, CHARACTERS, "Plot Sans", pathlib.Path(folder) / "PlotSans-Bold.ttf")
    write(dejavu, SYMBOLS, "Plot Symbols", pathlib.Path(folder) / "PlotSymbols.ttf")
