"""The build folder of the notebook kernel: compiled once, for every kernel.

evcxr compiles a notebook's dependencies in a folder of its own. This module keeps such a folder
(the template) compiled ahead of time with the very command that evcxr uses, and gives each kernel a
folder of its own, because every kernel writes its `src/lib.rs` there. The compiled libraries are not
copied: cells are compiled with the template's. A changed crate, compiler or feature is rebuilt in the
template before the next kernel starts; what of it is stale, cargo itself decides.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from . import paths, progress, say

HERE = Path(__file__).resolve().parent
# The manifest that evcxr writes for its cells, to the letter: `kernel-bin/cargo` compares the two.
CARGO_TOML = """
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
{dependencies}
"""

# With which evcxr looks whether there is such a crate.
VALIDATION = """
    [package]
    name = "evcxr_dummy_validate_dep"
    version = "0.0.1"
    edition = "2024"

    [lib]
    path = "lib.rs"

    [dependencies]
    {dependency}
    """

# Cargo reads this from the parent of every build folder. With evcxr's profile alone the
# dependencies carry debug assertions and train at half the speed. What is named is off the hot path,
# and compiled for less: it runs during a build, or never, or once for a figure or a file.
# One code unit for each crate: of several, the parts are optimised a second time across each other, which is a
# fifth of the compiling, and without that a call to another part stands in the middle of a loop (convolutions
# take four times as long). Other crates keep the other cores busy meanwhile, those of the kernel's build, too.
CARGO_CONFIG = """\
[profile.dev.package."*"]
opt-level = 3
codegen-units = 1
debug-assertions = false
overflow-checks = false
"""
# Plain candle trains as fast with the compiler's second level as with its third.
SECOND_LEVEL = "candle-core"
# Compilers' plug-ins, and what is compiled for the machine that builds: a build script runs for a moment.
FOR_THE_BUILD = """
    anyhow autocfg bytemuck_derive cc darling darling_core darling_macro derive_builder_core derive_builder_macro
    dyn-stack-macros find-msvc-tools fnv ident_case macro_rules_attribute-proc_macro monostate-impl paste pastey
    proc-macro2 prost-derive quote rustc_version rustversion semver seq-macro serde_derive shlex strsim syn
    synstructure thiserror-impl unicode-ident version_check yoke-derive zerocopy-derive zerofrom-derive zeroize_derive
"""
# Tokenizers that candle reads from GGUF files, complex products, colour profiles: no lesson has any. What
# speaks with servers waits for them; ring's ciphers are assembly.
NEVER_RUN = """
    ahash aho-corasick castaway compact_str daachorse dary_heap derive_builder esaxx-rs fancy-regex gemm-c32 gemm-c64
    http httparse macro_rules_attribute minimal-lexical monostate moxcms nom pxfm rayon-cond regex regex-automata
    regex-syntax rustls rustls-pki-types rustls-webpki spm_precompiled static_assertions tokenizers
    unicode-normalization-alignments unicode_categories untrusted ureq ureq-proto utf8-zero webpki-roots
"""
# A figure that is saved as PNG, and its fonts (in a notebook it is SVG): a tenth of a second.
DRAWS = """
    data-url float-cmp font-types fontdb gif harfrust imagesize kurbo pico-args polycool read-fonts resvg rgb roxmltree
    simplecss siphasher skrifa slotmap strict-num svgtypes tiny-skia-path unicode-bidi unicode-script unicode-vo usvg
    xmlwriter
"""
# Dates, large numbers and names that readers of tables and archives know; what a processor has, asked for once.
ASIDE = """
    chrono iana-time-zone num-bigint num-integer raw-cpuid typed-path zip
"""
# What writes figures, the readers of tables: milliseconds where they run.
COLD = """
    base64 bytes color_quant const-oid parquet percent-encoding plotters plotters-backend plotters-svg prost ring
    rustix ryu subtle tempfile tinyvec twox-hash unicode-segmentation weezl
