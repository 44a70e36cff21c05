"""An AdamW step over 10 million parameters, and saving and loading 500 MB; with --compare, the
same in PyTorch, and the ratios.

Ours flushes to the disk, which `torch.save` does not: both are measured in PyTorch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "scripts"))

from course import benchmarks  # noqa: E402

ROWS = [
    # what is shown, ours, PyTorch's
    ("AdamW step, 10 million parameters (PyTorch: fused)", "step", "step"),
    ("the same, gradients checked for NaN first", "step_checked", "step"),
    ("checkpoint, 500 MB: save, flushed, with checksum", "save", "save_flushed"),
    ("weights, 500 MB: save, flushed", "save_weights", "save_flushed"),
    ("weights, 500 MB: save (PyTorch: not flushed)", "save_weights", "save"),
    ("checkpoint, 500 MB: load, checksum checked", "load", "load"),
    ("weights, 500 MB: load", "load_weights", "load"),
]


def median(rounds: int, call) -> float:
    seconds = []
    for number in range(rounds + 2):
        start = time.perf_counter()
        call()
        if number >= 2:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_pytorch(folder: str) -> None:
    import torch

    weights = [torch.nn.Parameter(torch.rand(1000, 1000) * 0.2 - 0.1) for _ in range(10)]
    for weight in weights:
        weight.grad = weight.detach() * 0.3
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)
    print(f"step {median(31, optimizer.step):.6f}")
    tensors = {f"layer{index}.weight": torch.full((12_500, 1000), float(index)) for index in range(10)}
    path = os.path.join(folder, "pytorch.pt")

    def flushed() -> None:
        with open(path, "wb") as file:
            torch.save(tensors, file)
            file.flush()
            os.fsync(file.fileno())

    print(f"save {median(5, lambda: torch.save(tensors, path)):.6f}")
    print(f"save_flushed {median(5, flushed):.6f}")
    print(f"load {median(5, lambda: torch.load(path)):.6f}")


def values(text: str) -> dict:
    return {name: float(value) for name, value in (line.split() for line in text.splitlines() if line.count(" ") == 1)}


def main() -> None:
    if sys.argv[1:2] == ["--pytorch"]:
        import reference_environment

        reference_environment.enter()
        return measure_pytorch(sys.argv[2])
    parser = argparse.ArgumentParser(prog="scripts/bench train-state", description=__doc__)
    parser.add_argument("--compare", action="store_true", help="also PyTorch")
    compared = parser.parse_args().compare
    binary = benchmarks.binary("train_state")
    with tempfile.TemporaryDirectory(dir=PROJECT / "target") as folder:
        ours = values(subprocess.run([binary, folder], capture_output=True, text=True, check=True).stdout)
        theirs = {}
        if compared:
            command = [sys.executable, __file__, "--pytorch", folder]
            theirs = values(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for label, own, other in ROWS:
        line = f"{label:<52} {ours[own] * 1e3:8.1f} ms"
        if theirs:
            line += f"   PyTorch {theirs[other] * 1e3:8.1f} ms   ratio {ours[own] / theirs[other]:.2f}"
        print(line)


if __name__ == "__main__":
    main()
