"""What a step of data-parallel training takes on P ranks: formulas, and a simulation to check them with.

Units are seconds and bytes. A network is a latency of a message and bytes per second of one rank's link.
"""

import math
import random
from dataclasses import dataclass

BUCKET = 4 << 20


@dataclass(frozen=True)
class Network:
    name: str
    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Work:
    name: str
    gradient: float
    """Bytes of the gradient."""
    compute: float
    """Seconds of a step on one rank, all-reduce aside."""
    example: float
    """Bytes that an example is read with."""
    batch: int
    """Examples of a rank's batch."""
    state: float
    """Bytes of a checkpoint: weights, and what the optimizer keeps."""


def ring(ranks: int, size: float, network: Network) -> float:
    """2(P − 1) messages of S/P: a reduce-scatter and an all-gather around a ring (Patarasuk & Yuan 2009)."""
    return 2 * (ranks - 1) * (network.latency + size / ranks / network.bandwidth) if ranks > 1 else 0.0


def doubling(ranks: int, size: float, network: Network) -> float:
    """⌈log₂ P⌉ messages of all S: recursive doubling, for small messages (Thakur, Rabenseifner & Gropp 2005)."""
    return math.ceil(math.log2(ranks)) * (network.latency + size / network.bandwidth) if ranks > 1 else 0.0


def halving(ranks: int, size: float, network: Network) -> float:
    """2⌈log₂ P⌉ messages, halving and doubling in length: the bytes of the ring with the messages of the tree
    (Rabenseifner 2004)."""
    rounds = math.ceil(math.log2(ranks)) if ranks > 1 else 0
    return 2 * rounds * network.latency + 2 * (ranks - 1) / ranks * size / network.bandwidth


def all_reduce(ranks: int, size: float, network: Network) -> float:
    """The fastest of the three: MPI and NCCL choose by size."""
    return min(algorithm(ranks, size, network) for algorithm in (ring, doubling, halving))


def buckets(size: float, bucket: float = BUCKET) -> list:
    whole, rest = divmod(size, bucket)
    return [bucket] * int(whole) + ([rest] if rest else [])


def meetings(ranks: int, network: Network) -> float:
    """The two sums of a few numbers that a step has besides its gradients."""
    return 2 * doubling(ranks, 500, network)


def waiting(ranks: int, spread: float) -> float:
    """How much longer than the mean the slowest of P ranks takes, in parts of the mean: the expected largest of P
    normal numbers, by Blom's approximation."""
    if ranks == 1:
        return 0.0
    probability = (ranks - math.pi / 8) / (ranks - math.pi / 4 + 1)
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < probability else (low, middle)
    return spread * low


def step(ranks: int, work: Work, network: Network, spread: float = 0.0, overlap: bool = False) -> float:
    """A step: the buckets after the backward pass, as the trainer does it, or each as soon as it is ready."""
    compute = work.compute * (1 + waiting(ranks, spread))
    times = [all_reduce(ranks, size, network) for size in buckets(work.gradient)]
    if not overlap:
        return compute + sum(times) + meetings(ranks, network)
    # The backward pass takes two thirds of the step, and gives the gradient evenly on its way.
    finished = 0.0
    for number, time in enumerate(times, 1):
        ready = compute / 3 + 2 * compute / 3 * number / len(times)
        finished = max(finished, ready) + time
    return max(compute, finished) + meetings(ranks, network)


def simulate(ranks: int, work: Work, network: Network, spread: float, seed: int, steps: int = 20) -> float:
    """The mean time of a step, message by message: every rank computes as long as it is drawn to, and takes part in
    the ring of each bucket when it and its neighbour are there; nobody waits for all but through the ring."""
    generator = random.Random(seed)
    clock = [0.0] * ranks
    for _ in range(steps):
        clock = [time + work.compute * max(0.0, generator.gauss(1.0, spread)) for time in clock]
        for size in buckets(work.gradient):
            message = network.latency + size / ranks / network.bandwidth
            for _ in range(2 * (ranks - 1)):
                clock = [max(clock[rank], clock[rank - 1]) + message for rank in range(ranks)]
    return max(clock) / steps


def fit(points: list) -> tuple:
    """Latency and seconds per byte of times that are a + b·S, by least squares of the relative errors; and the
    largest of these that is left."""
    sums = [0.0] * 5
    for size, time in points:
        weight = 1 / time**2
        for index, value in enumerate((1, size, size * size, time, size * time)):
            sums[index] += weight * value
    one, x, xx, y, xy = sums
    slope = max(0.0, (one * xy - x * y) / (one * xx - x * x))
    start = max(0.0, (y - slope * x) / one)
    worst = max(abs(start + slope * size - time) / time for size, time in points)
    return start, slope, worst
