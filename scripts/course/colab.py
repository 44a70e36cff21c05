"""Rust cells in a Python notebook: `%%rust` drives the project's own kernel, as Colab needs it.

A Colab runtime is Python's: it knows no other kernel. So the notebook's cells hand their code to the
kernel that JupyterLab would start, with its launcher and its ready build folder, and show what it says
as it comes. Needs what such a runtime has, jupyter_client and IPython, and no virtual environment.
"""

import contextlib
import json
import os
import queue
import re
import sys
import tempfile
import time
from pathlib import Path

from . import build_folder, bundle, environment, evcxr, network, paths, say

RUSTUP = "https://static.rust-lang.org/rustup/dist/{target}/rustup-init"
# What evcxr still sends after it has said that a cell has ended.
LATE_SECONDS = 0.15
# An interrupted cell's process is killed at once.
INTERRUPT_SECONDS = 10
_kernel = None


class RustError(Exception):
    """A cell did not compile or did not end well; shown as the kernel shows it."""

    def _render_traceback_(self):
        return str(self).splitlines()


class Kernel:
    """One Rust kernel, started in a lesson's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.start()

    def start(self) -> None:
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import KernelManager

        specifications = KernelSpecManager(kernel_dirs=[str(kernel_specification())], ensure_native_kernel=False)
        self.manager = KernelManager(kernel_name=paths.KERNEL_NAME, kernel_spec_manager=specifications)
        # The notebook would show whatever the process itself writes.
        self.log = paths.user_cache() / "colab" / "kernel.log"
        with open(self.log, "w", encoding="utf-8") as log:
            self.manager.start_kernel(cwd=str(self.folder), stdout=log, stderr=log)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=1800)
        except RuntimeError as error:
            self.end()
            raise RustError(f"The Rust kernel did not start: {error}\n{self.log.read_text(encoding='utf-8', errors='replace')[-2000:]}") from None

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code: str) -> None:
        """Runs a cell and shows what comes of it, piece by piece."""
        if not self.manager.is_alive():
            raise RustError("The Rust kernel has ended and its variables are gone; `%rust_restart` starts a new one, then run the cells from the first on")
        self.forget()
        request = self.client.execute(code, allow_stdin=False)
        try:
            failure = self.follow(request)
        except KeyboardInterrupt:
            self.interrupt(request)
            raise RustError("Interrupted. The kernel's variables are gone: run the cells from the first on.") from None
        if failure:
            raise RustError(failure)

    def forget(self) -> None:
        """What came too late for the cell before is nobody's any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.client.get_iopub_msg(timeout=0)

    def follow(self, request: str, until: float = float("inf")) -> str:
        """Shows what the kernel says of a request; returns its error, if there is one."""
        failure, ended = "", False
        while time.monotonic() < until:
            try:
                message = self.client.get_iopub_msg(timeout=LATE_SECONDS)
            except queue.Empty:
                if ended:
                    break
                if not self.manager.is_alive():
                    return "The Rust kernel has ended and its variables are gone; `%rust_restart` starts a new one, then run the cells from the first on"
                continue
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != request and kind not in ("stream", "display_data"):
                continue
            if kind == "status" and content["execution_state"] == "idle":
                ended = True
            elif kind == "error":
                failure = "\n".join(content["traceback"]) or content["evalue"]
            else:
                show(kind, content)
        return failure

    def interrupt(self, request: str) -> None:
        with contextlib.suppress(Exception):
            self.manager.interrupt_kernel()
            self.follow(request, time.monotonic() + INTERRUPT_SECONDS)
        # One that does not listen is ended, so that the next cell does not wait for it.
        if not self.manager.is_alive():
            self.client.stop_channels()
            self.start()


def show(kind: str, content: dict) -> None:
    if kind == "stream":
        print(content["text"], end="", file=sys.stderr if content["name"] == "stderr" else sys.stdout, flush=True)
    elif kind in ("display_data", "execute_result"):
        from IPython.display import publish_display_data

        publish_display_data(content["data"], content.get("metadata") or {})


