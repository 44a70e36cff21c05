"""Values and gradients of the losses, computed by PyTorch and torchvision in f64.

Inputs are multiples of 1/64, exact in f32 and f64, so that one oracle serves both. Where PyTorch
has no such loss, or its own form rounds a small value away, the definition is written out here.
"""

import json
import math

import torch
import torch.nn.functional as F
import torchvision

torch.set_default_dtype(torch.float64)


def exact(shape, generator, scale=3.0):
    return torch.round(torch.randn(shape, generator=generator) * scale * 64) / 64


def flat(tensor):
    return [float(f"{x:.17g}") for x in tensor.detach().flatten().tolist()]


def short(tensor):
    return [int(x) if float(x).is_integer() else x for x in tensor.detach().flatten().tolist()]


class Writer:
    def __init__(self):
        self.cases = []

    def add(self, loss, name, options, predictions, targets, function, smooth=True, by_hand=None):
        """One case; `smooth` says whether finite differences may be taken at its inputs.

        `by_hand` is the gradient where PyTorch's is NaN, or an arbitrary slope at a kink.
        """
        predictions = predictions.clone().requires_grad_(True)
        value = function(predictions, targets)
        outer = torch.cos(torch.arange(value.numel(), dtype=torch.float64)).reshape(value.shape)
        outer = outer if value.dim() else torch.tensor(1.0)
        (gradient,) = torch.autograd.grad((value * outer).sum(), predictions, allow_unused=True)
        gradient = torch.zeros_like(predictions) if gradient is None else gradient
        gradient = gradient if by_hand is None else by_hand
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all(), (loss, name)
        self.cases.append({
            "loss": loss,
            "case": name,
            "options": options,
            "smooth": smooth,
            "shape": list(predictions.shape),
            "predictions": short(predictions),
            "target_shape": list(targets.shape),
            "target_kind": "real" if targets.is_floating_point() else "class",
            "targets": short(targets),
            "value_shape": list(value.shape),
            "value": flat(value),
            "gradient": flat(gradient),
        })


def reduce(losses, reduction):
    return {"mean": losses.mean(), "sum": losses.sum(), "none": losses}[reduction]


def regression(writer, generator):
    shapes = [(1,), (7,), (2, 3), (4, 1), (2, 3, 4), (2, 1, 3, 3), (30,)]
    losses = {
        "mse": ([{}], lambda p, t, r: F.mse_loss(p, t, reduction=r)),
        "mae": ([{}], lambda p, t, r: F.l1_loss(p, t, reduction=r)),
        "huber": ([{}, {"delta": 0.5}], lambda p, t, r, delta=1.0: F.huber_loss(p, t, reduction=r, delta=delta)),
        "smooth_l1": ([{}, {"beta": 0.25}], lambda p, t, r, beta=1.0: F.smooth_l1_loss(p, t, reduction=r, beta=beta)),
        "log_cosh": ([{}], lambda p, t, r: reduce(torch.logaddexp(p - t, t - p) - math.log(2.0), r)),
        "quantile": ([{"quantile": 0.9}, {"quantile": 0.25}],
                     lambda p, t, r, quantile: reduce(torch.where(t > p, quantile * (t - p), (quantile - 1) * (t - p)), r)),
    }
    for loss, (variants, function) in losses.items():
        for i, shape in enumerate(shapes):
            options = variants[i % len(variants)]
            for reduction in ["mean"] if i else ["mean", "sum"]:
                p, t = exact(shape, generator), exact(shape, generator) + 1 / 128  # off every kink
                call = lambda p, t, r=reduction, o=options: function(p, t, r, **o)
                writer.add(loss, f"{shape} {reduction}", {**options, "reduction": reduction}, p, t, call)
        p, t = exact((2, 5), generator), exact((2, 5), generator)
        writer.add(loss, "not reduced", {**variants[0], "reduction": "none"}, p, t,
                   lambda p, t: function(p, t, "none", **variants[0]))
        p = torch.tensor([1e4, -1e4, 3.0])
        writer.add(loss, "extreme", variants[0], p, torch.zeros(3), lambda p, t: function(p, t, "mean", **variants[0]), False)
        p = exact((4,), generator)
        writer.add(loss, "perfect", variants[0], p, p.clone(), lambda p, t: function(p, t, "mean", **variants[0]), False, torch.zeros(4))
    for i, shape in enumerate(shapes + [(1, 1), (3, 3), (40,)]):
        writer.add("rmse", str(shape), {}, exact(shape, generator), exact(shape, generator), lambda p, t: F.mse_loss(p, t).sqrt())
    writer.add("rmse", "extreme", {}, torch.tensor([1e4, -1e4, 3.0]), torch.zeros(3), lambda p, t: F.mse_loss(p, t).sqrt(), False)
    p = exact((4,), generator)
    writer.add("rmse", "perfect", {}, p, p.clone(), lambda p, t: F.mse_loss(p, t).sqrt(), False, torch.zeros(4))


