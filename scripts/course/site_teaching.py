"""What is drawn from a lesson for those who teach it or look back on it: a plan, the wrong answers, a page to keep."""

import difflib
import html
import re
from dataclasses import dataclass

from . import paths, site_text, source, words
from .site_lesson import TAKE_AWAY, Lesson, Section

# A technical text is read at about this pace; running a cell and looking at what it shows takes as long
# as writing here. Only the proportions count: they are scaled to the lesson's own minutes.
WORDS_PER_MINUTE = 180
CELL_MINUTES = 0.6
LONG_MINUTES = 0.5
FIGURE_MINUTES = 0.4
EXERCISE_MINUTES = 5
OPTIONAL = re.compile(r"\((optional|opcional)\)")


@dataclass
class Part:
    """A row of a plan: a section of the second level with all that is under it."""

    section: Section
    minutes: int
    cells: int
    exercises: int
    # What a heading marks as optional is not in the lesson's minutes.
    optional: bool
    weight: float = 0.0


def plan(lesson: Lesson) -> list:
    """The lesson's minutes, shared out among its sections by what there is to read, run and write."""
    parts = []
    for section in lesson.sections:
        optional = bool(OPTIONAL.search(section.text))
        if section.level == 2 or not parts:
            parts.append(Part(section, 0, 0, 0, optional))
        part = parts[-1]
        for block in section.blocks:
            part.cells += block.kind == "cell"
            part.exercises += "exercise" in block.tags
            part.weight += 0 if optional else minutes(block)
    counted = [part for part in parts if not part.optional]
    for part, share in zip(counted, shares([part.weight for part in counted], lesson.minutes)):
        part.minutes = share
    return parts


def minutes(block) -> float:
    """How long a block takes, roughly."""
    if block.kind == "solution":
        return 0
    if block.kind != "cell":
        return len(block.text.split()) / WORDS_PER_MINUTE
    figures = sum(output.kind == "figure" for output in block.outputs)
    return CELL_MINUTES + figures * FIGURE_MINUTES + ("long" in block.tags) * LONG_MINUTES + ("exercise" in block.tags) * EXERCISE_MINUTES


def shares(weights: list, total: int) -> list:
    """Whole numbers in the proportion of the weights, at least 1 each where there are enough, that add up to `total`."""
    if not weights or total < len(weights):
        return [0] * len(weights)
    exact = [(total - len(weights)) * weight / (sum(weights) or 1) for weight in weights]
    found = [int(value) for value in exact]
    rest = total - len(weights) - sum(found)
    for index in sorted(range(len(exact)), key=lambda index: found[index] - exact[index])[:rest]:
        found[index] += 1
    return [value + 1 for value in found]


@dataclass
class Mistake:
    """A wrong answer of an exercise: the lines that make it wrong, and what the check says to it."""

    exercise: str
    code: str
    hint: str


def mistakes(name: str, language: str) -> list:
    """The typical wrong answers that stand in the lesson's source, in order."""
    lesson = source.read(paths.LESSONS / f"{name}.md")
    catalogue = words.load(lesson.path, language)
    found, solution, wrong = [], None, []
    for cell, english in zip(words.localised(lesson, language), lesson.code):
        if "solution" in cell.tags:
            solution = cell
        elif "wrong" in cell.tags:
            wrong.append((cell, english.hint))
        elif "check" in cell.tags:
            title = re.search(r'Check::new\(\s*"((?:\\.|[^"\\])*)"', cell.text)
            for answer, hint in wrong:
                # The source names a part of what the check says.
                said = next((piece.text for piece in words.pieces(english.text) if piece.kind == "string" and hint in piece.text), hint)
                said = said if language == paths.LANGUAGES[0] else catalogue.get(said, said)
                found.append(Mistake(title.group(1) if title else "", departs(answer.text, solution.text), said.replace('\\"', '"')))
            wrong = []
    return found


def departs(answer: str, solution: str) -> str:
    """The lines of an answer that the solution does not have, or what of the solution it lacks."""
    answer, solution = ([line.strip() for line in text.splitlines() if line.strip()] for text in (answer, solution))
    changes = list(difflib.ndiff(solution, answer))
    added = [line[2:] for line in changes if line.startswith("+ ")]
    removed = [f"// – {line[2:]}" for line in changes if line.startswith("- ")]
    return "\n".join(added or removed)


def key_formulas(lesson: Lesson) -> list:
    """Each section with displayed formulas, and those."""
    found = []
    for section in lesson.sections:
        formulas = [block.html for block in section.blocks if block.kind == "formula"]
        formulas += [formula for block in section.blocks if block.kind == "paragraph" for formula in re.findall(r'<div class="formula.*?</div>', block.html, re.DOTALL)]
        if formulas:
            found.append((section, formulas))
    return found


def take_away(lesson: Lesson) -> str:
    """The list that a lesson ends with."""
    wanted = TAKE_AWAY[lesson.language]
    section = next((section for section in lesson.sections if section.text == wanted), None)
    return next((block.html for block in section.blocks if block.kind == "list"), "") if section else ""


def questions(lesson: Lesson) -> list:
    """The questions of the quiz, without their answers."""
    folds = [block.html for section in lesson.sections for block in section.blocks if block.kind == "fold"]
    return [question for fold in folds for question in re.findall(r"<summary>(.*?)</summary>", fold, re.DOTALL)]


def text_page(text: str, where: str, fill) -> list:
    """A Markdown page of our own; a line `{name argument}` is replaced by the HTML of `fill(name, argument)`."""
    parts = []
    for index, part in enumerate(re.split(r"^\{(\w+ [\w.]+)\}$", text, flags=re.MULTILINE)):
        if index % 2:
            parts.append(site_text.Block("other", fill(*part.split())))
        else:
            parts += site_text.markdown(part, where)
    return parts


def table(head: list, rows: list, right: tuple = ()) -> str:
    """Rows of HTML; the columns in `right` hold numbers."""
    mark = lambda column: ' class="number"' if column in right else ""  # noqa: E731
    header = "".join(f'<th scope="col"{mark(column)}>{html.escape(name)}</th>' for column, name in enumerate(head))
    body = "".join("<tr>" + "".join(f"<td{mark(column)}>{cell}</td>" for column, cell in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
