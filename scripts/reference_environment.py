"""Runs the calling script in a Python that has PyTorch.

`CANDLE_COURSE_REFERENCE_PYTHON` names a ready interpreter; without it a throwaway environment is
made from the pins below and deleted afterwards.
"""

import os
import subprocess
import sys
import tempfile
import venv

PINS = ["torch==2.15.0", "numpy", "safetensors"]
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
        print(f"making a throwaway environment with {', '.join(PINS)}", flush=True)
        venv.create(folder, with_pip=True)
        python = os.path.join(folder, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS], check=True)
        sys.exit(subprocess.run([python, *arguments], env=environment).returncode)
