"""`scripts/bench <area> […]`: runs the benchmark of one area, `scripts/bench_<area>.py`."""

import os
import sys

from . import environment, paths, say


def main(arguments: list) -> int:
    folder = paths.PROJECT / "scripts"
    areas = sorted(path.stem[len("bench_"):] for path in folder.glob("bench_*.py"))
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: scripts/bench <area> [arguments]\n\nareas: {', '.join(areas) or 'none'}")
        return 0 if arguments else 2
    area, *others = arguments
    if area not in areas:
        raise say.Failure(f"no benchmark is called {area!r}; there are: {', '.join(areas) or 'none'}")
    environment.check_rust()
    script = str(folder / f"bench_{area}.py")
    os.execv(sys.executable, [sys.executable, script, *others])
