"""The build folder of the notebook kernel: compiled once, copied for each kernel.

evcxr compiles a notebook's dependencies in a folder of its own. This module keeps such a folder
(the template) compiled ahead of time with the very command that evcxr uses, so that cargo finds
everything fresh, and gives each kernel a private copy, because every kernel writes its own
`src/lib.rs` there. Cargo itself decides what is stale: a changed crate, compiler or feature is
rebuilt in the template before the next copy is taken.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from . import paths, say

# The profile that evcxr writes for its cells.
CARGO_TOML = """\
[package]
name = "ctx"
version = "1.0.0"
edition = "2024"

[lib]
crate-type = ["cdylib"]
path = "src/lib.rs"

[profile.dev]
opt-level = 0
debug = false
strip = "debuginfo"
rpath = true
lto = false
debug-assertions = true
codegen-units = 16
panic = 'unwind'
incremental = true
overflow-checks = true

[dependencies]
candle_course = {dependency}
"""

# Cargo reads this from the parent of every build folder. With evcxr's profile alone the
# dependencies carry debug assertions and train at half the speed.
CARGO_CONFIG = """\
[profile.dev.package."*"]
opt-level = 3
debug-assertions = false
overflow-checks = false
"""


def features() -> list:
    """Extra cargo features of the template (`CANDLE_COURSE_FEATURES=cuda,cudnn`).

    evcxr writes each cell's manifest itself: a notebook's `:dep` line must name the same features.
    """
    named = os.environ.get("CANDLE_COURSE_FEATURES", "")
    return sorted({feature for feature in named.replace(",", " ").split()})


def kernel_environment() -> dict:
    """What both the template's build and the kernel need in their environment."""
    environment = dict(os.environ)
    # Incremental compilation turns off the optimisation between the parts of a crate.
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
    libraries = say.ask(["rustc", "--print", "target-libdir"])
    name = "DYLD_FALLBACK_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
    environment[name] = os.pathsep.join(filter(None, [environment.get(name), libraries]))
    environment["CANDLE_COURSE_PATH"] = environment["PATH"]
    environment["CANDLE_COURSE_CARGO"] = cargo()
    environment["CANDLE_COURSE_CARGO_HOME"] = environment.get("CARGO_HOME") or str(Path.home() / ".cargo")
    environment["CANDLE_COURSE_PYTHON"] = sys.executable
    here = Path(__file__).resolve().parent
    # Also spares the notebooks a person's own start-up code for evcxr.
    environment.setdefault("EVCXR_CONFIG_DIR", str(here / "kernel-config"))
    # evcxr asks rustup or the PATH for cargo; rust-analyzer inside it looks in CARGO_HOME first.
    environment["PATH"] = f"{here / 'kernel-bin'}{os.pathsep}{environment['PATH']}"
    environment["CARGO_HOME"] = str(here / "analysis")
    return environment


def cargo() -> str:
    """The toolchain's own cargo; rustup's stand-in for it costs a tenth of a second a cell."""
    try:
        return say.ask(["rustup", "which", "cargo"])
    except say.Failure:
        return shutil.which("cargo")


def compiler() -> str:
    """All that the compiler says of its version and of the machine it compiles for."""
    return say.ask(["rustc", "-vV"])


def host_target() -> str:
    found = re.search(r"^host: (\S+)$", compiler(), re.MULTILINE)
    if not found:
        raise say.Failure("`rustc -vV` does not say for which machine it compiles; install Rust anew with https://rustup.rs")
    return found.group(1)


def progress(line: str) -> bool:
    """Whether a line of cargo's tells how far it is."""
    return line.lstrip().startswith(("Compiling", "Downloading", "Downloaded", "Blocking", "Updating"))


