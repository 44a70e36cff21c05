"""Runs the calling script in a Python that has PyTorch.

`CANDLE_COURSE_REFERENCE_PYTHON` names a ready interpreter; without it a throwaway environment is
made from `reference-requirements.txt` and deleted afterwards.
"""

import os
import subprocess
import sys
import tempfile
import venv

REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference-requirements.txt")
MARK = "CANDLE_COURSE_IN_REFERENCE_ENVIRONMENT"


def enter() -> None:
    """Returns in a Python that has PyTorch; otherwise runs the script there, and exits."""
    if os.environ.get(MARK):
        return
    arguments = [os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    environment = {**os.environ, MARK: "1"}
    python = os.environ.get("CANDLE_COURSE_REFERENCE_PYTHON")
    if python:
        sys.exit(subprocess.run([python, *arguments], env=environment).returncode)
    with tempfile.TemporaryDirectory() as folder:
        print("making a throwaway environment with PyTorch", flush=True)
        venv.create(folder, with_pip=True)
        python = os.path.join(folder, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        sys.exit(subprocess.run([python, *arguments], env=environment).returncode)
