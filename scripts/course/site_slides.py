"""Slides from a lesson: what is looked at together stands on them, what is read alone stands in their notes."""

import re
from dataclasses import dataclass, field
from itertools import accumulate

from .site_lesson import Lesson

# More than this does not fit under a heading.
CODE_LINES = 18
OUTPUT_LINES = 24
# Code, what it shows and what leads over to it, in lines of code.
LINES = 24
# Shorter code that only draws a figure stands in the notes of the figure.
FEW_LINES = 10
# Letters of the prose that fits on a slide of its own.
PROSE = 900
# Letters of a paragraph that stands whole above what it leads over to.
LEAD = 200
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
    """Per section its first sentence with a list, a table, formulas or its first code; then one slide per further list, table, box, short cell and figure."""
    made = [Slide(lesson.title, "title")]
    for section in lesson.sections:
        if section.title:
            made.append(Slide(section.title))
        first, opened, full, before, told = made[-1], False, False, None, []
        for block in section.blocks:
            slide = made[-1]
            if block.kind == "cell":
                further = cell(section.title or lesson.title, block)
                if not further:
                    # What leads over to a cell that is not shown leads over to the next.
                    continue
                head = further[0]
                if "exercise" in block.tags and slide.kind == "section" and not full:
                    # The task is said whole.
                    if fitting(told) == len(told):
                        slide.body, slide.notes = list(told), []
                # Code and the next code belong together, and results and the next results; not code and the results of other code.
                alike = (block.html in head.body) == any('<pre class="code' in part for part in slide.body)
                goes_on = slide.kind == "section" and not full or slide.kind == "code" and before.kind == "cell" and alike
                if head.kind == "code" and goes_on and lines(slide.body + head.body) <= LINES:
                    slide.kind = "code"
                    slide.body += head.body
                    slide.notes += further.pop(0).notes
                elif head.kind == "code":
                    leads_over(slide, before, head)
                made += further
                full = True
            elif block.kind == "paragraph":
                # Formulas may stand within a paragraph.
                formulas = re.findall(r'<div class="formula.*?</div>', block.html, re.DOTALL)
                if formulas and full:
                    slide, full = Slide(section.title or lesson.title, body=[leading(block.html)]), False
                    made.append(slide)
                slide.notes.append(block.html)
                told.append(block.html)
                slide.body += formulas
                if not opened and slide.kind == "section":
                    slide.body.insert(0, first_sentence(block.html))
                opened = True
            elif block.kind in LARGE:
                if full or block.kind == "box" and slide.body:
                    made.append(Slide(section.title or lesson.title))
                    leads_over(slide, before, made[-1])
                    slide = made[-1]
                slide.body.append(block.html)
                full = True
            elif block.kind in ("formula", "fold", "objectives"):
                if block.kind == "formula" and full and before.kind == "paragraph":
                    made.append(Slide(section.title or lesson.title))
                    leads_over(slide, before, made[-1])
                    slide, full = made[-1], False
                slide.body.append(block.html)
                told.append(block.html)
            before = block
        if first.kind == "section" and len(first.body) == 1 and first.notes:
            # Nothing but a sentence: there is room for more of what the section says.
            shown = fitting(first.notes)
            first.body, first.notes = first.notes[:shown] or first.body, first.notes[shown:]
    return [slide for slide in made if slide.body or slide.notes or slide.kind == "title"]


def leads_over(slide: Slide, before, following: Slide) -> None:
    """Puts what leads over from one slide to the next above the next."""
    if before and before.kind == "paragraph" and not {before.html, first_sentence(before.html)} & set(slide.body):
        following.body.insert(0, leading(before.html))
        if slide.notes and slide.notes[-1] == before.html:
            following.notes.insert(0, slide.notes.pop())


def cell(title: str, block) -> list:
    """The slides of a cell: its code where that is short, what it has printed, and each of its figures."""
    if "setup" in block.tags or "check" in block.tags:
        return []
    texts = [output.html for output in block.outputs if output.kind == "table" or output.kind == "text" and output.text.count("\n") < OUTPUT_LINES]
    figures = [Slide(title, "figure", [output.html]) for output in block.outputs if output.kind == "figure"]
    if figures and not texts and block.text.count("\n") < FEW_LINES:
        figures[0].notes.append(block.html)
        return figures
    if block.text.count("\n") >= CODE_LINES:
        if figures and lines(texts) <= 3:
            # A line that was printed beside a figure.
            figures[0].notes += [block.html, *texts]
            return figures
        return ([Slide(title, "code", texts, [block.html])] if texts else []) + figures
    if lines([block.html, *texts]) <= LINES:
        return [Slide(title, "code", [block.html, *texts]), *figures]
    return [Slide(title, "code", [block.html]), Slide(title, "code", texts), *figures]


def fitting(paragraphs: list) -> int:
    """How many of the paragraphs, from the first on, fit together on a slide."""
    letters = [len(re.sub(r"<[^>]*>", "", paragraph)) for paragraph in paragraphs]
    return sum(total <= PROSE for total in accumulate(letters))


def lines(body: list) -> float:
    """How high it stands, in lines of code: a row of a table and a line of prose are higher than one, a formula is four."""
    height = 0.0
    for html in body:
        printed = re.sub(r"<pre.*?</pre>", "", html, flags=re.DOTALL)
        height += html.count("\n") + 2 if printed != html else 0
        # Not by the letters of the prose: both languages need the same slides.
        height += 1.8 * (printed.count("<tr") + printed.startswith("<p>")) + 4 * printed.count('<div class="formula')
    return height


def leading(paragraph: str) -> str:
    """What of a paragraph leads over to what follows it: a short one whole, otherwise the sentence before a colon, or the first."""
    said, colon = sentences(paragraph), re.search(r":\s*(</p>|<div)", paragraph)
    if len(re.sub(r"<[^>]*>", "", "".join(said))) > LEAD:
        said = said[-1:] if colon else said[:1]
    return f"<p>{' '.join(said)}{':' if colon else ''}</p>"


def first_sentence(paragraph: str) -> str:
    """The paragraph up to the first full stop that ends a sentence, outside of formulas and code."""
    return f"<p>{sentences(paragraph)[0]}</p>"


def sentences(paragraph: str) -> list:
    """The sentences before the first formula that stands alone, without a colon at the end."""
    inner = re.sub(r"^\s*<p>|</p>\s*$", "", paragraph).partition('<div class="formula')[0]
    depth, begin, found = 0, 0, []
    for match in re.finditer(r"<(/?)(\w+)[^>]*?(/?)>|[.?!](?=\s)", inner):
        if match.group(2):
            depth += 0 if match.group(3) else -1 if match.group(1) else 1
        elif depth == 0:
            found.append(inner[begin:match.end()].strip())
            begin = match.end()
    return [sentence.rstrip(":").rstrip() for sentence in [*found, inner[begin:].strip()] if sentence] or [""]
