"""Other frameworks in `scripts/bench train`: programs of `scripts/peers` that take the same steps."""

import importlib.util
import math
import subprocess
import sys

from . import benchmarks, paths, say

# Of a loss.
TOLERANCE = 1e-4


def training_commands(peers: list) -> dict:
    """By name, the program of each that is there; it takes `check` or `serve`, a model and the folder with its start."""
    commands = {}
    if "jax" in peers:
        if importlib.util.find_spec("jax"):
            commands["JAX"] = [sys.executable, str(benchmarks.PEERS / "jax_training.py")]
        else:
            print("jax is not installed: NO COMPARISON WITH IT (scripts/reference-foreign-requirements.txt)", flush=True)
    if "burn" in peers and (program := benchmarks.peer("burn")):
        commands["burn"] = [str(program)]
    return commands


def with_equal_work(model: str, commands: dict, folder: str) -> dict:
    """Those whose first three steps, from the start that PyTorch writes for all, run; they must have PyTorch's losses."""
    expected = losses([sys.executable, str(paths.PROJECT / "scripts" / "bench_train.py"), "--child", model, "--start", folder])
    equal = {}
    for name, command in commands.items():
        try:
            found = losses([*command, "check", model, folder])
        except subprocess.CalledProcessError as failure:
            say.note(f"{name} ends with code {failure.returncode} on {model}: NO COMPARISON WITH IT")
            continue
        if not same(found, expected):
            raise say.Failure(f"{model}: the first steps of {name} have losses {found}, PyTorch's {expected}: unequal work is not compared")
        equal[name] = command
    return equal


def losses(command: list) -> list:
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(word) for word in output.split()]


def same(found: list, expected: list) -> bool:
    # For a NaN no comparison holds.
    return len(found) == len(expected) == 3 and all(abs(x - y) <= TOLERANCE * abs(y) < math.inf for x, y in zip(found, expected))
