"""Sets the machine up: Rust, the virtual environment, the kernel and its specification."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

from . import build_folder, evcxr, paths, say


def ensure(build: bool = True) -> None:
    """Does what is missing; a second call takes about a second."""
    # Before anything is installed: a download of the kernel may fail, and then it is compiled.
    check_rust(kernel=evcxr.find() is None)
    ensure_venv()
    evcxr.ensure()
    install_kernel_specification()
    if build:
        build_folder.BuildFolder().prepare()


def set_up(prepare=ensure) -> None:
    """Does what is missing, once per command, and continues the command inside the virtual environment.

    Not told by the Python that runs: in an activated environment it is the right one from the start.
    """
    # `execve` keeps the number of the process.
    if os.environ.get("CANDLE_COURSE_SET_UP") != str(os.getpid()):
        prepare()
        os.environ["CANDLE_COURSE_SET_UP"] = str(os.getpid())
        enter_venv()


def enter_venv() -> None:
    environment = dict(os.environ, VIRTUAL_ENV=str(paths.VENV), JUPYTER_PREFER_ENV_PATH="1")
    environment["PATH"] = f"{paths.VENV / 'bin'}{os.pathsep}{environment.get('PATH', '')}"
    environment.pop("PYTHONHOME", None)
    sys.stdout.flush()
    os.execve(paths.venv_python(), [str(paths.venv_python()), *sys.argv], environment)


def check_rust(kernel: bool = False) -> None:
    """Rust and a C linker are there, new enough for the crate and, with `kernel`, to compile evcxr."""
    # A fresh rustup stands here before the shell's PATH knows of it.
    cargo_home = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
    if not shutil.which("cargo"):
        os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{cargo_home}/bin"
    if not shutil.which("cargo"):
        raise say.Failure(
            "Rust is not installed. Install it with\n"
            "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh\n"
            "and run this command again."
        )
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True, cwd=paths.PROJECT).stdout
    found = re.search(r"(\d+)\.(\d+)", version)
    for wanted, what in [(paths.MINIMUM_RUST, "the crate")] + [(paths.KERNEL_RUST, f"the notebook kernel, evcxr {paths.EVCXR_VERSION},")] * kernel:
        if not found or tuple(map(int, found.groups())) < wanted:
            raise say.Failure(f"{what} needs Rust {'.'.join(map(str, wanted))} or newer and this is `{version.strip()}`; run `rustup update`")
    if not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        hint = "xcode-select --install" if sys.platform == "darwin" else "sudo apt install build-essential"
        raise say.Failure(f"Rust needs a C linker and there is none; install one with `{hint}`")


def ensure_venv() -> None:
    """The virtual environment with the pinned requirements; they are installed again when they change."""
    if sys.version_info[:2] < paths.MINIMUM_PYTHON:
        wanted = ".".join(map(str, paths.MINIMUM_PYTHON))
        raise say.Failure(f"Python {wanted} or newer is needed and this is {sys.version.split()[0]}")
    stamp = paths.VENV / "requirements.sha256"
    wanted = hashlib.sha256(paths.REQUIREMENTS.read_bytes() + paths.CONSTRAINTS.read_bytes()).hexdigest()
    if current(stamp, wanted):
        return
    with say.lock(paths.PROJECT / ".venv.lock", "installing JupyterLab"):
        if current(stamp, wanted):
            return
        with say.step("Installing JupyterLab into .venv", "1 to 2 minutes"):
            # The stamp is written last: without it an interrupted start may have left no pip.
            if not paths.venv_python().exists() or not stamp.exists():
                shutil.rmtree(paths.VENV, ignore_errors=True)
                try:
                    # In an activated environment `sys.executable` was just removed.
                    say.run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", paths.VENV], quiet=True)
                except say.Failure as failure:
                    raise say.Failure(f"{failure}\nOn Debian and Ubuntu: sudo apt install python3-venv") from None
            pip = [paths.venv_python(), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            say.run([*pip, "-r", paths.REQUIREMENTS, "-c", paths.CONSTRAINTS])
        say.write_if_changed(stamp, wanted)


def current(stamp, wanted: str) -> bool:
    return paths.venv_python().exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted


def install_kernel_specification() -> None:
    folder = paths.VENV / "share" / "jupyter" / "kernels" / paths.KERNEL_NAME
    specification = {
        "argv": [str(paths.venv_python()), str(paths.PROJECT / "scripts" / "course" / "launcher.py"), "{connection_file}"],
        "display_name": "Rust (candle_course)",
        "language": "rust",
        "interrupt_mode": "message",
    }
    say.write_if_changed(folder / "kernel.json", json.dumps(specification, indent=1) + "\n")
