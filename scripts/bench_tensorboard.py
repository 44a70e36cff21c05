"""What a scalar, a histogram and a figure cost, and how much longer an epoch takes with TensorBoard."""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from course import benchmarks  # noqa: E402

argparse.ArgumentParser(prog="scripts/bench tensorboard", description=__doc__).parse_args()
sys.exit(subprocess.run([benchmarks.binary("tensorboard")]).returncode)
