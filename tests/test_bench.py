"""What `scripts/bench` counts, compares and says, without measuring anything."""

import math

import bench_inference
import bench_train
import pytest
from course import peers, roofline, say

# Floating-point operations of forward and backward per example as `torch.utils.flop_counter` counts them on
# bench_train's models (PyTorch 2.15), and their parameters.
PYTORCH = {
    "mlp": (454400, 109386),
    "mnist": (24995328, 421642),
    "cifar": (233192448, 815018),
    "unet": (602800128, 117893),
    "gru": (4894464, 19466),
}


@pytest.mark.parametrize("model", bench_train.MODELS)
def test_work_is_counted_as_pytorch_counts_it(model):
    products, parameters = PYTORCH[model]
    assert roofline.work(model).products == products
    assert sum(layer.parameters for layer in roofline.MODELS[model]) == parameters


def test_what_goes_through_memory():
    # 784-128-64-10, f32: inputs and outputs forward; backward inputs and the outputs' gradients again, and the
    # gradients of two layers' inputs.
    numbers = (784 + 128) + (128 + 64) + (64 + 10)
    assert roofline.work("mlp").moved == 4 * (2 * numbers + 128 + 64)
    # AdamW: a parameter is read three times and written once, its gradient and two moments are read and written.
    parameters = 785 * 128 + 129 * 64 + 65 * 10
    assert roofline.work("mlp").moved_once == 4 * 10 * parameters


def test_a_roof_says_what_it_is_made_of(tmp_path):
    text = 'echo "$@" > "$0.arguments"; echo ready\nwhile read batch rest; do echo "2 0"; done'
    roof = bench_train.Roof(str(program(tmp_path, "roofline", text)), "memory", "GB", 1e6, once=4e6)
    for _ in range(3):
        roof.round("64 f32 0", pause=0)
    roof.end()
    assert roof.rounds == [2.0] * 3
    # 64 · 1 MB + 4 MB in 2 ms.
    assert roof.label("roof", 64) == "roof: 0.068 GB at 34 GB/s"
    assert (tmp_path / "roofline.arguments").read_text(encoding="utf-8").split() == ["memory", "1000000.0", "4000000.0"]


def program(folder, name, text):
    """A program of `sh` in a folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_only_equal_work_is_compared(monkeypatch):
    first = [2.3, 2.2, 2.1]
    assert peers.same([2.3001, 2.2, 2.1], first)
    for other in ([2.3, 2.2, 2.1005], [2.3, 2.2], [2.3, 2.2, math.nan], [math.inf] * 3):
        assert not peers.same(other, first) and not peers.same(first, other)
    assert not peers.same([], [])
    monkeypatch.setattr(peers, "losses", lambda command: [2.3, 2.2, 2.0 if command[0] == "other" else 2.1])
    assert peers.with_equal_work("mlp", {"one": ["one"]}, "folder") == {"one": ["one"]}
    with pytest.raises(say.Failure, match="mlp: the first steps of other have losses .*: unequal work is not compared"):
        peers.with_equal_work("mlp", {"one": ["one"], "other": ["other"]}, "folder")


def test_a_peer_that_fails_is_left_out_by_name(monkeypatch, tmp_path, capsys):
    torch = program(tmp_path, "torch", 'echo "2.3 2.2 2.1"')
    monkeypatch.setattr(peers.sys, "executable", str(torch))
    commands = {"whole": [str(torch)], "broken": [str(program(tmp_path, "broken", "exit 3"))]}
    assert list(peers.with_equal_work("mlp", commands, "folder")) == ["whole"]
    assert "broken ends with code 3 on mlp: NO COMPARISON WITH IT" in capsys.readouterr().err


def test_a_peer_that_is_not_there_is_left_out_by_name(monkeypatch, capsys):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert peers.training_commands(["jax"]) == {}
    assert capsys.readouterr().out == "jax is not installed: NO COMPARISON WITH IT (scripts/reference-foreign-requirements.txt)\n"


def test_a_process_that_dies_has_failed_and_the_run_goes_on(tmp_path):
    child = bench_train.Child([str(program(tmp_path, "dies", "exec 0<&-; echo ready; sleep 0.2"))])
    child.round("64 f32 0", pause=0)
    child.end()
    assert child.failed == {"64 f32 0"} and not child.rounds


@pytest.mark.parametrize(("difference", "accepted"), [("9e-5", True), ("2e-4", False), ("nan", False)])
def test_outputs_that_differ_end_the_run(tmp_path, capsys, difference, accepted):
    def answers(name, difference):
        child = bench_train.Child([str(program(tmp_path, name, f'echo ready; while read line; do echo "5 {difference}"; done'))])
        for _ in range(2):
            child.round("1 0.3", pause=0)
        child.end()
        return child

    children = {"prepared": answers("ours", "1e-7"), "other": answers("other", difference)}
    if accepted:
        bench_inference.report("mlp", 1, children)
        assert "| mlp | 1 | other | 0.005" in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit, match="mlp, batch 1, other: failed, or outputs"):
            bench_inference.report("mlp", 1, children)
