"""What a scalar, a histogram and a figure cost, and how much longer an epoch takes with TensorBoard."""

import argparse
import subprocess
import sys
from pathlib import Path

argparse.ArgumentParser(prog="scripts/bench tensorboard", description=__doc__).parse_args()
PROJECT = Path(__file__).resolve().parent.parent
command = ["cargo", "run", "--release", "--quiet", "--locked", "--example", "bench_tensorboard"]
sys.exit(subprocess.run(command, cwd=PROJECT).returncode)
