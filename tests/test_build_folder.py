"""The copies of the prebuilt build folder."""

import os
import subprocess
import sys

import pytest
from conftest import PROJECT
from course import build_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KERNEL_BIN = PROJECT / "scripts" / "course" / "kernel-bin"

HOLD = """
import sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from course.build_folder import BuildFolder
folder = BuildFolder(Path({project!r}), Path({home!r}))
folder._prepare = lambda quiet: None
print(folder.copy(), flush=True)
import os
os.execvp("sleep", ["sleep", "60"])
"""


def template(folder):
    deps = folder / "target" / "debug" / "deps"
    deps.mkdir(parents=True)
    for name in ("libother-1.rlib", "libcandle_course-2.so", "other-1.d"):
        (deps / name).write_text(name)
    os.link(deps / "libcandle_course-2.so", folder / "target" / "debug" / "libcandle_course.so")
    os.utime(deps / "other-1.d", (1_000_000, 1_000_000))
    return deps


def test_a_copy_shares_only_what_never_changes(tmp_path):
    deps = template(tmp_path / "template")
    build_folder.copy_tree(tmp_path / "template", tmp_path / "copy")
    copied = tmp_path / "copy" / "target" / "debug" / "deps"
    assert os.path.samefile(copied / "libother-1.rlib", deps / "libother-1.rlib")
    assert not os.path.samefile(copied / "libcandle_course-2.so", deps / "libcandle_course-2.so")
    assert os.path.samefile(copied / "libcandle_course-2.so", tmp_path / "copy" / "target" / "debug" / "libcandle_course.so")
    assert (copied / "other-1.d").stat().st_mtime == 1_000_000
    (copied / "other-1.d").write_text("rewritten")
    assert (deps / "other-1.d").read_text() == "other-1.d"


def test_a_new_clone_takes_over_the_third_party_libraries(tmp_path):
    deps = template(tmp_path / "kernels" / "first" / "template")
    for name, text in (("built", ""), ("project", str(tmp_path))):
        (tmp_path / "kernels" / "first" / name).write_text(text)
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "second")
    folder.template.mkdir(parents=True)
    folder._seed()
    taken = sorted(path.name for path in (folder.template / "target").rglob("*") if path.is_file())
    assert taken == ["libother-1.rlib", "other-1.d"]
    assert os.path.samefile(folder.template / "target" / "debug" / "deps" / "libother-1.rlib", deps / "libother-1.rlib")


def test_features_reach_the_template_with_the_workspaces_versions(tmp_path, monkeypatch):
    (tmp_path / "Cargo.lock").write_text("all versions")
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "one")
    locked = []

    def build(quiet):
        locked.append((folder.template / "Cargo.lock").read_text())
        (folder.template / "Cargo.lock").write_text("the versions in use")

    monkeypatch.setattr(folder, "_build", build)
    for named in ("", "", "cudnn, cuda"):
        monkeypatch.setenv("CANDLE_COURSE_FEATURES", named)
        folder.prepare()
    assert locked == ["all versions", "the versions in use", "all versions"]
    assert f'path = "{tmp_path}/candle_course/notebook", package = "candle_course_notebook", features = ["cuda", "cudnn"] }}' in (folder.template / "Cargo.toml").read_text()


def test_a_copy_lives_as_long_as_its_kernel(tmp_path):
    home = tmp_path / "kernels" / "one"
    template(home / "template")
    folder = build_folder.BuildFolder(tmp_path, home)
    code = HOLD.format(scripts=str(PROJECT / "scripts"), project=str(tmp_path), home=str(home))
    holders = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        copies = [holder.stdout.readline().strip() for holder in holders]
        assert len(set(copies)) == 2
        folder.clean()
        assert all(os.path.isdir(copy) for copy in copies), "a running kernel lost its folder"
        holders[0].kill()
        holders[0].wait()
        folder.clean()
        assert [os.path.isdir(copy) for copy in copies] == [False, True]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()
    folder.clean()
    assert list(folder.copies.iterdir()) == []


def test_folders_of_deleted_clones_are_removed(tmp_path):
    for name, project in (("alive", tmp_path), ("dead", tmp_path / "gone")):
        (tmp_path / "kernels" / name).mkdir(parents=True)
        (tmp_path / "kernels" / name / "project").write_text(f"{project}\n")
    build_folder.remove_orphans(tmp_path / "kernels")
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == ["alive"]


def kernel_cargo(folder, cargo):
    environment = dict(os.environ, CANDLE_COURSE_CARGO=cargo, CANDLE_COURSE_PATH=os.environ["PATH"], CANDLE_COURSE_CARGO_HOME="")
    return subprocess.run([KERNEL_BIN / "cargo", "build"], cwd=folder, env=environment).returncode


