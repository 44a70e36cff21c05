"""`scripts/run [lesson …]`: executes lessons headless and prints a table."""

import argparse
from pathlib import Path

from . import build_folder, environment, exercises, paths, source, stored


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/run", description="Runs lessons headless, as a learner would run them in JupyterLab.")
    parser.add_argument("lessons", nargs="*", help="a number (3.1), a name, a .md source or an .ipynb; all lessons by default")
    parser.add_argument(
        "--answers", choices=("all", "solutions", "stubs"), default="all",
        help="what stands in the exercises of a source: every stub and wrong answer, which the check must find, and then the solution (default); the solutions alone; the stubs alone",
    )
    parser.add_argument("--language", choices=paths.LANGUAGES, default=paths.LANGUAGES[0], help="the words in the code of a source")
    chosen = parser.parse_args(arguments)
    # Before minutes are spent on the set-up.
    found = [find(text) for text in chosen.lessons] or source.find([])
    environment.set_up()

    from . import execute

    reports = []
    for name, cells, folder in [load(path, chosen.answers, chosen.language) for path in found]:
        reports.append(execute.run(name, cells, folder, progress=execute.show_progress(name)))
    print(execute.table(reports), flush=True)
    build_folder.BuildFolder().clean()
    execute.failing(reports)
    return 0


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