def binary_entropy(x, y, positive=1.0):
    """Binary cross-entropy without a difference: PyTorch's max(x, 0) − x y cancels for sure and right logits."""
    return -positive * y * F.logsigmoid(x) - (1 - y) * F.logsigmoid(-x)


def binary(writer, generator):
    shapes = [(1,), (9,), (4, 3), (2, 1, 3, 3), (2, 3, 2, 2), (5, 1)]
    edges = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0, 30.0, -30.0, 17.0])
    edge_targets = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    bce = F.binary_cross_entropy_with_logits
    for shape in shapes:
        x, y = exact(shape, generator), (torch.rand(shape, generator=generator) < 0.4).double()
        for reduction in ("mean", "sum", "none") if shape == (4, 3) else ("mean",):
            writer.add("bce", f"{shape} {reduction}", {"reduction": reduction}, x, y, lambda x, y, r=reduction: bce(x, y, reduction=r))
        writer.add("bce", f"{shape} positive weight", {"pos_weight": [3.5]}, x, y,
                   lambda x, y: bce(x, y, pos_weight=torch.tensor([3.5])))
    x, y = exact((3, 2), generator), torch.round(torch.rand((3, 2), generator=generator) * 64) / 64
    writer.add("bce", "soft targets", {}, x, y, bce)
    writer.add("bce", "a weight per label", {"pos_weight": [0.5, 4.0]}, x, y, lambda x, y: bce(x, y, pos_weight=torch.tensor([0.5, 4.0])))
    w = torch.tensor([0.5, 2.0])
    writer.add("bce", "weights", {"weights": [0.5, 2.0]}, x, y, lambda x, y: bce(x, y, weight=w))
    torch.testing.assert_close(binary_entropy(x, y, 3.5).mean(), bce(x, y, pos_weight=torch.tensor([3.5])))
    writer.add("bce", "edges", {"reduction": "none"}, edges, edge_targets, binary_entropy, False)
    writer.add("bce", "perfect", {}, edges[:2], edge_targets[:2], bce, False)
    for size in (8.0, 12.0, 20.0, 80.0):
        for y in (0.0, 1.0):
            x = torch.tensor([size if y else -size])
            writer.add("bce", f"sure and right, {x.item()}", {}, x, torch.tensor([y]), lambda x, y: binary_entropy(x, y).mean(), False)
            writer.add("bce", f"sure and right, {x.item()}, positive weight", {"pos_weight": [3.5]}, x, torch.tensor([y]),
                       lambda x, y: binary_entropy(x, y, 3.5).mean(), False)

    def hinge(x, y, squared=False, reduction="mean"):
        margin = torch.clamp(1 - (2 * y - 1) * x, min=0)
        return reduce(margin**2 if squared else margin, reduction)

    for squared in (False, True):
        for shape in shapes:
            x, y = exact(shape, generator, 1.0), (torch.rand(shape, generator=generator) < 0.5).double()
            writer.add("hinge", f"{shape} squared={squared}", {"squared": squared}, x, y,
                       lambda x, y, s=squared: hinge(x, y, s))
        writer.add("hinge", f"edges squared={squared}", {"squared": squared, "reduction": "none"}, edges, edge_targets,
                   lambda x, y, s=squared: hinge(x, y, s, "none"), False)

    focal = torchvision.ops.sigmoid_focal_loss
    for shape in shapes:
        x, y = exact(shape, generator), (torch.rand(shape, generator=generator) < 0.4).double()
        for alpha, gamma in ((0.25, 2.0), (0.75, 1.5)):
            writer.add("binary_focal", f"{shape} {alpha} {gamma}", {"alpha": alpha, "gamma": gamma}, x, y,
                       lambda x, y, a=alpha, g=gamma: focal(x, y, a, g, reduction="mean"))
    writer.add("binary_focal", "no alpha", {"alpha": None, "gamma": 2.0, "reduction": "none"}, x, y,
               lambda x, y: focal(x, y, -1, 2.0, reduction="none"))
    writer.add("binary_focal", "gamma 0", {"alpha": None, "gamma": 0.0}, x, y, lambda x, y: focal(x, y, -1, 0.0, reduction="mean"))
    # torchvision's 1 − p_t rounds to 0 beyond logits of 37; the definition in logarithms does not.
    writer.add("binary_focal", "edges", {"alpha": None, "gamma": 2.0, "reduction": "none"}, edges, edge_targets,
               lambda x, y: torch.exp(2 * F.logsigmoid((1 - 2 * y) * x)) * -F.logsigmoid((2 * y - 1) * x), False)
    writer.add("binary_focal", "edges, gamma one half", {"alpha": None, "gamma": 0.5, "reduction": "none"}, edges, edge_targets,
               lambda x, y: torch.exp(0.5 * F.logsigmoid((1 - 2 * y) * x)) * -F.logsigmoid((2 * y - 1) * x), False)


