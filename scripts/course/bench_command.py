"""`scripts/bench <area> […]`: runs the benchmark of one area, `scripts/bench_<area>.py`."""

import runpy
import sys

from . import environment, paths, say, source


def main(arguments: list) -> int:
    folder = paths.PROJECT / "scripts"
    areas = sorted(path.stem[len("bench_"):] for path in folder.glob("bench_*.py"))
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: scripts/bench <area> [arguments]\n\nareas: {', '.join(areas) or 'none'}")
        return 0 if arguments else 2
    area, *others = arguments
    if area not in areas:
        raise say.Failure(f"no benchmark is called {area!r}; there are: {', '.join(areas) or 'none'}{source.nearest(area, areas)}")
    environment.check_rust()
    # Within this process: what fails there leaves by the same door. Each reads its arguments before it builds.
    sys.argv = [str(folder / f"bench_{area}.py"), *others]
    sys.path.insert(0, str(folder))
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0
