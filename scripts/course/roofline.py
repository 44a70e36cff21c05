"""What a training step of a model has to do at least, counted from shapes.

`products`: the multiplications and additions of its matrix products and convolutions, forward, and backward for the
weights and, but in the first layer, for the inputs; convolutions as they are defined, whatever an algorithm saves.
`moved`: bytes of f32 that go through memory if no cache keeps anything from one layer to the next: every layer reads
its input and writes its output; backward it reads the output's gradient and its input, and writes the input's
gradient. Biases and activations cost nothing there, as they can be done in passing; a batch norm or a pool is a layer.
"""

from dataclasses import dataclass

NUMBER = 4


@dataclass(frozen=True)
class Layer:
    """Of one example: multiply-adds of the forward pass, numbers of the input and of the output; parameters in all."""

    multiply_adds: int
    inputs: int
    outputs: int
    parameters: int
    first: bool = False  # nothing asks for the gradient of its input


@dataclass(frozen=True)
class Work:
    products: float  # floating-point operations per example
    moved: float  # bytes per example
    moved_once: float  # bytes per step, whatever the batch: parameters, their gradients, the optimizer's state


def linear(inputs, outputs, first=False):
    return Layer(inputs * outputs, inputs, outputs, (inputs + 1) * outputs, first)


def conv(inputs, outputs, side, kernel=3, first=False):
    """Stride 1, as large as its input."""
    pixels = side * side
    return Layer(kernel * kernel * inputs * outputs * pixels, inputs * pixels, outputs * pixels, (kernel * kernel * inputs + 1) * outputs, first)


def enlarge(inputs, outputs, side):
    """A transposed convolution from `side` to twice that, kernel and stride 2."""
    pixels = side * side
    return Layer(4 * inputs * outputs * pixels, inputs * pixels, 4 * outputs * pixels, (4 * inputs + 1) * outputs)


def norm(channels, side):
    return Layer(0, channels * side * side, channels * side * side, 2 * channels)


def pool(channels, side):
    """From `side` to half of it."""
    return Layer(0, channels * side * side, channels * side * side // 4, 0)


def conv_norm(inputs, outputs, side, first=False):
    return [conv(inputs, outputs, side, first=first), norm(outputs, side)]


def gru(inputs, hidden, steps):
    """The inputs' share of the gates, then the states' step by step; the first state is given and has no gradient."""
    gates = 3 * hidden
    share = Layer(steps * inputs * gates, steps * inputs, steps * gates, (inputs + 1) * gates, first=True)
    step = Layer(hidden * gates, gates + hidden, hidden, 0, first=True)
    rest = Layer((steps - 1) * step.multiply_adds, (steps - 1) * step.inputs, (steps - 1) * hidden, (hidden + 1) * gates)
    return [share, step, rest]


def unet(side):
    layers = []
    for i, (inputs, outputs) in enumerate([(4, 16), (16, 32), (32, 64)]):
        layers += conv_norm(inputs, outputs, side >> i, first=not i) + conv_norm(outputs, outputs, side >> i)
        layers += [pool(outputs, side >> i)] if i < 2 else []
    for i, (inputs, outputs) in enumerate([(64, 32), (32, 16)]):
        at = side >> (1 - i)
        joined = Layer(0, 2 * outputs * at * at, 2 * outputs * at * at, 0)
        layers += [enlarge(inputs, outputs, at // 2), joined, *conv_norm(2 * outputs, outputs, at), *conv_norm(outputs, outputs, at)]
    return [*layers, conv(16, 5, side, kernel=1)]


def cifar():
    layers, inputs = [], 3
    for i, outputs in enumerate([32, 32, 64, 64, 128, 128]):
        side = 32 >> (i // 2)
        layers += conv_norm(inputs, outputs, side, first=not i) + ([pool(outputs, side)] if i % 2 else [])
        inputs = outputs
    return [*layers, linear(2048, 256), linear(256, 10)]


MODELS = {
    "mlp": [linear(784, 128, first=True), linear(128, 64), linear(64, 10)],
    "mnist": [conv(1, 32, 28, first=True), pool(32, 28), conv(32, 64, 14), pool(64, 14), linear(3136, 128), linear(128, 10)],
    "cifar": cifar(),
    "unet": unet(64),
    "gru": [*gru(32, 64, 50), linear(64, 10)],
}


def work(model):
    """Of a step of `model`, one of `MODELS`."""
    layers = MODELS[model]
    products = sum(2 * layer.multiply_adds * (2 if layer.first else 3) for layer in layers)
    numbers = sum((2 if layer.first else 3) * layer.inputs + 2 * layer.outputs for layer in layers)
    # Both passes read a parameter and the second writes its gradient. Then the optimizer reads both and its own
    # numbers, one with momentum and two for AdamW, and writes all but the gradient.
    state = 1 if model == "cifar" else 2
    each = 3 + (2 + state) + (1 + state)
    return Work(products, NUMBER * numbers, NUMBER * each * sum(layer.parameters for layer in layers))
