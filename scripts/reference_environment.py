"""Runs the calling script in a Python that has PyTorch.

`CANDLE_COURSE_REFERENCE_PYTHON` names a ready interpreter; without it a throwaway environment is
made from `reference-requirements.lock` and deleted afterwards.
"""

import os
import subprocess
import sys
import tempfile
import venv

LOCK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference-requirements.lock")
MARK = "CANDLE_COURSE_IN_REFERENCE_ENVIRONMENT"
OLDEST = (3, 11, 5)


def enter() -> None:
    """Returns in a Python that has PyTorch; otherwise runs the script there, and exits."""
    if os.environ.get(MARK):
        return
    environment = {**os.environ, MARK: "1"}
    python = os.environ.get("CANDLE_COURSE_REFERENCE_PYTHON")
    if python:
        sys.exit(call(python, environment))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(call(make(folder), environment))


def call(python: str, environment: dict) -> int:
    """This very command again, by another Python."""
    try:
        return subprocess.run([python, *sys.orig_argv[1:]], env=environment).returncode
    except OSError as error:
        sys.exit(f"CANDLE_COURSE_REFERENCE_PYTHON names {python!r}, which cannot be started: {error.strerror}")


def make(folder: str) -> str:
    """Makes an environment with PyTorch in `folder`; its interpreter."""
    from course import say

    if sys.version_info[:3] < OLDEST:
        raise say.Failure(f"PyTorch and what it needs are pinned for Python {'.'.join(map(str, OLDEST))} and newer; this is {sys.version.split()[0]}")
    print("making a throwaway environment with PyTorch (minutes, some GB)", flush=True)
    venv.create(folder, with_pip=True)
    python = os.path.join(folder, "bin", "python")
    say.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--timeout", "30", "--require-hashes", "--only-binary", ":all:", "-r", LOCK], limit=7200)
    return python
