"""Reads a lesson: Jupytext Markdown with its prose in two languages and its code once."""

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

from . import paths
from .say import Failure

TAGS = {"setup", "exercise", "solution", "wrong", "check", "long", "timed", "raises-exception", "stderr"}


@dataclass
class Prose:
    """One prose cell: the same text in every language."""

    number: int
    text: dict

    def where(self) -> str:
        first = next((line for line in self.text["en"].splitlines() if line.strip()), "")
        return f"prose cell {self.number} (“{first.strip()[:60]}”)"


@dataclass
class Code:
    """One code cell."""

    number: int
    text: str
    tags: list = field(default_factory=list)
    # What the check has to say to a wrong answer.
    hint: str = ""

    @property
    def is_shown(self) -> bool:
        return not {"solution", "wrong"} & set(self.tags)


@dataclass
class Lesson:
    """A lesson source: its name (the file's stem), header and cells in order."""

    path: Path
    header: dict
    cells: list

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def code(self) -> list:
        return [cell for cell in self.cells if isinstance(cell, Code)]

    @property
    def shown(self) -> list:
        """The code cells of the notebook: solutions stand folded in its text, wrong answers nowhere."""
        return [cell for cell in self.code if cell.is_shown]

    @property
    def prose(self) -> list:
        return [cell for cell in self.cells if isinstance(cell, Prose)]


def lesson_paths() -> list:
    """Every lesson source: the Markdown files whose name begins with a number, then those of appendices: a letter."""
    return sorted(path for path in paths.LESSONS.glob("*.md") if re.match(r"\d|[A-Z]-", path.name))


def find(names: list) -> list:
    """Lesson sources by number (`3.1`), name or path; all of them when none is named."""
    known = lesson_paths()
    if not names:
        if not known:
            raise Failure(f"there is no lesson in {paths.LESSONS}")
        return known
    found = []
    for name in names:
        path = Path(name)
        if path.suffix == ".md" and path.is_file():
            found.append(path.resolve())
            continue
        stem = path.stem if path.suffix in (".md", ".ipynb") else path.name
        matches = [other for other in known if other.stem == stem or other.stem.startswith(f"{stem}-")]
        if len(matches) != 1:
            raise Failure(f"no lesson is called {name!r}; there are: {', '.join(other.stem for other in known) or 'none'}{did_you_mean(stem, known)}")
        found.append(matches[0])
    return found


def did_you_mean(name: str, known: list) -> str:
    """The lessons that are called nearly so: by number, by title, by both."""
    names = {}
    for path in known:
        number, _, title = path.stem.partition("-")
        names.update({number: path.stem, title: path.stem, path.stem: path.stem})
    return nearest(name, names)


def nearest(name: str, names) -> str:
    """What may have been meant, out of names or of names with what they stand for."""
    near = [names[match] if isinstance(names, dict) else match for match in difflib.get_close_matches(name.lower(), names, 3)]
    return f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""


def read(path: Path) -> Lesson:
    """Parses a lesson source.

    Raises `Failure` naming the place when prose stands outside a language region, lacks its other
    language, or a code cell is not Rust or carries an unknown tag.
    """
    import jupytext

    try:
        notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="md")
    except (UnicodeDecodeError, OSError) as error:
        raise Failure(f"{path.name} cannot be read: {error}") from None
    # A header that is no YAML, above all.
    except Exception as error:
        raise Failure(f"{path.name} is no lesson: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from None
    problems, cells, pending = [], [], {}
    number = {"prose": 0, "code": 0}

    def flush():
        if pending:
            missing = [language for language in paths.LANGUAGES if language not in pending]
            first = next(iter(pending.values())).strip().splitlines() or [""]
            if missing:
                problems.append(f"prose “{first[0][:60]}” lacks its other language, {', '.join(missing)}")
            else:
                number["prose"] += 1
                cells.append(Prose(number["prose"], dict(pending)))
            pending.clear()

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            language = cell.metadata.get("lang")
            if language is None:
                if cell.source.strip():
                    problems.append(f"text outside a language region: “{cell.source.strip().splitlines()[0][:60]}”")
                continue
            if language not in paths.LANGUAGES:
                problems.append(f"unknown language {language!r}; expected one of {', '.join(paths.LANGUAGES)}")
                continue
            if language in pending or (not pending and language != paths.LANGUAGES[0]):
                flush()
            pending[language] = cell.source
            if len(pending) == len(paths.LANGUAGES):
                flush()
        elif cell.cell_type == "code":
            flush()
            number["code"] += 1
            tags = list(cell.metadata.get("tags", []))
            unknown = sorted(set(tags) - TAGS)
            if unknown:
                problems.append(f"code cell {number['code']}: unknown tag {', '.join(unknown)}; known: {', '.join(sorted(TAGS))}")
            if cell.source.startswith("%%"):
                problems.append(f"code cell {number['code']} is not Rust; put other languages inside a prose region")
            cells.append(Code(number["code"], cell.source, tags, cell.metadata.get("hint", "")))
        else:
            problems.append("the header may hold only the `jupyter:` key")
    flush()
    header = dict(notebook.metadata)
    if header.get("kernelspec", {}).get("name") != paths.KERNEL_NAME:
        problems.append(f"the header must name the kernel `{paths.KERNEL_NAME}`")
    problems += exercise_problems([cell for cell in cells if isinstance(cell, Code)])
    if problems:
        raise Failure("\n".join(f"{path.name}: {problem}" for problem in problems))
    return Lesson(path, header, cells)


def exercise_problems(cells: list) -> list:
    """An exercise is a stub, a solution, two wrong answers or more with the hint that each must get, and a check."""
    problems, open_ = [], None
    for cell in cells:
        kinds = [tag for tag in cell.tags if tag in ("exercise", "solution", "wrong", "check")]
        if bool(cell.hint) != ("wrong" in kinds):
            problems.append(f"code cell {cell.number}: `hint` belongs to a wrong answer, and every one has it")
        for kind in kinds:
            if kind == "exercise":
                if open_:
                    problems.append(f"code cell {cell.number}: the exercise before it has no check")
                open_ = {"solution": 0, "wrong": 0}
            elif open_ is None:
                problems.append(f"code cell {cell.number}: a {kind} without an exercise")
            elif kind == "check":
                if open_["solution"] != 1 or open_["wrong"] < 2:
                    problems.append(f"code cell {cell.number}: an exercise has one solution and at least two wrong answers; here are {open_['solution']} and {open_['wrong']}")
                open_ = None
            else:
                open_[kind] += 1
    if open_:
        problems.append("the last exercise has no check")
    return problems
