#!/usr/bin/env python3
"""Training steps by this crate, with --compare also by plain candle and PyTorch, alternately.

One process per implementation and model; they take rounds in turn, so that a busy machine slows
all of them. Reported are milliseconds per step, examples per second, peak memory and ratios of
rounds that were neighbours: median, with minimum and maximum.

PyTorch runs in each of its settings: as it comes; on a CPU, models of images with their channels
last in memory, too; compiled (`torch.compile`, on a CPU with channels last) for the models of
--compile. The line "PyTorch at its best" is the fastest of them.

--peers adds JAX and burn on the CPU, in f32 (scripts/peers). They start from PyTorch's weights, and before
the rounds their first three steps must give PyTorch's losses to 1e-4: equal work. One that is not there is
left out.

--roofline adds two lines a model: what its products would take at the speed of a matrix product that
stays in the caches, and what its tensors would take at the speed of a stream through memory, measured
in turns with the steps; "speed against it" is then the share of that roof. The products are those of
plain convolutions; an algorithm with fewer of them may pass the roof.

With --device cuda the steps run on the first GPU, and nothing is read between them; memory is what
the device's allocator had in use at most. With --threads the models run on so many CPU threads.
"""

import argparse
import contextlib
import gc
import itertools
import math
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import argument_types
import reference_environment

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = ["mlp", "mnist", "cifar", "unet", "gru"]
LARGE = ["resnet18", "resnet18-224", "unet-256"]
STEPS = {"mlp": 300, "mnist": 15, "cifar": 8, "unet": 4, "gru": 20, "resnet18": 2, "resnet18-224": 1, "unet-256": 1}
SHAPES = {
    "mlp": (784,), "mnist": (1, 28, 28), "cifar": (3, 32, 32), "unet": (4, 64, 64), "gru": (50, 32),
    "resnet18": (3, 32, 32), "resnet18-224": (3, 224, 224), "unet-256": (4, 256, 256),
}
PRECISIONS = ["f32", "tf32", "bf16"]
PEERS = ["jax", "burn"]
# What takes steps in every precision; the others know f32.
MIXED = ["this crate", "PyTorch", "PyTorch, channels last", "PyTorch, compiled"]


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

    class Residual(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
            self.relu, self.downsample = nn.ReLU(inplace=True), nn.Identity()
            if stride > 1 or inputs != outputs:
                self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x):
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(y + self.downsample(x))

    if name.startswith("resnet18"):
        large = name.endswith("224")
        front = nn.Conv2d(3, 64, 7, 2, 3, bias=False) if large else nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        layers, inputs = [front, nn.BatchNorm2d(64), nn.ReLU(inplace=True)] + ([nn.MaxPool2d(3, 2, 1)] if large else []), 64
        for i, outputs in enumerate([64, 128, 256, 512]):
            for block in range(2):
                layers.append(Residual(inputs, outputs, 2 if i and not block else 1))
                inputs = outputs
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000 if large else 10))
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


def sizes(model, batch):
    """Shape of the inputs, shape of the targets, classes."""
    unet = model.startswith("unet")
    classes = 5 if unet else 1000 if model.endswith("224") else 10
    return (batch, *SHAPES[model]), (batch, *SHAPES[model][1:]) if unet else (batch,), classes


def torch_training(name, batch, precision, device, compiled, channels_last=False):
    """A function that takes a training step and returns the loss."""
    import torch

    torch.manual_seed(0)
    shape, targets, classes = sizes(name, batch)
    x, y = torch.randn(shape, device=device), torch.randint(0, classes, targets, device=device)
    return torch_step(name, torch_model(name), x, y, precision, device, compiled, channels_last)


