"""Rust's own library as rust-analyzer, inside the kernel, reads it: without what no variable's type follows from.

A kernel that starts reads all of `core`, `alloc` and `std` before it can tell a first variable's type. Three
quarters of that are comments, attributes and what functions do, which the macros of the number types copy twelve
times over, and there are ten thousand intrinsics of a processor. So a copy is made without them, once for a compiler.
"""

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from . import build_folder, paths, say

SOURCES = Path("lib/rustlib/src/rust/library")
# What rust-analyzer is shown of the library (see `analysis/metadata.py`) and that is worth the trouble.
READ = ("core", "alloc", "std")
# Modules in other folders, which stay empty: intrinsics, vectors, the names in a backtrace.
EMPTY = {"core_arch": "pub mod arch {}", "core_simd": "pub mod simd {}", "std_float": "", "backtrace_rs": ""}

# What Rust code has to be cut at. A string is found in order to be passed over, as a character is; a
# lifetime's quote is neither.
TOKEN = re.compile(
    r"""
    (?P<line>//[^\n]*)
  | (?P<block>/\*)
  | (?P<attribute>\#!?\[)
  | \b(?:b|c)?r(?P<fence>\#*)".*?"(?P=fence)
  | "(?:[^"\\]|\\.)*"
  | '(?:[^'\\\n]|\\(?:x..|u\{\w+\}|.))'
  | (?P<open>[\[(])
  | (?P<close>[\])])
  | (?P<begin>\{)
  | (?P<end>\})
  | (?P<semicolon>;)
    """,
    re.VERBOSE | re.DOTALL,
)
BLOCK = re.compile(r"/\*|\*/")
GAP = re.compile(r"\s*(?:(?P<line>//[^\n]*)|(?P<block>/\*)|(?P<attribute>\#\[))")
# Attributes that say nothing of a type, where they stand before an item: some macros ask for one.
IDLE = re.compile(
    r"(?:allow|cold|deny|deprecated|diagnostic::\w+|doc|expect|inline|must_use|rustc_const_stable|rustc_diagnostic_item"
    r"|rustc_on_unimplemented|stable|track_caller|warn)\b"
)
ITEM = re.compile(r"\s*(?:async|auto|const|default|enum|extern|fn|impl|macro|macro_rules|mod|pub|static|struct|trait|type|union|unsafe|use)\b")
# A constant function may tell an array's length.
FUNCTION = re.compile(r"(?P<constant>\bconst\s+(?:unsafe\s+)?(?:extern\s*\"[^\"]*\"\s*)?)?\bfn\s+\$?\w+")


def ensure() -> Path:
    """The copy that belongs to this compiler, made if it is not there; None where there is nothing to copy."""
    sysroot = Path(say.ask(["rustc", "--print", "sysroot"]))
    place = build_folder.digest([sysroot])
    root = paths.user_cache() / "rust-library" / f"{place}-{build_folder.digest([build_folder.compiler(), Path(__file__).read_bytes()])}"
    if root.exists():
        return root
    if not (sysroot / SOURCES / "core").exists() and shutil.which("rustup"):
        try:
            with say.step("Fetching the source of Rust's library, from which the kernel tells types", "5 s"):
                say.run(["rustup", "component", "add", "rust-src"], limit=300)
        except say.Failure as failure:
            say.note(f"  it could not be had ({failure})")
    if not (sysroot / SOURCES / "core").exists():
        return None
    root.parent.mkdir(parents=True, exist_ok=True)
    before = list(root.parent.glob(f"{place}-*"))
    with tempfile.TemporaryDirectory(dir=root.parent) as unfinished:
        copy(sysroot, Path(unfinished, "root"))
        # Another kernel may have been quicker.
        with contextlib.suppress(OSError):
            os.replace(Path(unfinished, "root"), root)
    for folder in before:
        shutil.rmtree(folder, ignore_errors=True)
    return root


def copy(sysroot: Path, root: Path) -> None:
    """Writes the library into `root`; all else of the toolchain is linked to."""
    library = root / SOURCES
    library.mkdir(parents=True)
    for folder in [root, *(root / part for part in reversed(SOURCES.parents[:-1])), library]:
        for path in (sysroot / folder.relative_to(root)).iterdir():
            target = folder / path.name
            if folder == library and path.name in READ:
                copy_crate(path, target)
            elif not target.exists():
                target.symlink_to(path)


def copy_crate(source: Path, target: Path) -> None:
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in ("tests", "benches")]
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True)
        for name in names:
            if name.endswith(".rs"):
                text = Path(folder, name).read_text(encoding="utf-8")
                (place / name).write_text(hollow(bare(text)), encoding="utf-8")
            else:
                shutil.copy2(Path(folder, name), place / name)
    root = target / "src" / "lib.rs"
    root.write_text(without_modules(root.read_text(encoding="utf-8")), encoding="utf-8")


def without_modules(text: str) -> str:
    for name, content in EMPTY.items():
        text = re.sub(rf'#\[path = "[^"]*"\]((?:\s*#\[[^\]]*\])*\s*)mod {name};', rf"\1mod {name} {{ {content} }}", text)
    return text


def bare(text: str) -> str:
    """Rust code without its comments and idle attributes."""
    kept, done, at = [], 0, 0
    while found := TOKEN.search(text, at):
        at = end_of(text, found)
        if found["line"] or found["block"]:
            kept += [text[done : found.start()], " "]
            done = at
        elif found["attribute"] and IDLE.match(text, found.end()) and stands_before_item(text, at):
            kept.append(text[done : found.start()])
            done = at
    kept.append(text[done:])
    return re.sub(r"\n\s*\n", "\n", "".join(kept))


def hollow(text: str) -> str:
    """Code without comments, and without what its functions do: their types stand before it.

    Not so where the type is `impl Trait`, which the code tells, and in constant functions.
    """
    kept, done, at = [], 0, 0
    while found := FUNCTION.search(text, at):
        at = found.end()
        begin = None if found["constant"] else body(text, at)
        if begin and not re.search(r"->.*\bimpl\b", text[at:begin], re.DOTALL):
            kept += [text[done:begin], "{ loop {} }"]
            done = at = end_of_group(text, begin + 1)
    kept.append(text[done:])
    return "".join(kept)


def body(text: str, at: int):
    """Where the body of a function begins whose name ends at `at`; None if it has none."""
    while found := TOKEN.search(text, at):
        at = end_of(text, found)
        if found["open"]:
            at = end_of_group(text, at)
        elif found["begin"] and text[: found.start()].rstrip().endswith("<"):
            # A constant among the generic arguments.
            at = end_of_group(text, at)
        elif found["begin"]:
            return found.start()
        elif found["close"] or found["end"] or found["semicolon"]:
            return None
    return None


def end_of(text: str, found: re.Match) -> int:
    """Where a token ends: a comment with those inside it, an attribute with its bracket."""
    if found["attribute"]:
        return end_of_group(text, found.end())
    if not found["block"]:
        return found.end()
    depth = 0
    for mark in BLOCK.finditer(text, found.start("block")):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(text)


def end_of_group(text: str, at: int) -> int:
    """Where the bracket or brace closes that opened before `at`."""
    depth = 1
    while depth and (found := TOKEN.search(text, at)):
        at = end_of(text, found)
        depth += bool(found["open"] or found["begin"]) - bool(found["close"] or found["end"])
    return at


def stands_before_item(text: str, at: int) -> bool:
    """Whether an item follows, behind comments and other attributes."""
    while found := GAP.match(text, at):
        at = end_of(text, found)
    return bool(ITEM.match(text, at))
