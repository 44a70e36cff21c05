"""The set-up on machines where something is in the way: one clear line, and nothing begun in vain."""

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from course import reliability
from machine import EVCXR

if sys.version_info >= (3, 11):
    import tomllib as toml
else:
    import tomli as toml

COMMANDS = [
    ("run", "nonsense", "no lesson is called 'nonsense'"),
    ("run", "1.1-exmaple", "did you mean 1.1-example?"),
    ("run", "missing.ipynb", "no lesson is called 'missing.ipynb'"),
    ("run", "--nonsense", "unrecognized arguments: --nonsense"),
    ("build-notebooks", "nonsense", "no lesson is called 'nonsense'"),
    ("build-notebooks", "--chekc", "unrecognized arguments: --chekc"),
    ("lab", "nonsense", "'nonsense' is no file, no folder and no option"),
    ("lab", "--nonsense", "JupyterLab has no option --nonsense"),
    ("lab", "--potr=8889", "did you mean --port?"),
    ("lab", "--port", "--port wants a value"),
    ("test", "nonsense", "no check is called nonsense"),
    ("test", "note-books", "did you mean notebooks?"),
    ("audit", "pithon", "did you mean python?"),
    ("audit", "nonsense", "no part is called 'nonsense'"),
    ("bench", "nonsense", "no benchmark is called 'nonsense'"),
    ("bench", "cell nonsense", "unrecognized arguments: nonsense"),
    ("bench", "train-state --nonsense", "unrecognized arguments: --nonsense"),
    ("bench", "tensorboard nonsense", "unrecognized arguments: nonsense"),
    ("bench", "losses nonsense", "no case is called nonsense"),
    ("bench", "data --rounds 0", "expected a whole number from 1 on, got '0'"),
    ("bench", "train --models nonsense", "invalid choice: 'nonsense'"),
    ("bench", "train --seconds nan", "expected seconds, 0 or more, got 'nan'"),
    ("bench", "train --peers nonsense", "invalid choice: 'nonsense'"),
    ("bench", "train --peers jax --device cuda", "--peers and --roofline are for the CPU"),
    ("bench", "train --roofline --threads 2", "--peers and --roofline are for the CPU"),
    ("bench", "inference --peers jax", "invalid choice: 'jax'"),
    ("reference", "nonsense", "no part is called 'nonsense'"),
    ("reference", "losess", "did you mean losses?"),
    ("interop", "nonsense", "unrecognized arguments: nonsense"),
    ("gpu-check", "count nonsense", "no model is called 'nonsense'"),
    ("gpu-check", "run --parts tests,nonsense", "no part is called 'nonsense'"),
    ("gpu-check", "run nowhere", "nowhere holds no package.tar.xz"),
    ("check-cuda", "nonsense", "no feature is called 'nonsense'"),
    ("make-samples", "--nonsense", "it takes one folder, got: --nonsense"),
    ("make-samples", "one two", "it takes one folder, got: one two"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), COMMANDS)
def test_arguments_are_read_before_anything_is_built(machine, name, arguments, message):
    machine = machine()
    result = machine.call(name, *arguments.split())
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not machine.calls() and not machine.cache.exists() and not (machine.project / ".venv").exists()
    reliability.tried("Arguments are read before anything is installed or built", "a call with a wrong argument", 1)


def test_another_python_takes_the_same_command(machine, tmp_path):
    machine = machine()
    told = machine.program("other-python", 'echo "$CANDLE_COURSE_IN_REFERENCE_ENVIRONMENT $*"; exit 5\n')
    result = machine.call("reference", "schedules", CANDLE_COURSE_REFERENCE_PYTHON=str(told))
    assert result.returncode == 5 and result.stdout.strip() == f"1 {machine.project}/scripts/reference schedules"
    result = machine.call("reference", CANDLE_COURSE_REFERENCE_PYTHON="/nowhere/python")
    assert result.returncode == 1 and "names '/nowhere/python', which cannot be started" in result.stderr and "Traceback" not in result.stderr
    result = machine.call("reference", "schedules", CANDLE_COURSE_REFERENCE_PYTHON=sys.executable)
    if not importlib.util.find_spec("torch"):
        one_line(result, "lacks the Python package 'torch'", 1)


