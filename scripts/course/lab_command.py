"""`scripts/lab`: sets everything up and opens JupyterLab on the lessons."""

import argparse
import difflib
import json
import os
import re
from pathlib import Path

from . import build_folder, environment, paths, say

# JupyterLab asks about news in a window that covers the lesson; learners come for the lesson.
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}

# JupyterLab's own options, besides settings (`--ServerApp.port=8889`): those that stand alone, and those with a value.
FLAGS = (
    "allow-root autoreload collaborative core-mode custom-css debug dev-mode expose-app-in-browser extensions-in-dev-mode generate-config help help-all "
    "no-browser no-script script show-config show-config-json skip-dev-build splice-source version watch y"
).split()
VALUES = "app-dir browser certfile client-ca config ip keyfile log-level notebook-dir port port-retries pylab watch".split()


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        description="Sets everything up and opens JupyterLab on the lessons.",
        epilog="Other arguments go to JupyterLab, as --port=8889 or --ip=0.0.0.0.",
    )
    parser.add_argument("--no-browser", action="store_true", help="serve without opening a browser, as on a remote machine")
    parser.add_argument("--setup", action="store_true", help="set everything up, prove that the kernel answers, and stop")
    parser.add_argument("--register", action="store_true", help="make the kernel known to VS Code and to every other Jupyter of this user, and stop")
    chosen, others = parser.parse_known_args(arguments)
    problem = misunderstood(others)
    if problem:
        parser.error(problem)
    environment.set_up()
    if chosen.setup:
        return prove_kernel()
    if chosen.register:
        return register()

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


def misunderstood(others: list) -> str:
    """Why JupyterLab would refuse an argument, or overlook it; before minutes are spent on the set-up."""
    waiting = None
    for argument in others:
        name, equals, _ = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            if not waiting and not Path(argument).exists():
                return f"{argument!r} is no file, no folder and no option; `scripts/lab` opens the lessons without any"
            waiting = None
        elif re.fullmatch(r"[A-Z]\w*(\.\w+)+", name):
            waiting = None if equals else name
        elif name in VALUES:
            waiting = None if equals else name
        elif name in FLAGS and not equals:
            waiting = None
        else:
            near = difflib.get_close_matches(name, {*FLAGS, *VALUES, "register", "setup"}, 1)
            return f"JupyterLab has no option {argument}" + (f"; did you mean --{near[0]}?" if near else "; `--help` shows those of this command")
    return f"--{waiting} wants a value" if waiting and waiting not in FLAGS else ""


def trust() -> None:
    """Signs the notebooks that the build has written: JupyterLab shows SVG figures only in trusted ones.

    What is signed may run scripts in the browser, as the user. So one that anybody else has made or
    changed is passed over, and JupyterLab asks before it trusts it.
    """
    from nbformat.sign import NotebookNotary

    from . import stored

    try:
        built = stored.built()
    except say.Failure as failure:
        say.note(f"• No notebook is trusted: {failure}")
        return
    notary = NotebookNotary()
    for path in sorted(paths.NOTEBOOKS.glob("*/*.ipynb")):
        place = str(path.relative_to(paths.NOTEBOOKS))
        try:
            data, notebook = stored.read(path)
            if notary.check_signature(notebook):
                continue
            if stored.hash_of(data) == built.get(place):
                notary.sign(notebook)
            else:
                say.note(f"• {say.name(place)} is not as the project built it: JupyterLab hides its active outputs until you trust it")
        except say.Failure as failure:
            say.note(f"• {say.name(path.parent.name)}/{failure}")


def register() -> int:
    """Puts the kernel's specification where every Jupyter of this user looks for kernels.

    The notebooks name it `rust`: a kernel of that name that is another's gives way only when it is removed.
    """
    from jupyter_core.paths import jupyter_data_dir

    folder = Path(jupyter_data_dir()) / "kernels"
    there = folder / paths.KERNEL_NAME / "kernel.json"
    if there.exists() and "launcher.py" not in say.read_text(there):
        raise say.Failure(f"another kernel is registered as {paths.KERNEL_NAME!r}, in {there.parent}; remove it (`jupyter kernelspec remove {paths.KERNEL_NAME}`) and run this command again")
    environment.install_kernel_specification(folder)
    print(f"Registered in {there.parent}: choose “Rust (candle_course)” in VS Code or in another Jupyter; notebooks of this project choose it by themselves")
    return 0


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