"""
# Seconds of a core for the crates that take longest to compile, to tell the time left by.
HEAVY = {"candle_course": 180, "candle-core": 130, "parquet": 28, "image": 23, "candle-nn": 14, "read-fonts": 10, "zerocopy": 9, "tokenizers": 8, "regex-automata": 8, "tiny-skia": 7, "rustls": 6}


def cargo_config() -> str:
    levels = [(SECOND_LEVEL, 2), (FOR_THE_BUILD, 0), (NEVER_RUN, 0), (DRAWS, 0), (ASIDE, 0), (COLD, 1)]
    lines = [f"[profile.dev.package.{name}]\nopt-level = {level}\n" for names, level in levels for name in names.split()]
    return CARGO_CONFIG + "\n" + "".join(lines)


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
    # Also spares the notebooks a person's own start-up code for evcxr.
    environment.setdefault("EVCXR_CONFIG_DIR", str(HERE / "kernel-config"))
    # evcxr asks rustup or the PATH for cargo; rust-analyzer inside it looks in CARGO_HOME first.
    environment["PATH"] = f"{HERE / 'kernel-bin'}{os.pathsep}{environment['PATH']}"
    environment["CARGO_HOME"] = str(HERE / "analysis")
    return environment


@functools.cache
def cargo() -> str:
    """The toolchain's own cargo; rustup's stand-in for it costs a tenth of a second a cell."""
    try:
        return say.ask(["rustup", "which", "cargo"])
    except say.Failure:
        return shutil.which("cargo")


@functools.cache
def compiler() -> str:
    """All that the compiler says of its version and of the machine it compiles for."""
    return say.ask(["rustc", "-vV"])


def host_target() -> str:
    found = re.search(r"^host: (\S+)$", compiler(), re.MULTILINE)
    if not found:
        raise say.Failure("`rustc -vV` does not say for which machine it compiles; install Rust anew with https://rustup.rs")
    return found.group(1)


def toml(text: str) -> str:
    """A TOML string: as in JSON, but without surrogates for what stands beyond the first plane."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def build_command() -> tuple:
    """The command and environment with which evcxr compiles a cell."""
    environment = kernel_environment()
    environment.update(CARGO_TARGET_DIR="target", CARGO_BUILD_BUILD_DIR="target")
    flags = "-Cprefer-dynamic"
    command = linker()
    if command == ["cargo"] and sys.platform != "darwin" and shutil.which("lld"):
        flags += " -Clink-arg=-fuse-ld=lld"
    environment["RUSTFLAGS"] = flags
    return command + ["build", "--target", host_target()], environment


def linker() -> list:
    """Cargo, with the quickest linker there is: what evcxr does, too."""
    return ["mold", "-run", "cargo"] if sys.platform != "darwin" and shutil.which("mold") else ["cargo"]