def one_line(result, message: str, lines: int = 3):
    """The command failed with `message`, in few lines of its own."""
    assert result.returncode == 1, result.stderr
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    said = result.stderr[result.stderr.index("✗"):].strip().splitlines()
    assert len(said) <= lines, result.stderr
    reliability.tried("A command fails in a line, never with a traceback", "a machine with something in the way of the set-up", 1)


@pytest.mark.parametrize("fails", ["rustc", "cargo", "both"])
def test_a_missing_part_of_rust_is_named(machine, fails):
    machine = machine()
    for name in ("rustc", "cargo") if fails == "both" else (fails,):
        (machine.bin / name).unlink()
    result = machine.call("lab")
    one_line(result, "`rustc` is missing beside `.*/bin/cargo`" if fails == "rustc" else "Rust is not installed", 4)
    assert not machine.cache.exists() and not (machine.project / ".venv").exists()


def test_a_rustup_without_a_toolchain_says_so(machine):
    machine = machine()
    machine.program("rustc", "echo 'error: rustup could not choose a version of rustc to run' >&2; exit 1\n")
    one_line(machine.call("run"), "rustup could not choose a version", 3)


def test_old_rust_that_rustup_did_not_bring(machine):
    machine = machine()
    machine.program("rustc", "echo 'rustc 1.60.0'\n")
    one_line(machine.call("run"), "needs Rust 1.94 or newer and this is `rustc 1.60.0`; install a newer one", 1)


def test_without_rustup_everything_works(machine):
    machine = machine().set_up()
    assert not (machine.bin / "rustup").exists()
    result = machine.call("run", "1.1")
    assert result.returncode == 0, result.stderr
    assert "1.1-example  1" in result.stdout and "ok" in result.stdout


# What a project's folder and the cache may be called, and whether the kernel's build folder then stands in the cache.
NAMES = [("project", "cache", True), ("my project", "cache", True), ("projeto 🦀 ação", "cache", True), ("project", "my cache", False), ("project", "a:b", False), ("project", os.fsdecode(b"a\xffb"), False), ("project", "cache 🦀".replace(" ", ""), True), ('a"b\\c', "tab\there", False)]


@pytest.mark.parametrize(("project", "cache", "inside"), NAMES)
def test_spaces_and_signs_in_paths(machine, project, cache, inside, tmp_path):
    machine = machine(project, cache).set_up()
    told = tmp_path / "told"
    machine.lesson("1.2-where", f"import os; open({str(told)!r}, 'w').write(os.environ['EVCXR_TMPDIR'])")
    result = machine.call("run", "1.2")
    assert result.returncode == 0, result.stderr
    folder = Path(told.read_text())
    assert folder.is_absolute() and not re.search(r"[\s\"\\]|[^\x00-\x7f]", folder.name + folder.parts[-3])
    assert folder.is_relative_to(machine.cache) == inside
    if not inside:
        assert not re.search(r"\s", str(folder))
        assert "cannot read a path with a space or a colon" in result.stderr
        home = folder.parents[2].parent
        assert home.stat().st_uid == os.getuid() and home.stat().st_mode & 0o077 == 0
        shutil.rmtree(folder.parents[1])
    # The manifest that cargo got leads to the crate, whatever the project is called.
    manifest = toml.loads((machine.bin / "manifest").read_text())
    assert manifest["dependencies"]["candle_course"]["path"] == str(machine.project / "candle_course" / "notebook")
    reliability.tried("A project works wherever it lies", "spaces, quotation marks, colons and emoji in the paths of project and cache", 1)


def test_a_folder_that_somebody_else_may_write_is_not_used(machine, monkeypatch, tmp_path):
    from course import build_folder, paths, say

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    for number, mode in enumerate((0o777, 0o770)):
        shared = tmp_path / f"shared-{number}"
        monkeypatch.setattr(paths, "kernels", lambda: shared / "kernels")
        shared.mkdir()
        shared.chmod(mode)
        with pytest.raises(say.Failure, match="is not a folder of yours alone"):
            build_folder.claim(paths.kernels())
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    monkeypatch.setattr(paths, "kernels", lambda: link / "kernels")
    with pytest.raises(say.Failure, match="is not a folder of yours alone"):
        build_folder.claim(paths.kernels())