CLASS_SHAPES = [(1, 2), (1, 5), (6, 3), (17, 4), (2, 3, 5), (1, 4, 1), (2, 3, 4, 3), (1, 2, 5, 5), (3, 6, 2, 2)]


def class_case(shape, generator, ignored=None, absent=None):
    x = exact(shape, generator)
    target_shape = (shape[0], *shape[2:])
    t = torch.randint(0, shape[1], target_shape, generator=generator)
    if absent is not None:
        t[t == absent] = (absent + 1) % shape[1]
    if ignored is not None:
        t[torch.rand(target_shape, generator=generator) < 0.3] = ignored
    return x, t


def class_edges():
    x = torch.tensor([[1e4, 0.0, 0.0], [1e4, 0.0, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 0.0], [30.0, 0.0, 1.0], [5.0, 5.0, -1e4]])
    return x, torch.tensor([0, 1, 1, 2, 0, 1])


def log_odds(x, label):
    """ln(p / (1 − p)) of the label: ln p = logsigmoid of it keeps what log-softmax rounds away near p = 1."""
    others = x.masked_fill(F.one_hot(label, x.shape[1]).movedim(-1, 1).bool(), -torch.inf)
    return x.gather(1, label.unsqueeze(1)).squeeze(1) - torch.logsumexp(others, 1)


def right_and_sure(labels):
    """Logits of one position whose leader is the target, in every place: at rest 0, at `gap` the leader."""
    for gap in (10.0, 20.0, 60.0):
        for label in range(labels):
            x = torch.zeros((1, labels))
            x[0, label] = gap
            yield gap, label, x, torch.tensor([label])


