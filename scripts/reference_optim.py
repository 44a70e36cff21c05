#!/usr/bin/env python3
"""Writes what PyTorch computes for optimizers, schedules, initialisers and recurrent layers.

The tests of `candle_course` compare with the files under `candle_course/tests/data`. Give parts
(optimizers, schedules, nn) to write only those.
"""

import json
import math
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import reference_environment

reference_environment.enter()

import torch
from safetensors.torch import save_file

DATA = pathlib.Path(__file__).resolve().parent.parent / "candle_course" / "tests" / "data"
torch.set_num_threads(1)


# --- optimizers: 200 steps on three problems -----------------------------------------------------


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of Chen et al. 2023, which PyTorch does not have."""

    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                direction = torch.sign(beta1 * m + (1 - beta1) * p.grad)
                p.sub_(group["lr"] * (direction + group["weight_decay"] * p))
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, 0.05, {}),
    "sgd_decay": (torch.optim.SGD, 0.05, {"weight_decay": 0.1}),
    "sgd_momentum": (torch.optim.SGD, 0.02, {"momentum": 0.9}),
    "sgd_dampening": (torch.optim.SGD, 0.02, {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}),
    "sgd_nesterov": (torch.optim.SGD, 0.02, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, 0.01, {}),
    "adam_decay": (torch.optim.Adam, 0.01, {"weight_decay": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}),
    "adam_amsgrad": (torch.optim.Adam, 0.01, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, 0.01, {}),
    "adamw_amsgrad": (torch.optim.AdamW, 0.01, {"amsgrad": True, "weight_decay": 0.1}),
    "adamw_groups": (torch.optim.AdamW, 0.01, {"weight_decay": 0.1}),
    "rms_prop": (torch.optim.RMSprop, 0.005, {}),
    "rms_prop_momentum": (torch.optim.RMSprop, 0.0003, {"momentum": 0.9, "alpha": 0.95, "weight_decay": 0.01, "eps": 1e-3}),
    "rms_prop_centered": (torch.optim.RMSprop, 0.005, {"centered": True, "eps": 1e-3}),
    "rms_prop_all": (torch.optim.RMSprop, 0.001, {"centered": True, "momentum": 0.5, "eps": 1e-3}),
    "adagrad": (torch.optim.Adagrad, 0.1, {}),
    "adagrad_decay": (torch.optim.Adagrad, 0.1, {"lr_decay": 0.01, "weight_decay": 0.01, "initial_accumulator_value": 0.2}),
    "lion": (Lion, 0.001, {"weight_decay": 0.1}),
}


def problems():
    """Name, initial parameters, constants and loss of each problem, in f64."""
    generator = torch.Generator().manual_seed(17)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def quadratic(p, c):
        return 0.5 * (c["a"] * (p["w"] - c["center"]) ** 2).sum()

    def logistic(p, c):
        margin = c["sign"] * (c["x"] @ p["fc.weight"].T + p["fc.bias"])
        return torch.log(1 + torch.exp(-margin)).mean()

    def mlp(p, c):
        hidden = torch.tanh(c["x"] @ p["fc1.weight"].T + p["fc1.bias"])
        return ((hidden @ p["fc2.weight"].T + p["fc2.bias"] - c["y"]) ** 2).mean()

    yield "quadratic", {"w": normal(6)}, {"a": torch.logspace(-1, 1, 6, dtype=torch.float64), "center": normal(6)}, quadratic
    yield "logistic", {"fc.weight": normal(1, 3), "fc.bias": normal(1)}, {"x": normal(16, 3), "sign": torch.sign(normal(16, 1))}, logistic
    yield (
        "mlp",
        {"fc1.weight": normal(5, 3), "fc1.bias": normal(5), "fc2.weight": normal(2, 5), "fc2.bias": normal(2)},
        {"x": normal(12, 3), "y": normal(12, 2)},
        mlp,
    )


def groups(parameters, lr, arguments):
    """No decay for vectors; a tenth of the rate for `fc1`."""
    result = []
    for name, p in parameters.items():
        factor = 0.1 if name.startswith("fc1") else 1.0
        decay = 0.0 if p.dim() <= 1 else arguments["weight_decay"]
        result.append({"params": [p], "lr": lr * factor, "factor": factor, "weight_decay": decay})
    return result


def optimizers():
    out = {}
    for problem, initial, constants, loss in problems():
        for kind, values in [("initial", initial), ("constant", constants)]:
            out.update({f"{problem}/{kind}/{name}": value.float() for name, value in values.items()})
        for dtype in (torch.float32, torch.float64):
            # From f32 values, so that both precisions start at the same point.
            fixed = {name: value.float().to(dtype) for name, value in constants.items()}
            for config, (build, lr, arguments) in OPTIMIZERS.items():
                p = {name: value.float().to(dtype).requires_grad_() for name, value in initial.items()}
                grouped = groups(p, lr, arguments) if config.endswith("groups") else list(p.values())
                optimizer = build(grouped, lr=lr, **arguments)
                for step in range(200):
                    for group in optimizer.param_groups:
                        group["lr"] = lr * 0.995**step * group.get("factor", 1.0)
                    optimizer.zero_grad()
                    loss(p, fixed).backward()
                    optimizer.step()
                prefix = f"{problem}/{config}/{'f32' if dtype == torch.float32 else 'f64'}"
                for name, value in p.items():
                    out[f"{prefix}/{name}"] = value.detach().clone()
                    for slot, state in optimizer.state[value].items():
                        if slot != "step" and state is not None:
                            out[f"{prefix}/{name}.{slot}"] = state.clone()
    path = DATA / "optimizers" / "reference.safetensors"
    save_file(out, path)
    print(f"{path}: {len(out)} tensors, {path.stat().st_size} bytes")


PARTS = {"optimizers": optimizers}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
