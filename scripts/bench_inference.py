#!/usr/bin/env python3
"""Predictions by this crate, by PyTorch, ONNX Runtime and tract, with the same weights, alternately.

The latency of one example and the throughput of batches of 64. This crate: the model in evaluation mode
(`plain`) and made ready (`Inference`). PyTorch under `inference_mode` as it comes and, for images, with
the channels last in memory; ONNX Runtime on the exported model, batch norms folded; with --peers tract
also tract on that model (scripts/peers), with one thread, as it comes, and with all. One process per
implementation and model; they take rounds in turn. Every process compares its outputs with those of the
model in evaluation mode; a difference above 1e-4 of the largest number ends the run.

Needs a Python with PyTorch (`CANDLE_COURSE_REFERENCE_PYTHON`, or a throwaway environment), for ONNX Runtime
also what reference-foreign-requirements.txt names.
"""

import argparse
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import argument_types
import bench_train
import reference_environment
from bench_train import LARGE, MODELS, Child

BATCHES = [1, 64]
TOLERANCE = 1e-4

# Our names of a model's layers, and what they are in bench_train's.
NAMES = {
    "mlp": [(r"fc(\d)", lambda m: str(2 * int(m[1]) - 2))],
    "mnist": [(r"conv(\d)", lambda m: str(3 * int(m[1]) - 3)), (r"fc(\d)", lambda m: str(2 * int(m[1]) + 5))],
    "cifar": [
        (r"block(\d)\.(conv|norm)", lambda m: f"{int(m[1]) * 3 // 2}.{0 if m[2] == 'conv' else 1}"),
        (r"fc(\d)", lambda m: str(2 * int(m[1]) + 8)),
    ],
    "unet": [
        (r"(down|up)(\d)\.(\d)\.", lambda m: f"{m[1]}.{int(m[2]) - 1 if m[1] == 'down' else 2 - int(m[2])}.{m[3]}."),
        (r"enlarge(\d)", lambda m: f"enlarge.{2 - int(m[1])}"),
        (r"\.conv\.", lambda m: ".0."),
        (r"\.norm\.", lambda m: ".1."),
    ],
    "gru": [],
}


def renamed(model, name):
    """The name in bench_train's model of what is called `name` in ours."""
    if model.startswith("resnet18"):
        first = 4 if model.endswith("224") else 3
        places = {"conv1": "0", "bn1": "1", "fc": str(first + 10)}
        if block := re.match(r"layer(\d)\.(\d)\.(.*)", name):
            return f"{first + 2 * int(block[1]) - 2 + int(block[2])}.{block[3]}"
        layer, rest = name.split(".", 1)
        return f"{places[layer]}.{rest}"
    for pattern, new in NAMES["unet" if model.startswith("unet") else model]:
        name = re.sub(pattern, new, name)
    return name


def torch_call(model, folder, channels_last):
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count())))
    module = bench_train.torch_model(model)
    weights = {renamed(model, name): tensor for name, tensor in load_file(folder / "weights.safetensors").items()}
    module.load_state_dict(weights)
    module.eval()
    if channels_last:
        module = module.to(memory_format=torch.channels_last)

    def prepare(xs):
        xs = torch.from_numpy(xs)
        xs = xs.contiguous(memory_format=torch.channels_last) if channels_last else xs

        def call():
            with torch.inference_mode():
                return module(xs)

        return call

    return prepare


def onnx_call(folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count()))
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda xs: lambda: session.run(["ys"], {"xs": xs})[0]


