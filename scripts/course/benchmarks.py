"""The crate's benchmarks, `candle_course/benches`, as programs."""

import json
import subprocess
from pathlib import Path

from . import paths


def binary(name: str, *options: str, show=None) -> Path:
    """Builds one of them at release speed and returns where it lies."""
    command = ["cargo", "build", "--release", "--quiet", "--locked", "-p", "candle_course", "--bench", name, *options]
    command += ["--message-format", "json-render-diagnostics"]
    output = subprocess.run(command, cwd=paths.PROJECT, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    built = [message for message in messages if message.get("executable") and message["target"]["name"] == name]
    return Path(built[-1]["executable"])
