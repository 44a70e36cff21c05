"""Shared by the tests of the commands; run by `scripts/test scripts`."""

import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "scripts"))

from course import paths  # noqa: E402
from machine import Machine  # noqa: E402

SETUP = f"{paths.DEPENDENCY}\nuse candle_course::prelude::*;"


@pytest.fixture
def notebook_folder():
    """A folder as deep as the notebooks' own, where `../../candle_course` leads to the crate."""
    folder = PROJECT / "notebooks" / "en"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project with lessons and notebooks, for tests that run no kernel."""
    for name in ("lessons", "notebooks/en", "notebooks/pt-BR"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    monkeypatch.setattr(paths, "LESSONS", tmp_path / "lessons")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


@pytest.fixture
def machine(tmp_path):
    """Makes machines on which nothing is built."""
    return lambda project="project", cache="cache": Machine(tmp_path, project, cache)
