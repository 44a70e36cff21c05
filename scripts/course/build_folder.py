"""The build folder of the notebook kernel: compiled once, copied for each kernel.

evcxr compiles a notebook's dependencies in a folder of its own. This module keeps such a folder
(the template) compiled ahead of time with the very command that evcxr uses, so that cargo finds
everything fresh, and gives each kernel a private copy, because every kernel writes its own
`src/lib.rs` there. Cargo itself decides what is stale: a changed crate, compiler or feature is
rebuilt in the template before the next copy is taken.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import paths, say

# The build folder is a workspace of two: `cell`, which evcxr rewrites as it likes, and `pin`, which
# keeps the crate in the workspace's Cargo.lock. Without it evcxr, which starts from a package
# without dependencies, would throw the pinned versions away and take the newest ones instead.
#
# Cargo takes profiles from the workspace alone. This one is what evcxr asks for its cells (but for
# `incremental`, which turns off the optimisation between the parts of a crate) and release speed for
# the dependencies: with evcxr's own profile they carry debug assertions and train at half the speed.
WORKSPACE = """\
[workspace]
resolver = "3"
members = ["cell", "pin"]

[profile.dev]
opt-level = 2
debug = false
strip = "debuginfo"
rpath = true
lto = false
debug-assertions = true
overflow-checks = true
codegen-units = 16
incremental = false

[profile.dev.package."*"]
opt-level = 3
debug-assertions = false
overflow-checks = false
"""

PACKAGE = """\
[package]
name = "{name}"
version = "1.0.0"
edition = "2024"

[lib]
crate-type = ["{kind}"]
path = "src/lib.rs"

[dependencies]
candle_course = {dependency}
"""


def features() -> list:
    """Extra cargo features for notebooks (`CANDLE_COURSE_FEATURES=cuda,cudnn`)."""
    named = os.environ.get("CANDLE_COURSE_FEATURES", "")
    return sorted({feature for feature in named.replace(",", " ").split()})


def kernel_environment() -> dict:
    """What both the template's build and the kernel need in their environment."""
    environment = dict(os.environ)
    environment["CARGO_INCREMENTAL"] = "0"
    environment.setdefault("CARGO_TERM_COLOR", "never")
    if sys.platform.startswith("linux"):
        # glibc gives every large tensor back to the system and faults it in again at the next
        # step. Keep the memory instead: training is 1.3 to 3 times faster.
        environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))
        environment.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 40))
        environment.setdefault("MALLOC_MMAP_MAX_", "0")
        environment.setdefault("MALLOC_TOP_PAD_", str(16 << 20))
    return environment


def run_environment() -> dict:
    """What the kernel itself needs besides.

    evcxr moves a cell's library one folder up, where the relative path to Rust's standard library
    that was compiled into it leads nowhere if build folder and toolchain share a parent (a home
    folder, say).
    """
    environment = kernel_environment()
    libraries = subprocess.run(["rustc", "--print", "target-libdir"], capture_output=True, text=True, check=True).stdout.strip()
    name = "DYLD_FALLBACK_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
    environment[name] = os.pathsep.join(filter(None, [environment.get(name), libraries]))
    return environment


def host_target() -> str:
    output = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    return next(line.split()[1] for line in output.splitlines() if line.startswith("host:"))


def build_command() -> tuple:
    """The command and environment with which evcxr compiles a cell."""
    environment = kernel_environment()
    environment.update(CARGO_TARGET_DIR="target", CARGO_BUILD_BUILD_DIR="target")
    flags = "-Cprefer-dynamic"
    command = ["cargo"]
    if sys.platform != "darwin" and shutil.which("mold"):
        command = ["mold", "-run", "cargo"]
    elif sys.platform != "darwin" and shutil.which("lld"):
        flags += " -Clink-arg=-fuse-ld=lld"
    environment["RUSTFLAGS"] = flags
    return command + ["build", "--target", host_target()], environment


