"""The real TensorBoard reads the event files that the crate writes."""

import io
import json
import math
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray
from test_browser import page, wait_for  # noqa: F401

RUNS = {"low-rate": 0.01, "high-rate": 0.1}
ALL = dict.fromkeys(["scalars", "tensors", "images", "histograms", "compressedHistograms"], 0)


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """What the example program `write_events` writes: two runs to look at, and four more."""
    folders = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("more")
    command = ["cargo", "run", "--quiet", "--locked", "--example", "write_events", "--", *map(str, folders)]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=1200)
    return folders


@pytest.fixture(scope="session")
def runs(written):
    return written[0]


@pytest.fixture
def more(written):
    """Reads one of the other runs."""

    def read(name):
        accumulator = EventAccumulator(str(written[1] / name), size_guidance=ALL)
        accumulator.Reload()
        return accumulator

    return read


@pytest.fixture(params=RUNS)
def run(request, runs):
    accumulator = EventAccumulator(str(runs / request.param), size_guidance=ALL)
    accumulator.Reload()
    return accumulator, RUNS[request.param]


def single(value):
    """The number in single precision."""
    return struct.unpack("f", struct.pack("f", value))[0]


def test_every_scalar_comes_back_as_written(run):
    accumulator, rate = run
    train = accumulator.Scalars("loss/train")
    assert [event.step for event in train] == list(range(200))
    assert all(0 <= event.value - 2.3 * math.exp(-rate * event.step) < 0.0101 for event in train)
    for tag, formula in [("loss/validation", lambda p: 2.3 * p + 0.2), ("accuracy/validation", lambda p: 0.95 - 0.85 * p)]:
        events = accumulator.Scalars(tag)
        assert [event.step for event in events] == list(range(0, 200, 20))
        for event in events:
            assert event.value == pytest.approx(single(formula(math.exp(-rate * event.step))), rel=2e-7)
        assert all(abs(event.wall_time - time.time()) < 3600 for event in events)


def test_histograms_hold_every_value(run):
    accumulator, _ = run
    histograms = accumulator.Histograms("weights/fc1")
    assert [event.step for event in histograms] == list(range(0, 200, 20))
    for event in histograms:
        values = event.histogram_value
        assert values.num == 1000 and sum(values.bucket) == 1000
        assert values.min < 0 < values.max == values.bucket_limit[-1]
        assert abs(values.sum) < 20 and values.sum_squares > 1


def test_a_histogram_of_known_numbers_has_known_buckets(run):
    (event,) = run[0].Histograms("weights/ramp")
    values = event.histogram_value
    assert (values.min, values.max, values.num) == (0, 64, 65 * 66 / 2)
    assert list(values.bucket_limit) == list(range(1, 65))
    assert list(values.bucket) == [*range(1, 64), 64 + 65]
    assert values.sum == sum(k * (k + 1) for k in range(65))
    assert values.sum_squares == sum(k * k * (k + 1) for k in range(65))


