"""`scripts/lab`: sets everything up and opens JupyterLab on the lessons."""

import argparse
import json
import os

from . import build_folder, environment, paths, say

# JupyterLab asks about news in a window that covers the lesson; learners come for the lesson.
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        description="Sets everything up and opens JupyterLab on the lessons.",
        epilog="Other arguments go to JupyterLab, as --port=8889 or --ip=0.0.0.0.",
    )
    parser.add_argument("--no-browser", action="store_true", help="serve without opening a browser, as on a remote machine")
    parser.add_argument("--setup", action="store_true", help="set everything up, prove that the kernel answers, and stop")
    chosen, others = parser.parse_known_args(arguments)
    environment.set_up()
    if chosen.setup:
        return prove_kernel()

    build_folder.BuildFolder().clean()
    for language in paths.LANGUAGES:
        (paths.NOTEBOOKS / language).mkdir(parents=True, exist_ok=True)
    trust()
    overrides = paths.VENV / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    say.write_if_changed(overrides, json.dumps(SETTINGS, indent=1) + "\n")
    command = [
        str(paths.venv_python()), "-m", "jupyterlab",
        f"--ServerApp.root_dir={paths.NOTEBOOKS}",
        f"--LabApp.default_url={start_page()}",
        # A kernel that finds the crate changed compiles it before it answers.
        "--MappingKernelManager.kernel_info_timeout=1800",
    ]
    if chosen.no_browser:
        command.append("--no-browser")
    if os.geteuid() == 0:
        command.append("--allow-root")
    say.note("• Starting JupyterLab; Ctrl-C twice ends it …")
    os.execve(command[0], command + others, dict(os.environ))


def start_page() -> str:
    """The first lesson, in Portuguese where the machine speaks it."""
    spoken = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    language = "pt-BR" if spoken.startswith("pt") else "en"
    lessons = sorted((paths.NOTEBOOKS / language).glob("*.ipynb"))
    return f"/lab/tree/{language}/{lessons[0].name}" if lessons else "/lab"


def trust() -> None:
    """Signs the project's notebooks: JupyterLab shows SVG figures only in trusted ones."""
    import nbformat
    from nbformat.sign import NotebookNotary

    notary = NotebookNotary()
    for path in sorted(paths.NOTEBOOKS.glob("*/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if not notary.check_signature(notebook):
            notary.sign(notebook)


def prove_kernel() -> int:
    from . import execute

    folder = paths.NOTEBOOKS / "en"
    folder.mkdir(parents=True, exist_ok=True)
    setup = f"{paths.DEPENDENCY}\nuse candle_course::prelude::*;"
    with say.step("Starting a kernel and loading the crate", "15 s"):
        report = execute.run("setup", [(setup, []), ("println!(\"ready\");", [])], folder)
    build_folder.BuildFolder().clean()
    execute.failing([report])
    print(f"The kernel works: first result after {report.first_result_seconds:.1f} s")
    return 0
