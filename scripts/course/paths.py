"""Where everything stands, and the versions that are pinned."""

import hashlib
import os
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
CONSTRAINTS = PROJECT / "scripts" / "constraints.txt"
VENV = PROJECT / ".venv"

LANGUAGES = ("en", "pt-BR")
KERNEL_NAME = "rust"
EVCXR_VERSION = "0.22.0"
# What the crate's manifest says, and what evcxr needs where it has to be compiled.
MINIMUM_RUST = (1, 89)
KERNEL_RUST = (1, 95)
MINIMUM_PYTHON = (3, 10)


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


def kernel_home(project: Path = PROJECT) -> Path:
    """Build folders of the notebook kernels of one clone of the project.

    They stand outside the clone: inside it, cargo would take them for members of the workspace.
    """
    key = hashlib.sha256(str(project).encode()).hexdigest()[:10]
    return user_cache() / "kernels" / f"{project.name}-{key}"


def venv_python() -> Path:
    return VENV / "bin" / "python"