def pixels(encoded):
    """`[H, W, C]`, as any program that reads PNG sees them."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)


def test_the_pixels_of_images_are_those_that_were_given(run):
    accumulator, _ = run
    ramp = np.broadcast_to(np.arange(16)[None, :, None] / 15, (16, 16, 3))
    (image,) = accumulator.Images("input/first")
    assert (pixels(image.encoded_image_string) == np.round(255 * ramp)).all()
    (batch,) = accumulator.Tensors("input/batch")
    files = make_ndarray(batch.tensor_proto)[2:]
    for file, expected in zip(files, [ramp, 1 - ramp, ramp**2], strict=True):
        assert abs(pixels(file) - 255 * expected).max() <= 0.51


def test_text_comes_back_word_by_word(run):
    (note,) = run[0].Tensors("notes")
    assert make_ndarray(note.tensor_proto).tolist() == [b"A run with **learning rate** `rate`, made up."]
    assert run[0].SummaryMetadata("notes").plugin_data.plugin_name == "text"


def test_the_confusion_matrix_is_a_picture_with_something_on_it(run):
    (figure,) = run[0].Images("confusion_matrix")
    picture = pixels(figure.encoded_image_string)
    assert picture.shape == (figure.height, figure.width, 3)
    assert min(picture.shape[:2]) > 200
    # White paper, dark text, and fields of other colours.
    assert (picture.min(axis=2) > 250).mean() > 0.2 and (picture.max(axis=2) < 100).any()
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_a_resumed_run_in_two_files_is_one_curve(more, written):
    assert len(list((written[1] / "resumed").iterdir())) == 2
    events = more("resumed").Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(step, 1 if step < 6 else 2) for step in range(12)]


def test_what_a_training_writes_is_its_history(more, written):
    run, history = more("trained"), json.loads((written[1] / "trained" / "history.json").read_text())
    epochs, steps = history["epochs"], history["steps"]
    # The attempt before, of two epochs in the same folder, is superseded.
    assert [record["step"] for record in epochs] == [4, 8, 12]
    expected = {
        "loss/train": [(record["step"], record["train_loss"]) for record in epochs],
        "loss/validation": [(record["step"], record["validation_loss"]) for record in epochs],
        "accuracy/validation": [(record["step"], dict(record["metrics"])["accuracy"]) for record in epochs],
        "step/loss": [(step["step"], step["loss"]) for step in steps if step["step"] % 2 == 0],
        "step/learning_rate": [(step["step"], step["learning_rate"]) for step in steps if step["step"] % 2 == 0],
    }
    for tag, points in expected.items():
        read = [(event.step, event.value) for event in run.Scalars(tag)]
        assert read == [(step, single(value)) for step, value in points], tag
    sizes = {"fc1.weight": 16, "fc1.bias": 8, "fc2.weight": 16, "fc2.bias": 2}
    counts = {f"{kind}/{name}": size for kind in ("weights", "gradients") for name, size in sizes.items()}
    layers = {"0 Linear": 32, "1 Activation": 32, "2 Linear": 8}  # of four examples
    counts |= {f"{kind}/{name}": size for kind in ("activations", "activation_gradients") for name, size in layers.items()}
    assert set(run.Tags()["histograms"]) == set(counts)
    for tag, count in counts.items():
        events = run.Histograms(tag)
        assert [event.step for event in events] == [4, 8, 12], tag
        for event in events:
            assert event.histogram_value.num == sum(event.histogram_value.bucket) == count, tag
    # What relu gives is not negative, and it kills some.
    assert all(event.histogram_value.min == 0 for event in run.Histograms("activations/1 Activation"))


def test_a_training_that_fails_is_marked_so(more):
    def end(name):
        content = more(name).SummaryMetadata("_hparams_/session_end_info").plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content).session_end_info.status

    assert (end("failed"), end("trained")) == (2, 1)
    assert [event.step for event in more("failed").Scalars("step/loss")] == [2, 4]


def test_images_have_their_size_and_are_png(run):
    accumulator, _ = run
    for tag, size in [("input/first", (16, 16)), ("curve", (960, 540))]:
        (image,) = accumulator.Images(tag)
        assert (image.width, image.height) == size
        assert image.encoded_image_string[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", image.encoded_image_string[16:24]) == size
    (batch,) = accumulator.Tensors("input/batch")
    width, height, *files = make_ndarray(batch.tensor_proto)
    assert (width, height) == (b"16", b"16")
    assert len(files) == 3 and all(file[:4] == b"\x89PNG" for file in files)


def test_hyper_parameters_and_layout_are_the_plugins_own_messages(run):
    accumulator, rate = run

    def data(tag):
        return plugin_data_pb2.HParamsPluginData.FromString(accumulator.SummaryMetadata(tag).plugin_data.content)

    start = data("_hparams_/session_start_info").session_start_info.hparams
    assert start["learning_rate"].number_value == rate
    assert start["optimizer"].string_value == "SGD"
    assert start["augmentation"].bool_value == (rate > 0.05)
    assert [info.name.tag for info in data("_hparams_/experiment").experiment.metric_infos] == ["accuracy/validation"]
    assert data("_hparams_/session_end_info").session_end_info.status == 1

    (event,) = accumulator.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(make_ndarray(event.tensor_proto).item())
    charts = layout.category[0].chart
    assert [chart.title for chart in charts] == ["loss", "accuracy"]
    assert list(charts[0].multiline.tag) == ["^loss/train$", "^loss/validation$"]


def test_precision_recall_curve_is_consistent(run):
    accumulator, _ = run
    (event,) = accumulator.Tensors("water")
    tp, fp, tn, fn, precision, recall = make_ndarray(event.tensor_proto)
    assert tp[0] == 100 and fp[0] == 400 and tn[0] == 0 and fn[0] == 0
    assert (tp + fn == 100).all() and (fp + tn == 400).all()
    assert recall == pytest.approx(tp / 100)
    found = tp + fp > 0
    assert precision[found] == pytest.approx((tp / (tp + fp).clip(1))[found])


def test_a_file_cut_at_any_byte_still_reads_up_to_the_cut(runs, tmp_path):
    (source,) = (runs / "low-rate").iterdir()
    content = source.read_bytes()
    whole = list(LegacyEventFileLoader(str(source)).Load())
    cut = tmp_path / "events.out.tfevents.cut"
    lengths = []
    for length in [*range(0, 600), *range(600, len(content), 199), len(content)]:
        cut.write_bytes(content[:length])
        events = list(LegacyEventFileLoader(str(cut)).Load())
        assert events == whole[: len(events)], f"cut at {length}"
        lengths.append(len(events))
    assert lengths == sorted(lengths) and lengths[0] == 0 and lengths[-1] == len(whole) > 200


def test_a_small_file_with_an_image_is_cut_at_every_byte(written, tmp_path):
    (source,) = (written[1] / "small").iterdir()
    content = source.read_bytes()
    assert len(content) < 1500
    # Record by record: length, its checksum, the data, their checksum.
    ends = [0]
    while ends[-1] < len(content):
        ends.append(ends[-1] + 16 + struct.unpack_from("<Q", content, ends[-1])[0])
    whole = list(LegacyEventFileLoader(str(source)).Load())
    assert len(whole) == len(ends) - 1 == 4
    assert whole[2].summary.value[0].image.encoded_image_string.startswith(b"\x89PNG")
    cut = tmp_path / "events.out.tfevents.cut"
    for length in range(len(content) + 1):
        cut.write_bytes(content[:length])
        events = list(LegacyEventFileLoader(str(cut)).Load())
        assert events == whole[: sum(end <= length for end in ends[1:])], f"cut at {length}"


@pytest.fixture
def tensorboard(runs, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, log = f"http://127.0.0.1:{port}", tmp_path / "tensorboard.log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", str(port), "--load_fast=false"]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(f"{address}/data/plugins_listing", server, log)
        wait_until_loaded(address, log)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_until_loaded(address, log):
    for _ in range(120):
        with urllib.request.urlopen(f"{address}/data/runs", timeout=10) as answer:
            if set(json.load(answer)) == set(RUNS):
                return
        time.sleep(0.5)
    raise AssertionError(f"TensorBoard did not load the runs:\n{log.read_text()}")


# page: what it must show when filled, and how often for two runs
PAGES = {
    "scalars": [("tf-scalar-card", 3), ("vz-line-chart2 path.line", 6)],
    "custom_scalars": [("tf-custom-scalar-multi-line-chart-card", 2), ("vz-line-chart2 path.line", 6)],
    "histograms": [("tf-histogram-loader", 2), ("vz-histogram-timeseries path.outline", 10)],
    "images": [("tf-image-loader", 4), ("tf-image-loader img", 4)],
    "text": [("tf-text-loader", 2), ("tf-text-loader strong", 2)],
    "pr_curves": [("tf-pr-curve-card", 1), ("vz-line-chart2 path.line", 2)],
    "hparams": [("tf-hparams-table-view vaadin-grid-cell-content:has-text('SGD')", 2)],
}


def test_the_pages_of_tensorboard_are_filled(tensorboard, page, tmp_path):  # noqa: F811
    screenshots = Path(os.environ.get("CANDLE_COURSE_SCREENSHOTS") or tmp_path)
    screenshots.mkdir(parents=True, exist_ok=True)
    for name, expected in PAGES.items():
        page.goto("about:blank")
        page.goto(f"{tensorboard}/#{name}")
        for selector, count in expected:
            try:
                page.locator(selector).nth(count - 1).wait_for(state="attached", timeout=30_000)
            except Exception as error:
                page.screenshot(path=screenshots / f"tensorboard-{name}-failure.png")
                raise AssertionError(f"{name}: {page.locator(selector).count()} of {count} {selector}") from error
        page.screenshot(path=screenshots / f"tensorboard-{name}.png")
