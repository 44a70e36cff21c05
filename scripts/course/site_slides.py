"""Slides from a lesson: what is looked at together stands on them, what is read alone stands in their notes."""

import re
from dataclasses import dataclass, field

from .site_lesson import Lesson

# More than this does not fit under a heading.
CODE_LINES = 18
OUTPUT_LINES = 14
# One of them fills a slide.
LARGE = ("list", "table", "box", "code")


@dataclass
class Slide:
    title: str
    # "title", "section", "code" or "figure".
    kind: str = "section"
    body: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def slides(lesson: Lesson) -> list:
    """One slide per section with its first sentence, a list or table and formulas; one per further list, table or box, per short cell, per figure."""
    made = [Slide(lesson.title, "title")]
    for section in lesson.sections:
        if section.title:
            made.append(Slide(section.title))
        opened, full, before = False, False, None
        for block in section.blocks:
            slide = made[-1]
            if block.kind == "cell":
                made += cell(section.title or lesson.title, block)
                full = full or made[-1] is not slide
            elif block.kind == "paragraph":
                slide.notes.append(block.html)
                # Formulas may stand within a paragraph.
                slide.body += re.findall(r'<div class="formula.*?</div>', block.html, re.DOTALL)
                if not opened and slide.kind == "section":
                    slide.body.insert(0, first_sentence(block.html))
                opened = True
            elif block.kind in LARGE:
                if full or block.kind == "box" and slide.body:
                    # What leads over to it stands above it.
                    slide = Slide(section.title or lesson.title, body=[first_sentence(before.html)] if before and before.kind == "paragraph" else [])
                    made.append(slide)
                slide.body.append(block.html)
                full = True
            elif block.kind in ("formula", "fold", "objectives"):
                slide.body.append(block.html)
            before = block
    return [slide for slide in made if slide.body or slide.notes or slide.kind == "title"]


def cell(title: str, block) -> list:
    """The slides of a cell: its code where that is short, and each of its figures."""
    if "setup" in block.tags or "check" in block.tags:
        return []
    made = []
    texts = [output.html for output in block.outputs if output.kind == "table" or output.kind == "text" and output.text.count("\n") < OUTPUT_LINES]
    if block.text.count("\n") < CODE_LINES:
        made.append(Slide(title, "code", [block.html, *texts]))
    elif texts:
        made.append(Slide(title, "code", texts, [block.html]))
    made += [Slide(title, "figure", [output.html]) for output in block.outputs if output.kind == "figure"]
    return made


def first_sentence(paragraph: str) -> str:
    """The paragraph up to the first full stop that ends a sentence, outside of formulas and code."""
    inner = re.sub(r"^\s*<p>|</p>\s*$", "", paragraph)
    if '<div class="formula' in inner:
        inner = inner[: inner.index('<div class="formula')]
    depth, end = 0, len(inner)
    for match in re.finditer(r"<(/?)(\w+)[^>]*?(/?)>|[.?!](?=\s)", inner):
        if match.group(2):
            depth += 0 if match.group(3) else -1 if match.group(1) else 1
        elif depth == 0:
            end = match.end()
            break
    return f"<p>{inner[:end].rstrip(':').rstrip()}</p>"
