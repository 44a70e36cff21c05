#!/usr/bin/env python3
"""Training steps of bench_train's models by JAX on XLA's CPU, for `scripts/bench train --peers jax`.

JAX in its usual best setting: the whole step, optimizer included, is one compiled function that gives its buffers
away; channels last in memory; f32. The weights are PyTorch's, by PyTorch's names, from FOLDER/start.safetensors.

`jax_training.py check MODEL FOLDER` takes three steps on the batch of that file and prints their losses;
`jax_training.py serve MODEL FOLDER` is the counterpart of benches/train.rs.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
if threads := os.environ.get("RAYON_NUM_THREADS"):
    os.environ["NPROC"] = threads  # the size of XLA's pool

import bench_train  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy  # noqa: E402
from jax import lax  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

STATISTICS = ("running_mean", "running_var")
# Linear layers that follow a `Flatten`: channels, height and width of what they flatten.
FLATTENED = {"mnist": ("7.weight", (64, 7, 7)), "cifar": ("10.weight", (128, 4, 4))}


def channels_last(model, weights):
    """PyTorch's weights with the layouts of this module: HWIO, [inputs, outputs], and columns of pixels by channel."""
    weights = {name: weight for name, weight in weights.items() if not name.endswith("num_batches_tracked")}
    if model in FLATTENED:
        name, sizes = FLATTENED[model]
        weights[name] = weights[name].reshape(-1, *sizes).transpose(0, 2, 3, 1).reshape(weights[name].shape)
    for name, weight in weights.items():
        if name.startswith("enlarge."):
            weights[name] = weight if weight.ndim == 1 else weight.transpose(0, 2, 3, 1)
        elif weight.ndim == 4:
            weights[name] = weight.transpose(2, 3, 1, 0)
        elif weight.ndim == 2:
            weights[name] = weight.T
    return {name: jnp.array(weight) for name, weight in weights.items()}


def linear(weights, name, xs):
    return xs @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def conv(weights, name, xs):
    layouts = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(xs, weights[f"{name}.weight"], (1, 1), "SAME", dimension_numbers=layouts) + weights[f"{name}.bias"]


def enlarge(weights, name, xs):
    """A transposed convolution whose stride is its kernel's size, 2: every pixel becomes a square of its own."""
    n, height, width, _ = xs.shape
    ys = jnp.einsum("nhwc,cijo->nhiwjo", xs, weights[f"{name}.weight"])
    return ys.reshape(n, 2 * height, 2 * width, -1) + weights[f"{name}.bias"]