def start(language: str = paths.LANGUAGES[0]) -> None:
    """Sets the runtime up, starts the kernel, and makes `%%rust` known to the notebook."""
    global _kernel
    from IPython import get_ipython

    try:
        # What goes to standard error would look like a fault.
        with contextlib.redirect_stderr(sys.stdout):
            prepare()
    except say.Failure as failure:
        raise RustError(str(failure)) from None
    if _kernel:
        _kernel.end()
    _kernel = Kernel(paths.NOTEBOOKS / language)
    shell = get_ipython()
    shell.register_magic_function(rust, "cell", "rust")
    shell.register_magic_function(rust_restart, "line", "rust_restart")
    print("The Rust kernel is ready: cells that begin with %%rust run in it.")


def rust(line: str, cell: str) -> None:
    """`%%rust`: runs the cell in the Rust kernel."""
    _kernel.run(cell)


def rust_restart(line: str = "") -> None:
    """`%rust_restart`: a new Rust kernel, without any variables."""
    _kernel.end()
    _kernel.start()
    print("The Rust kernel is a new one: run the cells from the first on.")


def prepare() -> None:
    """What `scripts/lab` does, but for JupyterLab: the runtime has a notebook already."""
    environment.check_project()
    # What a runtime has of tools for Rust, if anything, is another version at every start.
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    os.environ["PATH"] = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    try:
        environment.check_rust(kernel=evcxr.find() is None)
    except say.Failure as failure:
        if "Rust" not in str(failure):
            raise
        install_rust()
        environment.check_rust(kernel=True)
    bundle.take(install_zstd)
    say.together(evcxr.ensure, build_folder.BuildFolder().prepare)


def install_rust() -> None:
    target = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}.get(os.uname().machine)
    if target is None or sys.platform != "linux":
        raise say.Failure("Rust is not installed, and only Linux on x86-64 and arm64 gets it by itself; install it with https://rustup.rs")
    url = RUSTUP.format(target=target)
    with say.step("Installing Rust", "30 s"), tempfile.TemporaryDirectory() as folder:
        told = b"".join(network.chunks(f"{url}.sha256", network.STALL_SECONDS, 60, 1 << 12)).decode(errors="replace")
        digest = re.match(r"[0-9a-f]{64}\b", told)
        if not digest:
            raise say.Failure(f"{url}.sha256 is no checksum")
        program = Path(folder) / "rustup-init"
        network.download(url, digest.group(), program)
        program.chmod(0o755)
        say.run([program, "-y", "--quiet", "--profile", "minimal", "--no-modify-path", "--default-toolchain", paths.TOOLCHAIN], limit=1800)


def install_zstd() -> None:
    """What unpacks a bundle, into the runtime's own Python, with the checksums of the project's pins."""
    if bundle.unpacking():
        return
    pins = re.search(r"^zstandard==(?:.*\\\n)*.*$", paths.LOCK.read_text(encoding="utf-8"), re.MULTILINE).group()
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "requirements.lock"
        lock.write_text(f"{pins}\n", encoding="utf-8")
        say.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "-r", lock], limit=300)


def kernel_specification() -> Path:
    """A folder with the kernel's specification for this very Python."""
    folder = paths.user_cache() / "colab"
    specification = environment.kernel_specification(sys.executable)
    say.write_if_changed(folder / paths.KERNEL_NAME / "kernel.json", json.dumps(specification, indent=1) + "\n")
    return folder


def mount_drive(name: str = "candle_course") -> str:
    """A folder in the learner's Google Drive, for checkpoints that outlive the runtime.

    Elsewhere than in Colab, a folder of that name in the home folder.
    """
    try:
        from google.colab import drive
    except ImportError:
        folder = Path.home() / name
    else:
        drive.mount("/content/drive")
        folder = Path("/content/drive/MyDrive") / name
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
