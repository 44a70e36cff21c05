"""A real browser opens lessons in JupyterLab, runs all cells, sees the figures and follows the links.

Two lessons, one in each language; CANDLE_COURSE_WALK=all walks through all of them in both.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import PROJECT
from course.test_command import BROWSERS
from playwright.sync_api import sync_playwright

LESSON_SECONDS = 600

# The second trains in the background and watches, stops and resumes that from other cells.
LESSONS = [("en", "3.1-training-loop"), ("pt-BR", "3.6-evaluation")]
if os.environ.get("CANDLE_COURSE_WALK") == "all":
    LESSONS = [(path.parent.name, path.stem) for path in sorted(PROJECT.glob("notebooks/*/3.*.ipynb"))]

FLAGS = [
    "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]

# What the notebook holds now: JupyterLab keeps cells outside the window out of the page.
STATE = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const cells = panel.content.model.toJSON().cells.filter(cell => cell.cell_type === 'code');
  return {
    busy: panel.sessionContext.session?.kernel?.status !== 'idle',
    cells: cells.map(cell => ({
      count: cell.execution_count,
      source: [].concat(cell.source).join(''),
      tags: cell.metadata.tags || [],
      problems: cell.outputs.filter(output => output.output_type === 'error' || output.name === 'stderr')
        .map(output => [].concat(output.text || output.traceback).join('')),
      figures: cell.outputs.filter(output => output.data && (output.data['image/svg+xml'] || output.data['image/png'])).length,
    })),
  };
}"""


# Where the links to notebooks lead, as addresses of the server's files.
LINKS = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  const contents = window.jupyterapp.serviceManager.contents;
  const text = panel.content.model.toJSON().cells.filter(cell => cell.cell_type === 'markdown')
    .map(cell => [].concat(cell.source).join('')).join('\\n');
  const targets = new Set([...text.matchAll(/\\]\\(([^)#\\s]+\\.ipynb)/g)].map(match => match[1]));
  const base = panel.context.path;
  return Promise.all([...targets].map(async target =>
    contents.getDownloadUrl(new URL(target, 'http://x/' + base).pathname.slice(1))));
}"""


@pytest.fixture
def jupyterlab(tmp_path):
    """`scripts/lab` as a server, with settings that leave the notebooks on disk alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    settings = tmp_path / "settings" / "@jupyterlab" / "docmanager-extension" / "plugin.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"autosave": False}))
    environment = dict(os.environ, JUPYTERLAB_SETTINGS_DIR=str(tmp_path / "settings"), JUPYTERLAB_WORKSPACES_DIR=str(tmp_path / "workspaces"))
    log = open(tmp_path / "lab.log", "w+")
    server = subprocess.Popen(
        [sys.executable, PROJECT / "scripts" / "lab", "--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
         f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True"],
        env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=tmp_path,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, tmp_path / "lab.log")
        yield lambda path: f"http://127.0.0.1:{port}/lab/tree/{path}?token={token}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        log.close()


def wait_for(address, server, log):
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not answer:\n{log.read_text()}")


@pytest.fixture
def page(tmp_path):
    executable = next((found for found in map(shutil.which, BROWSERS) if found), None)
    assert executable, "install Chromium: scripts/test does it when run as root"
    flags = FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=flags)
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


@pytest.mark.parametrize(("language", "lesson"), LESSONS)
def test_lesson_runs_in_jupyterlab_and_shows_its_figures(jupyterlab, page, tmp_path, language, lesson):
    screenshots = Path(os.environ.get("CANDLE_COURSE_SCREENSHOTS") or tmp_path)
    screenshots.mkdir(parents=True, exist_ok=True)
    page.goto(jupyterlab(f"{language}/{lesson}.ipynb"))
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady", timeout=180_000)
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'", timeout=180_000)
    stored = page.evaluate(STATE)["cells"]
    figures_stored = sum(1 for cell in stored if cell["figures"])
    assert figures_stored or lesson.startswith("3.0"), "the notebook came without stored figures"

    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells").click()
    assert all(cell["count"] is None for cell in page.evaluate(STATE)["cells"])
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    deadline = time.monotonic() + LESSON_SECONDS
    while True:
        state = page.evaluate(STATE)
        wrong = [cell for cell in state["cells"] if cell["problems"] and not set(cell["tags"]) & {"raises-exception", "stderr"}]
        if wrong:
            page.screenshot(path=screenshots / "failure.png")
        assert not wrong, f"a cell failed:\n{wrong[0]['source']}\n{wrong[0]['problems'][0]}"
        if not state["busy"] and all(cell["count"] for cell in state["cells"]):
            break
        assert time.monotonic() < deadline, f"not finished: {[cell['count'] for cell in state['cells']]}"
        page.wait_for_timeout(1000)

    figures = [number for number, cell in enumerate(state["cells"]) if cell["figures"]]
    assert len(figures) == figures_stored
    for shown, number in enumerate(figures):
        page.evaluate(
            """(number) => {
              const notebook = window.jupyterapp.shell.currentWidget.content;
              const codes = notebook.widgets.map((cell, index) => [cell, index]).filter(([cell]) => cell.model.type === 'code');
              notebook.activeCellIndex = codes[number][1];
              return notebook.scrollToItem(codes[number][1], 'start');
            }""",
            number,
        )
        image = page.locator(".jp-Cell.jp-mod-active .jp-OutputArea-output img").first
        image.wait_for(state="visible", timeout=20_000)
        page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle(), timeout=20_000)
        box = image.bounding_box()
        assert box["width"] > 200 and box["height"] > 100, f"the figure of code cell {number + 1} is {box}"
        page.screenshot(path=screenshots / f"{language}-{lesson}-figure-{shown + 1}.png")

    # The last cell links to the other language and to the neighbours: every one of them opens.
    links = page.evaluate(LINKS)
    assert len(links) >= 2, links
    for link in links:
        answer = page.request.get(link)
        assert answer.ok, f"{link} answers {answer.status}"
