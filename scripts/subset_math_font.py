#!/usr/bin/env python3
"""Make the small font that the site's formulas are set in.

    subset_math_font.py <STIXTwoMath-Regular.ttf> <output.woff2>

Browsers set MathML with a font that has a table of mathematical measures; few machines bring one.
Needs fonttools and brotli.
"""

import sys

from course import command
from fontTools import subset
from fontTools.ttLib import TTFont

CHARACTERS = [
    *range(0x20, 0x7F), *range(0xA0, 0x100),
    *[0x210E, 0x2113, 0x211D, 0x1D7D9],
    # Italic and bold letters, Latin and Greek: a browser takes these for a variable of one letter. The
    # italic h is U+210E.
    *range(0x1D434, 0x1D455), *range(0x1D456, 0x1D468), *range(0x1D6E2, 0x1D71C), *range(0x1D400, 0x1D434),
    *range(0x391, 0x3A2), *range(0x3A3, 0x3CA), 0x3D1, 0x3D5, 0x3F5,
    # Accents, bars, brackets and primes.
    *[0x2C6, 0x2C9, 0x2D9, 0x2DC, 0x302, 0x303, 0x304, 0x305, 0x307, 0x20D7, 0x2016, 0x2032, 0x2033, 0x203E],
    *[0x2223, 0x2225, 0x2308, 0x2309, 0x230A, 0x230B, 0x27E8, 0x27E9],
    # Operators, relations and arrows.
    *[0x2013, 0x2026, 0x2190, 0x2191, 0x2192, 0x2193, 0x21A6, 0x21D2, 0x22C5, 0x22EF, 0x2211, 0x220F, 0x221A, 0x221D, 0x221E],
    *[0x2200, 0x2202, 0x2203, 0x2207, 0x2208, 0x2209, 0x2212, 0x2217, 0x2218, 0x2229, 0x222A, 0x222B, 0x2248, 0x2260, 0x2264, 0x2265],
    *[0x226A, 0x226B, 0x2282, 0x2286, 0x2295, 0x2297, 0x2299],
]


def main(source: str, target: str) -> None:
    font = TTFont(source)
    options = subset.Options(layout_features=["ssty", "dtls"], name_IDs=[0, 1, 2, 5, 6, 13, 14], hinting=False, notdef_outline=True, flavor="woff2")
    if missing := [f"U+{c:04X}" for c in CHARACTERS if c not in font.getBestCmap()]:
        sys.exit(f"{source} has no {', '.join(missing)}")
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=CHARACTERS)
    subsetter.subset(font)
    subset.save_font(font, target, options)


if __name__ == "__main__":
    command.guard()
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
