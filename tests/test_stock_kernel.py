"""The notebooks on an evcxr as anybody has it: no launcher, no prebuilt folder, no settings."""

import json
import os

import pytest
from conftest import SETUP
from course import evcxr, execute
from test_kernel import CANARY, written


@pytest.fixture
def stock_run(tmp_path, notebook_folder, monkeypatch):
    """Runs cells on a stock evcxr; what they write."""
    kernels = tmp_path / "kernels"
    (kernels / "rust").mkdir(parents=True)
    specification = {
        "argv": [str(evcxr.find()), "--control_file", "{connection_file}"],
        "display_name": "Rust",
        "language": "rust",
        "interrupt_mode": "message",
    }
    (kernels / "rust" / "kernel.json").write_text(json.dumps(specification))
    for name in [name for name in os.environ if name.startswith(("EVCXR_", "MALLOC_", "CARGO_INCREMENTAL", "RUSTFLAGS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # The first cell builds what it depends on.
    monkeypatch.setattr(execute, "CELL_SECONDS", 3600)

    def run(*cells):
        report = execute.run("stock", [(cell, ()) for cell in cells], notebook_folder, kernel=execute.manager([str(kernels)]))
        assert report.failure == ""
        return written(report)

    return run


def test_gradients_are_right_on_a_stock_kernel(stock_run):
    assert "gradient [36.0]" in stock_run(SETUP, *CANARY)