class BuildFolder:
    """The template and the copies that belong to one clone of the project."""

    def __init__(self, project: Path = paths.PROJECT, home: Path = None):
        self.project = project
        self.home = home or paths.kernel_home(project)
        self.template = self.home / "template"
        self.copies = self.home / "copies"

    def prepare(self, quiet: bool = False) -> None:
        """Brings the template up to date: minutes the first time, half a second when fresh."""
        with say.lock(self.home / "lock", "building the notebook's dependencies"):
            self._prepare(quiet)

    def copy(self) -> Path:
        """Makes sure the template is fresh and gives the caller a private copy of it, for
        `EVCXR_TMPDIR`.

        The copy is held by a lock on an inheritable file descriptor: it stays taken until the
        calling process and all of its children have ended, also across `exec`.
        """
        with say.lock(self.home / "lock", "building the notebook's dependencies"):
            self._prepare(quiet=False)
            self._remove_stale()
            self.copies.mkdir(parents=True, exist_ok=True)
            name = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self.copies))
            descriptor = os.open(f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.set_inheritable(descriptor, True)
            copy_tree(self.template, name)
        return name / "cell"

    def clean(self) -> None:
        """Removes the copies whose kernels have ended."""
        if self.home.exists():
            with say.lock(self.home / "lock", "building the notebook's dependencies"):
                self._remove_stale()

    def _prepare(self, quiet: bool) -> None:
        dependency = f'{{ path = {json.dumps(str(self.project / "candle_course"))}'
        if features():
            dependency += f", features = {json.dumps(features())}"
        say.write_if_changed(self.home / "project", f"{self.project}\n")
        dependency += " }"
        say.write_if_changed(self.template / "Cargo.toml", WORKSPACE)
        for name, package, kind in (("cell", "ctx", "cdylib"), ("pin", "pin", "lib")):
            manifest = PACKAGE.format(name=package, kind=kind, dependency=dependency)
            say.write_if_changed(self.template / name / "Cargo.toml", manifest)
            say.write_if_changed(self.template / name / "src" / "lib.rs", "pub use candle_course;\n")
        self._lock_dependencies()
        done = self.home / "built"
        if done.exists():
            self._build(quiet)
        else:
            with say.step("Building the notebook's dependencies, optimised", "5 to 8 minutes on 2 cores, once"):
                self._build(quiet)
            say.write_if_changed(done, "built\n")

    def _build(self, quiet: bool) -> None:
        """Runs cargo in the template; shows which crates it compiles, and all it says if it fails."""
        command, environment = build_command()
        said = []
        with subprocess.Popen(
            command, cwd=self.template / "cell", env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        ) as child:
            for line in child.stderr:
                said.append(line)
                if not quiet and line.lstrip().startswith(("Compiling", "Downloading", "Downloaded", "Blocking", "Updating")):
                    say.note(f"  {line.strip()}")
        if child.returncode != 0:
            raise say.Failure("the crate could not be built for the notebook:\n" + "".join(said).rstrip())

    def _lock_dependencies(self) -> None:
        """The notebook gets the versions of the workspace's `Cargo.lock`, not the newest ones."""
        pinned = (self.project / "Cargo.lock").read_text(encoding="utf-8")
        if say.write_if_changed(self.home / "pinned.lock", pinned) or not (self.template / "Cargo.lock").exists():
            say.write_if_changed(self.template / "Cargo.lock", pinned)

    def _remove_stale(self) -> None:
        if self.copies.exists():
            for holder in self.copies.glob("*.lock"):
                with open(holder, "r+") as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    shutil.rmtree(holder.with_suffix(""), ignore_errors=True)
                    holder.unlink(missing_ok=True)
            for folder in self.copies.iterdir():
                if folder.is_dir() and not Path(f"{folder}.lock").exists():
                    shutil.rmtree(folder, ignore_errors=True)
        remove_orphans(self.home.parent)


def remove_orphans(kernels: Path) -> None:
    """Removes the build folders of clones that no longer exist."""
    for home in kernels.iterdir() if kernels.exists() else ():
        record = home / "project"
        if record.is_file() and not Path(record.read_text(encoding="utf-8").strip()).exists():
            shutil.rmtree(home, ignore_errors=True)


def copy_tree(source: Path, destination: Path) -> None:
    """Copies a build folder with its modification times, which cargo compares.

    Libraries of third-party crates are hard-linked: they never change under their name. What a
    kernel may rewrite in place (our own crate, the cell, cargo's records) is copied; files that
    were one file under two names stay so.
    """
    seen = {}
    for folder, _, names in os.walk(source):
        target = destination / Path(folder).relative_to(source)
        target.mkdir(parents=True, exist_ok=True)
        shared = Path(folder).name == "deps"
        for name in names:
            old, new = os.path.join(folder, name), os.path.join(target, name)
            if shared and name.endswith((".rlib", ".rmeta", ".so", ".dylib")) and "candle_course" not in name and not name.startswith(("libctx", "ctx")):
                try:
                    os.link(old, new)
                    continue
                except OSError:
                    pass
            inode = os.stat(old).st_ino
            if inode in seen:
                os.link(seen[inode], new)
            else:
                shutil.copy2(old, new)
                seen[inode] = new
