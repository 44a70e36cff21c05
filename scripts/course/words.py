"""The words in a lesson's code, in another language: comments, printed lines, labels, checks.

A lesson has its code once, with English words. `lessons/pt-BR/<name>.txt` says them in Portuguese, in
pairs of lines `en: …` and `pt: …`; both notebooks are executed, each with its own words. A single word
may be a key of the code: it counts as words where a call shows it, or everywhere if the catalogue says
`en!: …`.
"""

import re
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

from . import paths, say
from .source import Code, Lesson

TOKEN = re.compile(
    r"""(?P<block>(?:(?<=\n)|\A)(?P<indent>[ ]*)(?P<mark>///?)(?!/)[^\n]*(?:\n(?P=indent)(?P=mark)(?!/)[^\n]*)*)"""
    r"""|(?P<comment>//[^\n]*)"""
    r"""|(?P<raw>r(?P<hashes>\#*)".*?"(?P=hashes))"""
    r"""|(?P<string>"(?:\\.|[^"\\])*")"""
    r"""|(?P<char>'(?:\\[^']*|[^'\\])')"""
    r"""|(?P<open>(?:[\w!]+(?:::[\w!]+)*)?[(\[{])"""
    r"""|(?P<close>[)\]}])""",
    re.DOTALL,
)
# A path, a key or a name of the code: no words unless a learner gets to see it.
NAME = re.compile(r"[\w./:{}\-#%=]*")
# Calls that show their text to the learner.
SHOWN = re.compile(
    r"(?:.*::)?(?:x_label|y_label|title|line|points|dashed|dashed_points|dots|band|bars|bars_with_errors|vertical|horizontal"
    r"|steps|step_points|x_desc|y_desc|captions|categories|class_names|mark|row|equal|close|close_all|that|shape|println!|print!)"
    r"|(?:Table|Check)::new|(?:LineChart|BarChart|ScatterChart|Histogram|HeatMap|ImageGrid)::builder"
)
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{[^{}]*\}")
WIDTH = 100
# Marks a text of a catalogue that is replaced wherever it is a whole string.
ANYWHERE = "\0"


@dataclass
class Piece:
    """Words in code: where they stand, what they are, and whether a learner reads them."""

    start: int
    end: int
    kind: str
    text: str
    read: bool


def pieces(code: str) -> list:
    """The comments and strings of Rust code, in order."""
    found, calls = [], []
    for match in TOKEN.finditer(code):
        kind = match.lastgroup
        if match.group("block") is not None:
            lines = [line.strip()[len(match.group("mark")):].strip() for line in match.group("block").splitlines()]
            text = " ".join(lines)
            found.append(Piece(match.start(), match.end(), "block", text, words(text)))
        elif kind == "comment":
            text = match.group()[2:].strip()
            found.append(Piece(match.start(), match.end(), kind, text, words(text)))
        elif kind == "string":
            text = re.sub(r"\\\n\s*", "", match.group()[1:-1])
            call = next((call for call in reversed(calls) if call), "")
            plain = NAME.fullmatch(text)
            found.append(Piece(match.start(), match.end(), kind, text, words(text) and (not plain or bool(SHOWN.fullmatch(call)))))
        elif match.group("open"):
            # A list or a tuple belongs to the call around it; a block to none.
            name = match.group("open")[:-1]
            calls.append("{" if match.group("open").endswith("{") else name)
        elif match.group("close") and calls:
            calls.pop()
    return found


def words(text: str) -> bool:
    return bool(re.search(r"[^\W\d_]{2}", PLACEHOLDER.sub("", text)))


def translated(code: str, catalogue: dict) -> str:
    """The code with the words of the catalogue in place of the English ones."""
    parts, end = [], 0
    for piece in pieces(code):
        other = catalogue.get(piece.text) if piece.read else catalogue.get(ANYWHERE + piece.text)
        if other is not None and other != piece.text:
            parts += [code[end:piece.start], written(piece, other, code)]
            end = piece.end
    return "".join(parts) + code[end:]


