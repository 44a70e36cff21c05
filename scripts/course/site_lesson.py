"""A lesson as the site's pages need it, read from the executed notebook of one language."""

import html
import json
import re
from dataclasses import dataclass, field

from . import paths, render, say, site_text
from .site_text import Block

# How a lesson says what it teaches; lessons/glossary.md has the words.
OBJECTIVES = {"en": ("By the end you will be able to", "Objective."), "pt-BR": ("Ao final, você será capaz de", "Objetivo.")}
TAKE_AWAY = {"en": "What to take with you", "pt-BR": "O que levar daqui"}
# Colours of the crate's figures that stand for paper, ink and series. Where there are others, they
# mean values, and are shown as they are.
PALETTE = {"none", "#fff", "#222", "#000", "#666", "#999", "#bbb", "#e8e8e8", "#0072b2", "#d55e00", "#b84f00", "#009e73", "#007a59", "#e69f00", "#cc79a7", "#56b4e9"}


# A line that is longer is broken, even where it holds columns.
WIDEST = 110
# They may be broken after each byte: two columns of them are wider than a page.
BITS = re.compile(r"[01]{32}")
CELL = re.compile(r"<(t[dh])([^>]*)>(.*?)</t[dh]>", re.DOTALL)
# With its sign, its power of ten, its unit and its deviation.
NUMBER = re.compile(r"[+\-−]?\d[\d\N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE} ]*(?:\.\d+)?(?:e[+\-]?\d+|·10\^[−-]?\d+)?(?: ?[%°]| ± \d+(?:\.\d+)?)?|NaN|inf")


@dataclass
class Section:
    """A heading and what follows it until the next one."""

    title: str
    text: str
    level: int
    place: str
    blocks: list = field(default_factory=list)
    # Shown as a question that unfolds.
    folded: bool = False


@dataclass
class Lesson:
    name: str
    language: str
    title: str
    minutes: int
    sections: list

    @property
    def number(self) -> str:
        return self.name.partition("-")[0]

    @property
    def exercises(self) -> int:
        return sum("exercise" in block.tags for section in self.sections for block in section.blocks)

    @property
    def objectives(self) -> Block:
        return next((block for block in self.sections[0].blocks if block.kind == "objectives"), None)

    @property
    def description(self) -> str:
        """The first sentences, for those who look for a lesson."""
        return next((block.text for block in self.sections[0].blocks if block.kind == "paragraph"), "")


def read(name: str, language: str, folds: list) -> Lesson:
    """The lesson of that name; raises `Failure` where the notebook is missing or has no outputs."""
    path = paths.NOTEBOOKS / language / f"{name}.ipynb"
    where = f"{language}/{name}"
    try:
        cells = json.loads(say.read_text(path))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise say.Failure(f"{where}.ipynb cannot be read ({type(error).__name__}); scripts/build-notebooks {name} writes it") from None
    lesson = Lesson(name, language, name, 0, [Section("", "", 1, "")])
    used, fold = {}, False
    for number, cell in enumerate(cells, 1):
        source, tags = "".join(cell["source"]), list(cell["metadata"].get("tags", []))
        if cell["cell_type"] == "code":
            if cell["execution_count"] is None:
                raise say.Failure(f"{where}.ipynb was not executed; scripts/build-notebooks {name} does it")
            lesson.sections[-1].blocks.append(code_cell(source, cell["outputs"], tags, f"{where}, cell {number}"))
            continue
        # The site has its own links to the neighbours, to the other language and to what runs the notebook.
        if {"navigation", "badge"} & set(tags):
            continue
        for block in site_text.markdown(source, f"{where}, cell {number}"):
            if "solution" in tags:
                block.kind, block.tags = "solution", tags
            if block.kind != "heading":
                lesson.sections[-1].blocks.append(block)
            elif block.level == 1:
                lesson.title = block.text
            else:
                fold = block.text in folds if block.level == 2 else fold
                place = site_text.slug(block.text)
                used[place] = used.get(place, 0) + 1
                place = place if used[place] == 1 else f"{place}-{used[place]}"
                lesson.sections.append(Section(block.html.strip(), block.text, block.level, place, folded=fold and block.level == 3))
    opening(lesson)
    return lesson


def opening(lesson: Lesson) -> None:
    """Takes the line with the duration and the neighbours out of the text, and frames what is taught."""
    blocks = lesson.sections[0].blocks
    for index, block in enumerate(blocks):
        if block.kind == "paragraph" and ".html" in block.html and " · " in block.text:
            minutes = re.match(r"(\d+) minut", block.text)
            lesson.minutes = int(minutes.group(1)) if minutes else 0
            del blocks[index]
            break
    wanted, objective = OBJECTIVES[lesson.language]
    for index, block in enumerate(blocks):
        if block.text.rstrip(":") == wanted and index + 1 < len(blocks) and blocks[index + 1].kind == "list":
            blocks[index:index + 2] = [Block("objectives", blocks[index + 1].html, blocks[index + 1].text)]
            break
        if block.text.startswith(objective):
            block.kind = "objectives"
            break


