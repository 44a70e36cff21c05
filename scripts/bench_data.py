#!/usr/bin/env python3
"""The loader, with --compare side by side with PyTorch's DataLoader on the same images.

Every measurement runs in its own process, one after the other, ours and theirs in turns; memory is
the peak of the whole process tree (proportional set size, so that shared pages count once).
Reported are examples per second (median of the rounds), peak memory, and the ratios that matter.

Images from files: both sides decode, flip half of the images, make f32 of them, normalise and batch, with 2
workers. PyTorch's side is `ImageFolder` as it comes, which decodes with Pillow, and again with
torchvision's own decoder and transforms on tensors. The decoders alone, that of the crate `image` and Pillow's, are
measured in one thread, from memory to bytes.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import argument_types  # noqa: E402
import reference_environment  # noqa: E402
from course import benchmarks  # noqa: E402

WORKERS = [1, 2, 4, 8]
FILES = {"jpeg-64": "JPEG of 64 × 64, decoded lazily", "png-64": "PNG of 64 × 64, decoded lazily"}
FILES |= {"jpeg-256": "JPEG of 256 × 256, decoded lazily", "png-256": "PNG of 256 × 256, decoded lazily"}


# The crate's programs use mimalloc, as the documentation of `DataLoader` advises, and let it keep what large
# batches leave: the system would have to clear the same pages for every one of them.
KEEPS_MEMORY = {"MIMALLOC_PURGE_DELAY": "-1"}

# What a case is called that reads with torchvision's decoder and transforms tensors.
TENSORS = " tensors"


def torch_child(case, workers, folder):
    """The counterpart of benches/data.rs."""
    import numpy
    import torch
    import torchvision
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset, TensorDataset
    from torchvision import transforms

    class Cifar(Dataset):
        """As torchvision.datasets.CIFAR10, which insists on the complete set."""

        def __init__(self, transform):
            self.data = numpy.fromfile(f"{folder}/cifar10-images.bin", numpy.uint8).reshape(-1, 32, 32, 3)
            self.targets = numpy.fromfile(f"{folder}/cifar10-labels.bin", numpy.uint8).tolist()
            self.transform = transform

        def __len__(self):
            return len(self.targets)

        def __getitem__(self, index):
            return self.transform(Image.fromarray(self.data[index])), self.targets[index]

    class SlowFiles(Dataset):
        def __init__(self, length):
            self.length = length

        def __len__(self):
            return self.length

        def __getitem__(self, index):
            time.sleep(0.002)
            return torch.zeros(3, 8, 8), index

    normalise = transforms.Normalize((0.1307,), (0.3081,))
    colours = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    batch, shuffle, seconds = 64, True, 3.0
    if case.startswith("decode "):
        decode_child(case.removeprefix("decode "), folder)
        return
    if case == "mnist":
        data = torchvision.datasets.MNIST(folder, transform=transforms.Compose([transforms.ToTensor(), normalise]))
    elif case == "mnist-tensors":
        data = torchvision.datasets.MNIST(folder)
        data = TensorDataset(normalise(data.data.unsqueeze(1).float() / 255), data.targets)
    elif case == "cifar10":
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), colours]
        data = Cifar(transforms.Compose(steps))
    elif case in FILES:
        steps = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), colours]
        data = torchvision.datasets.ImageFolder(f"{folder}/{case}", transforms.Compose(steps))
    elif case.removesuffix(TENSORS) in FILES:
        from torchvision.io import ImageReadMode, decode_image
        from torchvision.transforms import v2

        steps = v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(colours.mean, colours.std)])
        read = functools.partial(decode_image, mode=ImageReadMode.RGB)
        data = torchvision.datasets.ImageFolder(f"{folder}/{case.removesuffix(TENSORS)}", steps, loader=read)
    else:
        data, batch, shuffle, seconds = SlowFiles(16 * 40 * max(workers, 1)), 16, False, 0.0
    loader = DataLoader(
        data, batch_size=batch, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0
    )
    for _ in loader:  # starts the workers
        pass
    examples, start = 0, time.perf_counter()
    while True:
        for inputs, _ in loader:
            examples += len(inputs)
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            break
    print(json.dumps({"examples_per_second": examples / elapsed}))


def decode_child(case, folder):
    """Pillow alone, as ImageFolder calls it, in one thread."""
    import io

    from PIL import Image

    files = [path.read_bytes() for path in sorted(pathlib.Path(folder, case).glob("*/*"))]
    images, start = 0, None
    while start is None or time.perf_counter() - start < 3.0:
        for file in files:
            Image.open(io.BytesIO(file)).convert("RGB")
        images = 0 if start is None else images + len(files)
        start = start or time.perf_counter()
    print(json.dumps({"examples_per_second": images / (time.perf_counter() - start)}))


def tree(root):
    """The process and everything below it."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def memory(root):
    """MB that a process tree holds now; 0 where /proc does not tell."""
    total = 0
    for process in tree(root):
        try:
            text = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        except (OSError, StopIteration):
            pass
    return total / 1024


