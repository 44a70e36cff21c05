"""`scripts/site [folder] [--reference]`: the executed notebooks as a site that needs no server."""

import argparse
import os
from pathlib import Path

from . import environment, paths, say

FOLDER = paths.PROJECT / "dist" / "site"


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/site", description="Makes a site of the notebooks, in both languages, in a folder that a browser opens without a server.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where the site is written; dist/site by default")
    parser.add_argument("--reference", action="store_true", help="run `cargo doc` first and put the documentation of the crate beside the lessons; without it, what is there already is taken")
    chosen = parser.parse_args(arguments)
    environment.set_up(environment.ensure_venv)

    from . import site_pages

    folder = Path(os.path.abspath(chosen.folder))
    documentation = Path(os.environ.get("CARGO_TARGET_DIR") or paths.PROJECT / "target") / "doc"
    if chosen.reference:
        environment.check_rust()
        with say.step("Documentation of the crate", "2 minutes the first time"):
            say.run(["cargo", "doc", "--locked", "--no-deps", "-p", "candle_course"], cwd=paths.PROJECT)
    there = (documentation / "candle_course" / "index.html").is_file()
    if not there:
        say.note("  without the API reference: scripts/site --reference makes it")
    with say.step("Writing the pages"):
        count = site_pages.build(folder, documentation if there else None)
    print(f"{count} pages: {folder / 'index.html'}")
    return 0
