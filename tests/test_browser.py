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
from conftest import PROJECT, SETUP
from course.test_command import BROWSERS
from playwright.sync_api import TimeoutError as TooLong
from playwright.sync_api import sync_playwright

LESSON_SECONDS = 600

# The second trains in the background and watches, stops and resumes that from other cells.
LESSONS = [("en", "3.1-training-loop"), ("pt-BR", "3.6-evaluation")]
if os.environ.get("CANDLE_COURSE_WALK") == "all":
    LESSONS = [(path.parent.name, path.stem) for path in sorted(PROJECT.glob("notebooks/*/3.*.ipynb"))]

# What cells without a figure must have printed: a failed resume is no error, it prints `false`.
PRINTED = {
    ("pt-BR", "3.6-evaluation"): [
        "a célula terminou; treinamento terminado: false",
        "interrompido: foi pedido que parasse",
        "checkpoint encontrado: true",
        "todas as perdas dos passos iguais, até o último bit: true",
    ],
}

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
      text: cell.outputs.map(output => [].concat(output.text || output.data?.['text/plain'] || '').join('')).join('\\n'),
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


IDLE = "window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"


def wait_for_kernel(page):
    """Until it is idle; a page that has missed the kernel's first word is loaded again, as a reader would."""
    for attempt in range(3):
        try:
            page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady", timeout=90_000)
            page.wait_for_function(f"() => {IDLE}", timeout=90_000)
            return
        except TooLong:
            if attempt == 2:
                raise
            page.reload()


# A training of 100 steps of at least 0.1 s each, watched by a view that refreshes itself.
LIVE = [
    SETUP,
    """\
struct Slow;
impl Callback for Slow {
    fn name(&self) -> &str {
        "slow"
    }
    fn step_end(&mut self, _: &mut Training) -> Result<Flow> {
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(Flow::Continue)
    }
}
let parameters = Parameters::new(0, &Device::Cpu);
let model = Linear::new(1, 2, &parameters.at("fc"))?;
let x = Tensor::arange(-40f32, 40., &Device::Cpu)?.reshape((80, 1))?;
let y = x.flatten_all()?.ge(0f32)?.to_dtype(DType::U32)?;
let loader = DataLoader::builder(TensorDataset::new(x, y)?).batch_size(4).shuffle(1).build()?;
let optimizer = Sgd::new(&parameters)?;
let trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer).epochs(5).learning_rate(0.01).callback(Slow).build()?;
let training = trainer.fit_in_background(&loader, Some(&loader))?;
training.live("FOLDER")?;""",
]


@pytest.fixture
def live_notebook(notebook_folder):
    """A notebook with the cells of `LIVE`, in its place for as long as the test runs."""
    name = f"test-live-{secrets.token_hex(4)}"
    path, folder = notebook_folder / f"{name}.ipynb", notebook_folder / name
    notebook = json.loads((notebook_folder / "3.1-training-loop.ipynb").read_text())
    notebook["cells"] = [
        {"id": f"live-{number}", "cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [],
         "source": source.replace("FOLDER", name)}
        for number, source in enumerate(LIVE)
    ]
    path.write_text(json.dumps(notebook))
    try:
        yield f"{notebook_folder.name}/{path.name}"
    finally:
        path.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_live_view_changes_by_itself_until_the_training_ends(jupyterlab, page, live_notebook):
    page.goto(jupyterlab(live_notebook))
    wait_for_kernel(page)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    status = page.locator(".jp-OutputArea-output [id^='training-'] > pre")
    status.wait_for(state="attached", timeout=LESSON_SECONDS * 1000)
    problems = [problem for cell in page.evaluate(STATE)["cells"] for problem in cell["problems"]]
    assert not problems, problems[0]
    # The cell is done, so what changes from now on is not its doing.
    page.wait_for_function(f"() => {IDLE}", timeout=10_000)
    seen = [status.text_content()]
    while len(seen) < 4 and "finished" not in seen[-1]:
        page.wait_for_function(
            "([view, text]) => view.textContent !== text", arg=[status.element_handle(), seen[-1]], timeout=20_000
        )
        seen.append(status.text_content())
    assert sum("epoch" in text and "batch" in text for text in seen) >= 3, seen
    page.wait_for_function("view => view.textContent.startsWith('finished')", arg=status.element_handle(), timeout=60_000)
    assert "step 100" in status.text_content()
    assert page.locator("[id^='training-'] svg").count() >= 1
    # At its end it stands still.
    last = status.text_content()
    page.wait_for_timeout(3000)
    assert status.text_content() == last and "no longer refreshed" not in last


@pytest.mark.parametrize(("language", "lesson"), LESSONS)
def test_lesson_runs_in_jupyterlab_and_shows_its_figures(jupyterlab, page, tmp_path, language, lesson):
    screenshots = Path(os.environ.get("CANDLE_COURSE_SCREENSHOTS") or tmp_path)
    screenshots.mkdir(parents=True, exist_ok=True)
    page.goto(jupyterlab(f"{language}/{lesson}.ipynb"))
    wait_for_kernel(page)
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

    for text in PRINTED.get((language, lesson), []):
        assert any(text in cell["text"] for cell in state["cells"]), f"no cell has printed `{text}`"

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