def cross_entropy(writer, generator):
    ce = F.cross_entropy
    for shape in CLASS_SHAPES:
        weights = torch.round(torch.rand(shape[1], generator=generator) * 64 + 1) / 32
        x, t = class_case(shape, generator)
        writer.add("cross_entropy", f"{shape}", {}, x, t, ce)
        writer.add("cross_entropy", f"{shape} sum, weighted", {"class_weights": weights.tolist(), "reduction": "sum"}, x, t,
                   lambda x, t: ce(x, t, weight=weights, reduction="sum"))
        options = {"class_weights": weights.tolist(), "label_smoothing": 0.1, "ignore_index": 255}
        if shape[0] * math.prod(shape[2:]) > 4:
            x, t = class_case(shape, generator, ignored=255, absent=0)
            writer.add("cross_entropy", f"{shape} all options", options, x, t,
                       lambda x, t: ce(x, t, weight=weights, label_smoothing=0.1, ignore_index=255))
            writer.add("cross_entropy", f"{shape} not reduced", {"label_smoothing": 0.3, "ignore_index": 255, "reduction": "none"},
                       x, t, lambda x, t: ce(x, t, label_smoothing=0.3, ignore_index=255, reduction="none"))
        q = torch.round(torch.softmax(exact(shape, generator, 1.0), 1) * 4096) / 4096
        q[:, 0] = 1 - q[:, 1:].sum(1)
        writer.add("cross_entropy", f"{shape} soft", {}, x, q, ce)
        writer.add("cross_entropy", f"{shape} soft, weighted, smoothed", {"class_weights": weights.tolist(), "label_smoothing": 0.2}, x, q,
                   lambda x, q: ce(x, q, weight=weights, label_smoothing=0.2))
    x, t = class_edges()
    entropy = lambda x, t: -F.logsigmoid(log_odds(x, t))
    torch.testing.assert_close(entropy(x, t), ce(x, t, reduction="none"))
    writer.add("cross_entropy", "edges", {"reduction": "none"}, x, t, entropy, False)
    writer.add("cross_entropy", "edges, smoothed", {"reduction": "none", "label_smoothing": 0.1}, x, t,
               lambda x, t: ce(x, t, reduction="none", label_smoothing=0.1), False)
    writer.add("cross_entropy", "perfect", {}, x[:1], t[:1], ce, False)
    for gap, label, x, t in right_and_sure(3):
        writer.add("cross_entropy", f"class {label} leads by {gap}", {}, x, t, lambda x, t: entropy(x, t).mean(), False)
        writer.add("cross_entropy", f"class {label} leads by {gap}, weighted", {"class_weights": [0.5, 1.0, 2.0], "reduction": "sum"}, x, t,
                   lambda x, t: (torch.tensor([0.5, 1.0, 2.0])[t] * entropy(x, t)).sum(), False)
        writer.add("cross_entropy", f"class {label} leads by {gap}, soft", {}, x, F.one_hot(t, 3).double(),
                   lambda x, q, t=t: entropy(x, t).mean(), False)
        writer.add("cross_entropy", f"class {label} leads by {gap}, smoothed", {"label_smoothing": 0.1}, x, t,
                   lambda x, t: ce(x, t, label_smoothing=0.1), False)
    everything = torch.full((2, 3), 255)
    writer.add("cross_entropy", "everything ignored", {"ignore_index": 255}, exact((2, 4, 3), generator), everything,
               lambda x, t: (x * 0).sum())

    for shape in CLASS_SHAPES:
        x, t = class_case(shape, generator)
        x = torch.round(torch.log_softmax(x, 1) * 64) / 64 - 1 / 64
        weights = torch.round(torch.rand(shape[1], generator=generator) * 64 + 1) / 32
        writer.add("nll", f"{shape}", {}, x, t, F.nll_loss)
        writer.add("nll", f"{shape} weighted", {"class_weights": weights.tolist()}, x, t, lambda x, t: F.nll_loss(x, t, weight=weights))
    t = t.clone()
    t[0] = 255
    writer.add("nll", "ignored", {"ignore_index": 255, "reduction": "none"}, x, t,
               lambda x, t: F.nll_loss(x, t, ignore_index=255, reduction="none"))
    writer.add("nll", "everything ignored", {"ignore_index": 255}, x, torch.full_like(t, 255), lambda x, t: (x * 0).sum())
    x, t = class_case((2, 3, 5), generator, absent=1)
    x = torch.round(torch.log_softmax(x, 1) * 64) / 64 - 1 / 64
    writer.add("nll", "one class absent", {"class_weights": [0.5, 1.0, 2.0]}, x, t,
               lambda x, t: F.nll_loss(x, t, weight=torch.tensor([0.5, 1.0, 2.0])))
    x, t = torch.tensor([[0.0, -1e4, -1e4], [-1e4, 0.0, -1e4]]), torch.tensor([0, 1])
    writer.add("nll", "perfect", {}, x, t, F.nll_loss, False)
    writer.add("nll", "certain and wrong", {}, x, 1 - t, F.nll_loss, False)

    for shape in CLASS_SHAPES + [(4, 4)]:
        x = torch.round(torch.log_softmax(exact(shape, generator), 1) * 64) / 64 - 1 / 64
        q = torch.round(torch.softmax(exact(shape, generator, 1.0), 1) * 4096) / 4096
        for reduction in ("mean", "sum", "none") if shape == (6, 3) else ("mean",):
            name = "batchmean" if reduction == "mean" else reduction
            writer.add("kl", f"{shape} {reduction}", {"reduction": reduction}, x, q, lambda x, q, r=name: F.kl_div(x, q, reduction=r))
    q = torch.tensor([[0.0, 1.0, 0.0]])
    writer.add("kl", "a certain target", {}, torch.tensor([[-1e4, -0.5, -3.0]]), q, lambda x, q: F.kl_div(x, q, reduction="batchmean"), False)
    writer.add("kl", "perfect", {}, torch.tensor([[-1e4, 0.0, -1e4]]), q, lambda x, q: F.kl_div(x, q, reduction="batchmean"), False)
    writer.add("kl", "certain and wrong", {}, torch.tensor([[0.0, -1e4, -1e4]]), q, lambda x, q: F.kl_div(x, q, reduction="batchmean"), False)

    def focal(x, t, gamma, alpha=None, ignored=None, reduction="mean"):
        label = torch.where(t == ignored, 0, t) if ignored is not None else t
        odds = log_odds(x, label)
        losses = -torch.exp(gamma * F.logsigmoid(-odds)) * F.logsigmoid(odds)
        if alpha is not None:
            losses = losses * alpha[label]
        if ignored is not None:
            losses = losses * (t != ignored)
            return losses.sum() / (t != ignored).sum() if reduction == "mean" else reduce(losses, reduction)
        return reduce(losses, reduction)

    for shape in CLASS_SHAPES:
        alpha = torch.round(torch.rand(shape[1], generator=generator) * 64 + 1) / 64
        x, t = class_case(shape, generator)
        writer.add("focal", f"{shape}", {"gamma": 2.0}, x, t, lambda x, t: focal(x, t, 2.0))
        writer.add("focal", f"{shape} alpha", {"gamma": 0.5, "alpha": alpha.tolist(), "reduction": "sum"}, x, t,
                   lambda x, t: focal(x, t, 0.5, alpha, reduction="sum"))
    x, t = class_case((2, 3, 4, 3), generator, ignored=255)
    alpha = torch.tensor([0.25, 1.0, 2.0])
    writer.add("focal", "ignored", {"gamma": 2.0, "alpha": alpha.tolist(), "ignore_index": 255}, x, t,
               lambda x, t: focal(x, t, 2.0, alpha, ignored=255))
    writer.add("focal", "everything ignored", {"gamma": 2.0, "ignore_index": 255}, x, torch.full_like(t, 255), lambda x, t: (x * 0).sum())
    x, t = class_case((2, 3, 5), generator, absent=1)
    writer.add("focal", "one class absent", {"gamma": 2.0, "alpha": alpha.tolist()}, x, t, lambda x, t: focal(x, t, 2.0, alpha))
    for gap, label, x, t in right_and_sure(3):
        for gamma in (1.0, 0.5):
            writer.add("focal", f"class {label} leads by {gap}, gamma {gamma}", {"gamma": gamma}, x, t, lambda x, t: focal(x, t, gamma), False)
    x, t = class_edges()
    for gamma in (2.0, 0.5):
        writer.add("focal", f"edges {gamma}", {"gamma": gamma, "reduction": "none"}, x[3:5], t[3:5],
                   lambda x, t: focal(x, t, gamma, reduction="none"), False)
    writer.add("focal", "gamma 0 is cross-entropy", {"gamma": 0.0}, x, t, lambda x, t: F.cross_entropy(x, t), False)
    writer.add("focal", "certain and wrong", {"gamma": 2.0}, x[1:2], t[1:2], lambda x, t: F.cross_entropy(x, t), False)
    writer.add("focal", "certain and right", {"gamma": 0.5}, x[:1], t[:1], lambda x, t: (x * 0).sum(), False)


