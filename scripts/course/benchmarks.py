"""The crate's benchmarks, `candle_course/benches`, and other libraries', `scripts/peers`, as programs."""

import json
import subprocess
from pathlib import Path

from . import avx2, paths

PEERS = paths.PROJECT / "scripts" / "peers"


def binary(name: str, *options: str) -> Path:
    """Builds one of them at release speed and returns where it lies."""
    return built(name, "-p", "candle_course", "--bench", name, *options)


def peer(name: str) -> Path | None:
    """Builds what `scripts/peers/<name>` has, for this very processor; says so where that cannot be done."""
    print(f"building {name} (minutes the first time)", flush=True)
    processor = "x86-64-v3" if avx2.pretended else "native"
    options = ["--manifest-path", str(PEERS / "Cargo.toml"), "--target-dir", str(paths.PROJECT / "target" / f"peers-{processor}")]
    try:
        return built(f"{name}_peer", "-p", f"{name}_peer", "--config", f"build.rustflags = ['-C', 'target-cpu={processor}']", *options)
    except subprocess.CalledProcessError:
        print(f"{name} could not be built: NO COMPARISON WITH IT", flush=True)
        return None


def built(target: str, *options: str) -> Path:
    command = ["cargo", "build", "--release", "--quiet", "--locked", *options, "--message-format", "json-render-diagnostics"]
    output = subprocess.run(command, cwd=paths.PROJECT, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    executables = [message["executable"] for message in messages if message.get("executable") and message["target"]["name"] == target]
    return Path(executables[-1])
