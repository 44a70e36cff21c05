"""`scripts/scaling [measure]`: how training scales with ranks, measured here and computed for machines elsewhere.

Without an argument the tables and the drawing of docs/scaling.md are computed from what is stored in
docs/scaling/measured.json; `measure` measures that first, with this machine's MPI. `--check` says whether the page is
what would be written.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
from pathlib import Path

from . import benchmarks, environment, mpi, paths, say
from .scaling import Network, Work, all_reduce, buckets, fit, ring, simulate, step, waiting

PAGE = paths.PROJECT / "docs" / "scaling.md"
MEASURED = paths.PROJECT / "docs" / "scaling" / "measured.json"
DRAWING = paths.PROJECT / "docs" / "scaling" / "efficiency.svg"
RANKS = (8, 64, 512, 4096)
# What is left of a link for the numbers: three quarters of its rate.
NETWORKS = (
    Network("10 Gbit/s Ethernet", 25e-6, 0.75 * 1.25e9),
    Network("100 Gbit/s InfiniBand", 2e-6, 0.75 * 12.5e9),
    Network("400 Gbit/s InfiniBand, one link a GPU", 4e-6, 0.75 * 50e9),
)
# Steps of batch 64 that this crate was measured with on an H200 (docs/gpu), and bytes that follow from the models.
WORKS = (
    Work("CIFAR CNN, H200", 3.26e6, 1.8e-3, 3073, 64, 2 * 3.26e6),
    Work("ResNet-18 at 32 × 32, H200", 44.7e6, 7.5e-3, 3073, 64, 2 * 44.7e6),
    Work("U-Net at 256 × 256, H200", 0.47e6, 71e-3, 4 * 4 * 256 * 256, 64, 2 * 0.47e6),
)
SPREAD = 0.02
STORAGE = 10e9
DISK = 1e9


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/scaling", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["measure"])
    parser.add_argument("--only", action="append", choices=list(PARTS), default=[], help="measure this part alone; may be given several times")
    parser.add_argument("--binary", type=Path, help="measure with this benchmark, built with the feature mpi already")
    parser.add_argument("--check", action="store_true", help="compare the page with what would be written")
    parsed = parser.parse_args(arguments)
    if parsed.what:
        measure(parsed.binary, parsed.only)
    measured = json.loads(say.read_text(MEASURED)) if MEASURED.exists() else {}
    drawing, text = draw(), say.read_text(PAGE)
    for name, rows in tables(measured).items():
        block = f"<!-- {name} -->\n\n" + "\n".join(rows) + f"\n\n<!-- end {name} -->"
        text, count = re.subn(rf"<!-- {name} -->.*?<!-- end {name} -->", lambda _: block, text, flags=re.DOTALL)
        if count != 1:
            raise say.Failure(f"{PAGE.name} has {count} places for the table `{name}`, not one")
    if parsed.check:
        same = text == say.read_text(PAGE) and DRAWING.exists() and drawing == say.read_text(DRAWING)
        if not same:
            raise say.Failure("docs/scaling.md is not what `scripts/scaling` writes: run it")
        return 0
    PAGE.write_text(text, encoding="utf-8")
    DRAWING.write_text(drawing, encoding="utf-8")
    print(f"{PAGE.relative_to(paths.PROJECT)} and {DRAWING.name} are written")
    return 0


# The steps of a training that are measured: the batch of all ranks, and how many.
MODELS = {"cnn": (64, 8), "mlp": (64, 300)}
# Bytes of their gradients.
GRADIENTS = {"cnn": 4 * 815_018, "mlp": 4 * 109_386}
NAMES = {"cnn": "CIFAR CNN", "mlp": "MLP"}


def run(binary: Path, ranks: int, arguments: list, threads: int = 1) -> list:
    """The numbers that the benchmark prints, line by line."""
    command = [shutil.which("mpirun"), "-n", ranks, binary, *arguments] if ranks > 1 else [binary, *arguments]
    environment_ = dict(os.environ, **mpi.ENVIRONMENT, RAYON_NUM_THREADS=str(threads))
    output = subprocess.run([str(part) for part in command], env=environment_, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [[float(number) for number in line.split()] for line in output.splitlines()]


def overhead(binary: Path, model: str, rounds: int) -> list:
    """Milliseconds of a step without ranks, and with a group of one, for every round."""
    return run(binary, 1, ["overhead", model, *MODELS[model], rounds], threads=2)


def halves(binary: Path, model: str, rounds: int) -> list:
    """Milliseconds of a step of one process with two threads, and of two with one each, for every round."""
    rows = []
    for _ in range(rounds):
        arguments = ["train", model, *MODELS[model], 3]
        pair = run(binary, 1, arguments, threads=2), run(binary, 2, arguments)
        rows.append([statistics.median(line[0] for line in lines) for lines in pair])
    return rows


def medians(rows: list) -> tuple:
    """The medians of two columns, and the median of their ratios."""
    first, second = (statistics.median(column) for column in zip(*rows))
    return first, second, statistics.median(one / other for one, other in rows)


def processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return " ".join(found[1].split()) if found else platform.processor() or platform.machine()


def all_reduces(binary: Path) -> dict:
    """Seconds of sums over 2 and 4 ranks, by their bytes."""
    return {str(ranks): [[4 * numbers, seconds] for numbers, seconds in run(binary, ranks, ["reduce"])] for ranks in (2, 4)}


def steps(binary: Path) -> dict:
    """Milliseconds of steps of 1, 2 and 4 ranks with half a batch of `MODELS` each; one thread a rank."""
    found = {}
    for model, (batch, count) in MODELS.items():
        rounds = {1: [], 2: [], 4: []}
        for _ in range(5):
            for ranks, row in rounds.items():
                row += [line[0] for line in run(binary, ranks, ["train", model, batch // 2 * ranks, count, 2])]
        found[model] = {str(ranks): statistics.median(row) for ranks, row in rounds.items()}
    return found


# What is measured, each for itself: a busy machine may leave room for one at a time.
PARTS = {
    "halves": lambda binary: {model: medians(halves(binary, model, 7)) for model in MODELS},
    "overhead": lambda binary: {model: medians(overhead(binary, model, 7)) for model in MODELS},
    "steps": steps,
    "all_reduce": all_reduces,
}


def measure(binary, only: list) -> None:
    """Each part that is asked for, into docs/scaling/measured.json as soon as it is there."""
    if mpi.missing():
        raise say.Failure(mpi.missing())
    if not binary:
        environment.check_rust()
        binary = benchmarks.binary("ranks", "--features", "mpi")
    version = subprocess.run(["mpirun", "--version"], stdout=subprocess.PIPE, text=True).stdout.splitlines()[0]
    version = version.replace("mpirun ", "").translate({ord(letter): None for letter in "()"})
    machine = {"processor": processor(), "cores": os.cpu_count(), "mpi": version}
    found = json.loads(say.read_text(MEASURED)) if MEASURED.exists() else {}
    if {name: found.get(name) for name in machine} != machine:
        found = machine  # parts of one page are of one machine
    MEASURED.parent.mkdir(exist_ok=True)
    for part in only or PARTS:
        with say.step(f"Measuring {part}", "1 to 2 minutes"):
            found[part] = PARTS[part](binary)
        found["date"] = datetime.date.today().isoformat()
        MEASURED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def seconds(value: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def bytes_(value: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def table(head: list, rows: list) -> list:
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows)]


def tables(measured) -> dict:
    not_yet = ["Not measured yet: `scripts/scaling measure`."]
    return {
        "measured": measured_all_reduce(measured) if "all_reduce" in measured else not_yet,
        "steps": measured_steps(measured) if {"all_reduce", "steps"} <= set(measured) else not_yet,
        "group": measured_group(measured) if {"overhead", "halves"} <= set(measured) else not_yet,
        "simulation": simulated(),
        "horovod": horovod(),
        "machines": machines(),
        "limits": limits(),
    }


def measured_all_reduce(measured: dict) -> list:
    rows = []
    sizes = [size for size, _ in measured["all_reduce"]["2"]]
    for index, size in enumerate(sizes):
        if index % 2 == 0:
            rows.append([bytes_(size), *(seconds(measured["all_reduce"][ranks][index][1]) for ranks in ("2", "4"))])
    fits = {ranks: fit(measured["all_reduce"][ranks]) for ranks in ("2", "4")}
    rows.append(["fitted: start", *(seconds(fits[ranks][0]) for ranks in fits)])
    rows.append(["fitted: bytes per second", *(bytes_(1 / fits[ranks][1]) for ranks in fits)])
    rows.append(["largest error of the fit", *(f"{100 * fits[ranks][2]:.0f} %" for ranks in fits)])
    date = datetime.date.fromisoformat(measured["date"])
    machine = f"{measured['processor']}, {measured['cores']} cores, {measured['mpi']}, {date.day} {date:%B %Y}."
    return [machine, "", *table(["sum of", "2 ranks", "4 ranks"], rows)]


def measured_steps(measured: dict) -> list:
    rows = []
    start, slope, _ = fit(measured["all_reduce"]["2"])
    for model, name in NAMES.items():
        times = measured["steps"][model]
        # The gradient's buckets, and two sums of a few numbers.
        told = times["1"] + 1e3 * (sum(start + slope * size for size in buckets(GRADIENTS[model])) + 2 * start)
        steps = [f"{times[ranks]:.3g} ms" for ranks in ("1", "2", "4")]
        rows.append([f"{name}, 32 examples a rank", *steps, f"{100 * times['1'] / times['2']:.0f} %", f"{told:.3g} ms"])
    return table(["step, one thread a rank", "1 rank", "2 ranks", "4 ranks", "efficiency of 2", "2 ranks by the fit"], rows)


def measured_group(measured: dict) -> list:
    rows = []
    for model, name in NAMES.items():
        alone, group, ratio = measured["overhead"][model]
        rows.append([f"{name}: without ranks, a group of one", f"{alone:.3g} ms", f"{group:.3g} ms", f"{ratio:.3f}"])
    for model, name in NAMES.items():
        one, two, ratio = measured["halves"][model]
        rows.append([f"{name}: one process of two threads, two of one", f"{one:.3g} ms", f"{two:.3g} ms", f"{ratio:.3f}"])
    return table(["step, 64 examples in all", "first", "second", "speed of the second"], rows)


def simulated() -> list:
    rows = []
    for ranks in (4, 16, 64):
        for network in NETWORKS[::2]:
            work = WORKS[1]
            quick = simulate(ranks, work, network, 0.0, seed=1, steps=2)
            formula = work.compute + sum(ring(ranks, size, network) for size in buckets(work.gradient))
            drawn = simulate(ranks, work, network, SPREAD, seed=1)
            with_waiting = formula + work.compute * waiting(ranks, SPREAD)
            rows.append([f"{network.name}, {ranks} ranks", seconds(quick), seconds(formula), seconds(drawn), seconds(with_waiting)])
    return table(["ResNet-18, ring", "simulated, even", "formula", f"simulated, spread of {100 * SPREAD:.0f} %", "formula"], rows)


def horovod() -> list:
    """128 servers of 4 P100, one 25 Gbit/s link a server: a ring through all GPUs crosses each link once."""
    link = Network("", 20e-6, 0.75 * 25e9 / 8)
    rows = []
    for name, parameters, rate, published in (("VGG-16", 138.4e6, 154, 68), ("Inception V3", 23.8e6, 142, 90)):
        work = Work(name, 4 * parameters, 64 / rate, 0, 64, 0)
        parts = [64 / rate / step(512, work, link, spread, overlap) for spread, overlap in ((0, True), (SPREAD, True), (SPREAD, False))]
        rows.append([name, bytes_(work.gradient), *(f"{100 * part:.0f} %" for part in parts), f"{published} %"])
    return table(["512 GPUs, 25 Gbit/s for 4", "gradient", "overlapped, even", f"overlapped, spread {100 * SPREAD:.0f} %", "not overlapped", "published"], rows)


def efficiency(work: Work, network: Network, ranks: int, overlap: bool) -> float:
    return work.compute / step(ranks, work, network, SPREAD, overlap)


def machines() -> list:
    rows = []
    for work in WORKS:
        for network in NETWORKS:
            parts = [f"{100 * efficiency(work, network, ranks, False):.0f} ({100 * efficiency(work, network, ranks, True):.0f})" for ranks in RANKS]
            rows.append([f"{work.name}; {network.name}", *parts])
    return table(["% of one rank's speed, in parentheses if overlapped", *(f"{ranks} ranks" for ranks in RANKS)], rows)


def limits() -> list:
    rows = []
    for work in WORKS:
        network = NETWORKS[2]
        whole = {ranks: step(ranks, work, network, SPREAD) for ranks in RANKS}
        reads = next((ranks for ranks in RANKS if ranks * work.batch * work.example / whole[ranks] > STORAGE), None)
        sums = next((ranks for ranks in RANKS if sum(all_reduce(ranks, size, network) for size in buckets(work.gradient)) > work.compute / 2), None)
        rows.append([work.name, *(f"{bytes_(ranks * work.batch * work.example / whole[ranks])}/s" for ranks in (8, 512)), reads or "–", sums or "–", seconds(work.state / DISK)])
    return table(["400 Gbit/s", "input of 8 ranks", "input of 512", "ranks at which input passes 10 GB/s", "at which the sum takes half a step", "checkpoint at 1 GB/s"], rows)


def draw() -> str:
    """Efficiency by ranks, a line for each model and network."""
    width, height, left, top = 760, 380, 56, 20
    right, bottom = width - 270, height - 44
    powers = range(0, 13)
    x = lambda power: left + (right - left) * power / 12  # noqa: E731
    y = lambda part: bottom - (bottom - top) * part  # noqa: E731
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">', f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for percent in range(0, 101, 25):
        lines.append(f'<line x1="{left}" x2="{right}" y1="{y(percent / 100):.1f}" y2="{y(percent / 100):.1f}" stroke="#ddd"/><text x="{left - 6}" y="{y(percent / 100) + 4:.1f}" text-anchor="end">{percent} %</text>')
    for power in (0, 3, 6, 9, 12):
        lines.append(f'<text x="{x(power):.1f}" y="{bottom + 18}" text-anchor="middle">{2**power}</text>')
    lines.append(f'<text x="{(left + right) / 2}" y="{height - 6}" text-anchor="middle">ranks; solid as it is, dashed if overlapped</text>')
    colours = ("#0072b2", "#d55e00", "#009e73")
    row = 0
    for work, colour in zip(WORKS, colours):
        for network, thickness in zip(NETWORKS, (1, 2, 3)):
            for overlap, dash in ((False, ""), (True, ' stroke-dasharray="4 3"')):
                points = " ".join(f"{x(power):.1f},{y(efficiency(work, network, 2**power, overlap)):.1f}" for power in powers)
                lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{thickness}"{dash}/>')
            place = top + 12 + 18 * row
            short = network.name.split(",")[0]
            lines.append(f'<line x1="{right + 14}" x2="{right + 36}" y1="{place - 4}" y2="{place - 4}" stroke="{colour}" stroke-width="{thickness}"/><text x="{right + 42}" y="{place}" font-size="10">{work.name.split(",")[0]}, {short}</text>')
            row += 1
    return "\n".join(lines) + "\n</svg>\n"
