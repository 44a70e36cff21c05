"""Setting the machine up, where something got in the way."""

import errno
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from course import environment, evcxr, launcher, paths, say


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Sets up an empty project without running anything: which commands would have run."""
    commands = []

    def run(arguments, **_):
        command = arguments[2]
        commands.append(command)
        if command == "venv":
            paths.venv_python().parent.mkdir(parents=True)
            paths.venv_python().touch()

    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    monkeypatch.setattr(paths, "VENV", tmp_path / ".venv")
    for name in ("REQUIREMENTS", "CONSTRAINTS"):
        monkeypatch.setattr(paths, name, tmp_path / name)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(say, "run", run)
    return commands


@pytest.mark.parametrize("name", ["REQUIREMENTS", "CONSTRAINTS"])
def test_other_pins_are_installed_into_the_same_environment(ran, tmp_path, name):
    environment.ensure_venv()
    environment.ensure_venv()
    assert ran == ["venv", "pip"]
    (tmp_path / name).write_text("others")
    environment.ensure_venv()
    assert ran == ["venv", "pip", "pip"]


@pytest.mark.parametrize("last", ["venv", "pip"])
def test_an_interrupted_environment_is_made_anew(ran, monkeypatch, last):
    whole = say.run

    def interrupted(arguments, **options):
        whole(arguments, **options)
        if arguments[2] == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(say, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        environment.ensure_venv()
    monkeypatch.setattr(say, "run", whole)
    ran.clear()
    environment.ensure_venv()
    assert ran == ["venv", "pip"]


def test_an_activated_environment_is_set_up_too_and_only_once(monkeypatch):
    did = []
    monkeypatch.setattr(paths, "VENV", Path(sys.prefix))
    monkeypatch.setattr(environment, "enter_venv", lambda: did.append("enter"))
    monkeypatch.delenv("CANDLE_COURSE_SET_UP", raising=False)
    for _ in range(2):
        environment.set_up(lambda: did.append("prepare"))
    assert did == ["prepare", "enter"]
    # What the command starts is another process, and looks for itself.
    monkeypatch.setenv("CANDLE_COURSE_SET_UP", str(os.getppid()))
    environment.set_up(lambda: did.append("prepare"))
    assert did == ["prepare", "enter"] * 2


@pytest.mark.parametrize(
    ("version", "kernel", "message"),
    [("1.88.0", False, "the crate needs Rust 1.89 .*this is `rustc 1.88.0`"), ("1.94.1", True, "evcxr .* needs Rust 1.95"), ("1.94.1", False, None), ("1.95.0", True, None)],
)
def test_a_compiler_that_is_too_old_is_named_before_anything_is_installed(tmp_path, monkeypatch, version, kernel, message):
    for name, says in (("rustc", f"rustc {version}"), ("cargo", ""), ("cc", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if message is None:
        return environment.check_rust(kernel=kernel)
    with pytest.raises(say.Failure, match=message):
        environment.check_rust(kernel=kernel)


def test_every_requirement_is_pinned_once():
    lines = [line for path in (paths.REQUIREMENTS, paths.CONSTRAINTS) for line in path.read_text().splitlines() if not line.startswith("#")]
    pins = [re.match(r"([\w.-]+)==[\w.]+( ; python_version [<>=]+ \"3\.11\")?$", line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins) if not pin]
    names = [re.sub("[-_.]+", "-", pin.group(1)).lower() for pin in pins]
    assert len(names) == len(set(names))


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(say.Failure, match="file/candle_course must be a folder that you may write.*XDG_CACHE_HOME"):
        evcxr.ensure()
    monkeypatch.setattr(evcxr, "find", lambda: PROJECT)
    with pytest.raises(SystemExit):
        launcher.main([])
    assert "must be a folder that you may write" in capsys.readouterr().err


def test_a_full_disk_is_named_and_other_faults_are_not_hidden(tmp_path):
    with pytest.raises(say.Failure, match=f"No space left.*\n{tmp_path} must be a folder .* with 2 GB free$"):
        with say.lock(tmp_path / "lock", "writing"):
            raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError):
        with say.lock(tmp_path / "lock", "writing"):
            open(tmp_path / "missing")
