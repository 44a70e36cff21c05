#!/usr/bin/env python3
"""Training steps by this crate, with --compare also by plain candle and PyTorch, alternately.

One process per implementation and model; they take rounds in turn, so that a busy machine slows
all of them. Reported are milliseconds per step, examples per second, peak memory and ratios of
rounds that were neighbours: median, with minimum and maximum.
"""

import argparse
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

import reference_environment

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH = 64
MODELS = ["mlp", "mnist", "cifar", "unet", "gru"]
STEPS = {"mlp": 300, "mnist": 15, "cifar": 8, "unet": 4, "gru": 20}


def torch_model(name):
    import torch.nn as nn

    class ConvNorm(nn.Sequential):
        def __init__(self, inputs, outputs):
            super().__init__(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.ModuleList([self.twice(4, 16), self.twice(16, 32)])
            self.bottom = self.twice(32, 64)
            self.enlarge = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, stride=2), nn.ConvTranspose2d(32, 16, 2, stride=2)])
            self.up = nn.ModuleList([self.twice(64, 32), self.twice(32, 16)])
            self.head = nn.Conv2d(16, 5, 1)
            self.pool = nn.MaxPool2d(2)

        @staticmethod
        def twice(inputs, outputs):
            return nn.Sequential(ConvNorm(inputs, outputs), ConvNorm(outputs, outputs))

        def forward(self, x):
            import torch

            first = self.down[0](x)
            second = self.down[1](self.pool(first))
            low = self.bottom(self.pool(second))
            low = self.up[0](torch.cat([second, self.enlarge[0](low)], 1))
            low = self.up[1](torch.cat([first, self.enlarge[1](low)], 1))
            return self.head(low)

    class LastState(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.head = nn.GRU(32, 64, batch_first=True), nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.gru(x)[0][:, -1])

    if name == "gru":
        return LastState()
    if name == "mlp":
        return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    if name == "mnist":
        convolutions = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        convolutions += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))
    if name == "cifar":
        layers, inputs = [], 3
        for i, outputs in enumerate([32, 32, 64, 64, 128, 128]):
            layers += [ConvNorm(inputs, outputs)] + ([nn.MaxPool2d(2)] if i % 2 else [])
            inputs = outputs
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, 10))
    return UNet()


def torch_child(name):
    """The counterpart of examples/bench_train.rs."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count())))
    torch.manual_seed(0)
    shape = {"mlp": (784,), "mnist": (1, 28, 28), "cifar": (3, 32, 32), "unet": (4, 64, 64), "gru": (50, 32)}[name]
    targets = (64, 64, 64) if name == "unet" else (64,)
    x, y = torch.randn(BATCH, *shape), torch.randint(0, 5 if name == "unet" else 10, targets)
    model = torch_model(name)
    sgd = name == "cifar"
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9) if sgd else torch.optim.AdamW(model.parameters(), 1e-3)

    def step():
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    for _ in range(3):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        step()  # not timed: what the other implementations pushed out of the caches
        begin = time.perf_counter()
        for _ in range(STEPS[name]):
            step()
        milliseconds = (time.perf_counter() - begin) * 1e3 / STEPS[name]
        status = pathlib.Path("/proc/self/status").read_text()
        print(milliseconds, int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024, flush=True)


class Child:
    """A process that takes a round whenever asked."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().strip() == "ready", command
        self.rounds, self.memory = [], 0.0

    def round(self):
        time.sleep(0.3)  # the threads of the child before spin for a while when they are done
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        milliseconds, self.memory = map(float, self.process.stdout.readline().split())
        self.rounds.append(milliseconds)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def spread(values, form):
    return f"{form(statistics.median(values))} ({form(min(values))}–{form(max(values))})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="also run plain candle and PyTorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compare or arguments.child:
        reference_environment.enter()
    if arguments.child:
        return torch_child(arguments.child)

    subprocess.check_call(["cargo", "build", "--release", "-q", "--example", "bench_train"], cwd=ROOT)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = str(target / "release/examples/bench_train")
    print(f"{cpu()}, {os.cpu_count()} threads, batch {BATCH}, {arguments.rounds} alternating rounds; median (minimum–maximum)\n")
    print("| model | | ms per step | examples/s | peak MB | speed against it |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in arguments.models:
        children = {"this crate": Child([binary, "ours", model])}
        if arguments.compare:
            children["PyTorch"] = Child([sys.executable, __file__, "--child", model])
            children["candle"] = Child([binary, "candle", model])
        for _ in range(arguments.rounds):
            for child in children.values():
                child.round()
        ours = children["this crate"].rounds
        for name, child in children.items():
            child.end()
            ratios = [theirs / mine for theirs, mine in zip(child.rounds, ours)]
            ratio = "" if name == "this crate" else spread(ratios, lambda x: f"{x:.2f}")
            times = spread(child.rounds, lambda x: f"{x:.3g}")
            rate = BATCH * 1e3 / statistics.median(child.rounds)
            print(f"| {model} | {name} | {times} | {rate:.0f} | {child.memory:.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
