"""Writes what PyTorch computes for optimizers, schedules, initialisers and recurrent layers.

The tests of `candle_course` compare with the files under `candle_course/tests/data`. `scripts/reference
optim` runs it, `scripts/reference schedules` a part of it.
"""

import pathlib
import random

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
    "rms_prop_momentum": (torch.optim.RMSprop, 0.001, {"momentum": 0.7, "alpha": 0.95, "weight_decay": 0.01, "eps": 0.03}),
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


# --- schedules: 1,000 steps ----------------------------------------------------------------------

BASE = 0.3
S = torch.optim.lr_scheduler

SCHEDULES = {
    "constant": lambda o: S.ConstantLR(o, factor=0.25, total_iters=40),
    "linear": lambda o: S.LinearLR(o, start_factor=0.2, end_factor=0.9, total_iters=700),
    "linear_default": lambda o: S.LinearLR(o),
    "step": lambda o: S.StepLR(o, step_size=150, gamma=0.5),
    "multi_step": lambda o: S.MultiStepLR(o, milestones=[3, 100, 101, 750], gamma=0.3),
    "exponential": lambda o: S.ExponentialLR(o, gamma=0.996),
    "polynomial": lambda o: S.PolynomialLR(o, total_iters=800, power=2.5),
    "cosine": lambda o: S.CosineAnnealingLR(o, T_max=1000, eta_min=0.001),
    "cosine_again": lambda o: S.CosineAnnealingLR(o, T_max=130),
    "restarts": lambda o: S.CosineAnnealingWarmRestarts(o, T_0=90, eta_min=0.002),
    "restarts_longer": lambda o: S.CosineAnnealingWarmRestarts(o, T_0=30, T_mult=2),
    "one_cycle": lambda o: S.OneCycleLR(o, max_lr=BASE, total_steps=1001),
    "one_cycle_linear": lambda o: S.OneCycleLR(o, max_lr=BASE, total_steps=1001, anneal_strategy="linear", pct_start=0.4, div_factor=10, final_div_factor=100, base_momentum=0.8, max_momentum=0.9),
    "one_cycle_three": lambda o: S.OneCycleLR(o, max_lr=BASE, total_steps=1001, three_phase=True, pct_start=0.33),
    "one_cycle_three_linear": lambda o: S.OneCycleLR(o, max_lr=BASE, total_steps=1001, three_phase=True, anneal_strategy="linear"),
    "cyclic": lambda o: S.CyclicLR(o, base_lr=0.01, max_lr=BASE, step_size_up=70),
    "cyclic_halved": lambda o: S.CyclicLR(o, base_lr=0.01, max_lr=BASE, step_size_up=40, step_size_down=110, mode="triangular2", base_momentum=0.8, max_momentum=0.95),
    "cyclic_exponential": lambda o: S.CyclicLR(o, base_lr=0.01, max_lr=BASE, step_size_up=100, mode="exp_range", gamma=0.998),
    "lambda": lambda o: S.LambdaLR(o, lambda t: 1 / (1 + 0.01 * t)),
    "sequential": lambda o: S.SequentialLR(
        o,
        [S.LinearLR(o, start_factor=0.1, total_iters=50), S.CosineAnnealingLR(o, T_max=400), S.ExponentialLR(o, gamma=0.99)],
        milestones=[50, 450],
    ),
    "chained": lambda o: S.ChainedScheduler([S.ConstantLR(o, factor=0.1, total_iters=20), S.StepLR(o, step_size=200, gamma=0.7), S.ExponentialLR(o, gamma=0.999)]),
}

PLATEAUS = {
    "default": {},
    "patient": {"factor": 0.5, "patience": 4, "cooldown": 3},
    "absolute": {"factor": 0.8, "patience": 1, "threshold": 0.05, "threshold_mode": "abs", "min_lr": 0.01},
    "largest": {"mode": "max", "factor": 0.6, "patience": 2, "threshold": 0.01, "cooldown": 1},
    "largest_absolute": {"mode": "max", "factor": 0.9, "patience": 0, "threshold": 0.02, "threshold_mode": "abs", "eps": 0.02},
    "impatient": {"factor": 0.5, "patience": 0, "min_lr": 1e-4},
}