@pytest.mark.parametrize(("name", "message"), [("a:b", "has ':' in it"), ("a\nb", r"has '\\n' in it"), (os.fsdecode(b"a\xffb"), "is not UTF-8")])
def test_a_project_that_nothing_can_be_built_in_is_named_first(machine, name, message):
    machine = machine(name)
    result = machine.call("run")
    one_line(result, message, 1)
    assert not machine.calls() and not machine.cache.exists()


FULL = "error: failed to write `/x/y.rlib`\n\nCaused by:\n  No space left on device (os error 28)\n" + "note: more\n" * 60
BROKEN = "   Compiling a v1.0.0\n" * 40 + "error[E0425]: cannot find value `x` in this scope\n --> candle_course/src/lib.rs:1:1\n" + "  |\n" * 60


@pytest.mark.parametrize(
    ("says", "message", "lines"),
    [
        (FULL, "the disk is full; free 2 GB and run the command again", 3),
        ("error: could not execute process `rustc -vV` (never executed)\n" + "x\n" * 50, "cargo finds no `rustc`", 3),
        ("error: failed to get `a`\n  [6] Couldn't resolve host name (Could not resolve host: index.crates.io)\n" + "x\n" * 50, "the network is needed for it, once", 3),
        ("error: could not compile `gemm`\n  process didn't exit successfully: (signal: 9, SIGKILL: kill)\n" + "x\n" * 50, "ran out of memory", 3),
        (BROKEN, "error.E0425.: cannot find value `x`", 19),
    ],
)
def test_a_failing_build_is_told_in_few_lines(machine, says, message, lines):
    machine = machine().set_up()
    (machine.bin / "cargo-fails").write_text(says)
    result = machine.call("run")
    one_line(result, message, lines)
    log = re.search(r"all of it: (.*)\)$", result.stderr.strip()).group(1)
    assert Path(log).read_text() == says


def test_after_a_full_disk_the_command_goes_on(machine):
    machine = machine().set_up()
    (machine.bin / "cargo-fails").write_text(FULL)
    assert machine.call("run").returncode == 1
    (machine.bin / "cargo-fails").unlink()
    assert machine.call("run").returncode == 0


AS_NOBODY = """
import os, sys
sys.path.insert(0, {scripts!r})
from course import command, environment, run_command, evcxr, network
folder = {root!r}
while folder != "/":
    os.chmod(folder, os.stat(folder).st_mode | 0o055)
    folder = os.path.dirname(folder)
os.chmod({project!r}, 0o777)
os.setgid(65534)
os.setuid(65534)
sys.exit(command.door(environment.ensure_venv))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another user's part")
def test_an_environment_of_another_user_is_named_and_left_alone(machine):
    machine = machine().set_up()
    stamp = machine.project / ".venv" / "requirements.sha256"
    stamp.write_text("of other pins")
    code = AS_NOBODY.format(scripts=str(machine.project / "scripts"), root=str(machine.root), project=str(machine.project))
    result = subprocess.run([sys.executable, "-c", code], env=machine.environment, capture_output=True, text=True, cwd="/")
    one_line(result, r"\.venv belongs to root and you may not write it; remove it \(`sudo rm -r .*/\.venv`\)", 1)
    assert stamp.exists()


@pytest.mark.parametrize("fault", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_an_environment_that_cannot_be_written_is_named(monkeypatch, tmp_path, fault):
    from course import environment, paths, say

    def refuse(*_):
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(paths, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(say, "write_if_changed", refuse)
    with pytest.raises(say.Failure, match=rf"{os.strerror(fault)}\n.*\.venv must be a folder that you may write"):
        environment.install_kernel_specification()


def test_pip_is_called_so_that_only_what_was_checked_is_installed(machine, tmp_path):
    machine = machine()
    record = tmp_path / "pip"
    code = f"""
