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
    monkeypatch.setattr(paths, "LOCK", tmp_path / "requirements.lock")
    paths.LOCK.write_text("pins")
    monkeypatch.setattr(say, "run", run)
    return commands


def test_other_pins_are_installed_into_the_same_environment(ran):
    environment.ensure_venv()
    environment.ensure_venv()
    assert ran == ["venv", "pip"]
    paths.LOCK.write_text("others")
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
    [("1.93.1", False, "the crate needs Rust 1.94 .*this is `rustc 1.93.1`"), ("1.94.1", True, "evcxr .* needs Rust 1.95"), ("1.94.1", False, None), ("1.95.0", True, None)],
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


def pins(path):
    """Name and version of each requirement, with the lines that belong to it."""
    entries = re.sub(r"\\\n", " ", path.read_text()).splitlines()
    return [(re.sub("[-_.]+", "-", entry.split("==")[0]).lower(), entry) for entry in entries if entry and not entry.startswith("#")]


def test_every_requirement_is_pinned_with_its_checksums():
    wanted = pins(paths.REQUIREMENTS)
    locked = pins(paths.LOCK)
    assert len(locked) > 100
    for _, entry in locked:
        assert re.match(r"[\w.-]+==[\w.]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+$", entry), entry
    for name, entry in wanted:
        version = re.match(r"[\w.-]+==([\w.]+)", entry).group(1)
        assert any(other == name and f"=={version} " in f"{line} " for other, line in locked), entry


@pytest.mark.parametrize("name", ["reference-requirements", "cuda-requirements"])
def test_what_other_scripts_install_is_pinned_with_its_checksums(name):
    locked = pins(paths.PROJECT / "scripts" / f"{name}.lock")
    assert len(locked) >= 10
    for _, entry in locked:
        assert re.match(r"[\w.-]+==[\w.]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+$", entry), entry
    wanted = paths.PROJECT / "scripts" / f"{name}.txt"
    if wanted.exists():
        assert {entry for _, entry in pins(wanted)} <= {re.split(r" +;| +--hash", entry)[0] for _, entry in locked}


def test_no_script_installs_what_is_not_pinned():
    """Every call of pip in the scripts asks for checksums; npm's and apt's packages carry their own."""
    for path in (paths.PROJECT / "scripts").rglob("*"):
        if path.is_file() and path.suffix not in (".pyc", ".lock", ".txt"):
            text = path.read_text(encoding="utf-8")
            for call in re.finditer(r"""pip["', ]+install["', ](?!`)""", text):
                following = text[call.start():call.start() + 400]
                assert "--require-hashes" in following, f"{path.name}: {following[:100]}"


@pytest.mark.parametrize("version", ["3.10.0", "3.11.2", "3.11.9", "3.12.0", "3.13.1", "3.14.0"])
@pytest.mark.parametrize(("system", "name"), [("linux", "posix"), ("darwin", "posix")])
def test_each_python_gets_each_package_once(version, system, name):
    from packaging.markers import Marker

    here = {"python_full_version": version, "python_version": ".".join(version.split(".")[:2]), "sys_platform": system, "os_name": name, "implementation_name": "cpython"}
    found = [(package, entry) for package, entry in pins(paths.LOCK) if " ; " not in entry or Marker(entry.split(" ; ")[1].split(" --hash")[0].strip()).evaluate(here)]
    names = [package for package, _ in found]
    assert len(names) == len(set(names)) > 90
    assert {"jupyterlab", "numpy", "pyzmq", "soupsieve", "playwright"} <= set(names)


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
