#!/usr/bin/env python3
"""How time and memory grow when one size grows tenfold, twice where the machine allows.

Each case and size is a process of its own: the milliseconds of a call (a training step, an epoch of a
loader, a loss with its gradient, a metric) and the peak of its memory above the smallest process of the
crate. Beside them how often the definition has the work grow: ten times the side is a hundred times the pixels,
ten times the channels a hundred times the products and ten times the numbers between layers.
"""

import argparse
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import argument_types  # noqa: E402
import bench_train  # noqa: E402
from course import benchmarks  # noqa: E402

# case: (what grows, the sizes, how often the work grows per tenfold size)
CASES = {
    "side": ("side of 8 images, 16 channels: training step of two convolutions", [16, 160], 100),
    "channels": ("channels of 8 images of 16 × 16: the same step", [16, 160], 100),
    "batch": ("images of 16 channels, 16 × 16: the same step", [1, 10, 100], 10),
    "length": ("steps of a GRU over 16 sequences: training step", [20, 200, 2000], 10),
    "classes": ("classes of a linear layer and cross-entropy, 64 examples: training step", [10, 100, 1000, 10000], 10),
    "set": ("examples of a set: an epoch of the loader, shuffled", [1000, 10000, 100000], 10),
    "dice": ("images of 4 classes, 32 × 32: Dice with gradient", [1, 10, 100], 10),
    "lovasz": ("images of 4 classes, 32 × 32: Lovász-Softmax with gradient", [1, 10, 100], 10),
    "auc": ("scores: area under the ROC curve", [10000, 100000, 1000000], 10),
    "confusion": ("classes of 1,024 predictions: confusion matrix, classes² counts", [10, 100, 1000], 100),
}


def growth(values, least=0):
    """How many times the one before each value is; a dash where that one is below `least` (of a megabyte most is the allocator's)."""
    return ", ".join(f"{after / before:.1f}" if before >= least else "–" for before, after in zip(values, values[1:]))


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seconds", type=argument_types.seconds, default=1.0, help="of a measurement, at least three calls")
    arguments = parser.parse_args()
    binary = benchmarks.binary("growth")

    def measure(case, size, seconds=arguments.seconds):
        answer = subprocess.run([binary, case, str(size), str(seconds)], stdout=subprocess.PIPE, text=True, check=True).stdout
        return [float(word) for word in answer.split()]

    empty = measure("auc", 2, 0)[1]
    print(f"{bench_train.cpu()}, {os.cpu_count()} threads; of each tenfold size the growth of the time and of the memory\n")
    print("| what grows | sizes | ms | time grows | by definition | MB | memory grows |\n| --- | --- | --- | --- | ---: | --- | --- |")
    for case in arguments.cases:
        what, sizes, definition = CASES[case]
        times, memory = zip(*((time, max(peak - empty, 0)) for time, peak in (measure(case, size) for size in sizes)))
        join = lambda values, form: ", ".join(format(value, form) for value in values)
        print(f"| {what} | {join(sizes, ',')} | {join(times, '.3g')} | {growth(times)} | {definition} | {join(memory, '.1f')} | {growth(memory, least=1)} |", flush=True)


if __name__ == "__main__":
    main()