import sys
sys.path.insert(0, {str(machine.project / 'scripts')!r})
from course import environment, paths, say
def run(arguments, **_):
    if arguments[2] == "venv":
        paths.venv_python().parent.mkdir(parents=True)
        paths.venv_python().touch()
    else:
        open({str(record)!r}, "w").write(" ".join(map(str, arguments)))
say.run = run
environment.ensure_venv()
"""
    subprocess.run([sys.executable, "-c", code], env=machine.environment, check=True, capture_output=True)
    called = record.read_text()
    assert "--require-hashes" in called and "--only-binary :all:" in called and called.endswith(f"-r {machine.project}/scripts/requirements.lock")
    assert "--timeout" in called


def test_a_package_with_another_checksum_is_not_installed(machine, tmp_path):
    """With pip itself, from a folder: what the lock does not name by its checksum stays out."""
    machine = machine().set_up()
    wheel = tmp_path / "packages" / "thing-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("thing.py", "")
        packed.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        packed.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr("thing-1.0.dist-info/RECORD", "")
    (machine.project / "scripts" / "requirements.lock").write_text(f"thing==1.0 --hash=sha256:{'0' * 64}\n")
    result = machine.call("run", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheel.parent))
    one_line(result, "a package is not the one that was checked", 3)
    assert not list((machine.project / ".venv").rglob("thing.py"))
    (machine.project / "scripts" / "requirements.lock").write_text(f"thing==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    machine.call("run", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheel.parent))
    assert list((machine.project / ".venv").rglob("thing.py"))


def test_a_damaged_environment_is_named(machine):
    machine = machine().set_up()
    next((machine.project / ".venv").rglob("those-of-the-tests.pth")).unlink()
    one_line(machine.call("run", "1.1"), "lacks the Python package '\\w+'; delete .*/.venv", 1)


def test_a_kernel_that_cannot_be_started_is_named(machine):
    machine = machine().set_up()
    (machine.cache / EVCXR).write_bytes(b"\x7fELF and then nothing")
    result = machine.call("run", "1.1")
    assert "The Rust kernel could not start:" in result.stderr and "Exec format error" in result.stderr
    one_line(result, "1.1-example: the kernel did not start", 3)


def test_notebooks_and_lessons_that_are_none_are_named(machine):
    machine = machine().set_up()
    path = machine.project / "notebooks" / "en" / "conflict.ipynb"
    path.write_text('{\n<<<<<<< HEAD\n"cells": [],\n=======\n"cells": [1],\n>>>>>>> other\n}')
    one_line(machine.call("run", path), "conflict.ipynb holds conflict marks of git", 1)
    (machine.project / "lessons" / "2.1-broken.md").write_text("---\njupyter: [\n---\n")
    one_line(machine.call("run", "2.1"), "2.1-broken.md is no lesson: ", 1)


def test_jupyterlabs_own_options_are_known():
    from course import lab_command
    from jupyterlab.labapp import LabApp

    assert set(lab_command.FLAGS) - {"help", "help-all", "version"} == set(LabApp.flags)
    assert set(lab_command.VALUES) == set(LabApp.aliases)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--port=8889"], ["--port", "8889"], ["--ip=0.0.0.0", "--debug", "-y"], ["--ServerApp.root_dir=/x"], ["--ServerApp.port", "8889"], ["--MappingKernelManager.default_kernel_name=rust"], ["/"], ["--watch"]],
)
def test_jupyterlabs_own_options_are_handed_on(arguments):
    from course import lab_command

    assert lab_command.misunderstood(arguments) == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--port"], "wants a value"), (["--debug=1"], "has no option"), (["--serverapp.port=1"], "has no option"), (["--ServerApp"], "has no option"), (["--ServerApp.port"], "wants a value"), (["-x"], "has no option"), (["/nowhere/x"], "is no file")],
)
def test_what_jupyterlab_would_not_understand_is_refused(arguments, message):
    from course import lab_command

    assert message in lab_command.misunderstood(arguments)