def sgd():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE, momentum=0.9)


def schedules():
    out = {}
    for name, build in SCHEDULES.items():
        optimizer = sgd()
        schedule = build(optimizer)
        rates, momenta = [], []
        for step in range(1001):
            rates.append(optimizer.param_groups[0]["lr"])
            momenta.append(optimizer.param_groups[0]["momentum"])
            optimizer.step()
            if step < 1000:
                schedule.step()
        out[f"{name}/learning_rate"] = torch.tensor(rates, dtype=torch.float64)
        if name.startswith(("one_cycle", "cyclic")):
            out[f"{name}/momentum"] = torch.tensor(momenta, dtype=torch.float64)
    generator = random.Random(23)
    for name, arguments in PLATEAUS.items():
        for sequence in range(3):
            optimizer = sgd()
            schedule = S.ReduceLROnPlateau(optimizer, **arguments)
            # Above 0, where PyTorch's relative threshold means what it says.
            offset, sign = (2.0, -1) if arguments.get("mode") == "max" else (0.0, 1)
            level, metrics, rates = 1.0, [], []
            for _ in range(300):
                # A noisy descent that flattens, with ties.
                level *= generator.choice([1.0, 0.999, 0.99, 0.97])
                metrics.append(round(offset + sign * (level + generator.choice([0, 0, 0.01]) * generator.random()), generator.choice([2, 6])))
                schedule.step(metrics[-1])
                rates.append(optimizer.param_groups[0]["lr"])
            out[f"plateau/{name}/{sequence}/metrics"] = torch.tensor(metrics, dtype=torch.float64)
            out[f"plateau/{name}/{sequence}/learning_rate"] = torch.tensor(rates, dtype=torch.float64)
    path = DATA / "schedules" / "reference.safetensors"
    save_file(out, path)
    print(f"{path}: {len(out)} tensors, {path.stat().st_size} bytes")


# --- recurrent layers and group norm -------------------------------------------------------------


def nn():
    out = {}
    torch.manual_seed(31)

    def record(case, module, xs, call):
        module = module.double()
        xs.requires_grad_()
        outputs = call(module, xs)
        weights = torch.randn_like(outputs["output"])
        (outputs["output"] * weights).sum().backward()
        values = {"xs": xs, "weights": weights, "gradient.xs": xs.grad, **outputs}
        values.update({f"state.{name}": value for name, value in module.state_dict().items()})
        values.update({f"gradient.{name}": value.grad for name, value in module.named_parameters()})
        out.update({f"{case}/{name}": value.detach().clone().contiguous() for name, value in values.items()})

    def recurrent(module, xs):
        output, state = module(xs)
        if isinstance(state, tuple):
            return {"output": output, "hidden": state[0], "cell": state[1]}
        return {"output": output, "hidden": state}

    def inputs(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    deep = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    for case, module in {
        "rnn": torch.nn.RNN(3, 4, batch_first=True),
        "rnn_relu": torch.nn.RNN(3, 4, nonlinearity="relu", batch_first=True),
        "lstm": torch.nn.LSTM(3, 4, batch_first=True),
        "gru": torch.nn.GRU(3, 4, batch_first=True),
        "lstm_deep": torch.nn.LSTM(3, 4, **deep),
        "gru_deep": torch.nn.GRU(3, 4, **deep),
    }.items():
        record(case, module, inputs(2, 5, 3), recurrent)
    norm = torch.nn.GroupNorm(2, 4)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    record("group_norm", norm, inputs(3, 4, 2, 3), lambda module, xs: {"output": module(xs)})
    path = DATA / "nn" / "recurrent.safetensors"
    save_file(out, path)
    print(f"{path}: {len(out)} tensors, {path.stat().st_size} bytes")


# --- whole networks: weights and logits ----------------------------------------------------------


def networks():
    N = torch.nn
    torch.manual_seed(43)

    class Named(N.Sequential):
        def __init__(self, **layers):
            super().__init__()
            for name, layer in layers.items():
                self.add_module(name, layer)

    mlp = Named(fc1=N.Linear(784, 16), relu=N.ReLU(), fc2=N.Linear(16, 10))
    cnn = Named(
        conv1=N.Conv2d(3, 4, 3, padding=1, bias=False),
        norm1=N.BatchNorm2d(4),
        relu1=N.ReLU(),
        pool1=N.MaxPool2d(2),
        conv2=N.Conv2d(4, 6, 3, padding=1, bias=False),
        norm2=N.BatchNorm2d(6),
        relu2=N.ReLU(),
        pool2=N.MaxPool2d(2),
        flatten=N.Flatten(),
        fc=N.Linear(24, 10),
    )
    for name, module, shape in [("mlp", mlp, (2, 784)), ("cnn", cnn, (4, 3, 8, 8))]:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        # A few steps, so that running statistics, scales and shifts are not those of the start.
        for _ in range(5):
            optimizer.zero_grad()
            N.functional.cross_entropy(module(torch.randn(16, *shape[1:])), torch.randint(10, (16,))).backward()
            optimizer.step()
        module.eval()
        xs = torch.randn(shape)
        out = {f"state.{key}": value for key, value in module.state_dict().items()}
        path = DATA / "nn" / f"pytorch_{name}.safetensors"
        save_file({**out, "xs": xs, "logits": module(xs).detach()}, path)
        print(f"{path}: {path.stat().st_size} bytes")


# --- files that torch.save writes ------------------------------------------------------------------


class Net(torch.nn.Module):
    """What a `state_dict` holds besides weights: flags, whole numbers, a buffer that is not saved."""

    def __init__(self, features=3):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(2, features, 3), torch.nn.BatchNorm2d(features))
        self.head = torch.nn.Linear(features, 2)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("index", torch.tensor([[-7, 3]], dtype=torch.int32))
        self.register_buffer("scratch", torch.zeros(5), persistent=False)


