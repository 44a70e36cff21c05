"""The map of the module: the loop of a training, and the lesson about each part of it."""

import html

# Name, lesson, x, y, width; the loop runs clockwise.
BOXES = [
    ("map_data", "3.2", 40, 150, 160),
    ("map_model", "3.1", 270, 150, 160),
    ("map_loss", "3.3", 500, 150, 160),
    ("map_gradients", "3.1", 500, 270, 160),
    ("map_update", "3.4", 270, 270, 160),
    ("map_save", "3.5", 20, 20, 200),
    ("map_judge", "3.6", 250, 20, 200),
    ("map_general", "3.7", 480, 20, 200),
]
HEIGHT = 64
ARROWS = ["M200 182h64", "M430 182h64", "M580 214v50", "M500 302h-64", "M350 270v-50"]


def draw(lessons: dict, words: dict) -> str:
    """An SVG whose boxes lead to the lessons; `lessons` gives the page of each number."""
    parts = [
        f'<svg class="map" viewBox="0 0 700 440" role="group" aria-label="{html.escape(words["map"])}">',
        f'<desc>{html.escape(words["map_text"])}</desc>',
        '<defs><marker id="head" viewBox="0 0 10 10" refX="7" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 10 5 0 10z" fill="var(--soft)"/></marker></defs>',
        '<rect x="20" y="120" width="660" height="232" rx="14" fill="none" stroke="var(--line)" stroke-dasharray="6 5" stroke-width="2"/>',
        f'<text x="340" y="247" text-anchor="end" font-size="13" fill="var(--soft)">{html.escape(words["map_again"])}</text>',
    ]
    parts += [f'<path d="{path}" fill="none" stroke="var(--soft)" stroke-width="2.5" marker-end="url(#head)"/>' for path in ARROWS]
    # What watches the loop from outside.
    parts += [f'<path d="M{x} 84v34" fill="none" stroke="var(--soft)" stroke-width="2" stroke-dasharray="3 4"/>' for x in (120, 350, 580)]
    parts += [box(words[name], number, lessons, x, y, width) for name, number, x, y, width in BOXES]
    parts.append(box(words["map_system"], "3.8", lessons, 20, 368, 660))
    return "".join(parts) + "</svg>"


def box(name: str, number: str, lessons: dict, x: int, y: int, width: int) -> str:
    drawn = (
        f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="9" fill="var(--panel)" stroke="var(--accent)" stroke-width="2"/>'
        f'<text x="{x + width / 2}" y="{y + 28}" text-anchor="middle" font-weight="600" fill="var(--ink)">{html.escape(name)}</text>'
        f'<text x="{x + width / 2}" y="{y + 49}" text-anchor="middle" font-size="13" fill="var(--link)" text-decoration="underline">{number}</text>'
    )
    return f'<a href="{lessons[number]}">{drawn}</a>' if number in lessons else drawn