class BuildFolder:
    """The template and the copies that belong to one clone of the project."""

    def __init__(self, project: Path = paths.PROJECT, home: Path = None):
        self.project = project
        self.home = home or paths.kernel_home(project)
        self.template = self.home / "template"
        self.copies = self.home / "copies"
        # Compiled crates of a bundle, until cargo has taken what it wants of them.
        self.ready_made = self.home / "ready-made"

    def answers(self) -> Path:
        """Where is kept what `analysis/bin/cargo` was told of this compiler."""
        return self.home / "metadata" / digest([compiler()])

    def is_built(self) -> bool:
        """Whether the template was built once; what has changed since is compiled when it is needed."""
        return (self.home / "built").exists()

    def prepare(self) -> None:
        """Brings the template up to date: minutes the first time, half a second when fresh."""
        with self._locked():
            self._prepare()

    def copy(self) -> Path:
        """Makes sure the template is fresh and gives the caller a private copy of it, for
        `EVCXR_TMPDIR`.

        The copy is held by a lock on an inheritable file descriptor: it stays taken until the
        calling process and all of its children have ended, also across `exec`.
        """
        with self._locked():
            self._prepare()
            self.copies.mkdir(parents=True, exist_ok=True)
            name = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self.copies))
            descriptor = os.open(f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.set_inheritable(descriptor, True)
            copy_tree(self.template, name, skip="target")
            self._use_snapshot(name)
        return name

    def fill(self, name: Path) -> None:
        """Gives a copy all that cargo needs to build in it: for a notebook with dependencies of its own.

        The crate's library must be the very file that the kernel has loaded: two of them would count
        candle's tensors twice.
        """
        with self._locked():
            snapshot = Path(say.read_text(name / "snapshot").strip())
            # Not what cargo leaves in `target`: it leaves some of it when it is merely asked something.
            filled = name / "filled"
            if filled.exists():
                return
            if snapshot != self._snapshot():
                raise say.Failure("the crate has changed since this kernel started; restart the kernel")
            copy_tree(self.template / "target", name / "target")
            for library in snapshot.iterdir():
                for place in (name / "target").rglob(library.name):
                    place.unlink()
                    link_or_copy(library, place)
            filled.touch()

    def _snapshot(self) -> Path:
        """The libraries of our own crates as they were last built, where nothing writes them again.

        Kernels compile their cells with these and with the template's third-party libraries, whose
        names change with what is in them. So a kernel costs no disk but for its cells, and a new build
        does not change what runs.
        """
        own = sorted(path for path in (self.template / "target").glob("*/debug/deps/*") if path.name.startswith(CRATES) and path.suffix in LIBRARIES)
        snapshot = self.home / "snapshots" / digest([marks(own)])
        if not snapshot.exists():
            unfinished = Path(tempfile.mkdtemp(prefix="trash-", dir=self.home))
            for path in own:
                shutil.copy2(path, unfinished / path.name)
            snapshot.parent.mkdir(exist_ok=True)
            os.replace(unfinished, snapshot)
        return snapshot

    def _use_snapshot(self, name: Path) -> None:
        """Leads the compiler's arguments, as they were in the template, to the copy and the snapshot."""
        snapshot, replay = self._snapshot(), name / "quick" / "rustc"
        say.write_if_changed(name / "snapshot", f"{snapshot}\n")
        if replay.exists():
            template, copy, libraries = (str(path).replace("'", r"'\''") for path in (self.template, name, snapshot))
            ours = re.compile(rf"{re.escape(template)}/target/[^/]+/debug/deps/(?={'|'.join(CRATES)})")
            text = ours.sub(lambda _: f"{libraries}/", say.read_text(replay))
            for before in ("'--out-dir' '", "CARGO_MANIFEST_DIR='"):
                text = text.replace(f"{before}{template}", f"{before}{copy}")
            say.write_if_changed(replay, f"{text.rstrip()} '-L' 'dependency={libraries}'\n")

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

    def _prepare(self) -> None:
        dependency = f'candle_course = {{ path = {toml(str(self.project / "candle_course" / "notebook"))}, package = "{paths.NOTEBOOK_PACKAGE}"'
        if features():
            dependency += f", features = [{', '.join(map(toml, features()))}]"
        dependency += " }"
        say.write_if_changed(self.home / "project", f"{self.project}\n")
        say.write_if_changed(self.home / ".cargo" / "config.toml", cargo_config())
        changed = say.write_if_changed(self.template / "Cargo.toml", CARGO_TOML.replace("{dependencies}", dependency + "\n"))
        say.write_if_changed(self.template / "src" / "lib.rs", "pub use candle_course;\n")
        self._write_quick(dependency)
        self._lock_dependencies(changed)
        self._forget_other_compilers()
        sources, fresh = self._sources(), self.home / "fresh"
        if self.is_built() and fresh.exists() and say.read_text(fresh) == f"{sources} {self._results()}\n":
            return
        if self.is_built():
            self._build()
        else:
            self._seed()
            with say.step("Building the notebook's dependencies, optimised", "" if self.ready_made.exists() else "5 to 8 minutes on 2 cores, once"):
                self._build()
            say.write_if_changed(self.home / "built", "built\n")
            self._put_away_what_was_ready()
        # What cargo made of the workspace's versions, for `kernel-bin/cargo` to put back.
        shutil.copy2(self.template / "Cargo.lock", self.template / "pinned.lock")
        # The sources as they were before: what has changed meanwhile is built the next time.
        say.write_if_changed(fresh, f"{sources} {self._results()}\n")

    def _sources(self) -> str:
        """Names all that a build follows from, by what cargo looks at too: times and sizes of files.

        Where it is the same, a kernel need not wait for cargo, which asks it of 220 packages.
        """
        files = [self.project / "Cargo.toml", self.project / "Cargo.lock", self.home / ".cargo" / "config.toml", self.template / "Cargo.toml"]
        for folder, folders, names in os.walk(self.project / "candle_course"):
            folders[:] = sorted(name for name in folders if name != "target" and not name.startswith("."))
            files += [Path(folder, name) for name in names]
        variables = {name: value for name, value in os.environ.items() if re.match(r"CARGO|RUST|CC|CXX|C(XX)?FLAGS|AR$|LD|PKG_CONFIG|CUDA|MAC|SDK", name)}
        return digest([marks(sorted(files)), sorted(variables.items()), linker(), compiler()])

    def _results(self) -> str:
        """Names what a build has left: a library that is gone has to be made again."""
        target = self.template / "target"
        libraries = [target / "debug" / "deps", *sorted(target.glob("*/debug/deps"))]
        return digest([marks(libraries + [self.template / name for name in ("Cargo.lock", "pinned.lock", "quick/rustc", "src/lib.rs")])])

    def _write_quick(self, dependency: str) -> None:
        """What `kernel-bin/cargo` knows without asking cargo: the manifests of a kernel without and with the crate."""
        quick = self.template / "quick"
        say.write_if_changed(quick / "empty.toml", CARGO_TOML.replace("{dependencies}", ""))
        say.write_if_changed(quick / "crate.toml", CARGO_TOML.replace("{dependencies}", dependency + "\n"))
        say.write_if_changed(quick / "validation.toml", VALIDATION.replace("{dependency}", dependency))
        # The kernel loads the crate as it starts; the lesson's first cell then finds it there.
        say.write_if_changed(self.template / "config" / "init.evcxr", f":dep {dependency}\n")
        say.write_if_changed(self.template / "config" / "evcxr.toml", (HERE / "kernel-config" / "evcxr.toml").read_text(encoding="utf-8"))
        if not (quick / "rustc").exists():
            # Only what is compiled is recorded.
            os.utime(self.template / "src" / "lib.rs")

    def _put_away_what_was_ready(self) -> None:
        used = self.ready_made / "used"
        if used.exists():
            say.note(f"  {len(used.read_text().splitlines())} crates were ready-made")
        shutil.rmtree(self.ready_made, ignore_errors=True)

    def _has_ready_made_crate(self) -> bool:
        """Whether the bundle's crate was made of these very sources, as it would be made here."""
        settings = features() or [name for name in os.environ if name.startswith("CARGO_PROFILE_")]
        plain = re.fullmatch(r"[\w/.+-]+", str(self.project), re.ASCII)
        return bool(plain and not settings) and (self.ready_made / f"sources-{own_sources(self.project)}").exists()

    def _build(self) -> None:
        """Runs cargo in the template; shows which crates it compiles, and all it says if it fails."""
        command, environment = build_command()
        environment |= {"RUSTC_WORKSPACE_WRAPPER": str(HERE / "kernel-bin" / "record"), "CANDLE_COURSE_RECORD": str(self.template / "quick" / "rustc")}
        if self.ready_made.exists():
            library = "dylib" if sys.platform == "darwin" else "so"
            environment |= {"RUSTC_WRAPPER": str(HERE / "bundle-bin" / "rustc"), "CANDLE_COURSE_READY_MADE": str(self.ready_made), "CANDLE_COURSE_LIBRARY": library, "CANDLE_COURSE_TEMPLATE": str(self.template)}
            environment["CANDLE_COURSE_SOURCES"] = str(self.project) if self._has_ready_made_crate() else ""
        try:
            with progress.Build("the crate", HEAVY, self.template / "target") as build:
                say.run(command, take=build.take, log=self.home / "build.log", cwd=self.template, env=environment | progress.VARIABLES)
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
        used = set()
        for folder in self.copies.glob("*"):
            if folder.is_dir() and not Path(f"{folder}.lock").exists():
                os.replace(folder, trash / folder.name)
            elif (folder / "snapshot").exists():
                used.add(say.read_text(folder / "snapshot").strip())
        snapshots = sorted((self.home / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime)
        for snapshot in snapshots[:-1]:
            if str(snapshot) not in used:
                os.replace(snapshot, trash / snapshot.name)


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


def own_sources(project: Path) -> str:
    """Names what the crate is compiled of, by what is in the files: the same on every machine."""
    told, crate = hashlib.sha256(), project / "candle_course"
    files = [path for folder in ("src", "samples", "notebook") for path in (crate / folder).rglob("*") if path.is_file() and "target" not in path.parts]
    for path in sorted([project / "Cargo.toml", *crate.glob("*.*"), *files]):
        told.update(f"{path.relative_to(project).as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return told.hexdigest()[:16]


def marks(files: list) -> list:
    """What tells whether a file is the one that it was; None for one that is gone."""
    found = []
    for path in files:
        try:
            status = os.stat(path)
            found.append((str(path), status.st_size, status.st_mtime_ns))
        except FileNotFoundError:
            found.append((str(path), None))
    return found


def digest(told: list) -> str:
    return hashlib.sha256(repr(told).encode()).hexdigest()[:24]


OWN = ("candle_course", "libcandle_course", "ctx", "libctx")
CRATES = ("libcandle_course",)
LIBRARIES = (".rlib", ".rmeta", ".so", ".dylib")


def link_or_copy(old, new) -> None:
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def copy_tree(source: Path, destination: Path, own: bool = True, skip: str = "") -> None:
    """Copies a build folder with its modification times, which cargo compares; without the folder `skip` in it.

    Libraries of third-party crates are hard-linked: they never change under their name. What a
    kernel may rewrite in place (our own crate, the cell, cargo's records) is copied, or left out
    where `own` is false; files that were one file under two names stay so.
    """
    seen = {}
    for folder, folders, names in os.walk(source):
        if not own:
            folders[:] = [name for name in folders if not name.startswith(OWN)]
        if Path(folder) == source and skip in folders:
            folders.remove(skip)
        target = destination / Path(folder).relative_to(source)
        target.mkdir(parents=True, exist_ok=True)
        libraries = Path(folder).name == "deps"
        for name in names:
            mine = name.startswith(OWN)
            if mine and not own:
                continue
            old, new = os.path.join(folder, name), os.path.join(target, name)
            if os.path.lexists(new):
                os.unlink(new)
            if libraries and not mine and name.endswith(LIBRARIES):
                link_or_copy(old, new)
                continue
            inode = os.stat(old).st_ino
            if inode in seen:
                os.link(seen[inode], new)
            else:
                shutil.copy2(old, new)
                seen[inode] = new