def torch_step(name, model, x, y, precision, device, compiled, channels_last):
    import torch
    import torch.nn.functional as F

    # PyTorch's own default is TF32 for convolutions and f32 for products; here one or the other for both.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    model = model.to(device)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    sgd = name == "cifar" or name.startswith("resnet18")
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9) if sgd else torch.optim.AdamW(model.parameters(), 1e-3)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(forward(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def peak_memory():
    """Megabytes that this process had at most."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def torch_child(name, device, compiled, channels_last):
    """The counterpart of benches/train.rs."""
    import torch

    torch.set_num_threads(int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count())))
    gpu = device == "cuda"
    if gpu:
        torch.zeros(1, device="cuda")
    serve(name, lambda batch, precision: torch_training(name, batch, precision, device, compiled, channels_last), gpu)


def serve(name, training, gpu=False):
    """Rounds on demand of the steps of what `training(batch, precision)` returns."""

    def peak():
        if gpu:
            import torch

            most = torch.cuda.max_memory_allocated() / 1e6
            torch.cuda.reset_peak_memory_stats()
            return most
        return peak_memory()

    def measure(step, steps):
        begin = time.perf_counter()
        for _ in range(steps):
            loss = step()
            if not gpu:
                loss.item()
        loss.item()
        return (time.perf_counter() - begin) / steps

    print("ready", flush=True)
    running, key, steps = None, None, STEPS[name]
    for line in sys.stdin:
        batch, precision, seconds = line.split()
        if key != (batch, precision):
            running = None
            gc.collect()
            if gpu:
                import torch

                torch.cuda.empty_cache()
            key, running = (batch, precision), training(int(batch), precision)
            measure(running, 3)
            if float(seconds) > 0:
                steps = max(3, min(1000, int(float(seconds) / measure(running, 3))))
            peak()
        measure(running, 1)  # not timed: what the other implementations pushed out of the caches
        print(measure(running, steps) * 1e3, peak(), flush=True)


def write_start(name, folder):
    """Writes the weights and a batch (`xs`, `ys`) as `start.safetensors`, and prints the losses of the first steps on it."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    shape, targets, classes = sizes(name, 8)
    xs, ys, model = torch.randn(shape), torch.randint(0, classes, targets), torch_model(name)
    start = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    step = torch_step(name, model, xs, ys, "f32", "cpu", compiled=False, channels_last=False)
    losses = torch.stack([step() for _ in range(3)])
    save_file({**start, "xs": xs, "ys": ys.to(torch.int32)}, folder / "start.safetensors")
    print(*losses.tolist())


class Child:
    """A process that takes a round whenever asked; one that ends is started anew for the next setting."""

    def __init__(self, command, environment=None):
        self.command, self.environment, self.failed = command, environment, set()
        self.start()
        self.clear()

    def start(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True, env=self.environment)
        self.ready = False

    def clear(self):
        self.rounds, self.memory = [], 0.0

    def wait(self):
        self.ready = self.ready or self.process.stdout.readline().strip() == "ready"

    def ask(self, setting):
        """Begins a round of `batch precision seconds`, if the setting has not failed before."""
        if setting in self.failed:
            return False
        if self.process.poll() is not None:
            self.start()
        self.wait()
        try:
            self.process.stdin.write(setting + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return True

    def answer(self, setting, keep=True):
        line = self.process.stdout.readline().split()
        if len(line) != 2:
            self.process.wait()
            self.failed.add(setting)
        elif keep:
            second = float(line[1])
            self.memory = max(self.memory, math.inf if math.isnan(second) else second)  # `max` would pass over a NaN
            self.rounds.append(float(line[0]))

    def round(self, setting, pause):
        time.sleep(pause)  # the threads of the child before spin for a while when they are done
        if self.ask(setting):
            self.answer(setting)

    def end(self):
        with contextlib.suppress(BrokenPipeError):  # one that died has not read all
            self.process.stdin.close()
        self.process.wait()

    def label(self, name, batch):
        return name


class Roof(Child):
    """What the work of a step would take at a rate of this machine, measured whenever asked."""

    def __init__(self, binary, kind, unit, each, once=0.0):
        super().__init__([binary, kind, str(each), str(once)][: 4 if kind == "memory" else 3])
        self.kind, self.unit, self.each, self.once = kind, unit, each, once

    def label(self, name, batch):
        work = (batch * self.each + self.once) / 1e9
        return f"{name}: {work:.3g} {self.unit} at {work * 1e3 / statistics.median(self.rounds):.3g} {self.unit}/s"


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def spread(values, form):
    return f"{form(statistics.median(values))} ({form(min(values))}–{form(max(values))})"


def is_of_images(model):
    return len(SHAPES[model]) == 3


def ratios_to(ours, theirs):
    """How many times as long theirs took, in rounds that were neighbours."""
    return spread([other / mine for other, mine in zip(theirs, ours)], lambda x: f"{x:.2f}")


def roofs_of(model, binary):
    from course import roofline

    work = roofline.work(model)
    return {
        "roof of its products": Roof(binary, "products", "GFLOP", work.products),
        "roof of its memory": Roof(binary, "memory", "GB", work.moved, work.moved_once),
    }


def children_of(model, arguments, binary, peers, roofline, folder):
    """One process per implementation: this crate first."""
    device = arguments.device
    children = {"this crate": Child([binary, "ours", model, device])}
    if arguments.compare:
        torch = [sys.executable, __file__, "--device", device, "--child", model]
        channels_last = ["--channels-last"] if device == "cpu" and is_of_images(model) else []
        children["PyTorch"] = Child(torch)
        if channels_last:
            children["PyTorch, channels last"] = Child([*torch, *channels_last])
        if model in arguments.compile:
            children["PyTorch, compiled"] = Child([*torch, *channels_last, "--compiled"])
        if model in arguments.plain:
            children["candle"] = Child([binary, "candle", model, device])
    if peers and model in MODELS:
        from course import peers as others

        equal = others.with_equal_work(model, peers, folder)
        children |= {name: Child([*command, "serve", model, folder]) for name, command in equal.items()}
    if roofline and model in MODELS:
        children |= roofs_of(model, roofline)
    return children


def report(model, batch, precision, setting, children):
    ours = children["this crate"].rounds
    for kind, child in children.items():
        name = child.label(kind, batch) if child.rounds else kind
        if not child.rounds:
            if setting in child.failed:
                print(f"| {model} | {batch} | {precision} | {name} | failed | | | |", flush=True)
            continue
        ratio = "" if name == "this crate" else ratios_to(ours, child.rounds) if ours else "–"
        times = spread(child.rounds, lambda x: f"{x:.3g}")
        rate = batch * 1e3 / statistics.median(child.rounds)
        memory = "" if isinstance(child, Roof) else f"{child.memory:.0f}"
        print(f"| {model} | {batch} | {precision} | {name} | {times} | {rate:.0f} | {memory} | {ratio} |", flush=True)
    settings = {name: child.rounds for name, child in children.items() if name.startswith("PyTorch") and child.rounds}
    if len(settings) > 1 and ours:
        best = min(settings, key=lambda name: statistics.median(settings[name]))
        print(f"| {model} | {batch} | {precision} | PyTorch at its best ({best}) | | | | {ratios_to(ours, settings[best])} |", flush=True)
    for child in children.values():
        child.clear()


def scaling(arguments, binary):
    """Milliseconds per step by number of CPU threads, this crate's and PyTorch's at its best."""
    print("| model | threads | this crate, ms | PyTorch at its best, ms | ratio |\n| --- | --- | --- | --- | --- |")
    for model in arguments.models:
        for threads in arguments.threads:
            environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
            # On as many cores: threads that the system moves about would measure the system.
            cores = ["taskset", "--cpu-list", f"0-{threads - 1}"] if threads <= os.cpu_count() and shutil.which("taskset") else []
            torch = [*cores, sys.executable, __file__, "--child", model]
            commands = [[*cores, binary, "ours", model], torch] + [[*torch, "--channels-last"]] * is_of_images(model)
            children = [Child(command, environment) for command in commands]
            for child in children:
                child.wait()
            for _ in range(arguments.rounds):
                for child in children:
                    child.round(f"{arguments.batch[0]} f32 {arguments.seconds}", 0.3)
            ours, *theirs = (statistics.median(child.rounds) for child in children)
            print(f"| {model} | {threads} | {ours:.3g} | {min(theirs):.3g} | {min(theirs) / ours:.2f} |", flush=True)
            for child in children:
                child.end()


def build(arguments):
    # Where the binary was built elsewhere, this script is carried without the project.
    from course import benchmarks

    features = ["--features", "cuda,cudnn"] if arguments.device == "cuda" else []
    return str(benchmarks.binary("train", *features))


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="also run plain candle and PyTorch")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=argument_types.count, default=7)
    parser.add_argument("--models", nargs="+", choices=MODELS + LARGE, default=MODELS)
    parser.add_argument("--batch", nargs="+", type=argument_types.count, default=[64])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["f32"])
    parser.add_argument("--compile", nargs="*", choices=MODELS + LARGE, default=[], help="models for torch.compile, too")
    parser.add_argument("--plain", nargs="*", choices=MODELS + LARGE, default=MODELS + LARGE, help="models for plain candle, too")
    parser.add_argument("--threads", nargs="+", type=argument_types.count, help="CPU threads, for a table of their number")
    parser.add_argument("--seconds", type=argument_types.seconds, default=0, help="of a round; 0: the model's usual number of steps")
    parser.add_argument("--binary", help="the built example; then PyTorch is this Python's")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[], help="on a CPU, other frameworks, too")
    parser.add_argument("--roofline", action="store_true", help="on a CPU, also the shares of what this machine could do")
    parser.add_argument("--avx2", action="store_true", help="all as on a processor without AVX-512 (Linux, Intel)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--channels-last", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if (arguments.peers or arguments.roofline) and (arguments.device != "cpu" or arguments.threads):
        parser.error("--peers and --roofline are for the CPU, and not for the table of --threads")
    if not arguments.binary and not arguments.child and (arguments.compare or arguments.threads or arguments.peers):
        reference_environment.enter()
    if arguments.start:
        return write_start(arguments.child, arguments.start)
    if arguments.child:
        return torch_child(arguments.child, arguments.device, arguments.compiled, arguments.channels_last)

    with tempfile.TemporaryDirectory() as folder:
        if arguments.avx2:
            from course import avx2

            avx2.pretend(pathlib.Path(folder))
        binary = arguments.binary or build(arguments)
        if arguments.threads:
            return scaling(arguments, binary)
        compare(arguments, binary, folder)


def compare(arguments, binary, folder):
    gpu, peers, roofline = arguments.device == "cuda", {}, None
    if arguments.peers:
        from course import peers as others

        peers = others.training_commands(arguments.peers)
    where = "GPU" if gpu else f"{cpu()}{' without AVX-512' * arguments.avx2}, {os.cpu_count()} threads"
    print(f"{where}, {arguments.rounds} alternating rounds; median (minimum–maximum)\n")
    if arguments.roofline:
        from course import benchmarks

        roofline = str(benchmarks.binary("roofline"))
        print(subprocess.run([roofline], check=True, stdout=subprocess.PIPE, text=True).stdout)
    print("| model | batch | precision | | ms per step | examples/s | peak MB | speed against it |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    # On a CPU one model after the other; a GPU's processes only wait, so all may be there at once.
    start = lambda model: children_of(model, arguments, binary, peers, roofline, folder)  # noqa: E731
    started = {model: start(model) for model in arguments.models} if gpu else {}
    first = f"{arguments.batch[0]} {arguments.precision[0]} {arguments.seconds}"
    compiled = [children[name] for children in started.values() for name in children if name.endswith("compiled")]
    for child in [child for children in started.values() for child in children.values()]:
        child.wait()
    for child in compiled:
        child.ask(first)
    for child in compiled:
        child.answer(first, keep=False)
    for model in arguments.models:
        children = started.get(model) or start(model)
        for child in children.values():
            child.wait()
        for batch, precision in itertools.product(arguments.batch, arguments.precision):
            setting = f"{batch} {precision} {arguments.seconds}"
            for _ in range(arguments.rounds):
                for name, child in children.items():
                    if precision == "f32" and (name != "candle" or batch == arguments.batch[0]) or name in MIXED:
                        child.round(setting, 0.0 if gpu else 0.3)
            report(model, batch, precision, setting, children)
        for child in children.values():
            child.end()


if __name__ == "__main__":
    main()