def code_cell(source: str, outputs: list, tags: list, where: str) -> Block:
    return Block("cell", site_text.code(source, "rust"), source, tags=tags, outputs=[shown(output, where) for output in outputs])


@dataclass
class Output:
    """`text`, `table` or `figure`."""

    kind: str
    html: str
    text: str = ""


def shown(output: dict, where: str) -> Output:
    if output["output_type"] == "stream":
        text = render.replace_in_text("".join(output["text"]), []).rstrip("\n")
        return Output("text", printed(text), text)
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return Output("figure", figure("".join(data["image/svg+xml"])), "".join(data.get("text/plain", "")))
    if "text/html" in data:
        # A view that refreshes itself stands still on a page, as it was when the cell ended.
        written = re.sub(r"<script>.*?</script>", "", "".join(data["text/html"]), flags=re.DOTALL)
        if re.search(r"<(script|link|iframe|img|object)\b|\bsrc=|url\(", written):
            raise say.Failure(f"{where}: an output would load something from elsewhere")
        if "<svg" in written:
            # What stands before the figure, and the figure.
            before, _, rest = written.partition("<svg")
            words = html.escape(html.unescape(re.sub(r"<[^>]*>", "", before)).strip())
            svg = f"<svg{rest[: rest.rindex('</svg>')]}</svg>"
            return Output("figure", (printed(html.unescape(words)) if words else "") + figure(svg))
        if "<table" in written:
            return Output("table", f'<div class="output scroll">{aligned(written)}</div>')
        # A view that has no figure yet is the line that it says.
    if "text/plain" in data:
        text = "".join(data["text/plain"])
        return Output("text", printed(text), text)
    raise say.Failure(f"{where}: an output of kind {', '.join(data) or output['output_type']} has no place on a page")


def printed(text: str) -> str:
    """Lines that a cell has printed: sentences are broken to the width of the page, columns are moved sideways."""
    columns = re.search(r"\S {2,}\S", text) and max(map(len, text.splitlines())) <= WIDEST
    return f'<pre class="output scroll{"" if columns else " broken"}">{html.escape(text)}</pre>'


def aligned(table: str) -> str:
    """A table of the crate with its numbers to the right, those that came as text too, and its shapes in one piece."""
    rows = [CELL.findall(row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]
    columns = list(zip(*[[html.unescape(cell).strip() for _, _, cell in row] for row in rows[1:]]))
    numbers = [any(map(NUMBER.fullmatch, column)) and all(cell in ("", "–") or NUMBER.fullmatch(cell) for cell in column) for column in columns]

    def row(match: re.Match) -> str:
        positions = iter(range(len(numbers)))
        return CELL.sub(lambda cell: placed(cell, numbers[next(positions)]), match.group())

    def placed(cell: re.Match, number: bool) -> str:
        style = cell[2].replace("text-align:left", "text-align:right") if number else cell[2]
        if number and cell[1] == "td" and not BITS.search(cell[3]):
            style = style.replace('style="', 'style="white-space:nowrap;')
        content = BITS.sub(lambda bits: "<wbr>".join(re.findall(".{1,8}", bits[0])), cell[3])
        content = re.sub(r"\[[\d.,− -]+\]", lambda shape: shape.group().replace(" ", "\N{NO-BREAK SPACE}"), content)
        content = re.sub(r"·10\^([−-]?\d+)", r"·10<sup>\1</sup>", content)
        return f"<{cell[1]}{style}>{content}</{cell[1]}>"

    if len({len(row) for row in rows}) != 1:
        return table
    return re.sub(r"<tr>.*?</tr>", row, table, flags=re.DOTALL)


def figure(svg: str) -> str:
    """An SVG in the page itself, so that its ink and paper follow the page's theme."""
    colours = set(re.findall(r'(?:fill|stroke|stop-color)="([^"]*)"', svg))
    width = re.search(r'<svg[^>]*? width="(\d+)"', svg)
    kind = "inked" if colours <= PALETTE else "valued"
    size = int(width.group(1)) if width else 900
    # On a phone a wide figure is moved sideways, not made too small to read.
    return f'<div class="figure {kind} scroll"><div style="max-width:{size}px;min-width:{min(size, 540)}px">{svg}</div></div>'


def pair_places(first: Lesson, other: Lesson) -> None:
    """Gives the sections of two languages the same places, so that a link to one leads to its twin."""
    levels = [[section.level for section in lesson.sections] for lesson in (first, other)]
    if levels[0] != levels[1]:
        raise say.Failure(f"{first.name}: the headings of {first.language} and {other.language} differ; scripts/build-notebooks --check says where")
    for mine, theirs in zip(first.sections, other.sections):
        theirs.place, theirs.folded = mine.place, mine.folded
