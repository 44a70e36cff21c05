"""Cells as the kernel compiles them, with the real compiler and a small crate in the place of ours."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from conftest import PROJECT
from course import build_folder, paths

KERNEL_BIN = PROJECT / "scripts" / "course" / "kernel-bin"
EXTENSION = "dylib" if sys.platform == "darwin" else "so"

CRATE = """
use std::sync::atomic::{AtomicUsize, Ordering};
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// As candle numbers its tensors: twice in a process, and gradients are wrong.
pub fn next() -> usize { NEXT.fetch_add(1, Ordering::Relaxed) }
pub const VERSION: u32 = 1;
"""
CELL = '#[unsafe(no_mangle)] pub extern "C" fn run() -> usize {{ {} }}\n'
# As evcxr's process for the cells.
LOADER = "import ctypes, sys\nfor line in sys.stdin: print(ctypes.CDLL(line.strip()).run(), flush=True)"


class Project:
    """A project with a crate of a few lines, its build folder, and a kernel's part in it."""

    def __init__(self, root):
        self.root = root
        self.library("candle_course", CRATE)
        notebook = root / "candle_course" / "notebook"
        (notebook / "src").mkdir(parents=True)
        (notebook / "src" / "lib.rs").write_text("pub use candle_course::*;\n")
        (notebook / "Cargo.toml").write_text(
            '[package]\nname = "candle_course_notebook"\nversion = "0.1.0"\nedition = "2024"\n[lib]\ncrate-type = ["dylib", "rlib"]\n[dependencies]\ncandle_course = { path = ".." }\n[workspace]\n'
        )
        self.library("other", "pub fn ten() -> usize { 10 }\n")
        (root / "Cargo.lock").write_text("version = 4\n")
        self.folder = build_folder.BuildFolder(root, root / "kernels" / "one")
        self.processes = []

    def library(self, name, text):
        (self.root / name / "src").mkdir(parents=True)
        (self.root / name / "src" / "lib.rs").write_text(text)
        (self.root / name / "Cargo.toml").write_text(f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2024"\n')

    def start(self):
        """A kernel: its folder, and the process that loads its cells."""
        self.copy, self.cells = self.folder.copy(), 0
        libraries = build_folder.say.ask(["rustc", "--print", "target-libdir"])
        name = "DYLD_FALLBACK_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
        self.process = subprocess.Popen([sys.executable, "-c", LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {name: libraries})
        self.processes.append(self.process)
        return self

    def cell(self, code, cargo="false", expected=0):
        """Compiles a cell as evcxr does, and loads it as evcxr does: under a name of its own."""
        (self.copy / "src" / "lib.rs").write_text(CELL.format(code))
        so = self.copy / "so"
        so.unlink(missing_ok=True)
        command, environment = build_folder.build_command()
        environment |= {"CANDLE_COURSE_CARGO": cargo, "CANDLE_COURSE_PATH": os.environ["PATH"], "CANDLE_COURSE_CARGO_HOME": os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")}
        environment |= {"CANDLE_COURSE_PYTHON": str(self.root / "fill"), "EVCXR_EXECUTION_SO_PATH": str(so)}
        result = subprocess.run([KERNEL_BIN / "cargo", *command[command.index("build"):], "--message-format=json"], cwd=self.copy, env=environment, capture_output=True, text=True)
        assert result.returncode == expected, result.stderr
        if expected:
            return result.stderr
        built = so.read_text() if so.exists() else str(next(self.copy.glob(f"target/*/debug/libctx.{EXTENSION}")))
        self.cells += 1
        moved = os.path.join(os.path.dirname(built), f"libcode_{self.cells}.{EXTENSION}")
        os.rename(built, moved)
        print(moved, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    monkeypatch.setenv("CARGO_BUILD_JOBS", "1")
    made = Project(tmp_path)
    fill = tmp_path / "fill"
    fill.write_text(textwrap.dedent(f"""\
        #!{sys.executable}
        import sys
        sys.path.insert(0, {str(PROJECT / 'scripts')!r})
        from pathlib import Path
        from course import build_folder, command
        sys.exit(command.door(lambda: build_folder.BuildFolder(Path({str(tmp_path)!r}), Path({str(made.folder.home)!r})).fill(Path(sys.argv[3])), before="error: "))
    """))
    fill.chmod(0o755)
    yield made.start()
    for process in made.processes:
        process.communicate()


def test_cells_share_the_crate_with_and_without_cargo(project):
    """One counter for all cells, also after a dependency of the learner's own."""
    real = shutil.which("cargo")
    assert [project.cell("candle_course::next()") for _ in range(3)] == [0, 1, 2]
    with open(project.copy / "Cargo.toml", "a") as manifest:
        manifest.write(f'other = {{ path = "{project.root}/other" }}\n')
    assert project.cell("candle_course::next() + other::ten()", real) == 13
    shutil.copy(project.copy / "quick" / "crate.toml", project.copy / "Cargo.toml")
    assert project.cell("candle_course::next()") == 4
    kept = {path.name for path in project.copy.rglob(f"*.{EXTENSION}") if "candle_course" in path.name}
    inodes = {path.stat().st_ino for path in project.copy.rglob(f"libcandle_course_notebook*.{EXTENSION}")}
    snapshot = next((project.folder.home / "snapshots").iterdir())
    assert kept and inodes == {path.stat().st_ino for path in snapshot.glob(f"*.{EXTENSION}")}


def test_a_cell_with_an_error_says_what_the_compiler_says(project):
    said = project.cell("candle_course::missing()", expected=1)
    assert '"code":"E0425"' in said and "candle_course" in said and "\\u001b" not in said and '"artifact"' not in said
    assert project.cell("candle_course::next()") == 0


def test_a_kernel_that_runs_keeps_the_crate_and_the_next_one_gets_the_new(project):
    assert project.cell("candle_course::VERSION as usize") == 1
    (project.root / "candle_course" / "src" / "lib.rs").write_text(CRATE.replace("u32 = 1", "u32 = 2"))
    first = project.copy
    newer = Project.__new__(Project)
    newer.__dict__.update(project.__dict__)
    assert newer.start().cell("candle_course::VERSION as usize") == 2 and newer.copy != first
    assert project.cell("candle_course::VERSION as usize") == 1


def test_ten_kernels_take_no_room(project):
    def taken():
        # Files of several names count once.
        files = {path.stat().st_ino: path.stat().st_blocks * 512 for path in project.folder.home.rglob("*") if path.is_file()}
        return sum(files.values())

    before = taken()
    for _ in range(10):
        project.folder.copy()
    assert taken() - before < 10 * 200_000
