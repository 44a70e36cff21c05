"""Sets the machine up: Rust, the virtual environment, the kernel and its specification."""

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import threading

from . import build_folder, bundle, evcxr, paths, rust_library, say

# All of JupyterLab over a slow line; pip itself gives up a server that is silent, not one that drips.
INSTALL_SECONDS = 1800


def ensure(build: bool = True) -> None:
    """Does what is missing; a second call takes about a second."""
    check_project()
    # Before anything is installed: a download of the kernel may fail, and then it is compiled.
    with say.writing(paths.user_cache()):
        installed = evcxr.find()
    check_rust(kernel=installed is None)
    if build and not paths.kernels().is_relative_to(paths.user_cache()):
        say.note(f"• The kernel cannot read a path with a space or a colon: what it needs is compiled in {paths.kernels()}, not in {say.name(paths.user_cache())} (XDG_CACHE_HOME names another place)")
    stands = threading.Event()

    def packages() -> None:
        try:
            ensure_venv()
        finally:
            stands.set()

    def kernel() -> None:
        bundle.take(stands.wait, build)
        # Each leaves cores idle that the other can use.
        say.together(evcxr.ensure, *[build_folder.BuildFolder().prepare] * build)
        rust_library.ensure()

    say.together(packages, kernel)
    install_kernel_specification()


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
    # The command as it was called, whichever script it is in by now.
    os.execve(paths.venv_python(), [str(paths.venv_python()), *sys.orig_argv[1:]], environment)


def check_project() -> None:
    """The project's folder has a name that cargo, Python and the kernel can all read."""
    text = str(paths.PROJECT)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise say.Failure(f"the name of the project's folder is not UTF-8, and cargo cannot read it; rename or move it: {ascii(text)}") from None
    wrong = next((character for character in text if character in f"{os.pathsep}\n\r"), None)
    if wrong:
        raise say.Failure(f"the path of the project has {wrong!r} in it, which separates paths or lines; rename or move it: {text!r}")


def check_rust(kernel: bool = False) -> None:
    """Rust and a C linker are there, new enough for the crate and, with `kernel`, to compile evcxr."""
    # A fresh rustup stands here before the shell's PATH knows of it.
    cargo_home = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
    if not shutil.which("cargo"):
        os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), f"{cargo_home}/bin"]))
    if not shutil.which("cargo"):
        raise say.Failure(
            "Rust is not installed. Install it with\n"
            "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh\n"
            "and run this command again."
        )
    if not shutil.which("rustc"):
        raise say.Failure(f"`rustc` is missing beside `{shutil.which('cargo')}`; install both with https://rustup.rs and run this command again")
    version = say.ask(["rustc", "--version"], cwd=paths.PROJECT)
    found = re.search(r"(\d+)\.(\d+)", version)
    newer = "run `rustup update`" if shutil.which("rustup") else "install a newer one where this one comes from, or with https://rustup.rs"
    for wanted, what in [(paths.MINIMUM_RUST, "the crate")] + [(paths.KERNEL_RUST, f"the notebook kernel, evcxr {paths.EVCXR_VERSION},")] * kernel:
        if not found or tuple(map(int, found.groups())) < wanted:
            raise say.Failure(f"{what} needs Rust {'.'.join(map(str, wanted))} or newer and this is `{version}`; {newer}")
    if not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        hint = "xcode-select --install" if sys.platform == "darwin" else "sudo apt install build-essential"
        raise say.Failure(f"Rust needs a C linker and there is none; install one with `{hint}`")


def ensure_venv() -> None:
    """The virtual environment with the pinned requirements; they are installed again when they change."""
    stamp = paths.VENV / "requirements.sha256"
    wanted = hashlib.sha256(paths.LOCK.read_bytes()).hexdigest()
    if current(stamp, wanted):
        return
    check_writable(paths.VENV)
    with say.lock(paths.PROJECT / ".venv.lock", "installing JupyterLab"):
        if current(stamp, wanted):
            return
        with say.step("Installing JupyterLab into .venv", "1 to 2 minutes"), say.writing(paths.VENV):
            # The stamp is written last: without it an interrupted start may have left no pip.
            if not paths.venv_python().exists() or not stamp.exists():
                if paths.VENV.exists():
                    shutil.rmtree(paths.VENV)
                make_venv()
            # What another package index, a mirror or a proxy hands out is compared with what was pinned.
            # A wheel or nothing: what a source package needs for its build is pinned nowhere.
            pip = [paths.venv_python(), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--timeout", "30", "--retries", "3"]
            say.run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", paths.LOCK], limit=INSTALL_SECONDS)
            say.write_if_changed(stamp, wanted)


def make_venv() -> None:
    try:
        # In an activated environment `sys.executable` was just removed.
        say.run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", paths.VENV])
    except say.Failure as failure:
        if "ensurepip" not in str(failure):
            raise
        raise say.Failure("Python's own `venv` is not whole here; on Debian and Ubuntu: sudo apt install python3-venv") from None


def check_writable(folder) -> None:
    """A folder that another user made is named before anything is tried in it."""
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise say.Failure(
            f"{folder} belongs to {owner(folder)} and you may not write it; "
            f"remove it (`sudo rm -r {shlex.quote(str(folder))}`) and run this command again, or work in a clone of your own"
        )


def owner(path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):
        return f"user {path.stat().st_uid}"


def current(stamp, wanted: str) -> bool:
    try:
        return paths.venv_python().exists() and stamp.read_bytes() == wanted.encode()
    except OSError:
        return False


def kernel_specification(python) -> dict:
    return {
        "argv": [str(python), str(paths.PROJECT / "scripts" / "course" / "launcher.py"), "{connection_file}"],
        "display_name": "Rust (candle_course)",
        "language": "rust",
        "interrupt_mode": "message",
    }


def install_kernel_specification(folder=None) -> None:
    """Where JupyterLab in `.venv` looks for it, or in another `folder` of kernels."""
    with say.writing(folder or paths.VENV):
        folder = (folder or paths.VENV / "share" / "jupyter" / "kernels") / paths.KERNEL_NAME
        say.write_if_changed(folder / "kernel.json", json.dumps(kernel_specification(paths.venv_python()), indent=1) + "\n")
