"""Whatever ends a command ends what it has started."""

import os
import signal
import subprocess
import sys

import pytest
from course import reliability
from machine import PROJECT, alive, wait_for

KERNELS = "No kernel outlives the command that started it"

# A cell that starts a process, as evcxr does for every cell, says which processes there are, and works on.
CELL = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
with open({path!r} + ".part", "w") as file:
    file.write(f"{{os.getpid()}} {{os.getppid()}} {{child.pid}}")
os.rename({path!r} + ".part", {path!r})
time.sleep(600)
"""


@pytest.fixture
def running(machine, tmp_path):
    """`scripts/run` in the middle of a cell: it, its kernel, the kernel's launcher, the cell's process."""
    machine = machine().set_up()
    told = tmp_path / "processes"
    notebook = machine.notebook("long", "1", CELL.format(path=str(told)))
    command, processes = machine.start("run", notebook), []
    try:
        wait_for(lambda: told.exists() or command.poll() is not None, "a running cell")
        assert command.poll() is None, command.stdout.read()
        processes += map(int, told.read_text().split())
        assert all(map(alive, processes)) and processes[1] != command.pid
        yield command, processes
    finally:
        command.kill()
        command.wait()
        command.stdout.close()
        for process in processes:
            if alive(process):
                os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGQUIT])
def test_no_kernel_outlives_its_command(running, number):
    command, processes = running
    command.send_signal(number)
    command.wait()
    for process, what in zip(processes, ("the kernel", "its launcher", "the cell's process")):
        wait_for(lambda: not alive(process), f"the end of {what}")
    if number != signal.SIGKILL:
        assert "Traceback" not in command.stdout.read()
    reliability.tried(KERNELS, "`scripts/run` ended by a signal in the middle of a cell", 1)


def test_a_kernel_ends_with_its_launcher(running):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends a process with its parent")
    _, (kernel, launcher, _) = running
    os.kill(launcher, signal.SIGKILL)
    wait_for(lambda: not alive(kernel), "the end of the kernel")
    reliability.tried(KERNELS, "a kernel's launcher killed", 1)


def test_a_kernel_that_ends_leaves_nothing_behind(running):
    command, (kernel, launcher, child) = running
    os.kill(kernel, signal.SIGKILL)
    output, _ = command.communicate()
    assert command.returncode == 1
    assert "code cell 2 of 2 failed" in output and "Traceback" not in output
    assert not alive(launcher)
    wait_for(lambda: not alive(child), "the end of the cell's process")
    reliability.tried(KERNELS, "a kernel killed under its command", 1)


def test_what_nohup_ignores_stays_ignored():
    code = "import signal, sys; sys.path.insert(0, sys.argv[1]); signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "from course import command; command.end_on_signals(); print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, callable(signal.getsignal(signal.SIGTERM)))"
    result = subprocess.run([sys.executable, "-c", code, str(PROJECT / "scripts")], capture_output=True, text=True)
    assert result.stdout.split() == ["True", "True"], result.stderr
