"""Starts one notebook kernel: evcxr in a fresh private copy of the prebuilt build folder.

The kernel specification in `.venv` names this file; it needs the standard library only.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from course import build_folder, command, environment, evcxr, paths, rust_library, say, supervise  # noqa: E402


def main(arguments: list) -> None:
    if arguments[:1] == ["--fill"]:
        sys.exit(command.door(lambda: build_folder.BuildFolder().fill(Path(arguments[1])), before="error: "))
    sys.exit(command.door(lambda: start(arguments), before="The Rust kernel could not start: "))


def start(arguments: list) -> int:
    supervise.begin()
    environment.check_project()
    environment.check_rust()
    with say.writing(paths.user_cache()):
        binary = evcxr.find()
    if binary is None:
        raise say.Failure("the notebook kernel is not installed; run `scripts/lab` once")
    # Past rustup's stand-ins, which look for the toolchain at every call.
    os.environ["PATH"] = f"{Path(build_folder.cargo()).parent}{os.pathsep}{os.environ['PATH']}"
    builds = build_folder.BuildFolder()
    folder = builds.copy()
    builds.clean_in_background()
    # Also spares the notebooks a person's own start-up code for evcxr.
    os.environ.setdefault("EVCXR_CONFIG_DIR", str(folder / "config"))
    variables = dict(build_folder.run_environment(), EVCXR_TMPDIR=str(folder), CANDLE_COURSE_ANSWERS=str(builds.answers()), CANDLE_COURSE_LIBRARY=str(rust_library.ensure() or ""))
    return supervise.run([str(binary), "--control_file", *arguments], variables)


if __name__ == "__main__":
    main(sys.argv[1:])