def masks(x, t, ignored):
    """Probabilities, truth and counted pixels as [N, C, M], of any accepted input."""
    if x.dim() == t.dim() + 1 and x.shape[1] > 1:
        n, c = x.shape[:2]
        counted = (t != ignored) if ignored is not None else torch.ones_like(t, dtype=torch.bool)
        truth = F.one_hot(torch.where(counted, t, 0), c).movedim(-1, 1).double()
        p = torch.softmax(x, 1)
        return p.reshape(n, c, -1), truth.reshape(n, c, -1), counted.reshape(n, 1, -1).expand(n, c, -1).double()
    t = t.double().reshape(x.shape)
    counted = (t != ignored).double() if ignored is not None else torch.ones_like(t)
    n, c = x.shape[0], x.shape[1] if x.dim() == 4 else 1
    return tuple(v.reshape(n, c, -1) for v in (torch.sigmoid(x), torch.where(counted > 0, t, 0.0), counted))


def per_class(x, t, ratio, over="batch", classes="all", ignored=None):
    p, truth, counted = masks(x, t, ignored)
    p = p * counted
    groups = [(p[i:i + 1], truth[i:i + 1] * counted[i:i + 1]) for i in range(p.shape[0])] if over == "image" else [(p, truth * counted)]
    means = []
    for p, truth in groups:
        chosen = [c for c in range(p.shape[1]) if classes == "all" or truth[:, c].sum() > 0]
        if chosen:
            means.append(torch.stack([ratio(p[:, c], truth[:, c]) for c in chosen]).mean())
    return torch.stack(means).mean() if means else (x * 0).sum()


