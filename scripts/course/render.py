"""Makes the notebook of one language from a lesson and the outputs of its one execution."""

import hashlib
import json
import re

import nbformat

from . import paths, words
from .source import Code, Lesson

MAXIMUM_BYTES = 600_000

LANGUAGE_INFO = {
    "codemirror_mode": "rust",
    "file_extension": ".rs",
    "mimetype": "text/rust",
    "name": "Rust",
    "pygment_lexer": "rust",
    "version": "",
}

# An image inside an SVG or HTML. Base64 may spell `/tmp` by chance.
EMBEDDED = re.compile(r"(;base64,[A-Za-z0-9+/=]*)")

NAVIGATION = {
    "en": {"previous": "Previous", "next": "Next", "other": "Em português"},
    "pt-BR": {"previous": "Anterior", "next": "Próxima", "other": "In English"},
}


SOLUTION = {"en": "A solution (open it after you have tried)", "pt-BR": "Uma solução (abra depois de tentar)"}


def code_hash(code: list) -> str:
    """Names the code whose outputs a notebook holds."""
    joined = json.dumps([[cell.text, [tag for tag in cell.tags if tag != "timed"]] for cell in code if "wrong" not in cell.tags])
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def notebook(lesson: Lesson, language: str, outputs: list = None):
    """The notebook of `language`; `outputs` holds a list of outputs for each code cell that is shown.

    A solution stands folded behind its check, as text: whoever runs the cells from top to bottom runs
    the learner's own answer.
    """
    code = words.localised(lesson, language)
    result = nbformat.v4.new_notebook()
    result.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Rust", "language": "rust", "name": paths.KERNEL_NAME},
        "language_info": dict(LANGUAGE_INFO),
        "candle_course": {"source": f"lessons/{lesson.path.name}", "language": language, "code": code_hash(code)},
    })
    count, solution = 0, None
    for cell in lesson.cells:
        # The code in this language, cell by cell.
        cell = code[cell.number - 1] if isinstance(cell, Code) else cell
        if not isinstance(cell, Code):
            result.cells.append(nbformat.v4.new_markdown_cell(cell.text[language]))
        elif "solution" in cell.tags:
            solution = cell
        elif cell.is_shown:
            made = nbformat.v4.new_code_cell(cell.text, metadata={"tags": list(cell.tags)} if cell.tags else {})
            # What a check says is said to the learner's own answer.
            if outputs is not None and "check" not in cell.tags:
                made.outputs = [nbformat.from_dict(output) for output in outputs[count]]
            count += 1
            made.execution_count = count if outputs is not None else None
            result.cells.append(made)
            if "check" in cell.tags:
                result.cells.append(folded(solution, language))
    opens = badge(lesson.name, language)
    if opens:
        result.cells.insert(0, nbformat.v4.new_markdown_cell(opens, metadata={"tags": ["badge"]}))
    links = navigation(lesson, language)
    if links:
        result.cells.append(nbformat.v4.new_markdown_cell(links, metadata={"tags": ["navigation"]}))
    name_cells(result)
    return result


# The first cell of a Colab notebook: the project and its kernel. {repository} is empty until the project has an address.
COLAB_SETUP = """\
# {comment}
import os, pathlib, subprocess, sys

here = pathlib.Path.cwd()
project = next((folder for folder in (here, *here.parents) if (folder / "scripts/course/colab.py").exists()), here / "candle_course")
if not project.exists():
    address = os.environ.get("CANDLE_COURSE_REPOSITORY", "{repository}")
    subprocess.run(["git", "clone", "--quiet", "--depth=1", address, str(project)], check=True)
sys.path.insert(0, str(project / "scripts"))
from course import colab

colab.start("{language}")"""
COLAB_DRIVE = """\
# {comment}
from course import colab

print(colab.mount_drive())"""
COLAB_WORDS = {
    "en": {
        "setup": "Run this cell first. It brings the course and its Rust kernel into this runtime: a few minutes with what is ready-made, up to 20 without.",
        "drive": "Optional: keep files beyond this runtime, in your Google Drive. Write to the folder that is printed, in place of a temporary one.",
    },
    "pt-BR": {
        "setup": "Execute esta célula primeiro. Ela traz o curso e o seu kernel de Rust para este ambiente: alguns minutos com o que já vem pronto, até 20 sem isso.",
        "drive": "Opcional: guarde arquivos além deste ambiente, no seu Google Drive. Grave na pasta impressa abaixo, em vez de uma temporária.",
    },
}
# Lessons that write what one may want to keep.
COLAB_KEEPS = ("3.5", "3.6")


