"""Checks notebooks against their source without running anything."""

import html
import json
import re
from pathlib import Path

import nbformat

from . import pair, paths, render, say, source, stored, words
from .say import Failure

# Home folders and temporary folders of whoever ran the notebook.
MACHINE_PATH = re.compile(r"(?:/home/|/Users/|/root/|/tmp/)[\w./-]+")

# What must be the same in every language.
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?|[✓✗]|NaN|inf|true|false")

# evcxr shows a value by its `Debug` alone when the cell's last expression moves a variable that the
# cell keeps, and the unit value when a cell ends with a loop.
LOST = re.compile(r"Figur[ae]: |Table \{|\(\)$")


def lesson(path: Path) -> list:
    """Every reason why the notebooks of one lesson are not what its source says."""
    try:
        read = source.read(path)
    except Failure as failure:
        return str(failure).splitlines()
    problems = pair.problems(read)
    outputs = {}
    for language in paths.LANGUAGES:
        target = paths.NOTEBOOKS / language / f"{read.name}.ipynb"
        label = f"{language}/{target.name}"
        if not target.exists():
            problems.append(f"{label} does not exist; run scripts/build-notebooks {read.name}")
            continue
        try:
            data, found = stored.read(target)
        except Failure as failure:
            problems.append(f"{language}/{failure}")
            continue
        text = data.decode()
        outputs[language] = outputs_of(found)
        wanted = render.notebook(read, language, outputs_of(found, len(read.shown)))
        if render.text_of(wanted) != text:
            problems.append(f"{label} is stale ({difference(found, wanted)}); run scripts/build-notebooks {read.name}")
        problems += contents(label, text)
    for language in paths.LANGUAGES:
        target = paths.NOTEBOOKS / "colab" / language / f"{read.name}.ipynb"
        if not target.is_file() or target.read_bytes() != render.text_of(render.colab(read, language)).encode():
            problems.append(f"colab/{language}/{target.name} is stale; run scripts/build-notebooks --prose {read.name}")
    problems += words.problems(read)
    if len(outputs) == len(paths.LANGUAGES):
        problems += differing_numbers(read, outputs)
    return problems


def differing_numbers(read, outputs: dict) -> list:
    """Cells whose results differ between the languages: the words may, unless they are measured times."""
    found = []
    for number, cell in enumerate(read.shown):
        # What a check says is not stored.
        if {"timed", "check"} & set(cell.tags) or any(len(other) <= number for other in outputs.values()):
            continue
        seen = {language: numbers(other[number]) for language, other in outputs.items()}
        if len({json.dumps(value) for value in seen.values()}) != 1:
            first, second = seen.values()
            pair = next(((a, b) for a, b in zip(first, second) if a != b), (f"{len(first)} numbers", len(second)))
            found.append(f"{read.name}: the outputs of code cell {number + 1} differ between the languages ({pair[0]} and {pair[1]}); is it `timed`?")
    return found


def numbers(outputs: list) -> list:
    """What is no word in the outputs of a cell; of pictures, that they are there. Words may write a
    thousand as 1,000, with a thin space, or as mil."""
    found = []
    for output in outputs:
        data = output.get("data", {})
        text = output.get("text", "") or data.get("text/html", "") or data.get("text/plain", "")
        pictures = [kind for kind in sorted(data) if kind.startswith("image/")]
        text = html.unescape(re.sub(r"<[^>]*>", " ", "".join(text)))
        text = re.sub(r"(?<=\d)[,\u202f](?=\d{3}\b)", "", re.sub(r"(?<=\d) mil\b", "000", text))
        found += pictures or NUMBER.findall(text)
    return found


def outputs_of(notebook, count: int = None) -> list:
    found = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    if count is None:
        return found
    return (found + [[]] * count)[:count]


