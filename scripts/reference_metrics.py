"""Values of the metrics, computed by scikit-learn, torchmetrics and torchvision."""

import json
import warnings

import numpy as np
import sklearn.metrics as sk
import torch
import torchmetrics
import torchvision
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_specificity

warnings.filterwarnings("ignore")


def number(x):
    x = float(x)
    return None if np.isnan(x) else x


def averages(function):
    return {"macro": number(function("macro")), "micro": number(function("micro")), "weighted": number(function("weighted"))}


def classification(generator):
    cases = []
    settings = [(2, 20, 0), (2, 200, 0), (3, 50, 0), (5, 100, 1), (4, 30, 2), (10, 500, 0), (7, 12, 0), (3, 1000, 1), (2, 5, 0), (6, 80, 3)]
    for classes, n, absent in settings:
        y = generator.integers(0, classes - absent, n)
        p = np.where(generator.random(n) < 0.6, y, generator.integers(0, classes - absent // 2, n))
        if absent == 3:
            p[p == 0] = 1  # a class that occurs and is never predicted
        beta = float(generator.choice([0.5, 2.0]))
        case = {"classes": classes, "targets": y.tolist(), "predicted": p.tolist(), "beta": beta}
        case["rows"] = sk.confusion_matrix(y, p, labels=range(classes)).tolist()
        case["accuracy"] = sk.accuracy_score(y, p)
        case["balanced_accuracy"] = sk.balanced_accuracy_score(y, p)
        case["cohen_kappa"] = number(sk.cohen_kappa_score(y, p))
        case["matthews"] = sk.matthews_corrcoef(y, p)
        for name, zero in (("zero", 0), ("skip", np.nan)):
            case[name] = {
                "precision": averages(lambda a: sk.precision_score(y, p, average=a, zero_division=zero)),
                "recall": averages(lambda a: sk.recall_score(y, p, average=a, zero_division=zero)),
                "f_beta": averages(lambda a: sk.fbeta_score(y, p, beta=beta, average=a, zero_division=zero)),
                "f1": averages(lambda a: sk.f1_score(y, p, average=a, zero_division=zero)),
            }
        case["iou"] = averages(lambda a: sk.jaccard_score(y, p, average=a, zero_division=0))
        present = sorted(set(y) | set(p))
        case["per_class"] = {
            "labels": [int(c) for c in present],
            "precision": sk.precision_score(y, p, average=None, labels=present, zero_division=0).tolist(),
            "recall": sk.recall_score(y, p, average=None, labels=present, zero_division=0).tolist(),
            "iou": sk.jaccard_score(y, p, average=None, labels=present, zero_division=0).tolist(),
        }
        specificity = multiclass_specificity(torch.tensor(p), torch.tensor(y), classes, average=None)
        case["per_class"]["specificity"] = [float(specificity[c]) for c in present]
        scores = np.round(generator.normal(size=(n, classes)) * 64) / 64 + 2 * np.eye(classes)[y]
        scores = scores + np.arange(classes) / 1024  # no ties: scikit-learn and this crate break them differently
        case["scores"] = scores.flatten().tolist()
        case["top_k"] = [sk.top_k_accuracy_score(y, scores if classes > 2 else scores[:, 1] - scores[:, 0], k=k, labels=range(classes)) for k in (1, 2)]
        cases.append(case)
    return cases


def curves(generator):
    cases = []
    for n, share, kind in [(4, 0.5, "fine"), (10, 0.3, "ties"), (60, 0.5, "fine"), (60, 0.1, "ties"), (200, 0.02, "fine"),
                           (50, 0.9, "ties"), (30, 0.5, "one score"), (100, 0.5, "perfect"), (100, 0.5, "inverted"), (40, 0.5, "double"), (2, 0.5, "fine")]:
        y = (generator.random(n) < share).astype(int)
        y[0], y[1] = 0, 1
        x = generator.normal(size=n) + y
        x = {"ties": np.round(x), "one score": np.zeros(n), "perfect": y * 2.0 - 1, "inverted": 1.0 - y, "double": x}.get(kind, np.round(x * 64) / 64)
        fpr, tpr, thresholds = sk.roc_curve(y, x, drop_intermediate=False)
        precision, recall, pr_thresholds = sk.precision_recall_curve(y, x)
        cases.append({
            "case": f"{n} {kind}", "scores": x.tolist(), "targets": y.tolist(), "auc": sk.roc_auc_score(y, x),
            "fpr": fpr.tolist(), "tpr": tpr.tolist(), "thresholds": thresholds[1:].tolist(),
            "average_precision": sk.average_precision_score(y, x),
            "precision": precision.tolist(), "recall": recall.tolist(), "pr_thresholds": pr_thresholds.tolist(),
        })
    return cases


def probabilities(generator):
    cases = []
    for classes, n, sharpness in [(2, 30, 1.0), (3, 60, 2.0), (5, 100, 0.5), (10, 120, 3.0), (4, 40, 8.0), (2, 6, 1.0),
                                  (3, 9, 1.0), (6, 200, 1.5), (3, 30, 0.1), (8, 64, 1.0)]:
        y = np.concatenate([np.arange(classes), generator.integers(0, classes, n - classes)])
        z = sharpness * (generator.normal(size=(n, classes)) + np.eye(classes)[y])
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        p[:, 0] = 1 - p[:, 1:].sum(1)
        p = np.clip(p, 0, 1)
        case = {"classes": classes, "probabilities": p.flatten().tolist(), "targets": y.tolist(), "log_loss": sk.log_loss(y, p, labels=range(classes))}
        case["calibration"] = {str(bins): float(multiclass_calibration_error(torch.tensor(p), torch.tensor(y), classes, n_bins=bins, norm="l1")) for bins in (5, 15)}
        onehot = np.eye(classes)[y]
        case["one_vs_rest"] = {a: sk.roc_auc_score(onehot, p, average=a) for a in ("macro", "weighted", "micro")}
        cases.append(case)
    return cases


def regression(generator):
    cases = []
    for n, scale, offset in [(2, 1, 0), (5, 1, 0), (20, 1, 0), (100, 10, 0), (50, 0.01, 1000), (30, 1000, -5), (3, 1, 1), (64, 1, 1e6), (10, 5, 2), (200, 1, 0)]:
        y = generator.normal(size=n) * scale + offset
        p = y + generator.normal(size=n) * scale * 0.3
        cases.append({
            "targets": y.tolist(), "predictions": p.tolist(), "mean_squared_error": sk.mean_squared_error(y, p),
            "root_mean_squared_error": sk.root_mean_squared_error(y, p), "mean_absolute_error": sk.mean_absolute_error(y, p),
            "maximum_error": sk.max_error(y, p), "r2": sk.r2_score(y, p),
            "mean_absolute_percentage_error": sk.mean_absolute_percentage_error(y, p),
        })
    return cases


def random_boxes(generator, n):
    corner = generator.random((n, 2)) * 80
    return np.round(np.concatenate([corner, corner + 4 + generator.random((n, 2)) * 40], 1) * 4) / 4


def boxes(generator):
    cases = []
    for a, b in [(1, 1), (3, 4), (6, 2), (8, 8)]:
        first, second = random_boxes(generator, a), random_boxes(generator, b)
        cases.append({
            "a": first.tolist(), "b": second.tolist(),
            "area": torchvision.ops.box_area(torch.tensor(first)).tolist(),
            "iou": torchvision.ops.box_iou(torch.tensor(first), torch.tensor(second)).tolist(),
            "generalized": torchvision.ops.generalized_box_iou(torch.tensor(first), torch.tensor(second)).tolist(),
        })
    return cases


def detection(generator):
    cases = []
    for images, classes, most, noise in [(1, 1, 3, 1.0), (4, 1, 5, 2.0), (6, 3, 6, 3.0), (10, 2, 8, 1.0), (3, 4, 2, 6.0),
                                         (8, 2, 10, 2.0), (12, 5, 4, 2.0), (2, 2, 120, 1.5), (5, 1, 6, 0.0), (5, 3, 6, 0.5)]:
        metric, recorded = MeanAveragePrecision(iou_type="bbox", class_metrics=True), []
        for _ in range(images):
            m = int(generator.integers(1, most + 1))
            truth, labels = random_boxes(generator, m), generator.integers(0, classes, m)
            keep = generator.random(m) < 0.85
            found = np.concatenate([truth[keep] + np.round(generator.normal(size=(keep.sum(), 4)) * noise * 4) / 4,
                                    random_boxes(generator, int(generator.integers(0, max(2, m // 2))))])
            found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
            found_labels = np.concatenate([labels[keep], generator.integers(0, classes + 1, len(found) - keep.sum())])
            scores = generator.permutation(len(found)) / max(1, len(found)) + generator.random() / 1000
            metric.update([{"boxes": torch.tensor(found), "scores": torch.tensor(scores), "labels": torch.tensor(found_labels)}],
                          [{"boxes": torch.tensor(truth), "labels": torch.tensor(labels)}])
            recorded.append({"truth": truth.tolist(), "labels": labels.tolist(), "found": found.tolist(),
                             "found_labels": found_labels.tolist(), "scores": scores.tolist()})
        result = metric.compute()
        per_class = zip(np.atleast_1d(result["classes"].numpy()).tolist(), np.atleast_1d(result["map_per_class"].numpy()).tolist())
        cases.append({"images": recorded, "map": float(result["map"]), "map_50": float(result["map_50"]),
                      "map_75": float(result["map_75"]), "per_class": [[c, v] for c, v in per_class if v >= 0]})
    return cases


def write(folder):
    for name, function in {"classification": classification, "curves": curves, "probabilities": probabilities,
                           "regression": regression, "boxes": boxes, "detection": detection}.items():
        cases = function(np.random.default_rng(11))
        path = folder / f"{name}.json"
        path.write_text("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")
        print(f"{path}: {len(cases)} cases, {path.stat().st_size // 1024} kB")
