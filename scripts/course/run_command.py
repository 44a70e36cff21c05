"""`scripts/run [lesson …]`: executes lessons headless and prints a table."""

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

from . import build_folder, environment, exercises, paths, say, source, stored


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/run", description="Runs lessons headless, as a learner would run them in JupyterLab.")
    parser.add_argument("lessons", nargs="*", help="a number (3.1), a name, a .md source or an .ipynb; all lessons by default")
    parser.add_argument(
        "--answers", choices=("all", "solutions", "stubs"), default="all",
        help="what stands in the exercises of a source: every stub and wrong answer, which the check must find, and then the solution (default); the solutions alone; the stubs alone",
    )
    parser.add_argument("--language", choices=paths.LANGUAGES, default=paths.LANGUAGES[0], help="the words in the code of a source")
    parser.add_argument("--colab", action="store_true", help="as Colab runs it: the lesson's Colab notebook in a Python kernel, compared with the stored outputs")
    chosen = parser.parse_args(arguments)
    if chosen.colab and (chosen.answers != "all" or any(Path(text).suffix == ".ipynb" for text in chosen.lessons)):
        parser.error("--colab runs the Colab notebooks of lessons, which have stubs in their exercises; it takes neither --answers nor a file")
    # Before minutes are spent on the set-up.
    found = [find(text) for text in chosen.lessons] or source.find([])
    environment.set_up()

    from . import execute

    if chosen.colab:
        reports = [colab(path, chosen.language) for path in found]
        print(execute.table(reports), flush=True)
        build_folder.BuildFolder().clean()
        execute.failing(reports)
        return 0
    reports = []
    for name, cells, folder in [load(path, chosen.answers, chosen.language) for path in found]:
        reports.append(execute.run(name, cells, folder, progress=execute.show_progress(name)))
    print(execute.table(reports), flush=True)
    build_folder.BuildFolder().clean()
    execute.failing(reports)
    return 0


def colab(path: Path, language: str):
    """Runs the Colab notebook of a lesson in ipykernel; its Rust cells must show what the stored ones do."""
    from . import check, execute, render

    lesson = source.read(path)
    cells = [cell for cell in render.colab(lesson, language).cells if cell.cell_type == "code"]
    added = [cell.source for cell in cells if "colab" in cell.metadata.get("tags", [])]
    shown = iter([cell.source for cell in cells if cell.source not in added])
    steps = [exercises.Step(text, []) for text in added]
    # The stored outputs are those of a learner who has written the solutions.
    for step in exercises.steps(lesson, "solutions", language):
        steps.append(replace(step, text=next(shown) if step.cell else f"%%rust\n{step.text}"))
    kernel = execute.manager([str(paths.VENV / "share" / "jupyter" / "kernels")], "python3")
    name = f"{lesson.name} (colab)"
    report = execute.run(name, steps, paths.NOTEBOOKS / language, kernel=kernel, progress=execute.show_progress(name))
    ran = [outputs for step, outputs in zip(steps, report.outputs) if step.cell]
    stored_outputs = check.stored_outputs(lesson, language)
    same = pictures = 0
    for number, (cell, new, old) in enumerate(zip(lesson.shown, ran, stored_outputs), 1):
        # What a check says is not stored.
        if {"timed", "check"} & set(cell.tags):
            continue
        pairs = itertools.zip_longest(check.numbers(new), check.numbers(old), fillvalue="nothing")
        if unequal := [pair for pair in pairs if pair[0] != pair[1]]:
            report.failure += f"{name}: Rust cell {number} shows {unequal[0][0]} where the stored notebook has {unequal[0][1]}\n"
        drawn = [{kind: data for kind, data in output.get("data", {}).items() if kind.startswith("image/")} for output in (*new, *old)]
        drawn = [images for images in drawn if images]
        pictures += bool(drawn)
        same += bool(drawn) and drawn[: len(drawn) // 2] == drawn[len(drawn) // 2:]
    if not report.failure:
        say.note(f"  {name}: the numbers of {len(ran)} Rust cells as stored; {same} of {pictures} figures to the last byte")
    return report


def find(text: str) -> Path:
    """A notebook file that can be read, or a lesson's source."""
    path = Path(text)
    if path.suffix == ".ipynb" and (path.exists() or path.is_symlink()):
        stored.bytes_of(path)
        return path
    (found,) = source.find([text])
    return found


def load(path: Path, answers: str, language: str) -> tuple:
    """The name, the code cells and the folder of a lesson source or of a notebook file."""
    if path.suffix == ".ipynb":
        _, notebook = stored.read(path)
        cells = [(cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells if cell.cell_type == "code"]
        return path.stem, cells, path.resolve().parent
    lesson = source.read(path)
    folder = paths.NOTEBOOKS / language
    folder.mkdir(parents=True, exist_ok=True)
    return lesson.name, exercises.steps(lesson, answers, language), folder
