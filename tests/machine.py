"""A machine of its own for the commands: stand-ins for Rust and the kernel, a cache, a copy of the scripts."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
import venv
from pathlib import Path

import nbformat
from lesson_text import code, lesson, prose

PROJECT = Path(__file__).resolve().parents[1]
EVCXR = "evcxr-0.22.0/bin/evcxr_jupyter"

# Does what cargo would as far as the commands look, and notes that it was called. What stands in the
# file `cargo-fails` beside it, it says before it fails.
CARGO = """\
here=$(dirname "$0")
echo "$*" >> "$here/calls"
if [ "$1" = --version ]; then echo "cargo 1.95.0"; exit; fi
if [ -f "$here/cargo-fails" ]; then cat "$here/cargo-fails" >&2; exit 101; fi
if [ "$1" = build ]; then mkdir -p target/debug/deps; cat Cargo.toml > "$here/manifest"; fi
"""

RUSTC = """\
case "$1" in
  --version) echo "rustc 1.95.0" ;;
  -vV) printf 'rustc 1.95.0\\nhost: x86_64-unknown-linux-gnu\\n' ;;
  --print) echo /nowhere/lib ;;
esac
"""

# A kernel that speaks Jupyter's protocol and runs its cells as Python.
KERNEL = """\
[ "$1" = --help ] && exit
exec {python} -m ipykernel_launcher -f "$2"
"""


class Machine:
    def __init__(self, root: Path, project: str = "project", cache: str = "cache"):
        self.root, self.project, self.bin = root, root / project, root / "bin"
        self.cache = root / cache / "candle_course"
        shutil.copytree(PROJECT / "scripts", self.project / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("lessons", "notebooks/en", "notebooks/pt-BR", "candle_course/notebook"):
            (self.project / name).mkdir(parents=True)
        (self.project / "Cargo.lock").write_text("version = 4\n")
        self.lesson("1.1-example", "print(1 + 1)")
        for name, text in {"cargo": CARGO, "rustc": RUSTC, "cc": ""}.items():
            self.program(name, text)
        for name in ("sh", "dirname", "cat", "mkdir", "env", "sleep", "sed", "sudo"):
            if shutil.which(name):
                os.symlink(shutil.which(name), self.bin / name)
        home = root / "home"
        home.mkdir()
        self.environment = {"PATH": str(self.bin), "HOME": str(home), "XDG_CACHE_HOME": str(root / cache), "LANG": "C.UTF-8"}
        self.environment |= {"CARGO_NET_OFFLINE": "true", "JUPYTER_PLATFORM_DIRS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def program(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
        return path

    def lesson(self, name: str, *cells: str) -> Path:
        path = self.project / "lessons" / f"{name}.md"
        path.write_text(lesson(prose("# Example", "# Exemplo"), *map(code, cells)), encoding="utf-8")
        return path

    def notebook(self, name: str, *cells: str, folder: str = "en") -> Path:
        path = self.project / "notebooks" / folder / f"{name}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells]), path)
        return path

    def set_up(self) -> "Machine":
        """The virtual environment as the commands leave it, with the packages of this one, and a kernel."""
        folder = self.project / ".venv"
        venv.create(folder, symlinks=True)
        packages = next(folder.glob("lib/python*/site-packages"))
        (packages / "those-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pins = (self.project / "scripts" / "requirements.lock").read_bytes()
        (folder / "requirements.sha256").write_text(hashlib.sha256(pins).hexdigest())
        kernel = self.program("stand-in-kernel", KERNEL.format(python=sys.executable))
        (self.cache / EVCXR).parent.mkdir(parents=True)
        shutil.copy(kernel, self.cache / EVCXR)
        return self

    def command(self, name: str, *arguments) -> list:
        path = self.project / "scripts" / name
        interpreter = shutil.which("bash") if path.read_text().startswith("#!/usr/bin/env bash") else sys.executable
        return [interpreter, str(path), *map(str, arguments)]

    def call(self, name: str, *arguments, **environment):
        return subprocess.run(
            self.command(name, *arguments), env=self.environment | environment, cwd=self.root, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )

    def start(self, name: str, *arguments, **options) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(name, *arguments), env=self.environment, cwd=self.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )

    def calls(self) -> list:
        """How cargo was called, but for questions."""
        path = self.bin / "calls"
        return path.read_text().splitlines() if path.exists() else []


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def wait_for(condition, what: str):
    """Waits for what is bound to come; a minute is for a machine that does much else."""
    until = time.monotonic() + 60
    while not (result := condition()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.05)
    return result
