"""Starts one notebook kernel: evcxr in a fresh private copy of the prebuilt build folder.

The kernel specification in `.venv` names this file; it needs the standard library only.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from course import build_folder, environment, evcxr, paths, say  # noqa: E402


def main(arguments: list) -> None:
    try:
        environment.check_rust()
        with say.writing(paths.user_cache()):
            binary = evcxr.find()
        if binary is None:
            raise say.Failure("the notebook kernel is not installed; run `scripts/lab` once")
        builds = build_folder.BuildFolder()
        folder = builds.copy()
        builds.clean_in_background()
        variables = dict(build_folder.run_environment(), EVCXR_TMPDIR=str(folder))
    except say.Failure as failure:
        say.note(f"The Rust kernel could not start: {failure}")
        sys.exit(1)
    os.execve(binary, [str(binary), "--control_file", *arguments], variables)


if __name__ == "__main__":
    main(sys.argv[1:])
