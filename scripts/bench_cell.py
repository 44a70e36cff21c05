"""The training step of lesson 3.1 in a notebook cell against the same code in a release binary.

The two run in turn, five times each, so that a busy machine slows both; the ratio of the medians
should be 1.1 or less. The losses must be the same to the last bit, in every run and in both.
"""

import re
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from course import build_folder, environment, paths, say  # noqa: E402

SOURCE = paths.CRATE / "examples" / "bench_cell.rs"
TURNS = 5


def main() -> None:
    if not environment.inside_venv():
        environment.ensure()
        environment.enter_venv()
    from course import execute

    with say.step("Building the release binary", "3 minutes the first time"):
        say.run(["cargo", "build", "--release", "--locked", "-q", "--example", "bench_cell"], cwd=paths.PROJECT)
    binary = paths.PROJECT / "target" / "release" / "examples" / "bench_cell"
    in_binary, losses = [], set()

    def measure_binary(number: int, total: int) -> None:
        if number > 2:
            result = subprocess.run([binary], capture_output=True, text=True, check=True, env=build_folder.kernel_environment())
            in_binary.extend(steps(result.stdout))
            losses.add(tuple(bits(result.stdout)))

    # `//!` documents a file; a cell is not one.
    code = re.sub(r"^//!.*\n", "", SOURCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    setup = ':dep candle_course = { path = "../../candle_course" }'
    cells = [(setup, []), (code, []), *[("main()?;", [])] * TURNS]
    folder = paths.NOTEBOOKS / "en"
    folder.mkdir(parents=True, exist_ok=True)
    with say.step("Measuring", "1 minute"):
        report = execute.run("cell", cells, folder, progress=measure_binary)
    execute.failing([report])
    text = "".join(output["text"] for cell in report.outputs for output in cell if output["output_type"] == "stream")
    in_cell, in_cell_bits = steps(text), bits(text)
    rounds = len(in_cell) // TURNS
    losses |= {tuple(in_cell_bits[start : start + rounds]) for start in range(0, len(in_cell), rounds)}
    print(f"step in a release binary: {describe(in_binary)}")
    print(f"step in a notebook cell:  {describe(in_cell)}")
    print(f"ratio of the medians:     {statistics.median(in_cell) / statistics.median(in_binary):.2f}")
    if len(losses) != 1:
        raise say.Failure(f"the same seed gave different losses (bits of f32): {sorted(losses)}")
    print(f"losses, the same in all runs of both (bits of f32): {' '.join(losses.pop())}")


def steps(text: str) -> list:
    return [float(value) * 1e3 for value in re.findall(r"^step ([\d.]+)", text, re.MULTILINE)]


def bits(text: str) -> list:
    return re.findall(r"^step .* loss ([\da-f]{8})$", text, re.MULTILINE)


def describe(values: list) -> str:
    return f"median {statistics.median(values):.3f} ms, {min(values):.3f} to {max(values):.3f} over {len(values)} rounds of 300"


if __name__ == "__main__":
    try:
        main()
    except say.Failure as failure:
        say.note(f"\n✗ {failure}")
        sys.exit(1)
