"""What a scalar, a histogram and a figure cost, and how much longer an epoch takes with TensorBoard."""

import subprocess
import sys
from pathlib import Path

if len(sys.argv) > 1:
    sys.exit("usage: scripts/bench tensorboard")
PROJECT = Path(__file__).resolve().parent.parent
command = ["cargo", "run", "--release", "--quiet", "--locked", "--example", "bench_tensorboard"]
sys.exit(subprocess.run(command, cwd=PROJECT).returncode)
