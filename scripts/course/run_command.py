"""`scripts/run [lesson …]`: executes lessons headless and prints a table."""

import argparse
from pathlib import Path

from . import build_folder, environment, paths


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/run", description="Runs lessons headless, as a learner would run them in JupyterLab.")
    parser.add_argument("lessons", nargs="*", help="a number (3.1), a name, a .md source or an .ipynb; all lessons by default")
    chosen = parser.parse_args(arguments)
    environment.set_up()

    from . import execute

    reports = []
    for name, cells, folder in [load(text) for text in chosen.lessons] or [load(path) for path in every_lesson()]:
        reports.append(execute.run(name, cells, folder, progress=execute.show_progress(name)))
    print(execute.table(reports), flush=True)
    build_folder.BuildFolder().clean()
    execute.failing(reports)
    return 0


def every_lesson() -> list:
    from . import source

    return [str(path) for path in source.find([])]


def load(text: str) -> tuple:
    """The name, the code cells and the folder of a lesson source or of a notebook file."""
    path = Path(text)
    if path.suffix == ".ipynb" and path.exists():
        import nbformat

        notebook = nbformat.read(path, as_version=4)
        cells = [(cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells if cell.cell_type == "code"]
        return path.stem, cells, path.resolve().parent
    from . import source

    (found,) = source.find([text])
    lesson = source.read(found)
    folder = paths.NOTEBOOKS / "en"
    folder.mkdir(parents=True, exist_ok=True)
    return lesson.name, [(cell.text, cell.tags) for cell in lesson.code], folder
