"""Runs a lesson's code headless in the project's kernel and reports on every cell."""

import contextlib
import queue
import re
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from . import paths, say
from .exercises import Step

# A kernel may have to rebuild the crate before it answers.
STARTUP_SECONDS = 1800
CELL_SECONDS = 900
# How long to wait for lines that were printed before a cell ended.
LATE_SECONDS = 0.15


@dataclass
class Report:
    """What came of one notebook."""

    name: str
    cells: int = 0
    kernel_seconds: float = 0.0
    first_result_seconds: float = 0.0
    total_seconds: float = 0.0
    cell_seconds: list = field(default_factory=list)
    failure: str = ""
    outputs: list = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.cell_seconds) if self.cell_seconds else 0.0

    @property
    def slowest(self) -> tuple:
        """The number of the slowest cell, from 1, and its seconds."""
        if not self.cell_seconds:
            return 0, 0.0
        longest = max(self.cell_seconds)
        return self.cell_seconds.index(longest) + 1, longest


def manager(kernel_folders: list = None, name: str = paths.KERNEL_NAME) -> AsyncKernelManager:
    """A manager for the project's kernel, or another, whatever else is installed on the machine."""
    folders = kernel_folders or [str(paths.VENV / "share" / "jupyter" / "kernels")]
    specifications = KernelSpecManager(kernel_dirs=folders, ensure_native_kernel=False)
    return AsyncKernelManager(kernel_name=name, kernel_spec_manager=specifications)


def run(name: str, cells: list, folder: Path, kernel=None, progress=None) -> Report:
    """As [`run_once`]; a kernel that did not start gets a second try, on other ports: those that were
    chosen for it may have been taken before it came to listen."""
    report = run_once(name, cells, folder, kernel, progress)
    if report.outputs or kernel is not None:
        return report
    say.note(f"  {name}: the kernel did not start; once more")
    return run_once(name, cells, folder, None, progress)


def run_once(name: str, cells: list, folder: Path, kernel=None, progress=None) -> Report:
    """Executes cells in order in one kernel started in `folder`: pairs `(source, tags)`, or steps.

    Stops at the first cell that fails, or whose check does not say what was expected of it, and
    describes it in the report's `failure`.
    """
    cells = [cell if isinstance(cell, Step) else Step(*cell) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell(cell.text, metadata={"tags": list(cell.tags)}) for cell in cells
    ])
    report = Report(name=name, cells=len(cells))
    # nbclient forgets a manager whose kernel ends before it answers.
    kernel = kernel or manager()
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=CELL_SECONDS,
        startup_timeout=STARTUP_SECONDS,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    start = time.monotonic()
    try:
        with client.setup_kernel():
            report.kernel_seconds = time.monotonic() - start
            for index, cell in enumerate(notebook.cells):
                if progress:
                    progress(index + 1, len(cells))
                began = time.monotonic()
                try:
                    client.execute_cell(cell, index)
                    report.cell_seconds.append(time.monotonic() - began)
                    take_late_output(client, cell, index)
                    problem = silent_failure(cell)
                    # The rest can run all the same: all of them are told at once.
                    misjudged = "" if problem else cells[index].problem(printed(cell))
                    if misjudged:
                        report.failure += f"{name}: code cell {index + 1} of {len(cells)}: {misjudged}\n\n"
                except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                    report.cell_seconds.append(time.monotonic() - began)
                    problem = error_text(cell) or str(error)
                # A kernel that ends in the middle of a message, say: whatever its channels make of it.
                except Exception as error:
                    report.cell_seconds.append(time.monotonic() - began)
                    problem = error_text(cell) or f"the kernel was lost ({type(error).__name__}: {error})"
                report.outputs.append(cell.outputs)
                if index == 1:
                    report.first_result_seconds = time.monotonic() - start
                if problem:
                    report.failure += f"{name}: code cell {index + 1} of {len(cells)} failed\n\n{indent(cell.source)}\n\n{problem}"
                    break
    except Exception as error:
        report.failure = report.failure or f"{name}: the kernel did not start ({error or type(error).__name__}); above it says why"
    finally:
        stop(kernel)
    report.total_seconds = time.monotonic() - start
    return report


def take_late_output(client: NotebookClient, cell, index: int) -> None:
    """evcxr forwards printed lines from a thread of its own, so that some arrive after the cell's
    end, where nbclient no longer listens."""
    while True:
        try:
            message = run_sync(client.kc.get_iopub_msg)(timeout=LATE_SECONDS)
        except queue.Empty:
            return
        if message["msg_type"] in ("stream", "display_data", "execute_result"):
            client.process_message(message, cell, index)


def stop(kernel: AsyncKernelManager) -> None:
    """Ends the kernel at once; nbclient leaves alone a kernel that it did not choose itself."""
    # One that never answered nbclient has ended, and has closed its channels. Whatever else may be, a
    # kernel ends with this process.
    with contextlib.suppress(Exception):
        if kernel.has_kernel:
            run_sync(kernel.shutdown_kernel)(now=True)


def silent_failure(cell) -> str:
    """evcxr reports a panic and a failing `?` as success, with a text on standard error only."""
    if set(cell.metadata.get("tags", [])) & {"raises-exception", "stderr"}:
        return ""
    written = "".join(output["text"] for output in cell.outputs if output["output_type"] == "stream" and output["name"] == "stderr")
    return plain(written).strip()


def printed(cell) -> str:
    """What the cell wrote to standard output, without colours."""
    return plain("".join(output["text"] for output in cell.outputs if output["output_type"] == "stream" and output["name"] == "stdout"))


def error_text(cell) -> str:
    """The compiler's or the kernel's message, without colours."""
    texts = []
    for output in cell.outputs:
        if output["output_type"] == "error":
            texts.append("\n".join(output.get("traceback") or [output.get("evalue", "")]))
    return plain("\n".join(texts)).strip()


def plain(text: str) -> str:
    """Without colours, and without anything else that steers a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", re.sub(r"\x1b\[[0-9;]*m", "", text))


def indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def table(reports: list) -> str:
    """One line per notebook, then the two numbers a learner feels."""
    rows = [("lesson", "cells", "seconds", "median cell", "slowest cell", "result")]
    for report in reports:
        number, slowest = report.slowest
        rows.append((
            say.name(report.name), str(report.cells), f"{report.total_seconds:.1f}", f"{report.median:.2f} s",
            f"#{number} {slowest:.1f} s", "FAILED" if report.failure else "ok",
        ))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    started = [report for report in reports if report.first_result_seconds]
    if started:
        every = [seconds for report in started for seconds in report.cell_seconds]
        lines.append("")
        lines.append(f"kernel start: {statistics.median(report.kernel_seconds for report in started):.1f} s, "
                     f"start to first result: {statistics.median(report.first_result_seconds for report in started):.1f} s, "
                     f"median cell: {statistics.median(every):.2f} s")
    return "\n".join(lines)


def show_progress(name: str):
    """Shows the current cell: on one line of a terminal, or every half minute in a log."""
    terminal = sys.stderr.isatty()
    last = time.monotonic()

    def progress(number: int, total: int) -> None:
        nonlocal last
        if terminal:
            print(f"\r  {name}: cell {number} of {total} ", end="" if number < total else "\n", file=sys.stderr, flush=True)
        elif time.monotonic() - last > 30:
            last = time.monotonic()
            say.note(f"  {name}: cell {number} of {total}")

    return progress


def failing(reports: list) -> None:
    failures = [report.failure for report in reports if report.failure]
    if failures:
        raise say.Failure("\n\n".join(failures))
