"""The crate's benchmarks, `candle_course/benches`, and other libraries', `scripts/peers`, as programs."""

import json
import subprocess
from pathlib import Path

from . import paths


PEERS = paths.PROJECT / "scripts" / "peers"


def binary(name: str, *options: str) -> Path:
    """Builds one of them at release speed and returns where it lies."""
    command = ["cargo", "build", "--release", "--quiet", "--locked", "-p", "candle_course", "--bench", name, *options]
    command += ["--message-format", "json-render-diagnostics"]
    output = subprocess.run(command, cwd=paths.PROJECT, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    executables = [message["executable"] for message in messages if message.get("executable") and message["target"]["name"] == name]
    return Path(executables[-1])