def region(writer, generator):
    def dice(p, t, smooth=1.0, squared=False):
        bottom = (p**2).sum() + (t**2).sum() if squared else p.sum() + t.sum()
        return 1 - (2 * (p * t).sum() + smooth) / (bottom + smooth)

    def tversky(p, t, alpha=0.3, beta=0.7, smooth=1.0):
        tp, fp, fn = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
        return 1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)

    ratios = {
        "dice": dice,
        "iou": lambda p, t, smooth=1.0: 1 - ((p * t).sum() + smooth) / (p.sum() + t.sum() - (p * t).sum() + smooth),
        "tversky": tversky,
        "focal_tversky": lambda p, t, gamma=0.75, **o: tversky(p, t, **o) ** gamma,
    }
    extra = {
        "dice": [{}, {"squared": True}, {"smooth": 0.0}],
        "iou": [{}, {"smooth": 0.0}, {"smooth": 0.125}],
        "tversky": [{}, {"alpha": 0.5, "beta": 0.5, "smooth": 0.0}, {"alpha": 1.0, "beta": 2.0}],
        "focal_tversky": [{}, {"gamma": 1.5}, {"alpha": 0.2, "beta": 0.8, "gamma": 0.5}],
    }
    for loss, ratio in ratios.items():
        def add(name, options, x, t, over="batch", classes="all", ignored=None, smooth=True, by_hand=None):
            call = lambda x, t: per_class(x, t, lambda p, q: ratio(p, q, **options), over, classes, ignored)
            named = {**options, "over": over, "classes": classes}
            if ignored is not None:
                named["ignore_index"] = ignored
            writer.add(loss, name, named, x, t, call, smooth, by_hand)

        for i, options in enumerate(extra[loss]):
            add(f"classes {i}", options, *class_case((2, 3, 4, 3), generator))
            add(f"batch of one {i}", options, *class_case((1, 2, 7), generator))
            x, t = class_case((3, 4, 3, 2), generator, ignored=255, absent=1)
            add(f"per image, present, ignored {i}", options, x, t, over="image", classes="present", ignored=255)
            x = exact((2, 1, 3, 3), generator)
            add(f"mask {i}", options, x, (torch.rand((2, 3, 3), generator=generator) < 0.3).double())
            x = exact((2, 3, 4), generator)
            add(f"mask of the same shape, per image {i}", options, x, (torch.rand((2, 3, 4), generator=generator) < 0.5).double(), over="image")
            x = exact((2, 3, 2, 2), generator)
            add(f"labels {i}", options, x, (torch.rand((2, 3, 2, 2), generator=generator) < 0.5).double())
        x, t = class_case((2, 3, 5), generator, absent=2)
        add("one class absent", {}, x, t)
        x, t = class_case((2, 3, 2, 2), generator)
        add("everything ignored", {}, x, torch.full_like(t, 255), ignored=255, classes="present")
        sure = (F.one_hot(t, 3).movedim(-1, 1) * 20000.0 - 10000.0)
        add("perfect", {}, sure, t, smooth=False, by_hand=torch.zeros_like(sure))
        add("certain and wrong", {}, -sure, t, smooth=False)

    def generalised(x, t, over="batch", ignored=None):
        p, truth, counted = masks(x, t, ignored)
        p, truth = p * counted, truth * counted
        losses = []
        for i in [slice(None)] if over == "batch" else [slice(n, n + 1) for n in range(p.shape[0])]:
            totals = truth[i].sum((0, 2))
            w = torch.where(totals > 0, 1 / totals**2, 0.0)
            if totals.sum() > 0:
                losses.append(1 - 2 * (w * (p[i] * truth[i]).sum((0, 2))).sum() / (w * (p[i] + truth[i]).sum((0, 2))).sum())
        return torch.stack(losses).mean() if losses else (x * 0).sum()

    for shape in CLASS_SHAPES[2:]:
        x, t = class_case(shape, generator, ignored=255)
        for over in ("batch", "image"):
            writer.add("generalised_dice", f"{shape} {over}", {"over": over, "ignore_index": 255}, x, t,
                       lambda x, t, o=over: generalised(x, t, o, 255))
    writer.add("generalised_dice", "everything ignored", {"ignore_index": 255}, x, torch.full_like(t, 255), lambda x, t: generalised(x, t, "batch", 255))
    x, t = class_case((2, 3, 5), generator, absent=2)
    for over in ("batch", "image"):
        writer.add("generalised_dice", f"one class absent, {over}", {"over": over}, x, t, lambda x, t, o=over: generalised(x, t, o))
    x, t = exact((2, 1, 3, 3), generator), (torch.rand((2, 3, 3), generator=generator) < 0.3).double()
    writer.add("generalised_dice", "mask", {}, x, t, generalised)
    x, t = exact((2, 3, 2, 2), generator), (torch.rand((2, 3, 2, 2), generator=generator) < 0.5).double()
    writer.add("generalised_dice", "labels, per image", {"over": "image"}, x, t, lambda x, t: generalised(x, t, "image"))
    writer.add("generalised_dice", "certain mask", {}, torch.where(t > 0, 1e4, -1e4), t, generalised, False)
    x, t = class_case((2, 3, 2, 2), generator)
    sure = (F.one_hot(t, 3).movedim(-1, 1) * 20000.0 - 10000.0)
    writer.add("generalised_dice", "perfect", {}, sure, t, generalised, False)
    writer.add("generalised_dice", "certain and wrong", {}, -sure, t, generalised, False)


