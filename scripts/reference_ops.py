"""Stored PyTorch values of the crate's operations: candle_course/tests/data/ops/.

Every case is an operation, its options and the shapes of its inputs. The inputs' numbers follow
from `numbers` below, times the option `scale` if there is one, which the tests compute too, so only
results are stored: the output and the gradient of every input for a given gradient of the output,
computed in f64, rounded to f32. Every operation has inputs of at least 20 shapes.

`scripts/reference ops` runs it.

`cases.json` holds the cases; `results.f32` their results one behind the other, as little-endian
f32 without any header: the tests know how many numbers each case has.
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "candle_course/tests/data/ops"


def hashed(place, seed):
    """32 bits that look random."""
    x = (place * 2654435761 + seed * 40503 + 1) % 2**32
    for _ in range(2):
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def numbers(shape, seed):
    """The numbers of an input: a hash of place and seed, in [-1, 1)."""
    import torch

    count = 1
    for size in shape:
        count *= size
    values = [hashed(i, seed) for i in range(count)]
    return (torch.tensor(values, dtype=torch.float64) / 2**31 - 1).float().double().reshape(shape)


def conv2d_cases():
    for case in [
        # x, weight, stride, padding, dilation, groups
        ((1, 1, 3, 3), (1, 1, 3, 3), 1, 0, 1, 1),
        ((2, 3, 6, 7), (4, 3, 3, 3), 1, 1, 1, 1),
        ((1, 2, 5, 5), (3, 2, 3, 3), 1, 2, 1, 1),
        ((2, 2, 7, 5), (9, 2, 3, 3), 2, 1, 1, 1),
        ((1, 3, 8, 8), (2, 3, 5, 5), 1, 2, 1, 1),
        ((1, 2, 9, 9), (3, 2, 5, 5), 2, 2, 1, 1),
        ((3, 4, 4, 3), (5, 4, 1, 1), 1, 0, 1, 1),
        ((2, 3, 5, 6), (2, 3, 1, 1), 2, 0, 1, 1),
        ((1, 2, 9, 8), (3, 2, 3, 3), 1, 2, 2, 1),
        ((1, 2, 10, 9), (3, 2, 3, 3), 2, 1, 2, 1),
        ((2, 4, 5, 5), (4, 1, 3, 3), 1, 1, 1, 4),
        ((1, 4, 6, 6), (8, 1, 3, 3), 2, 1, 1, 4),
        ((1, 4, 5, 6), (6, 2, 3, 3), 1, 1, 1, 2),
        ((2, 2, 6, 7), (3, 2, 2, 4), 1, (1, 2), 1, 1),
        ((1, 2, 7, 9), (2, 2, 3, 2), (2, 3), (0, 1), 1, 1),
        ((1, 1, 8, 9), (2, 1, 2, 3), (3, 1), (1, 0), (2, 3), 1),
        ((1, 17, 3, 4), (2, 17, 3, 3), 1, 1, 1, 1),
        ((1, 2, 4, 17), (33, 2, 2, 2), 1, 0, 1, 1),
        ((1, 3, 1, 6), (2, 3, 1, 3), 1, (0, 1), 1, 1),
        ((2, 1, 12, 13), (3, 1, 7, 7), 2, 3, 1, 1),
        ((1, 2, 3, 3), (2, 2, 1, 1), 1, 1, 1, 1),
        ((1, 1, 5, 21), (2, 1, 3, 3), 1, 1, 1, 1),
        ((3, 2, 4, 4), (2, 2, 4, 4), 4, 0, 1, 1),
        ((1, 2, 6, 6), (2, 2, 2, 2), 3, 0, 1, 1),
        ((1, 4, 7, 8), (6, 2, 3, 2), (2, 1), (0, 1), (1, 2), 2),
        # Channels enough for tiles.
        ((2, 17, 16, 11), (18, 17, 3, 3), 1, 1, 1, 1),
        ((2, 16, 12, 8), (33, 16, 3, 3), 1, 2, 1, 1),
        ((4, 20, 12, 10), (16, 20, 3, 3), 1, 0, 1, 1),
    ]:
        x, weight, stride, padding, dilation, groups = case
        for_bias = {"relu": sum(x) % 2 == 0}
        options = dict(stride=pair(stride), padding=pair(padding), dilation=pair(dilation), groups=groups, **for_bias)
        options |= scaled(x)
        bias = [] if sum(weight) % 3 == 0 else [(weight[0],)]
        yield options, [x, weight, *bias]


def scaled(x):
    """Sums of many products stay of the size of one."""
    return {"scale": 0.5} if x[1] > 12 and x[2] > 4 else {}


def conv_transpose2d_cases():
    for case in [
        # x, weight, stride, padding, output padding, dilation, groups
        ((1, 1, 1, 1), (1, 1, 2, 2), 2, 0, 0, 1, 1),
        ((2, 3, 4, 5), (3, 2, 2, 2), 2, 0, 0, 1, 1),
        ((1, 2, 4, 3), (2, 3, 3, 3), 1, 1, 0, 1, 1),
        ((1, 2, 3, 5), (2, 3, 3, 3), 2, 1, 1, 1, 1),
        ((2, 2, 3, 3), (2, 2, 3, 3), 2, 0, 0, 1, 1),
        ((1, 4, 3, 4), (4, 1, 3, 3), 2, 1, 1, 1, 4),
        ((1, 4, 2, 4), (4, 3, 3, 3), 1, 0, 0, 1, 2),
        ((1, 2, 4, 4), (2, 3, 3, 3), 1, 2, 0, 2, 1),
        ((1, 2, 4, 5), (2, 3, 3, 3), 2, 1, 1, 2, 1),
        ((2, 3, 3, 2), (3, 4, 1, 1), 1, 0, 0, 1, 1),
        ((1, 3, 3, 2), (3, 2, 1, 1), 2, 0, 1, 1, 1),
        ((1, 1, 5, 4), (1, 2, 4, 4), 2, 1, 0, 1, 1),
        ((1, 1, 3, 4), (1, 2, 5, 5), 1, 2, 0, 1, 1),
        ((1, 1, 4, 3), (1, 2, 5, 5), 3, 1, 2, 1, 1),
        ((1, 2, 3, 4), (2, 2, 2, 3), (2, 3), (0, 1), (1, 2), 1, 1),
        ((1, 2, 2, 3), (2, 2, 3, 2), (1, 2), (1, 0), 0, (1, 2), 1),
        ((1, 17, 2, 2), (17, 1, 2, 2), 2, 0, 0, 1, 1),
        ((1, 1, 2, 2), (1, 17, 3, 3), 2, 1, 0, 1, 1),
        ((3, 2, 1, 6), (2, 2, 1, 3), (1, 2), (0, 1), 0, 1, 1),
        ((1, 1, 3, 3), (1, 1, 3, 3), 4, 0, 3, 1, 1),
        ((1, 2, 3, 3), (2, 1, 1, 1), 1, 1, 0, 1, 1),
        ((1, 1, 5, 5), (1, 1, 3, 3), 1, 0, 1, 2, 1),
        ((1, 2, 5, 4), (2, 3, 3, 3), 1, 1, 1, 2, 1),
        ((2, 2, 3, 4), (2, 2, 3, 2), 1, (0, 1), (2, 0), 3, 1),
        ((1, 4, 3, 5), (4, 1, 3, 3), 1, 0, (0, 1), 2, 4),
        ((1, 2, 4, 6), (2, 3, 3, 3), 2, 1, 2, 3, 1),
        ((2, 4, 3, 2), (4, 2, 3, 2), (2, 1), (1, 0), 0, (1, 2), 2),
        # Channels enough for tiles.
        ((2, 18, 12, 11), (18, 17, 3, 3), 1, 1, 0, 1, 1),
    ]:
        x, weight, stride, padding, extra, dilation, groups = case
        options = dict(stride=pair(stride), padding=pair(padding), output_padding=pair(extra), dilation=pair(dilation), groups=groups)
        options |= scaled(x)
        bias = [] if sum(x) % 3 == 0 else [(weight[1] * groups,)]
        yield options, [x, weight, *bias]


POOLS = [
    # x, kernel, stride, padding, ceil mode
    ((1, 1, 2, 2), 2, 2, 0, False),
    ((2, 3, 6, 8), 2, 2, 0, False),
    ((1, 2, 7, 5), 2, 2, 0, False),
    ((2, 2, 5, 7), 2, 2, 0, True),
    ((1, 1, 4, 37), 2, 2, 0, False),
    ((1, 1, 33, 2), 2, 2, 0, False),
    ((2, 1, 6, 6), 3, 3, 0, False),
    ((1, 2, 8, 7), 3, 2, 1, False),
    ((1, 3, 8, 9), 3, 2, 1, True),
    ((1, 2, 5, 6), 3, 1, 1, False),
    ((1, 1, 5, 5), 5, 1, 0, False),
    ((1, 1, 6, 5), 5, 1, 2, False),
    ((1, 2, 7, 9), (2, 3), (1, 2), (0, 1), False),
    ((2, 1, 9, 7), (3, 2), (2, 3), (1, 0), True),
    ((2, 2, 4, 4), 1, 1, 0, False),
    ((1, 2, 5, 5), 1, 2, 0, False),
    ((1, 1, 9, 9), 2, 3, 1, False),
    ((1, 2, 8, 9), 2, 3, 1, True),
    ((3, 1, 6, 5), 4, 2, 2, True),
    ((1, 3, 1, 8), (1, 2), (1, 2), 0, False),
    ((1, 1, 10, 10), 7, 3, 3, True),
]


def pool_cases():
    for x, kernel, stride, padding, ceil_mode in POOLS:
        yield dict(kernel_size=pair(kernel), stride=pair(stride), padding=pair(padding), ceil_mode=ceil_mode), [x]


def avg_pool_cases():
    for options, shapes in pool_cases():
        yield options | {"count_include_pad": sum(shapes[0]) % 2 == 0}, shapes


def adaptive_cases():
    for i, (rows, columns) in enumerate([(1, 1), (2, 2), (3, 2), (1, 4), (5, 3), (2, 7), (4, 4)]):
        for height, width in [(6, 8), (5, 7), (1, 3)]:
            yield dict(output_size=[rows, columns]), [(1 + i % 2, 2, height + i, width + 2 * i % 5)]


def batch_norm_cases():
    shapes = [(2, 1), (2, 3), (5, 4), (33, 2), (64, 3), (2, 3, 1), (1, 2, 9), (3, 2, 33), (1, 1, 2, 1), (1, 3, 4, 5)]
    shapes += [(2, 3, 4, 4), (4, 2, 7, 5), (2, 17, 1, 1), (3, 1, 1, 8), (2, 2, 6, 6), (1, 4, 8, 8), (2, 5, 3, 3)]
    shapes += [(2, 2, 2, 2, 3), (3, 3, 16), (2, 1, 33, 3), (2, 2, 65)]
    for i, shape in enumerate(shapes):
        affine = [] if i % 4 == 3 else [(shape[1],), (shape[1],)]
        yield dict(epsilon=1e-5 if i % 3 else 0.1, relu=i % 2 == 1), [shape, *affine]


def layer_norm_cases():
    shapes = [(1, 2), (2, 3), (5, 4), (3, 33), (2, 64), (2, 3, 4), (1, 2, 9), (3, 2, 17), (4, 1, 2), (1, 3, 4, 5), (7, 5)]
    shapes += [(2, 3, 4, 4), (1, 31), (1, 32), (2, 2, 2, 2, 3), (6, 40), (3, 65), (1, 100), (2, 5, 3), (9, 2), (2, 128)]
    for i, shape in enumerate(shapes):
        normalised = list(shape[-(1 + i % 2) if len(shape) > 2 else -1 :])
        affine = [] if i % 4 == 3 else [normalised, normalised]
        yield dict(normalised=normalised, epsilon=1e-5 if i % 3 else 0.1), [shape, *affine]


def linear_cases():
    for i, (x, outputs) in enumerate([
        ((1, 1), 1), ((1, 3), 2), ((2, 1), 5), ((3, 4), 1), ((5, 7), 3), ((8, 16), 4), ((17, 5), 9), ((2, 33), 3), ((3, 2), 40),
        ((2, 3, 4), 5), ((1, 2, 3, 4), 2), ((4, 1, 6), 3), ((31, 3), 2), ((3, 31), 2), ((16, 16), 16), ((6, 10), 7), ((9, 9), 9),
        ((7,), 3), ((1,), 1), ((5, 50), 6), ((2, 2, 2), 2),
    ]):  # fmt: skip
        bias = [] if i % 3 == 2 else [(outputs,)]
        yield dict(relu=i % 2 == 1), [x, (outputs, x[-1]), *bias]


FLAT = [(1,), (2,), (3,), (7,), (8,), (15,), (16,), (17,), (33,), (100,), (1, 1), (2, 3), (5, 7), (4, 16), (3, 33)]
FLAT += [(2, 3, 4), (1, 5, 1), (2, 1, 3, 2), (1, 2, 3, 4), (2, 2, 2, 2, 2), (129,)]


def flat_cases(**options):
    for shape in FLAT:
        yield options, [shape]


def log_softmax_cases():
    for i, shape in enumerate(FLAT):
        yield dict(dim=i % len(shape), scale=4), [shape]


def upsample_cases():
    sizes = [((1, 1), (1, 1)), ((1, 1), (3, 2)), ((2, 2), (4, 4)), ((3, 5), (6, 10)), ((4, 3), (4, 3)), ((5, 4), (7, 9)), ((6, 7), (3, 4))]
    sizes += [((2, 3), (1, 1)), ((3, 2), (9, 6)), ((7, 1), (14, 2)), ((1, 8), (2, 13))]
    for i, (size, to) in enumerate(sizes * 2):
        yield dict(size=list(to), align_corners=i >= len(sizes)), [(1 + i % 2, 1 + i % 3, *size)]


def group_norm_cases():
    for i, (shape, groups) in enumerate([
        ((1, 2), 1), ((2, 4), 2), ((3, 6), 3), ((1, 4, 3), 4), ((2, 6, 5), 2), ((3, 2, 1), 1), ((1, 1, 2, 2), 1), ((2, 3, 4, 4), 3),
        ((1, 4, 5, 3), 2), ((2, 8, 2, 2), 4), ((3, 4, 1, 5), 1), ((1, 6, 7, 1), 3), ((2, 2, 3, 9), 2), ((1, 33, 2, 1), 11),
        ((4, 4, 3, 2), 2), ((1, 16, 3, 3), 8), ((5, 2, 2, 3), 1), ((2, 5, 3, 4), 5), ((1, 2, 8, 8), 2), ((2, 4, 2, 3, 2), 2), ((17, 2, 3), 1),
    ]):  # fmt: skip
        yield dict(groups=groups, epsilon=1e-5 if i % 3 else 0.1), [shape, (shape[1],), (shape[1],)]


def recurrent_cases(gates, states):
    """Input, weights of input and hidden state and their biases by layer and direction, first states."""
    for examples, steps, features, hidden, layers, directions in [
        (1, 1, 1, 1, 1, 1), (1, 4, 3, 5, 1, 1), (2, 1, 3, 4, 1, 1), (3, 5, 2, 7, 1, 1), (5, 2, 4, 3, 1, 2), (2, 3, 1, 17, 1, 1),
        (1, 6, 5, 9, 1, 2), (4, 4, 4, 4, 2, 1), (2, 5, 3, 6, 2, 2), (3, 2, 6, 19, 1, 1), (7, 3, 2, 2, 1, 1), (1, 2, 8, 33, 1, 1),
        (9, 1, 1, 3, 1, 2), (2, 7, 2, 5, 2, 1), (1, 3, 17, 1, 1, 1), (6, 2, 3, 8, 1, 1), (17, 2, 2, 3, 1, 1), (1, 9, 1, 2, 2, 2),
        (3, 3, 3, 3, 1, 2), (2, 2, 9, 16, 1, 1), (1, 1, 4, 11, 2, 1),
    ]:  # fmt: skip
        shapes = [(examples, steps, features)]
        for layer in range(layers):
            columns = hidden * directions if layer else features
            rows = gates * hidden
            shapes += [(rows, columns), (rows, hidden), (rows,), (rows,)] * directions
        yield dict(layers=layers, directions=directions), shapes + [(layers * directions, examples, hidden)] * states


def pair(size):
    return list(size) if isinstance(size, tuple) else [size, size]


def results(op, options, inputs):
    import torch
    import torch.nn.functional as F

    x, *rest = inputs
    weight, bias = (rest + [None, None])[:2]
    o = {name: option for name, option in options.items() if name != "scale"}
    if op == "conv2d":
        relu = o.pop("relu")
        y = F.conv2d(x, weight, bias, **o)
        return F.relu(y) if relu else y
    if op == "conv_transpose2d":
        return F.conv_transpose2d(x, weight, bias, **o)
    if op == "max_pool2d":
        return F.max_pool2d(x, **o)
    if op == "avg_pool2d":
        return F.avg_pool2d(x, **o)
    if op == "adaptive_avg_pool2d":
        return F.adaptive_avg_pool2d(x, o["output_size"])
    if op in ("batch_norm", "batch_norm_inference"):
        channels = x.shape[1]
        statistics = (numbers((channels,), 50), numbers((channels,), 51) + 1.5)
        y = F.batch_norm(x, *statistics, weight, bias, training=op == "batch_norm", eps=o["epsilon"])
        return F.relu(y) if o["relu"] else y
    if op == "layer_norm":
        return F.layer_norm(x, o["normalised"], weight, bias, o["epsilon"])
    if op == "linear":
        y = F.linear(x, weight, bias)
        return F.relu(y) if o["relu"] else y
    if op == "relu":
        return F.relu(x)
    if op == "gelu":
        return F.gelu(x)
    if op == "silu":
        return F.silu(x)
    if op == "log_softmax":
        return F.log_softmax(x, o["dim"])
    if op == "upsample_nearest2d":
        return F.interpolate(x, o["size"], mode="nearest")
    if op == "upsample_bilinear2d":
        return F.interpolate(x, o["size"], mode="bilinear", align_corners=o["align_corners"])
    if op == "group_norm":
        return F.group_norm(x, o["groups"], weight, bias, o["epsilon"])
    if op in RECURRENT:
        count = 4 * o["layers"] * o["directions"]
        parameters, states = rest[:count], rest[count:]
        state = tuple(states) if op == "lstm" else states[0]
        # Biases, layers, dropout, training, both directions, the batch first.
        y = getattr(torch, op)(x, state, parameters, True, o["layers"], 0.0, True, o["directions"] == 2, True)
        # What every layer ends with counts too.
        return torch.cat([part.flatten() for part in y])
    raise ValueError(op)


RECURRENT = {"rnn_tanh": (1, 1), "rnn_relu": (1, 1), "lstm": (4, 2), "gru": (3, 1)}


CASES = {
    "conv2d": conv2d_cases,
    "conv_transpose2d": conv_transpose2d_cases,
    "max_pool2d": pool_cases,
    "avg_pool2d": avg_pool_cases,
    "adaptive_avg_pool2d": adaptive_cases,
    "batch_norm": batch_norm_cases,
    "batch_norm_inference": batch_norm_cases,
    "layer_norm": layer_norm_cases,
    "linear": linear_cases,
    "relu": flat_cases,
    "gelu": lambda: flat_cases(scale=4),
    "silu": lambda: flat_cases(scale=4),
    "log_softmax": log_softmax_cases,
    "upsample_nearest2d": upsample_cases,
    "upsample_bilinear2d": upsample_cases,
    "group_norm": group_norm_cases,
    **{op: lambda sizes=sizes: recurrent_cases(*sizes) for op, sizes in RECURRENT.items()},
}


def main():
    import torch

    stored, tensors = [], []
    for op, cases in CASES.items():
        for options, shapes in cases():
            scale = options.get("scale", 1)
            inputs = [(scale * numbers(tuple(shape), seed)).requires_grad_() for seed, shape in enumerate(shapes)]
            y = results(op, options, inputs)
            y.backward(numbers(tuple(y.shape), 99))
            stored.append(dict(op=op, options=options, shapes=[list(shape) for shape in shapes], output=list(y.shape)))
            tensors += [y.detach().flatten(), *(x.grad.flatten() for x in inputs)]
    TARGET.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in stored)
    (TARGET / "cases.json").write_text(f"[\n{lines}\n]\n")
    (TARGET / "results.f32").write_bytes(torch.cat(tensors).float().numpy().astype("<f4").tobytes())
    print(f"{len(stored)} cases by PyTorch {torch.__version__}")
    for path in sorted(TARGET.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")