def difference(found, wanted) -> str:
    """Where a notebook first departs from its source."""
    for number, (old, new) in enumerate(zip(found.cells, wanted.cells), 1):
        if old.source != new.source or old.cell_type != new.cell_type:
            line = next((line for line in new.source.splitlines() if line.strip()), "")
            return f"cell {number} should begin “{line.strip()[:60]}”" if old.source.splitlines()[:1] != new.source.splitlines()[:1] else f"the text of cell {number}, “{line.strip()[:60]}”, differs"
        if old.metadata != new.metadata:
            return f"the metadata of cell {number} differs"
        if old.get("execution_count") != new.get("execution_count"):
            return f"cell {number} was not executed in order"
    if len(found.cells) != len(wanted.cells):
        return f"{len(found.cells)} cells instead of {len(wanted.cells)}"
    return "its metadata or layout differs"


def contents(label: str, text: str) -> list:
    """What no stored notebook may hold."""
    problems = []
    size = len(text.encode())
    if size >= render.MAXIMUM_BYTES:
        problems.append(f"{label} has {size} bytes; the limit is {render.MAXIMUM_BYTES}")
    for number, cell in enumerate(nbformat.reads(text, as_version=4).cells, 1):
        if cell.cell_type != "code":
            continue
        allowed = set(cell.metadata.get("tags", [])) & {"raises-exception", "stderr"}
        for output in cell.outputs:
            stderr = output["output_type"] == "stream" and output["name"] == "stderr"
            if (output["output_type"] == "error" or stderr) and not allowed:
                problems.append(f"{label}: cell {number} ended with an error")
            data = output.get("data", {})
            if LOST.match("".join(data.get("text/plain", ""))) and len(data) == 1:
                problems.append(f"{label}: the output of cell {number} is only {''.join(data['text/plain'])[:40]!r}: give the value a name first, and end the cell with that name alone")
            written = json.dumps({key: value for key, value in output.items() if key != "data"})
            written += "".join(str(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/"))
            found = MACHINE_PATH.search(written)
            if found:
                problems.append(f"{label}: the output of cell {number} names a folder of this machine, {found.group()}")
    return problems


def stored_outputs(read, language: str = "en") -> list:
    """The outputs of the last execution, if it ran this very code."""
    target = paths.NOTEBOOKS / language / f"{read.name}.ipynb"
    if target.exists():
        _, found = stored.read(target)
        if found.metadata.get("candle_course", {}).get("code") == render.code_hash(words.localised(read, language)):
            return outputs_of(found)
    raise Failure(f"{read.name}: the code changed since its outputs were stored; run scripts/build-notebooks {read.name}")


def unrecorded(known: list) -> list:
    """Notebooks that are not, to the last output, what the build wrote: `scripts/lab` would not trust them."""
    built = stored.built()
    places = [f"{language}/{path.stem}.ipynb" for path in known for language in paths.LANGUAGES]
    return [
        f"{place} is not recorded in {stored.manifest().name} as it stands; run scripts/build-notebooks {place[:-6].split('/')[1]} (with --prose if its outputs are right)"
        for place in places
        if (paths.NOTEBOOKS / place).is_file() and stored.hash_of((paths.NOTEBOOKS / place).read_bytes()) != built.get(place)
    ]


def strangers(known: list) -> list:
    """Notebooks without a source."""
    names = {path.stem for path in known}
    return [
        f"{say.name(path.relative_to(paths.NOTEBOOKS))} has no source in lessons/"
        for language in [part + name for part in ("", "colab/") for name in paths.LANGUAGES]
        for path in sorted((paths.NOTEBOOKS / language).glob("*.ipynb"))
        if path.stem not in names
    ]


# A link to a notebook in the README's table, and the badge behind it.
LINK = re.compile(r"(\[[^\]]*\]\(notebooks/([\w-]+)/([\w.-]+)\.ipynb\))( \[!\[.*?\)\]\(.*?\))?")


def with_badges(text: str) -> str:
    """The README with a badge behind each link to a lesson, once the project has an address."""
    return LINK.sub(lambda match: f"{match[1]} {render.badge(match[3], match[2])}".rstrip(), text)


def readme() -> list:
    path = paths.PROJECT / "README.md"
    if not path.exists() or with_badges(say.read_text(path)) == say.read_text(path):
        return []
    return ["README.md lacks Colab's badges, or has old ones; run scripts/build-notebooks --prose"]
