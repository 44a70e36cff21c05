"""The crate's benchmarks, `candle_course/benches`, and other libraries', `scripts/peers`, as programs."""

import json
import subprocess
from pathlib import Path

from . import paths


PEERS = paths.PROJECT / "scripts" / "peers"


def binary(name: str, *options: str) -> Path:
    """Builds one of them at release speed and returns where it lies."""
    return built(name, "-p", "candle_course", "--bench", name, *options)


def peer(name: str) -> Path:
    """Builds what `scripts/peers/<name>` has, likewise."""
    print(f"building {name} (minutes the first time)", flush=True)
    target = paths.PROJECT / "target" / "peers"
    return built(f"{name}_peer", "-p", f"{name}_peer", "--manifest-path", str(PEERS / "Cargo.toml"), "--target-dir", str(target))


def built(target: str, *options: str) -> Path:
    command = ["cargo", "build", "--release", "--quiet", "--locked", *options, "--message-format", "json-render-diagnostics"]
    output = subprocess.run(command, cwd=paths.PROJECT, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    executables = [message["executable"] for message in messages if message.get("executable") and message["target"]["name"] == target]
    return Path(executables[-1])