def jaccard_loss(chosen, truth):
    """1 − IoU of the prediction that errs exactly at the `chosen` pixels, by counting sets."""
    intersection = sum(1 for i, positive in enumerate(truth) if positive and i not in chosen)
    union = sum(truth) + sum(1 for i in chosen if not truth[i])
    return 0.0 if not chosen else 1.0 - (intersection / union if union else 1.0)


def lovasz_extension(errors, truth):
    """Σ eᵢ (Δ({1..i}) − Δ({1..i−1})) over falling errors: the definition, with the sets counted anew."""
    order = sorted(range(len(truth)), key=lambda i: -errors[i].item())
    total, chosen, before = 0.0, set(), 0.0
    for i in order:
        chosen.add(i)
        after = jaccard_loss(chosen, truth)
        total = total + errors[i] * (after - before)
        before = after
    return total


def distance_to_kinks(errors):
    """How far the errors are from a tie with each other, or with 0, below which they are clipped."""
    errors = errors.detach()
    positive = errors[errors > 0].sort().values
    return min([1.0, *errors.abs().tolist(), *positive.diff().tolist()])


def lovasz(writer, generator):
    distances = []

    def add(*arguments):
        distances.clear()
        writer.add(*arguments, smooth=False)
        writer.cases[-1]["smooth"] = min(distances, default=1.0) > 1e-4

    def softmax_loss(x, t, over="batch", classes="present", ignored=None):
        p, truth, counted = masks(x, t, ignored)
        groups = [slice(None)] if over == "batch" else [slice(n, n + 1) for n in range(p.shape[0])]
        total = (x * 0).sum()
        for group in groups:
            values = []
            for c in range(p.shape[1]):
                keep = counted[group][:, c].flatten() > 0
                q, y = p[group][:, c].flatten()[keep], truth[group][:, c].flatten()[keep]
                if len(q) and (classes == "all" or y.sum() > 0):
                    errors = (y - q).abs()
                    distances.append(distance_to_kinks(errors))
                    values.append(lovasz_extension(errors, y.bool().tolist()))
            if values:
                total = total + sum(values) / len(values) / len(groups)
        return total

    for shape in CLASS_SHAPES[1:]:
        x, t = class_case(shape, generator)
        add("lovasz_softmax", f"{shape}", {}, x, t, softmax_loss)
        x, t = class_case(shape, generator, ignored=255, absent=1)
        for over in ("batch", "image"):
            for classes in ("present", "all"):
                add("lovasz_softmax", f"{shape} {over} {classes}", {"over": over, "classes": classes, "ignore_index": 255}, x, t,
                           lambda x, t, o=over, c=classes: softmax_loss(x, t, o, c, 255))
    x, t = class_case((2, 3, 2, 2), generator)
    sure = (F.one_hot(t, 3).movedim(-1, 1) * 20000.0 - 10000.0)
    add("lovasz_softmax", "perfect", {}, sure, t, softmax_loss)
    add("lovasz_softmax", "certain and wrong", {}, -sure, t, softmax_loss)
    add("lovasz_softmax", "everything ignored", {"ignore_index": 255}, x, torch.full_like(t, 255), lambda x, t: softmax_loss(x, t, ignored=255))

    def hinge_loss(x, t, over="batch", ignored=None):
        t = t.double().reshape(x.shape[0], -1)
        x = x.reshape(x.shape[0], -1)
        groups = [slice(None)] if over == "batch" else [slice(n, n + 1) for n in range(x.shape[0])]
        total = (x * 0).sum()
        for group in groups:
            logits, y = x[group].flatten(), t[group].flatten()
            keep = y != ignored if ignored is not None else torch.ones_like(y, dtype=torch.bool)
            logits, y = logits[keep], y[keep]
            if len(y):
                errors = 1 - (2 * y - 1) * logits
                distances.append(distance_to_kinks(errors))
                total = total + lovasz_extension(F.relu(errors), y.bool().tolist()) / len(groups)
        return total

    for shape in [(1, 1), (1, 9), (3, 4), (2, 1, 3, 3), (2, 3, 4), (1, 1, 5, 5)]:
        x = exact(shape, generator, 1.0) + torch.arange(math.prod(shape)).reshape(shape) / 4096
        t = (torch.rand(shape, generator=generator) < 0.4).long()
        for over in ("batch", "image"):
            add("lovasz_hinge", f"{shape} {over}", {"over": over}, x, t, lambda x, t, o=over: hinge_loss(x, t, o))
    t[..., 0] = 255
    add("lovasz_hinge", "ignored", {"ignore_index": 255}, x, t, lambda x, t: hinge_loss(x, t, ignored=255))
    add("lovasz_hinge", "no positive", {}, x, torch.zeros_like(t), hinge_loss)
    x, t = torch.tensor([[1e4, -8e3, 6e3, -5e3]]), torch.tensor([[1, 0, 1, 0]])
    add("lovasz_hinge", "perfect", {}, x, t, hinge_loss)
    add("lovasz_hinge", "certain and wrong", {}, x, 1 - t, hinge_loss)
    add("lovasz_hinge", "certain, half wrong", {}, x, torch.tensor([[1, 0, 0, 1]]), hinge_loss)
    add("lovasz_hinge", "everything ignored", {"ignore_index": 255}, x, torch.full_like(t, 255), lambda x, t: hinge_loss(x, t, ignored=255))


def write(folder):
    for name, parts in {"regression": [regression], "binary": [binary], "classes": [cross_entropy], "segmentation": [region, lovasz]}.items():
        writer, generator = Writer(), torch.Generator().manual_seed(5)
        for part in parts:
            part(writer, generator)
        path = folder / f"{name}.json"
        path.write_text("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in writer.cases) + "\n]\n")
        print(f"{path}: {len(writer.cases)} cases, {path.stat().st_size // 1024} kB")
