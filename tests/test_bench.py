"""What `scripts/bench` counts, compares and says, without measuring anything."""

import math

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
    program = tmp_path / "roofline"
    program.write_text('#!/bin/sh\necho "$@" > "$0.arguments"; echo ready\nwhile read batch rest; do echo "2 0"; done\n', encoding="utf-8")
    program.chmod(0o755)
    roof = bench_train.Roof(str(program), "memory", "GB", 1e6, once=4e6)
    for _ in range(3):
        roof.round("64 f32 0", pause=0)
    roof.end()
    assert roof.rounds == [2.0] * 3
    # 64 · 1 MB + 4 MB in 2 ms.
    assert roof.label("roof", 64) == "roof: 0.068 GB at 34 GB/s"
    assert (tmp_path / "roofline.arguments").read_text(encoding="utf-8").split() == ["memory", "1000000.0", "4000000.0"]


def test_only_equal_work_is_compared(monkeypatch):
    first = [2.3, 2.2, 2.1]
    assert peers.same([2.3001, 2.2, 2.1], first)
    for other in ([2.3, 2.2, 2.1005], [2.3, 2.2], [2.3, 2.2, math.nan], [math.inf] * 3):
        assert not peers.same(other, first) and not peers.same(first, other)
    assert not peers.same([], [])
    monkeypatch.setattr(peers, "losses", lambda command: [2.3, 2.2, 2.1 if "--child" in command else 2.0])
    with pytest.raises(say.Failure, match="mlp: the first steps of other have losses .*: unequal work is not compared"):
        peers.check_equal_work("mlp", {"other": ["program"]}, "folder")


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(say.Failure, match=r"has no jax: .*scripts/reference-foreign-requirements\.txt"):
        peers.training_commands(["jax"])
