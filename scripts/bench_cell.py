"""Training steps in a notebook cell against the same code in a release binary: lesson 3.1's model and
two convolutional networks.

The two run in turn, five times each, so that a busy machine slows both; the ratio of the medians
must be 1.1 or less. The losses must be the same to the last bit, in every run and in both.
"""

import argparse
import re
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from course import benchmarks, build_folder, environment, paths, say  # noqa: E402

SOURCE = paths.CRATE / "benches" / "cell.rs"
TURNS = 5
MODELS = ("mlp", "mnist", "cifar")
ALLOWED = 1.1


def main() -> None:
    argparse.ArgumentParser(prog="scripts/bench cell", description=__doc__).parse_args()
    environment.set_up()
    from course import execute

    with say.step("Building the release binary", "3 minutes the first time"):
        binary = benchmarks.binary("cell")
    in_binary = []

    def measure_binary(number: int, total: int) -> None:
        if number > 2:
            in_binary.append(say.ask([binary], env=build_folder.kernel_environment()))

    # `//!` documents a file; a cell is not one.
    code = re.sub(r"^//!.*\n", "", SOURCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    cells = [(paths.DEPENDENCY, []), (code, []), *[("main()?;", [])] * TURNS]
    folder = paths.NOTEBOOKS / "en"
    folder.mkdir(parents=True, exist_ok=True)
    with say.step("Measuring", "1 minute"):
        report = execute.run("cell", cells, folder, progress=measure_binary)
    execute.failing([report])
    in_cell = ["".join(output["text"] for output in cell if output["output_type"] == "stream") for cell in report.outputs[2:]]
    print("model  where     median ms of a step (fastest to slowest round)  ratio")
    too_slow = []
    for model in MODELS:
        binary_steps, cell_steps = steps(in_binary, model), steps(in_cell, model)
        ratio = statistics.median(cell_steps) / statistics.median(binary_steps)
        print(f"{model:<7}binary    {describe(binary_steps)}\n{model:<7}cell      {describe(cell_steps):<48} {ratio:.2f}")
        if ratio > ALLOWED:
            too_slow.append(f"{model} ({ratio:.2f})")
    losses = {tuple(re.findall(r"loss ([\da-f]{8})$", text, re.MULTILINE)) for text in in_binary + in_cell}
    if len(losses) != 1:
        raise say.Failure(f"the same seed gave different losses (bits of f32): {sorted(losses)}")
    print(f"losses, the same in all runs of both (bits of f32): {' '.join(losses.pop())}")
    if too_slow:
        raise say.Failure(f"slower in a cell than {ALLOWED} times a binary: {', '.join(too_slow)}")


def steps(texts: list, model: str) -> list:
    return [float(value) * 1e3 for value in re.findall(rf"^{model} step ([\d.]+)", "\n".join(texts), re.MULTILINE)]


def describe(values: list) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