def toml(text: str) -> str:
    """A TOML string: as in JSON, but without surrogates for what stands beyond the first plane."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


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
        with self._locked():
            self._prepare(quiet)

    def copy(self) -> Path:
        """Makes sure the template is fresh and gives the caller a private copy of it, for
        `EVCXR_TMPDIR`.

        The copy is held by a lock on an inheritable file descriptor: it stays taken until the
        calling process and all of its children have ended, also across `exec`.
        """
        with self._locked():
            self._prepare(quiet=False)
            self.copies.mkdir(parents=True, exist_ok=True)
            name = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self.copies))
            descriptor = os.open(f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.set_inheritable(descriptor, True)
            copy_tree(self.template, name)
        return name

    def clean(self) -> None:
        """Removes the copies whose kernels have ended, and the folders of deleted clones."""
        if self.home.exists():
            with self._locked():
                # One of its own: another that cleans at the same time removes only its own.
                trash = Path(tempfile.mkdtemp(prefix="trash-", dir=self.home))
                left = [path for path in self.home.glob("trash-*") if path != trash]
                self._discard(trash)
            for folder in [trash, *left]:
                shutil.rmtree(folder, ignore_errors=True)
        remove_orphans(self.home.parent)

    def clean_in_background(self) -> None:
        """Deleting takes seconds; a kernel that starts need not wait for it."""
        code = "import sys; sys.path.insert(0, sys.argv[1]); from course.build_folder import BuildFolder; BuildFolder().clean()"
        subprocess.Popen(
            [sys.executable, "-c", code, str(Path(__file__).resolve().parents[1])],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )

    @contextlib.contextmanager
    def _locked(self):
        claim(self.home.parent)
        with say.lock(self.home / "lock", "building the notebook's dependencies"):
            yield

    def _prepare(self, quiet: bool) -> None:
        dependency = f'{{ path = {toml(str(self.project / "candle_course" / "notebook"))}, package = "{paths.NOTEBOOK_PACKAGE}"'
        if features():
            dependency += f", features = [{', '.join(map(toml, features()))}]"
        say.write_if_changed(self.home / "project", f"{self.project}\n")
        say.write_if_changed(self.home / ".cargo" / "config.toml", CARGO_CONFIG)
        changed = say.write_if_changed(self.template / "Cargo.toml", CARGO_TOML.replace("{dependency}", dependency + " }"))
        say.write_if_changed(self.template / "src" / "lib.rs", "pub use candle_course;\n")
        self._lock_dependencies(changed)
        self._forget_other_compilers()
        done = self.home / "built"
        if done.exists():
            self._build(quiet)
        else:
            self._seed()
            with say.step("Building the notebook's dependencies, optimised", "5 to 8 minutes on 2 cores, once"):
                self._build(quiet)
            say.write_if_changed(done, "built\n")
        # What cargo made of the workspace's versions, for `kernel-bin/cargo` to put back.
        shutil.copy2(self.template / "Cargo.lock", self.template / "pinned.lock")

    def _build(self, quiet: bool) -> None:
        """Runs cargo in the template; shows which crates it compiles, and all it says if it fails."""
        command, environment = build_command()
        show = (lambda line: False) if quiet else progress
        try:
            say.run(command, show=show, log=self.home / "build.log", cwd=self.template, env=environment)
        except say.Failure as failure:
            raise say.Failure(f"the crate could not be built for the notebook: {failure}") from None

    def _forget_other_compilers(self) -> None:
        """Clears what another compiler has made: cargo uses none of it and would keep it for ever."""
        record = self.home / "compiler"
        if record.exists() and say.read_text(record) != f"{compiler()}\n":
            trash = Path(tempfile.mkdtemp(prefix="trash-", dir=self.home))
            if (self.template / "target").exists():
                say.note("• Rust has changed; what the other version has compiled goes …")
                os.replace(self.template / "target", trash / "target")
            (self.home / "built").unlink(missing_ok=True)
            # Recorded before it is deleted, which an interruption leaves to `clean`.
            say.write_if_changed(record, f"{compiler()}\n")
            shutil.rmtree(trash, ignore_errors=True)
        say.write_if_changed(record, f"{compiler()}\n")

    def _seed(self) -> None:
        """Takes the third-party libraries that another clone of the project has compiled."""
        if (self.template / "target").exists():
            return
        for other in sorted(self.home.parent.glob("*/built"), key=lambda path: -path.stat().st_mtime):
            home = other.parent
            if home == self.home or not (home / "template" / "target").exists():
                continue
            if (home / "compiler").exists() and say.read_text(home / "compiler") != say.read_text(self.home / "compiler"):
                continue
            with say.lock(home / "lock", "building in another clone"):
                say.note(f"• Taking over what is compiled for {say.name(say.read_text(home / 'project').strip())} …")
                unfinished = self.template / "target.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                copy_tree(home / "template" / "target", unfinished, own=False)
                os.replace(unfinished, self.template / "target")
            return

    def _lock_dependencies(self, changed: bool) -> None:
        """The notebook gets the versions of the workspace's `Cargo.lock`, not the newest ones.

        Cargo drops what the template does not use, so other features need them all again.
        """
        wanted = (self.project / "Cargo.lock").read_text(encoding="utf-8")
        if say.write_if_changed(self.home / "workspace.lock", wanted) or changed or not (self.template / "Cargo.lock").exists():
            say.write_if_changed(self.template / "Cargo.lock", wanted)

    def _discard(self, trash: Path) -> None:
        """Moves away what no kernel holds; a rename is quick enough to be done under the lock."""
        for holder in self.copies.glob("*.lock"):
            with open(holder, "r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                holder.unlink()
        for folder in self.copies.glob("*"):
            if folder.is_dir() and not Path(f"{folder}.lock").exists():
                os.replace(folder, trash / folder.name)


def claim(folder: Path) -> None:
    """Makes the folder of all build folders; nobody else may have made it, or write into it.

    One outside the cache may stand where everybody writes, and what is in it is executed.
    """
    with say.writing(folder):
        if folder.is_relative_to(paths.user_cache()) or folder != paths.kernels():
            folder.mkdir(parents=True, exist_ok=True)
            return
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, exist_ok=True)
            found = each.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                raise say.Failure(f"{each} is not a folder of yours alone; remove it, or let XDG_CACHE_HOME name a folder without a space or a colon in its path")


def remove_orphans(kernels: Path) -> None:
    """Removes the build folders of clones that no longer exist."""
    for home in kernels.iterdir() if kernels.exists() else ():
        record = home / "project"
        if record.is_file() and not Path(say.read_text(record).strip()).exists():
            shutil.rmtree(home, ignore_errors=True)


OWN = ("candle_course", "libcandle_course", "ctx", "libctx")


def copy_tree(source: Path, destination: Path, own: bool = True) -> None:
    """Copies a build folder with its modification times, which cargo compares.

    Libraries of third-party crates are hard-linked: they never change under their name. What a
    kernel may rewrite in place (our own crate, the cell, cargo's records) is copied, or left out
    where `own` is false; files that were one file under two names stay so.
    """
    seen = {}
    for folder, folders, names in os.walk(source):
        if not own:
            folders[:] = [name for name in folders if not name.startswith(OWN)]
        target = destination / Path(folder).relative_to(source)
        target.mkdir(parents=True, exist_ok=True)
        libraries = Path(folder).name == "deps"
        for name in names:
            mine = name.startswith(OWN)
            if mine and not own:
                continue
            old, new = os.path.join(folder, name), os.path.join(target, name)
            if libraries and not mine and name.endswith((".rlib", ".rmeta", ".so", ".dylib")):
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
