"""What rust-analyzer sees of a notebook's dependencies."""

import copy
import json
import os
import subprocess
import sys

import pytest

from conftest import PROJECT

sys.path.insert(0, str(PROJECT / "scripts" / "course" / "analysis"))

import metadata  # noqa: E402


def graph(root, **edges):
    """Metadata in cargo's form: a package for each name, with the names it depends on."""
    return {
        "packages": [{"id": f"id {name}", "name": name.replace("_core", "-core")} for name in edges],
        "workspace_members": [f"id {root}"],
        "resolve": {
            "root": f"id {root}",
            "nodes": [
                {"id": f"id {name}", "dependencies": [f"id {other}" for other in others], "deps": [{"pkg": f"id {other}"} for other in others]}
                for name, others in edges.items()
            ],
        },
    }


def shown(result):
    names = [package["name"] for package in result["packages"]]
    nodes = result["resolve"]["nodes"]
    ids = {node["id"] for node in nodes}
    assert all(set(node["dependencies"]) == {dep["pkg"] for dep in node["deps"]} <= ids for node in nodes)
    assert {package["id"] for package in result["packages"]} == ids
    return names


def test_the_crates_own_dependencies_are_hidden_but_for_candle():
    result = metadata.cut(graph("ctx", ctx=["candle_course"], candle_course=["candle_core", "plotters"], candle_core=["rayon"], plotters=[], rayon=[]))
    assert shown(result) == ["ctx", "candle_course", "candle-core"]


def test_a_notebook_sees_the_crate_through_its_dynamic_library():
    result = metadata.cut(graph("ctx", ctx=["candle_course_notebook"], candle_course_notebook=["candle_course"], candle_course=["candle_core", "png"], candle_core=[], png=[]))
    assert shown(result) == ["ctx", "candle_course_notebook", "candle_course", "candle-core"]


def test_what_a_learner_adds_is_seen():
    result = metadata.cut(graph("ctx", ctx=["candle_course", "ndarray"], candle_course=["rayon", "png"], ndarray=["rayon"], rayon=[], png=[]))
    assert shown(result) == ["ctx", "candle_course", "ndarray", "rayon"]


def test_a_notebook_without_the_crate_is_left_alone():
    plain = graph("ctx", ctx=["ndarray"], ndarray=["rayon"], rayon=[])
    assert metadata.cut(copy.deepcopy(plain)) == plain


def test_rusts_own_library_is_cut_to_what_programs_use():
    result = metadata.cut(graph("sysroot", sysroot=["std", "test"], std=["core", "alloc", "core_arch"], alloc=["core"], core=[], core_arch=["core"], test=["std"]))
    assert shown(result) == ["sysroot", "std", "alloc", "core"]


def test_metadata_without_dependencies_is_understood():
    plain = graph("ctx", ctx=[])
    plain["resolve"] = None
    assert metadata.cut(copy.deepcopy(plain)) == plain


ANSWER = """#!/bin/sh
echo asked >> "$(dirname "$0")/asked"
folder=$(dirname "$4")
echo "{\\"packages\\": [{\\"id\\": \\"path+file://$folder#ctx\\", \\"name\\": \\"ctx\\"}], \\"workspace_members\\": [], \\"resolve\\": null, \\"workspace_root\\": \\"$folder\\"}"
"""


@pytest.fixture
def ask(tmp_path):
    """Asks as rust-analyzer does in a kernel's folder; says the answer and how often cargo was asked by then."""
    home = tmp_path / "kernels" / "one"
    cargo = tmp_path / "cargo"
    cargo.write_text(ANSWER)
    cargo.chmod(0o755)

    def kernel(name, manifest="with the crate", lock="versions", compiler="rustc 1.95.0"):
        folder = home / "copies" / name
        (folder / "quick").mkdir(parents=True, exist_ok=True)
        for path, text in ((folder / "Cargo.toml", manifest), (folder / "quick/crate.toml", "with the crate"), (folder / "quick/empty.toml", "empty"), (folder / "pinned.lock", lock), (home / "compiler", compiler)):
            path.write_text(text)
        command = [sys.executable, metadata.__file__, "metadata", "--format-version=1", "--manifest-path", f"{folder}/Cargo.toml"]
        result = subprocess.run(command, env=dict(os.environ, CANDLE_COURSE_CARGO=str(cargo)), capture_output=True, text=True, check=True)
        answer = json.loads(result.stdout)
        assert answer["workspace_root"] == str(folder) and answer["packages"][0]["id"] == f"path+file://{folder}#ctx"
        return len((tmp_path / "asked").read_text().splitlines())

    return kernel


def test_cargo_is_asked_once_for_all_kernels(ask):
    assert [ask("a"), ask("b"), ask("a")] == [1, 1, 1]
    assert [ask("a", "empty"), ask("b", "empty")] == [2, 2]


@pytest.mark.parametrize("change", [{"lock": "others"}, {"compiler": "rustc 1.96.0"}])
def test_what_the_answer_follows_from_is_asked_anew(ask, change):
    assert [ask("a"), ask("a", **change), ask("b", **change)] == [1, 2, 2]


def test_a_notebook_with_dependencies_of_its_own_asks_every_time(ask):
    assert [ask("a", "with more"), ask("a", "with more")] == [1, 2]


def test_a_folder_whose_name_is_written_otherwise_in_an_answer_asks_every_time(ask):
    assert [ask("a~b"), ask("a~b")] == [1, 2]


@pytest.fixture
def ask_cargo(tmp_path):
    """Asks the cargo that rust-analyzer finds; says its answer, its status and how often the real one was asked by then."""
    cargo, asked = tmp_path / "cargo", tmp_path / "asked"
    cargo.write_text(f'#!/bin/sh\necho asked >> "{asked}"\n[ -f "{tmp_path}/fails" ] && exit 3\necho "answer to $*"\n')
    cargo.chmod(0o755)

    def ask(*arguments, **variables):
        environment = dict(os.environ, CANDLE_COURSE_CARGO=str(cargo), CANDLE_COURSE_PATH=os.environ["PATH"], CANDLE_COURSE_CARGO_HOME=str(tmp_path), CANDLE_COURSE_PYTHON=sys.executable, CANDLE_COURSE_ANSWERS=str(tmp_path / "answers"), **variables)
        result = subprocess.run([PROJECT / "scripts/course/analysis/bin/cargo", *arguments], env=environment, capture_output=True, text=True)
        return result.stdout.strip(), result.returncode, len(asked.read_text().splitlines())

    return ask


def test_what_the_compiler_says_of_itself_is_asked_once(ask_cargo, tmp_path):
    question = ("rustc", "-Z", "unstable-options", "--print", "cfg", "--", "-O")
    assert [ask_cargo(*question), ask_cargo(*question), ask_cargo("--version")] == [(f"answer to {' '.join(question)}", 0, 1)] * 2 + [("answer to --version", 0, 2)]
    assert ask_cargo(*question, RUSTFLAGS="-Ctarget-cpu=native")[2] == 3
    (tmp_path / "config.toml").write_text("[build]\nrustflags = []\n")
    assert ask_cargo(*question)[2] == 4
    assert [ask_cargo("locate-project")[2], ask_cargo("locate-project")[2]] == [5, 6]


def test_an_answer_that_failed_is_not_kept(ask_cargo, tmp_path):
    (tmp_path / "fails").touch()
    assert ask_cargo("--version") == ("", 3, 1)
    (tmp_path / "fails").unlink()
    assert [ask_cargo("--version"), ask_cargo("--version")] == [("answer to --version", 0, 2)] * 2