def colab(lesson: Lesson, language: str):
    """The notebook of `language` for a Python runtime: the same cells, each of Rust with `%%rust` before it.

    Without outputs: they stand in the notebook for JupyterLab, and are made anew where this one runs.
    """
    result = notebook(lesson, language)
    result.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "candle_course": {"source": f"lessons/{lesson.path.name}", "language": language},
        "colab": {"name": f"{lesson.name}.ipynb", "provenance": []},
    })
    result.cells = [cell for cell in result.cells if "badge" not in cell.metadata.get("tags", [])]
    for cell in result.cells:
        if cell.cell_type == "code":
            cell.source = f"%%rust\n{cell.source}"
    says = COLAB_WORDS[language]
    first = next(number for number, cell in enumerate(result.cells) if cell.cell_type == "code")
    added = [COLAB_SETUP.format(comment=says["setup"], repository=paths.repository(), language=language)]
    if lesson.name.startswith(COLAB_KEEPS):
        added.append(COLAB_DRIVE.format(comment=says["drive"]))
    result.cells[first:first] = [nbformat.v4.new_code_cell(text, metadata={"tags": ["colab"]}) for text in added]
    name_cells(result)
    return result


def badge(name: str, language: str) -> str:
    """Markdown that opens the lesson in Colab; empty while the project has no address there."""
    if not paths.on_github():
        return ""
    opens = {"en": "Open in Colab", "pt-BR": "Abrir no Colab"}[language]
    page = f"https://colab.research.google.com/github/{paths.on_github()}/blob/main/notebooks/colab/{language}/{name}.ipynb"
    return f"[![{opens}](https://colab.research.google.com/assets/colab-badge.svg)]({page})"


def folded(solution: Code, language: str):
    text = f"<details>\n<summary>{SOLUTION[language]}</summary>\n\n```rust\n{solution.text}\n```\n\n</details>"
    return nbformat.v4.new_markdown_cell(text, metadata={"tags": ["solution"]})


def navigation(lesson: Lesson, language: str) -> str:
    """The closing line: the same lesson in the other language, and the neighbours in the header."""
    words = NAVIGATION[language]
    other = next(name for name in paths.LANGUAGES if name != language)
    declared = lesson.header.get("lesson", {})
    links = []
    if declared.get("previous"):
        links.append(f"← [{words['previous']}]({declared['previous']}.ipynb)")
    links.append(f"[{words['other']}](../{other}/{lesson.name}.ipynb)")
    if declared.get("next"):
        links.append(f"[{words['next']}]({declared['next']}.ipynb) →")
    return "---\n" + " · ".join(links)


def name_cells(result) -> None:
    """Gives each cell an id that follows from its text, so that a rebuild changes nothing else."""
    seen = {}
    for cell in result.cells:
        name = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"


def text_of(result) -> str:
    """The notebook as it is stored: sorted keys, one space of indentation, a final newline."""
    return nbformat.writes(result, version=4) + "\n"


def tidy_outputs(outputs: list, replacements: list) -> list:
    """Outputs fit to be stored: streams merged, no machine paths, no execution details."""
    tidy = []
    for output in outputs:
        output = json.loads(json.dumps(output))
        if output["output_type"] == "stream":
            if tidy and tidy[-1]["output_type"] == "stream" and tidy[-1]["name"] == output["name"]:
                tidy[-1]["text"] += output["text"]
                continue
        elif output["output_type"] == "execute_result":
            # The count says in which run a cell was executed; a display says the same without it.
            output["output_type"] = "display_data"
            output.pop("execution_count", None)
        output.pop("transient", None)
        tidy.append(output)
    return [replace_in(output, replacements) for output in tidy]


def replace_in(value, replacements: list):
    if isinstance(value, str):
        return "".join(part if part.startswith(";base64,") else replace_in_text(part, replacements) for part in EMBEDDED.split(value))
    if isinstance(value, list):
        return [replace_in(item, replacements) for item in value]
    if isinstance(value, dict):
        return {key: replace_in(item, replacements) if is_text(key) else item for key, item in value.items()}
    return value


def replace_in_text(text: str, replacements: list) -> str:
    for old, new in replacements:
        text = text.replace(old, new)
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def is_text(key: str) -> bool:
    """False for the media types whose content may be base64."""
    return "/" not in key or key.startswith("text/") or key == "image/svg+xml"