def serve(kind, model, folder):
    """The counterpart of benches/inference.rs."""
    import numpy
    from safetensors.numpy import load_file

    prepare = onnx_call(folder) if kind == "onnx" else torch_call(model, folder, kind == "channels-last")
    probe = load_file(folder / "probe.safetensors")
    print("ready", flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        call, expected = prepare(probe[f"xs{batch}"]), probe[f"ys{batch}"]
        difference = numpy.abs(numpy.asarray(call()) - expected).max() / max(1.0, numpy.abs(expected).max())
        call()
        begin, calls = time.perf_counter(), 0
        while calls < 3 or time.perf_counter() - begin < float(seconds):
            call()
            calls += 1
        print((time.perf_counter() - begin) * 1e6 / calls, difference, flush=True)


def children_of(model, folder, binary, compare, tract):
    children = {name: Child([binary, name, model, folder]) for name in ("prepared", "plain")}
    if compare:
        peers = {"PyTorch": "torch", "ONNX Runtime": "onnx"}
        if bench_train.is_of_images(model):
            peers["PyTorch, channels last"] = "channels-last"
        if not importlib.util.find_spec("onnxruntime"):
            print("onnxruntime is not installed: NO COMPARISON WITH IT (scripts/reference-foreign-requirements.txt)")
            del peers["ONNX Runtime"]
        for name, kind in peers.items():
            children[name] = Child([sys.executable, __file__, "--child", kind, "--models", model, "--folder", folder])
    if tract:
        threads = int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count()))
        children["tract"] = Child([tract, "1", folder])
        if threads > 1:
            children[f"tract, {threads} threads"] = Child([tract, str(threads), folder])
    return children


def report(model, batch, children):
    ours = children["prepared"].rounds
    for name, child in children.items():
        # The second number of an answer is the largest difference of the outputs.
        if not child.rounds or child.memory > TOLERANCE:
            sys.exit(f"{model}, batch {batch}, {name}: failed, or outputs {child.memory:.1e} apart")
        times = bench_train.spread(child.rounds, lambda x: f"{x / 1e3:.3g}")
        rate = batch * 1e6 / sorted(child.rounds)[len(child.rounds) // 2]
        ratio = "" if name == "prepared" else bench_train.ratios_to(ours, child.rounds)
        print(f"| {model} | {batch} | {name} | {times} | {rate:.0f} | {child.memory:.0e} | {ratio} |", flush=True)
        child.clear()


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="also run PyTorch and ONNX Runtime")
    parser.add_argument("--peers", nargs="+", choices=["tract"], default=[], help="other libraries, too")
    parser.add_argument("--rounds", type=argument_types.count, default=7)
    parser.add_argument("--models", nargs="+", choices=MODELS + LARGE, default=[*MODELS, "resnet18"])
    parser.add_argument("--batch", nargs="+", type=int, choices=BATCHES, default=BATCHES)
    parser.add_argument("--seconds", type=argument_types.seconds, default=0.3, help="of a round, at least three calls")
    parser.add_argument("--avx2", action="store_true", help="all as on a processor without AVX-512 (Linux, Intel)")
    parser.add_argument("--binary", help="the built example; then PyTorch is this Python's")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return serve(arguments.child, arguments.models[0], arguments.folder)
    if arguments.compare and not arguments.binary:
        reference_environment.enter()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.avx2:
            from course import avx2

            avx2.pretend(pathlib.Path(folder))
        if not arguments.binary:
            from course import benchmarks

            arguments.binary = str(benchmarks.binary("inference"))
        tract = None
        if arguments.peers:
            from course import benchmarks

            tract = benchmarks.peer("tract")
        measure(arguments, tract)


def measure(arguments, tract):
    processor = f"{bench_train.cpu()}{' without AVX-512' * arguments.avx2}"
    print(f"{processor}, {os.cpu_count()} threads, {arguments.rounds} alternating rounds; median (minimum–maximum)\n")
    print("| model | batch | | ms per call | examples/s | difference | speed against it |\n| --- | --- | --- | --- | --- | --- | --- |")
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([arguments.binary, "export", model, folder], check=True)
            children = children_of(model, folder, arguments.binary, arguments.compare, tract)
            for child in children.values():
                child.wait()
            for batch in arguments.batch:
                for _ in range(arguments.rounds):
                    for child in children.values():
                        child.round(f"{batch} {arguments.seconds}", 0.3)
                report(model, batch, children)
            for child in children.values():
                child.end()


if __name__ == "__main__":
    main()
