"""Where everything stands, and the versions that are pinned."""

import hashlib
import os
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CRATE = PROJECT / "candle_course"
# The dynamic library that notebooks depend on, and how their first cell says so.
NOTEBOOK_PACKAGE = "candle_course_notebook"
DEPENDENCY = f':dep candle_course = {{ path = "../../candle_course/notebook", package = "{NOTEBOOK_PACKAGE}" }}'
LESSONS = PROJECT / "lessons"
NOTEBOOKS = PROJECT / "notebooks"
REQUIREMENTS = PROJECT / "scripts" / "requirements.txt"
LOCK = PROJECT / "scripts" / "requirements.lock"
VENV = PROJECT / ".venv"

LANGUAGES = ("en", "pt-BR")
KERNEL_NAME = "rust"
EVCXR_VERSION = "0.22.0"
# What the crate's manifest says, and what evcxr needs where it has to be compiled.
MINIMUM_RUST = (1, 94)
KERNEL_RUST = (1, 95)
MINIMUM_PYTHON = (3, 10)
# What a runtime without Rust gets, and bundles are made with.
TOOLCHAIN = "1.95.0"


def repository() -> str:
    """The project's address, as the manifest names it; empty until it has one."""
    named = os.environ.get("CANDLE_COURSE_REPOSITORY")
    if named is None and (PROJECT / "Cargo.toml").exists():
        found = re.search(r'^repository = "([^"]*)"', (PROJECT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)
        named = found[1] if found else ""
    return (named or "").rstrip("/").removesuffix(".git")


def on_github() -> str:
    """`owner/name` where the project's address is one of GitHub's, which Colab, Binder and Codespaces open; else empty."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", repository())
    return found[1] if found else ""


def user_cache() -> Path:
    """The folder that outlives a clone: `$XDG_CACHE_HOME/candle_course`."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named and Path(named).is_absolute():
        base = Path(named)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "candle_course"


def kernels() -> Path:
    """The folder of all build folders: in the cache, unless the way there has a space or a colon in it.

    evcxr tells its child process a library's path in a line of words, and cargo hands down paths
    between colons; both want UTF-8.
    """
    folder = user_cache() / "kernels"
    if not re.search(r"[\s:\ud800-\udfff]", str(folder)):
        return folder
    return Path("/var/tmp") / f"candle_course-{os.getuid()}" / "kernels"


def kernel_home(project: Path = PROJECT) -> Path:
    """Build folders of the notebook kernels of one clone of the project.

    They stand outside the clone: inside it, cargo would take them for members of the workspace.
    """
    key = hashlib.sha256(os.fsencode(project)).hexdigest()[:10]
    # Whatever the project's folder is called, libraries are found under plain names.
    return kernels() / f"{re.sub(r'[^A-Za-z0-9._-]', '_', project.name)[:60]}-{key}"


def venv_python() -> Path:
    return VENV / "bin" / "python"