def checkpoints():
    torch.manual_seed(41)
    folder = DATA / "checkpoints"
    folder.mkdir(exist_ok=True)
    net, other = Net(), Net(4)
    optimizer = torch.optim.AdamW(net.parameters())
    sum(parameter.sum() for parameter in net.parameters()).backward()
    optimizer.step()
    state = net.state_dict()
    training = {"epoch": 3, "optimizer_state_dict": optimizer.state_dict(), "best": torch.tensor(0.5), "rng_state": torch.get_rng_state()}
    base = torch.arange(24.0).reshape(4, 6)
    views = {"transposed": base.t(), "rows": base[1:3], "column": base[:, 2], "every_other": base[::2, 1::2], "scalar": base[3, 5], "none": base[:0], "same": base[1:3]}
    numbers = {str(dtype).removeprefix("torch."): torch.tensor([[0, 1], [100, 3]]).to(dtype) for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64)}
    numbers["int8"] = torch.tensor([[-128, 1], [100, 3]], dtype=torch.int8)
    files = {
        "flat": state,
        "nested": {**training, "model_state_dict": state},
        "state_dict": {"arch": "net", "state_dict": state, "scheduler": {"last_epoch": 3}},
        "deeper": {"checkpoint": {"weights": state, "step": 7}},
        "module": net,
        "module_inside": {"epoch": 3, "model": net, "args": None},
        "two": {"generator": state, "discriminator": other.state_dict()},
        "model_and_average": {"model": state, "ema": other.state_dict()},
        "nothing": {"epoch": 3, "names": ["a", "b"], "optimizer": optimizer.state_dict()},
        "views": views,
        "numbers": numbers,
        "complex": {"spectrum": torch.ones(2, dtype=torch.complex64)},
    }
    for name, what in files.items():
        torch.save(what, folder / f"{name}.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(Net()), folder / "script.pt")
    save_file({name: tensor.contiguous() for name, tensor in numbers.items()}, folder / "numbers.safetensors")
    wide = {name: tensor.contiguous().clone() for name, tensor in {**state, **views}.items()}
    wide = {name: tensor.to(torch.float64 if tensor.is_floating_point() else torch.int64) for name, tensor in wide.items()}
    save_file(wide, folder / "expected.safetensors")
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir())} bytes")


PARTS = {"optimizers": optimizers, "schedules": schedules, "nn": nn, "networks": networks, "checkpoints": checkpoints}