def test_the_kernels_cargo_puts_the_pinned_versions_back(tmp_path):
    pinned = '[[package]]\nname = "candle_course"\n\n[[package]]\nname = "half"\nversion = "2.6.0"\n'
    emptied = '[[package]]\nname = "ctx"\n'
    (tmp_path / "pinned.lock").write_text(pinned)
    for before, after in ((emptied, pinned), (pinned + "# a learner's own dependency\n", pinned + "# a learner's own dependency\n")):
        (tmp_path / "Cargo.lock").write_text(before)
        assert kernel_cargo(tmp_path, "true") == 0
        assert (tmp_path / "Cargo.lock").read_text() == after
    assert kernel_cargo(tmp_path, "false") == 1


def test_evcxr_finds_the_kernels_cargo(tmp_path):
    fake = tmp_path / "rustup"
    fake.write_text('#!/bin/sh\necho "real rustup: $*"\n')
    fake.chmod(0o755)
    environment = dict(os.environ, CANDLE_COURSE_PATH=f"{tmp_path}:{os.environ['PATH']}", CANDLE_COURSE_CARGO_HOME="")

    def ask(*arguments):
        return subprocess.run([KERNEL_BIN / "rustup", *arguments], env=environment, capture_output=True, text=True).stdout.strip()

    assert ask("which", "cargo") == str(KERNEL_BIN / "cargo")
    assert ask("which", "rustc") == "real rustup: which rustc"
    assert ask("component", "add", "cargo") == "real rustup: component add cargo"


def test_another_compiler_clears_what_the_last_one_has_built(tmp_path, monkeypatch):
    (tmp_path / "Cargo.lock").write_text("versions")
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "one")
    version = ["rustc 1.95.0"]
    monkeypatch.setattr(build_folder, "compiler", lambda: version[0])
    built = []

    def build(quiet):
        deps = folder.template / "target" / "debug" / "deps"
        deps.mkdir(parents=True, exist_ok=True)
        (deps / f"libother-{version[0][6:]}.rlib").touch()
        built.append(version[0])

    monkeypatch.setattr(folder, "_build", build)

    def libraries():
        return [path.name for path in (folder.template / "target").rglob("*.rlib")]

    folder.prepare()
    copy = folder.copy()
    assert libraries() == ["libother-1.95.0.rlib"]
    version[0] = "rustc 1.96.0"
    folder.prepare()
    assert libraries() == ["libother-1.96.0.rlib"]
    assert (copy / "target" / "debug" / "deps" / "libother-1.95.0.rlib").exists(), "a running kernel lost its libraries"
    assert not list(folder.home.glob("trash-*"))
    folder.prepare()
    assert libraries() == ["libother-1.96.0.rlib"] and len(built) == 4
    # A template from before there was a record is kept: cargo itself knows what is stale.
    (folder.home / "compiler").unlink()
    folder.prepare()
    assert libraries() == ["libother-1.96.0.rlib"]


def test_an_interrupted_clearing_is_made_good(tmp_path, monkeypatch):
    (tmp_path / "Cargo.lock").write_text("versions")
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "one")
    monkeypatch.setattr(folder, "_build", lambda quiet: (folder.template / "target" / "debug").mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(build_folder, "compiler", lambda: "rustc 1.95.0")
    folder.prepare()
    monkeypatch.setattr(build_folder, "compiler", lambda: "rustc 1.96.0")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as fault:
        fault.setattr(build_folder.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folder.prepare()
    folder.prepare()
    assert (folder.template / "target" / "debug").exists()
    folder.clean()
    assert not list(folder.home.glob("trash-*"))


def test_libraries_of_another_compiler_are_not_taken_over(tmp_path, monkeypatch):
    for name, compiled_by in (("first", "rustc 1.94.0"), ("second", "rustc 1.95.0")):
        template(tmp_path / "kernels" / name / "template")
        for record, text in (("built", ""), ("project", str(tmp_path)), ("compiler", f"{compiled_by}\n")):
            (tmp_path / "kernels" / name / record).write_text(text)
    # The newer one is of the other compiler.
    os.utime(tmp_path / "kernels" / "second" / "built", (1_000_000, 1_000_000))
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "third")
    folder.template.mkdir(parents=True)
    (folder.home / "compiler").write_text("rustc 1.95.0\n")
    folder._seed()
    assert os.path.samefile(folder.template / "target/debug/deps/libother-1.rlib", tmp_path / "kernels/second/template/target/debug/deps/libother-1.rlib")
    for record in (tmp_path / "kernels").glob("*/compiler"):
        record.write_text("rustc 1.93.0\n")
    other = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "fourth")
    other.template.mkdir(parents=True)
    (other.home / "compiler").write_text("rustc 1.95.0\n")
    other._seed()
    assert not (other.template / "target").exists()


def test_names_of_all_kinds_are_written_as_toml():
    for name in ("plain", "a b", "🦀 ação", 'quote" and \\ and \'', "tab\tand\x7f and \x01", "line\nbreak", "日本"):
        assert tomllib.loads(f"x = {build_folder.toml(name)}") == {"x": name}
