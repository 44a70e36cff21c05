"""What `scripts/bench` counts, compares and says, without measuring anything."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import bench_inference
import bench_train
import pytest
from course import avx2, peers, roofline, say

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


def test_a_peer_that_is_not_there_is_left_out_by_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    program(tmp_path, "cargo", "exit 101")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert peers.training_commands(["jax", "burn"]) == {}
    lines = capsys.readouterr().out.splitlines()
    assert "jax is not installed: NO COMPARISON WITH IT (scripts/reference-foreign-requirements.txt)" in lines
    assert "burn could not be built: NO COMPARISON WITH IT" in lines


def test_a_peer_is_built_apart_from_the_workspace_and_for_this_processor(monkeypatch, tmp_path):
    message = json.dumps({"executable": "/somewhere/burn_peer", "target": {"name": "burn_peer"}})
    program(tmp_path, "cargo", f"printf '%s\\n' \"$@\" > '{tmp_path}/arguments'; echo '{message}'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert peers.training_commands(["burn"]) == {"burn": ["/somewhere/burn_peer"]}
    given = (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()
    assert {"--release", "--locked", "build.rustflags = ['-C', 'target-cpu=native']"} <= set(given)
    manifest, target = (Path(given[given.index(name) + 1]) for name in ("--manifest-path", "--target-dir"))
    assert "[workspace]" in manifest.read_text(encoding="utf-8") and (manifest.parent / "Cargo.lock").exists()
    assert target.parent.name == "target"


def test_tract_runs_with_one_thread_and_with_all(monkeypatch, tmp_path):
    tract = program(tmp_path, "tract", 'echo ready; while read batch seconds; do echo "$1 0"; done')
    monkeypatch.setenv("RAYON_NUM_THREADS", "3")
    children = bench_inference.children_of("mlp", tmp_path, "true", compare=False, tract=tract)
    for child in children.values():
        child.round("64 0.3", pause=0)
        child.end()
    assert {name: child.rounds for name, child in children.items() if "tract" in name} == {"tract": [1.0], "tract, 3 threads": [3.0]}


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


def test_what_a_benchmark_starts_sees_no_avx512(tmp_path, monkeypatch):
    source = tmp_path / "supports.c"
    source.write_text('#include <stdio.h>\nint main(void) { printf("%d %d", !!__builtin_cpu_supports("avx2"), !!__builtin_cpu_supports("avx512f")); }', encoding="utf-8")
    monkeypatch.setenv("LD_PRELOAD", os.environ.get("LD_PRELOAD", ""))
    monkeypatch.setattr(avx2, "pretended", False)
    try:
        subprocess.run(["cc", "-o", tmp_path / "supports", source], check=True)
        here = subprocess.check_output([tmp_path / "supports"], text=True)
        avx2.pretend(tmp_path)
    except (OSError, subprocess.CalledProcessError, say.Failure) as reason:
        pytest.skip(f"no processor or no compiler for it: {reason}")
    assert subprocess.check_output([tmp_path / "supports"], text=True) == here[0] + " 0"
    # A child's child, a thread, and a fault that is the program's own.
    nested = [sys.executable, "-c", "import subprocess, sys, threading; threading.Thread(target=lambda: print(subprocess.check_output(sys.argv[1:], text=True))).start()"]
    assert subprocess.check_output([*nested, tmp_path / "supports"], text=True).split() == [here[0], "0"]
    crashed = subprocess.run([sys.executable, "-c", "import ctypes; ctypes.string_at(0)"], capture_output=True)
    assert crashed.returncode == -signal.SIGSEGV
