"""What several ranks cost and bring: a group of one against a training without ranks, and two processes of one
thread each under MPI against one process of two threads, on the CIFAR CNN.

The pairs are measured in turns in one go; the ratio is the median of those of neighbouring rounds.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from course import benchmarks, mpi, say  # noqa: E402
from course.scaling_command import MODELS, halves, medians, overhead  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench ranks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--binary", type=Path, help="the benchmark, built with the feature mpi already")
    parsed = parser.parse_args()
    missing = mpi.missing()
    binary = parsed.binary or benchmarks.binary("ranks", *([] if missing else ["--features", "mpi"]))
    print("ms per step                                        first    second   first/second")
    for model in MODELS:
        show(f"{model}, without ranks and with a group of one", overhead(binary, model, parsed.rounds))
    if missing:
        say.note(f"  {missing}: two processes are not measured")
        return 0
    for model in MODELS:
        show(f"{model}, 1 process × 2 threads and 2 × 1", halves(binary, model, parsed.rounds))
    return 0


def show(what: str, rows: list) -> None:
    first, second, ratio = medians(rows)
    print(f"{what:<45} {first:9.3f} {second:9.3f} {ratio:8.3f}", flush=True)


sys.exit(main())