def max_pool(xs):
    return lax.reduce_window(xs, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def conv_norm(weights, seen, name, xs):
    """Convolution, batch norm, ReLU; the new running statistics go into `seen`."""
    ys = conv(weights, f"{name}.0", xs)
    mean, variance = ys.mean((0, 1, 2)), ys.var((0, 1, 2))
    count = ys.size / ys.shape[-1]
    for statistic, value in zip(STATISTICS, (mean, variance * (count / (count - 1)))):
        key = f"{name}.1.{statistic}"
        seen[key] = 0.9 * weights[key] + 0.1 * lax.stop_gradient(value)
    scale = weights[f"{name}.1.weight"] * lax.rsqrt(variance + 1e-5)
    return jax.nn.relu((ys - mean) * scale + weights[f"{name}.1.bias"])


def mlp(weights, seen, xs):
    return linear(weights, "4", jax.nn.relu(linear(weights, "2", jax.nn.relu(linear(weights, "0", xs)))))


def mnist(weights, seen, xs):
    for name in ("0", "3"):
        xs = max_pool(jax.nn.relu(conv(weights, name, xs)))
    return linear(weights, "9", jax.nn.relu(linear(weights, "7", xs.reshape(xs.shape[0], -1))))


def cifar(weights, seen, xs):
    for first, second in (("0", "1"), ("3", "4"), ("6", "7")):
        xs = max_pool(conv_norm(weights, seen, second, conv_norm(weights, seen, first, xs)))
    return linear(weights, "12", jax.nn.relu(linear(weights, "10", xs.reshape(xs.shape[0], -1))))


def unet(weights, seen, xs):
    def twice(name, xs):
        return conv_norm(weights, seen, f"{name}.1", conv_norm(weights, seen, f"{name}.0", xs))

    first = twice("down.0", xs)
    second = twice("down.1", max_pool(first))
    low = twice("bottom", max_pool(second))
    low = twice("up.0", jnp.concatenate([second, enlarge(weights, "enlarge.0", low)], -1))
    low = twice("up.1", jnp.concatenate([first, enlarge(weights, "enlarge.1", low)], -1))
    return conv(weights, "head", low)


def gru(weights, seen, xs):
    """The inputs' share of every gate at once, then step by step."""
    shares = xs.swapaxes(0, 1) @ weights["gru.weight_ih_l0"] + weights["gru.bias_ih_l0"]

    def step(state, share):
        recurrent = state @ weights["gru.weight_hh_l0"] + weights["gru.bias_hh_l0"]
        (reset, update, new), (by_reset, by_update, by_new) = jnp.split(share, 3, -1), jnp.split(recurrent, 3, -1)
        update = jax.nn.sigmoid(update + by_update)
        new = jnp.tanh(new + jax.nn.sigmoid(reset + by_reset) * by_new)
        return (1 - update) * new + update * state, None

    last, _ = lax.scan(step, jnp.zeros((xs.shape[0], 64)), shares)
    return linear(weights, "head", last)


FORWARD = {"mlp": mlp, "mnist": mnist, "cifar": cifar, "unet": unet, "gru": gru}


def adamw(weights, gradients, first, second, steps):
    """PyTorch's: learning rate 1e-3, weight decay 0.01."""
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    rate, root = 1e-3 / (1 - 0.9**steps), jnp.sqrt(1 - 0.999**steps)
    change = lambda w, m, v: w * (1 - 1e-3 * 0.01) - rate * m / (jnp.sqrt(v) / root + 1e-8)  # noqa: E731
    return jax.tree.map(change, weights, first, second), first, second


def sgd(weights, gradients, velocities, unused, steps):
    """Learning rate 0.01, momentum 0.9."""
    velocities = jax.tree.map(lambda v, g: 0.9 * v + g, velocities, gradients)
    return jax.tree.map(lambda w, v: w - 0.01 * v, weights, velocities), velocities, unused


def training(model, weights, xs, ys):
    """A function that takes a training step from PyTorch's `weights` on PyTorch's batch, and returns the loss."""
    optimize, forward = (sgd if model == "cifar" else adamw), FORWARD[model]
    weights = channels_last(model, weights)
    seen = {name: weights.pop(name) for name in list(weights) if name.endswith(STATISTICS)}
    xs, ys = jnp.array(xs.transpose(0, 2, 3, 1) if xs.ndim == 4 else xs), jnp.array(ys, jnp.int32)

    def loss(weights, seen, xs, ys):
        new = {}
        logits = forward(weights | seen, new, xs)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), ys[..., None], -1)
        return -chosen.mean(), new

    def step(state, xs, ys):
        weights, seen, first, second, steps = state
        (value, seen), gradients = jax.value_and_grad(loss, has_aux=True)(weights, seen, xs, ys)
        weights, first, second = optimize(weights, gradients, first, second, steps)
        return (weights, seen, first, second, steps + 1), value

    compiled = jax.jit(step, donate_argnums=0)
    state = [(weights, seen, jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights), jnp.float32(1))]

    def advance():
        state[0], value = compiled(state[0], xs, ys)
        return value

    return advance


def main():
    task, model, folder = sys.argv[1:]
    start = load_file(pathlib.Path(folder) / "start.safetensors")
    xs, ys = start.pop("xs"), start.pop("ys")
    if task == "check":
        step = training(model, start, xs, ys)
        return print(*(step().item() for _ in range(3)))

    def at(batch, precision):
        random = numpy.random.default_rng(0)
        shape, targets, classes = bench_train.sizes(model, batch)
        return training(model, start, random.standard_normal(shape, numpy.float32), random.integers(0, classes, targets))

    bench_train.serve(model, at)


if __name__ == "__main__":
    main()
