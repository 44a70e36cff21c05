"""Other frameworks in `scripts/bench train`: programs of `scripts/peers` that take the same steps."""

import importlib.util
import math
import subprocess
import sys

from . import benchmarks, paths, say

# Of a loss.
TOLERANCE = 1e-4


def training_commands(peers: list) -> dict:
    """By name, the program of each; it takes `check` or `serve`, a model and the folder with its start."""
    commands = {}
    if "jax" in peers:
        if not importlib.util.find_spec("jax"):
            raise say.Failure(f"{sys.executable} has no jax: let CANDLE_COURSE_REFERENCE_PYTHON name a Python with what scripts/reference-foreign-requirements.txt lists")
        commands["JAX"] = [sys.executable, str(benchmarks.PEERS / "jax_training.py")]
    return commands


def check_equal_work(model: str, commands: dict, folder: str) -> None:
    """Lets PyTorch write the start of all, and compares the losses of their first three steps with its own."""
    expected = losses([sys.executable, str(paths.PROJECT / "scripts" / "bench_train.py"), "--child", model, "--start", folder])
    for name, command in commands.items():
        found = losses([*command, "check", model, folder])
        if not same(found, expected):
            raise say.Failure(f"{model}: the first steps of {name} have losses {found}, PyTorch's {expected}: unequal work is not compared")


def losses(command: list) -> list:
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(word) for word in output.split()]


def same(found: list, expected: list) -> bool:
    # For a NaN no comparison holds.
    return len(found) == len(expected) == 3 and all(abs(x - y) <= TOLERANCE * abs(y) < math.inf for x, y in zip(found, expected))