def written(piece: Piece, other: str, code: str) -> str:
    if piece.kind == "string":
        return f'"{other}"'
    old = code[piece.start:piece.end]
    if piece.kind == "comment":
        return re.match(r"//\s*", old).group() + other
    indent = old[: len(old) - len(old.lstrip(" "))]
    mark = "///" if old.lstrip().startswith("///") else "//"
    lines = textwrap.wrap(other, WIDTH - len(indent) - len(mark) - 1, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"{indent}{mark} {line}" for line in lines)


def path(lesson: Path, language: str) -> Path:
    return paths.LESSONS / language / f"{lesson.stem}.txt"


def load(lesson: Path, language: str) -> dict:
    """The words of `language` by the English ones; none where the lesson has no catalogue."""
    file = path(lesson, language)
    if not file.exists():
        return {}
    found, english = {}, None
    for number, line in enumerate(say.read_text(file).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key, _, text = line.partition(": ")
        if key in ("en", "en!") and english is None:
            english = text if key == "en" else ANYWHERE + text
        elif key == language[:2] and english is not None:
            if english in found and found[english] != text:
                raise say.Failure(f"{file.name}, line {number}: “{english[:60]}” stands there twice, with two translations")
            found[english] = text
            if english.startswith(ANYWHERE):
                found[english.removeprefix(ANYWHERE)] = text
            english = None
        else:
            raise say.Failure(f"{file.name}, line {number}: expected `en: …` and then `{language[:2]}: …`, got “{line[:60]}”")
    if english is not None:
        raise say.Failure(f"{file.name} ends without the translation of “{english[:60]}”")
    return found


def read_by_learners(lesson: Lesson) -> list:
    """The English words of the lesson's code, each once, in order."""
    shown = [cell for cell in lesson.code if "wrong" not in cell.tags]
    return list(dict.fromkeys(piece.text for cell in shown for piece in pieces(cell.text) if piece.read))


def problems(lesson: Lesson) -> list:
    """What a catalogue lacks, has for nothing, or says with other placeholders."""
    found = []
    for language in paths.LANGUAGES[1:]:
        catalogue, wanted = load(lesson.path, language), read_by_learners(lesson)
        name = f"{language}/{path(lesson.path, language).name}"
        found += [f"{name} lacks “{text[:80]}”; scripts/build-notebooks --words adds what is missing" for text in wanted if text not in catalogue]
        strings = {ANYWHERE * mark + piece.text for cell in lesson.code for piece in pieces(cell.text) for mark in (0, 1) if mark or piece.read}
        found += [f"{name}: “{text[:80]}” is not in the code any more" for text in catalogue if text not in strings and ANYWHERE + text not in catalogue]
        for text, other in catalogue.items():
            if sorted(PLACEHOLDER.findall(text)) != sorted(PLACEHOLDER.findall(other)):
                found.append(f"{name}: the placeholders of “{text[:60]}” and “{other[:60]}” differ")
            if re.search(r'(?<!\\)"', other) and not re.search(r'(?<!\\)"', text):
                found.append(f"{name}: write a quotation mark as \\\" in “{other[:60]}”")
    return found


def add_missing(lesson: Lesson) -> int:
    """Writes the words that a catalogue lacks into it, to be translated; returns how many."""
    count = 0
    for language in paths.LANGUAGES[1:]:
        known = load(lesson.path, language)
        missing = [text for text in read_by_learners(lesson) if text not in known]
        if missing:
            file = path(lesson.path, language)
            file.parent.mkdir(exist_ok=True)
            before = say.read_text(file) if file.exists() else f"# The words in the code of {lesson.name}: see lessons/README.md.\n"
            say.write_if_changed(file, before + "".join(f"\nen: {text}\n{language[:2]}: {text}\n" for text in missing))
        count += len(missing)
    return count


def localised(lesson: Lesson, language: str) -> list:
    """The code cells of the lesson, with the words of `language`."""
    if language == paths.LANGUAGES[0]:
        return lesson.code
    catalogue = load(lesson.path, language)
    # A hint may be a part of what the check says; only the whole has a translation.
    return [replace(cell, text=translated(cell.text, catalogue), hint=catalogue.get(cell.hint, "")) for cell in lesson.code]
