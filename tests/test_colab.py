"""Rust cells in a Python notebook, with a stand-in kernel that runs them as Python."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from course import colab, environment
from lesson_text import code, lesson, prose
from machine import wait_for


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A kernel whose interrupts come as messages, as evcxr wants them; what it shows besides text is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "candle_course" / "colab").mkdir(parents=True)
    specification = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Rust", "language": "rust", "interrupt_mode": "message"}
    monkeypatch.setattr(environment, "kernel_specification", lambda python: specification)
    shown = []
    import IPython.display

    monkeypatch.setattr(IPython.display, "publish_display_data", lambda data, metadata: shown.append(data))
    made = colab.Kernel(tmp_path)
    made.shown = shown
    yield made
    made.end()


def test_what_a_cell_writes_is_shown_and_its_variables_stay(kernel, capsys, tmp_path):
    kernel.run("import os, sys\nx = 2\nprint(os.getcwd()); print('aside', file=sys.stderr)")
    kernel.run("print(x + 1)")
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}\n3\n" and err == "aside\n"


def test_lines_come_while_the_cell_runs(kernel, tmp_path):
    gate = tmp_path / "gate"
    lines = io.StringIO()
    cell = f"import os, time\nprint('first', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('second')"
    thread = threading.Thread(target=lambda: kernel.run(cell))
    stdout, sys.stdout = sys.stdout, lines
    try:
        thread.start()
        wait_for(lambda: "first" in lines.getvalue(), "the first line")
        assert "second" not in lines.getvalue()
        gate.touch()
        thread.join()
    finally:
        sys.stdout = stdout
    assert lines.getvalue() == "first\nsecond\n"


def test_figures_and_tables_are_shown_with_all_their_kinds(kernel):
    kernel.run("from IPython.display import display\ndisplay({'image/png': 'AA==', 'image/svg+xml': '<svg/>', 'text/html': '<b>1</b>'}, raw=True)\n7")
    assert kernel.shown[0] == {"image/png": "AA==", "image/svg+xml": "<svg/>", "text/html": "<b>1</b>"}
    assert kernel.shown[1]["text/plain"] == "7"


def test_an_error_is_shown_as_the_kernel_shows_it(kernel):
    with pytest.raises(colab.RustError, match="division by zero") as caught:
        kernel.run("1 / 0")
    # Of the magic's own frames a learner sees nothing.
    assert caught.value._render_traceback_() == str(caught.value).splitlines()
    kernel.run("y = 1")


def test_an_interrupted_cell_ends_and_says_what_is_lost(kernel, tmp_path):
    began = tmp_path / "began"

    def interrupt():
        wait_for(began.exists, "the cell")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(colab.RustError, match="Interrupted. The kernel's variables are gone"):
        kernel.run(f"import time\nopen({str(began)!r}, 'w').close()\ntime.sleep(600)")
    thread.join()
    kernel.run("z = 1")


def test_a_kernel_that_has_ended_is_named_and_started_anew(kernel, monkeypatch, capsys):
    with pytest.raises(colab.RustError, match="has ended and its variables are gone; `%rust_restart`"):
        kernel.run("import os\nos._exit(3)")
    with pytest.raises(colab.RustError, match="has ended"):
        kernel.run("1")
    monkeypatch.setattr(colab, "_kernel", kernel)
    colab.rust_restart()
    colab.rust("", "print('again')")
    assert capsys.readouterr().out == "The Rust kernel is a new one: run the cells from the first on.\nagain\n"


def test_a_restart_forgets_the_variables(kernel, monkeypatch):
    monkeypatch.setattr(colab, "_kernel", kernel)
    colab.rust("", "x = 1")
    colab.rust_restart()
    with pytest.raises(colab.RustError, match="name 'x' is not defined"):
        colab.rust("", "x")


def test_a_kernel_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "candle_course" / "colab").mkdir(parents=True)
    specification = {"argv": [sys.executable, "-c", "print('the reason'); raise SystemExit(1)"], "display_name": "Rust", "language": "rust"}
    monkeypatch.setattr(environment, "kernel_specification", lambda python: specification)
    with pytest.raises(colab.RustError, match="did not start: [^\0]*the reason"):
        colab.Kernel(tmp_path)


def test_a_drive_is_a_folder_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert colab.mount_drive("kept") == str(tmp_path / "kept") and (tmp_path / "kept").is_dir()


def test_the_pins_have_what_unpacks_a_bundle(monkeypatch):
    from course import bundle, say

    installed = []
    monkeypatch.setattr(bundle, "unpacking", lambda: [])
    monkeypatch.setattr(say, "run", lambda arguments, **_: installed.append((arguments, arguments[-1].read_text())))
    colab.install_zstd()
    (arguments, lock), = installed
    assert "--require-hashes" in arguments and re.match(r"zstandard==[\d.]+ \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n)+$", lock)


def test_a_colab_notebook_runs_headless(machine):
    """The whole way, with stand-ins: an ordinary ipykernel, the magic, the launcher, the kernel. What is stored
    are the outputs of one who has solved the exercise."""
    machine = machine().set_up()
    folder = machine.project / ".venv" / "share" / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    argv = [str(machine.project / ".venv" / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    exercise = [("answer = 0", "exercise"), ("answer = 42", "solution")]
    exercise += [(f"answer = {wrong}", "wrong", "think") for wrong in (1, 2)]
    exercise += [("print('✓' if answer == 42 else '✗ think')", "check"), ("print(answer)",)]
    cells = [code(text, *tag[:1], hint="".join(tag[1:])) for text, *tag in exercise]
    (machine.project / "lessons" / "1.1-example.md").write_text(lesson(prose("# Example", "# Exemplo"), *cells), encoding="utf-8")
    store = f"""
import sys
sys.path.insert(0, {str(machine.project / 'scripts')!r})
from course import paths, render, source
lesson = source.read(paths.LESSONS / "1.1-example.md")
for language in paths.LANGUAGES:
    outputs = [[], [], [{{"output_type": "stream", "name": "stdout", "text": sys.argv[1]}}]]
    (paths.NOTEBOOKS / language / "1.1-example.ipynb").write_text(render.text_of(render.notebook(lesson, language, outputs)))
"""
    for stored, good in (("42\n", True), ("43\n", False)):
        subprocess.run([sys.executable, "-c", store, stored], check=True)
        result = machine.call("run", "--colab", "1.1")
        assert (result.returncode == 0) == good, result.stderr
        # The cell that sets up, and the solution that stands before its check.
        assert "1.1-example (colab)  5" in result.stdout
        assert ("the numbers of 3 Rust cells as stored" if good else "Rust cell 3 shows 42 where the stored notebook has 43") in result.stderr


@pytest.mark.parametrize("arguments", ["--colab --answers stubs", "--colab x.ipynb"])
def test_what_colab_cannot_run_is_refused_first(machine, arguments):
    machine = machine()
    result = machine.call("run", *arguments.split())
    assert result.returncode == 2 and "--colab runs the Colab notebooks of lessons" in result.stderr and not machine.calls()