def measure(command, environment=None):
    """Examples per second and peak MB of one run."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    peak = [0.0]

    def watch():
        while process.poll() is None:
            peak[0] = max(peak[0], memory(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return json.loads(output.splitlines()[-1])["examples_per_second"], peak[0]


class Sides:
    """Runs a case by this crate and, if asked for, by PyTorch, and remembers the numbers."""

    def __init__(self, binary, python, folder, rounds):
        self.binary, self.python, self.folder, self.rounds = binary, python, folder, rounds

    def run(self, title, case, workers, against=()):
        if case in FILES:
            ours = ["files", str(workers), f"{self.folder}/{case}"]
        elif case.startswith("decode "):
            ours = ["decode", f"{self.folder}/{case.removeprefix('decode ')}"]
        else:
            ours = [case, str(workers)]
        commands = {"this crate": ([self.binary, *ours], dict(os.environ, **KEEPS_MEMORY))}
        if self.python:
            for name, other in against:
                commands[name] = [self.python, __file__, "--child", other, str(workers), str(self.folder)], None
        runs = {name: [] for name in commands}
        for _ in range(self.rounds):
            for name, command in commands.items():
                runs[name].append(measure(*command))
        result = {}
        for name, values in runs.items():
            rate = statistics.median(rate for rate, _ in values)
            peak = max(peak for _, peak in values)
            result[name] = (rate, peak)
            print(f"{title:<34} {workers} workers  {name:<40} {rate:>12,.0f} examples/s  {peak:>6.0f} MB", flush=True)
        return result


def compare(sides, files_only):
    ratios = []

    def ratio(what, ours, theirs, target):
        ratios.append((what, ours[0] / theirs[0], f"{target} or more"))
        ratios.append((f"{what}: peak memory", ours[1] / theirs[1], "0.5 or less"))

    usual, tensors = "torchvision's ImageFolder", "ImageFolder with torchvision's decoder"
    for case, title in FILES.items():
        others = [(usual, case), (tensors, case + TENSORS)]
        rates = sides.run(title, case, 2, others)
        alone = sides.run(f"{title.split(',')[0]}, the decoder alone", f"decode {case}", 1, [("Pillow", f"decode {case}")])
        if sides.python:
            ratio(title, rates["this crate"], rates[usual], 3)
            ratios.append((f"{title}: against its decoder", rates["this crate"][0] / rates[tensors][0], "none"))
            ratios.append((f"{title}: decoder alone", alone["this crate"][0] / alone["Pillow"][0], "none"))
    if not files_only:
        in_memory(sides, ratio, ratios)
    print(f"\n{'ratio':<58} {'measured':>9}  target")
    for what, value, target in ratios:
        print(f"{what:<58} {value:>9.2f}  {target}")


def in_memory(sides, ratio, ratios):
    dataset, tensors = ("torchvision MNIST + transforms", "mnist"), ("TensorDataset of ready tensors", "mnist-tensors")
    mnist = sides.run("MNIST, normalised", "mnist", 2, [dataset, tensors])
    cifar = sides.run("CIFAR-10, crop, flip, normalise", "cifar10", 2, [("torchvision transforms", "cifar10")])
    slow = {n: sides.run("2 ms of I/O per example", "io", n, [("PyTorch", "io")] if n == 2 else []) for n in WORKERS}
    if sides.python:
        ratio("MNIST against torchvision's data set", mnist["this crate"], mnist[dataset[0]], 20)
        ratio("MNIST against ready tensors", mnist["this crate"], mnist[tensors[0]], 5)
        ratio("CIFAR-10 with augmentation", cifar["this crate"], cifar["torchvision transforms"], 10)
        ratios.append(("2 ms of I/O: peak memory", slow[2]["this crate"][1] / slow[2]["PyTorch"][1], "0.5 or less"))
    one = slow[1]["this crate"][0]
    for workers in WORKERS[1:]:
        ratios.append((f"2 ms of I/O: {workers} workers over linear", slow[workers]["this crate"][0] / (workers * one), "0.9 or more"))


def bench(rounds, python, files_only):
    print("building (minutes, the first time)", flush=True)
    binary = benchmarks.binary("data")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([binary, "export", folder], check=True)
        compare(Sides(binary, python, folder, rounds), files_only)


def main():
    if sys.argv[1:2] == ["--child"]:
        torch_child(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(prog="scripts/bench data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="measure PyTorch's DataLoader as well")
    parser.add_argument("--files", action="store_true", help="only what reads images from files")
    parser.add_argument("--rounds", type=argument_types.count, default=2, help="runs of every measurement, 2 by default")
    options = parser.parse_args()
    python = os.environ.get("CANDLE_COURSE_REFERENCE_PYTHON")
    if not options.compare:
        bench(options.rounds, None, options.files)
    elif python:
        bench(options.rounds, python, options.files)
    else:
        with tempfile.TemporaryDirectory() as folder:
            bench(options.rounds, reference_environment.make(folder), options.files)


if __name__ == "__main__":
    main()
