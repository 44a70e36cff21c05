"""The real TensorBoard reads the event files that the crate writes."""

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

import pytest
from conftest import PROJECT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray
from test_browser import page, wait_for  # noqa: F401

RUNS = {"low-rate": 0.01, "high-rate": 0.1}
ALL = dict.fromkeys(["scalars", "tensors", "images", "histograms", "compressedHistograms"], 0)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The two runs of the example program `write_events`."""
    folder = tmp_path_factory.mktemp("runs")
    command = ["cargo", "run", "--quiet", "--locked", "--example", "write_events", "--", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=1200)
    return folder


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
