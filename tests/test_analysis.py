"""What rust-analyzer sees of a notebook's dependencies."""

import copy
import sys

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
