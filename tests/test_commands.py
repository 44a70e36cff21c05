"""The commands as a person calls them, from another folder."""

import subprocess
import sys

import nbformat
import pytest
from conftest import PROJECT, SETUP


def call(name, *arguments, folder):
    command = [sys.executable, str(PROJECT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["lab", "run", "test", "bench", "build-notebooks", "scaling", "site", "tensorboard-picture"])
def test_every_command_explains_itself(tmp_path, name):
    result = call(name, "--help", folder=tmp_path)
    assert result.returncode == 0
    assert "usage: scripts/" in result.stdout


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("run", "99.9", "no lesson is called '99.9'"),
        ("build-notebooks", "99.9", "no lesson is called '99.9'"),
        ("bench", "nothing", "no benchmark is called 'nothing'"),
        ("test", "nothing", "no check is called nothing"),
    ],
)
def test_a_wrong_name_is_refused(tmp_path, name, argument, message):
    result = call(name, argument, folder=tmp_path)
    assert result.returncode != 0
    assert message in result.stderr


def test_run_prints_a_table_and_fails_with_the_failing_cell(notebook_folder, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell(SETUP),
        nbformat.v4.new_code_cell('println!("fine");'),
        nbformat.v4.new_code_cell("let broken: u32 = \"text\";"),
    ])
    path = notebook_folder / "failing-for-a-test.ipynb"
    nbformat.write(notebook, path)
    try:
        result = call("run", path, folder=tmp_path)
    finally:
        path.unlink()
    assert result.returncode == 1
    assert "failing-for-a-test  3" in result.stdout
    assert "FAILED" in result.stdout
    assert "start to first result:" in result.stdout
    assert "code cell 3 of 3 failed" in result.stderr
    assert 'let broken: u32 = "text";' in result.stderr
    assert "mismatched types" in result.stderr
