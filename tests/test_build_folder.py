"""The copies of the prebuilt build folder."""

import os
import subprocess
import sys

from conftest import PROJECT
from course import build_folder

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
