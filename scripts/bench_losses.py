#!/usr/bin/env python3
"""Losses on 4×8×256×256 logits, forward and backward, and the ROC AUC of a million scores.

With --compare also by PyTorch and scikit-learn on the same tensors, alternately, so that a busy
machine slows both. Reported are milliseconds, median of the rounds with minimum and maximum, and the
ratio of the medians. A ratio above 1 in cross-entropy, Lovász-Softmax or the ROC AUC, which are
promised to be no slower, ends in an error. PyTorch's Lovász-Softmax is the sort-and-cumulative-sum form of Berman et al.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import argument_types  # noqa: E402
from course import benchmarks  # noqa: E402

IN_A_ROW = 5
CASES = ["cross-entropy", "focal", "dice", "lovasz-softmax", "roc-auc"]
# Where being slower than the reference is a failure.
PROMISED = {"cross-entropy", "lovasz-softmax", "roc-auc"}


def torch_child(folder):
    import numpy as np
    import torch
    import torch.nn.functional as F
    from sklearn.metrics import roc_auc_score

    torch.set_num_threads(int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count())))
    read = lambda name: np.fromfile(pathlib.Path(folder) / name, dtype="<f4")
    logits = torch.from_numpy(read("logits")).reshape(4, 8, 256, 256).requires_grad_(True)
    targets = torch.from_numpy(read("targets")).long().reshape(4, 256, 256)
    scores, labels = read("scores"), read("labels").astype(np.uint32)

    def focal():
        nll = F.cross_entropy(logits, targets, reduction="none")
        return ((1 - torch.exp(-nll)) ** 2 * nll).mean()

    def dice():
        p, t = torch.softmax(logits, 1), F.one_hot(targets, 8).movedim(-1, 1).float()
        both, total = (p * t).sum((0, 2, 3)), (p + t).sum((0, 2, 3))
        return (1 - (2 * both + 1) / (total + 1)).mean()

    def lovasz():
        p, labels = torch.softmax(logits, 1).movedim(1, -1).reshape(-1, 8), targets.reshape(-1)
        losses = []
        for c in range(8):
            truth = (labels == c).float()
            if truth.sum() == 0:
                continue
            errors, order = torch.sort((truth - p[:, c]).abs(), 0, descending=True)
            truth = truth[order]
            total = truth.sum()
            jaccard = 1 - (total - truth.cumsum(0)) / (total + (1 - truth).cumsum(0))
            jaccard[1:] = jaccard[1:] - jaccard[:-1]
            losses.append(torch.dot(errors, jaccard))
        return torch.stack(losses).mean()

    losses = {"cross-entropy": lambda: F.cross_entropy(logits, targets), "focal": focal, "dice": dice, "lovasz-softmax": lovasz}
    print("ready", flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        if line.strip() == "roc-auc":
            value = roc_auc_score(labels, scores)
        else:
            logits.grad = None
            loss = losses[line.strip()]()
            loss.backward()
            value = loss.item()
        print((time.perf_counter() - begin) * 1e3, value, flush=True)


class Child:
    """A process that runs a case whenever asked."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout.readline().strip() == "ready", command

    def run(self, case):
        """Milliseconds of a run, the mean of some in a row as in a training, and its value.

        Rests first: the other child's threads spin for a while when they have done their part.
        """
        time.sleep(0.1)
        times = []
        for _ in range(IN_A_ROW):
            self.process.stdin.write(case + "\n")
            self.process.stdin.flush()
            milliseconds, value = map(float, self.process.stdout.readline().split())
            times.append(milliseconds)
        return statistics.mean(times), value

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def write_inputs(folder):
    """Smooth class maps with confident logits, as in the middle of a training; made without NumPy."""
    import array
    import random

    random.seed(0)
    noise = [random.gauss(0, 1) for _ in range(1 << 16)]
    targets = array.array("f", (float((i // 256 % 256 // 32 + i % 256 // 32 + i // 65536) % 8) for i in range(4 * 65536)))
    logits = array.array("f")
    for n in range(4):
        for c in range(8):
            shift = random.randrange(1 << 16)
            logits.extend(1.5 * noise[(i + shift) & 0xFFFF] + (2.0 if targets[n * 65536 + i] == c else 0.0) for i in range(65536))
    labels = array.array("f", (float(random.random() < 0.3) for _ in range(1_000_000)))
    scores = array.array("f", (random.gauss(label, 1) for label in labels))
    for name, values in {"logits": logits, "targets": targets, "scores": scores, "labels": labels}.items():
        (pathlib.Path(folder) / name).write_bytes(values.tobytes())


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench losses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="also PyTorch and scikit-learn")
    parser.add_argument("--rounds", type=argument_types.count, default=15)
    parser.add_argument("cases", nargs="*", default=CASES, help=f"of {', '.join(CASES)}")
    options = parser.parse_args()
    unknown = sorted(set(options.cases) - set(CASES))
    if unknown:
        parser.error(f"no case is called {', '.join(unknown)}; there are: {', '.join(CASES)}")
    if options.compare:
        import reference_environment

        reference_environment.enter()
    binary = benchmarks.binary("losses")
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(folder)
        children = {"candle_course": Child([binary, folder], os.environ)}
        if options.compare:
            children["PyTorch, scikit-learn"] = Child([sys.executable, __file__, "--torch-child", folder], os.environ)
        print(f"{'case':<16}{'by':<24}{'median ms':>10}{'min':>9}{'max':>9}  value")
        slower = []
        for case in options.cases:
            times, values = {name: [] for name in children}, {}
            for turn in range(options.rounds + 2):
                for name, child in children.items():
                    milliseconds, values[name] = child.run(case)
                    if turn >= 2:
                        times[name].append(milliseconds)
            for name, ms in times.items():
                print(f"{case:<16}{name:<24}{statistics.median(ms):>10.2f}{min(ms):>9.2f}{max(ms):>9.2f}  {values[name]:.8g}")
            if options.compare:
                ours, theirs = (statistics.median(ms) for ms in times.values())
                print(f"{'':<16}{'time relative to theirs':<24}{ours / theirs:>10.2f}")
                a, b = values.values()
                assert abs(a - b) <= 1e-4 * abs(b), f"{case}: {a} and {b} differ"
                slower += [case] if ours > theirs else []
        for child in children.values():
            child.stop()
        if slower:
            print(f"slower than the reference: {', '.join(slower)}")
        broken = PROMISED.intersection(slower)
        if broken:
            sys.exit(f"promised to be no slower: {', '.join(sorted(broken))}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--torch-child"]:
        torch_child(sys.argv[2])
    else:
        main()
