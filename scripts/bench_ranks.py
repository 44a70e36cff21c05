"""What several ranks cost and bring: a group of one against a training without ranks, and two processes of one
thread each under MPI against one process of two threads, on the CIFAR CNN.

The pairs are measured in turns in one go; the ratio is the median of those of neighbouring rounds.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from course import benchmarks, mpi, say  # noqa: E402


def numbers(command: list, threads: int) -> list:
    environment = dict(os.environ, **mpi.ENVIRONMENT, RAYON_NUM_THREADS=str(threads))
    output = subprocess.run([str(part) for part in command], env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [[float(number) for number in line.split()] for line in output.splitlines()]


def compare(rows: list) -> str:
    """The medians of two columns, and the median of their ratios."""
    first, second = (statistics.median(column) for column in zip(*rows))
    return f"{first:9.3f} {second:9.3f} {statistics.median(a / b for a, b in rows):8.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench ranks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--binary", type=Path, help="the benchmark, built with the feature mpi already")
    parsed = parser.parse_args()
    missing = mpi.missing()
    binary = parsed.binary or benchmarks.binary("ranks", *([] if missing else ["--features", "mpi"]))
    print("ms per step                                        first    second   first/second")
    for model, batch, steps in (("cnn", 64, 8), ("mlp", 64, 300)):
        rows = numbers([binary, "overhead", model, batch, steps, parsed.rounds], 2)
        print(f"{model}, without ranks and with a group of one   {compare(rows)}")
    if missing:
        say.note(f"  {missing}: two processes are not measured")
        return 0
    for model, batch, steps in (("cnn", 64, 8), ("mlp", 64, 300)):
        rows = []
        for _ in range(parsed.rounds):
            arguments = ["train", model, batch, steps, 3]
            one = numbers([binary, *arguments], 2)
            two = numbers([shutil.which("mpirun"), "-n", 2, binary, *arguments], 1)
            rows.append([statistics.median(row[0] for row in one), statistics.median(row[0] for row in two)])
        print(f"{model}, 1 process × 2 threads and 2 × 1            {compare(rows)}")
    return 0


sys.exit(main())
