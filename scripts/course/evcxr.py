"""Finds or installs the pinned evcxr Jupyter kernel."""

import os
import platform
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from . import paths, say

RELEASES = "https://github.com/evcxr/evcxr/releases/download"
TARGETS = {
    ("Linux", "x86_64"): "x86_64-unknown-linux-gnu",
    ("Darwin", "arm64"): "aarch64-apple-darwin",
    ("Darwin", "x86_64"): "x86_64-apple-darwin",
}


def install_root() -> Path:
    return paths.user_cache() / f"evcxr-{paths.EVCXR_VERSION}"


def find() -> Path:
    """The pinned kernel's binary, or None: our own, or one that `cargo install` put in place."""
    own = install_root() / "bin" / "evcxr_jupyter"
    if own.exists():
        return own
    cargo_home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    installed = cargo_home / "bin" / "evcxr_jupyter"
    record = cargo_home / ".crates.toml"
    if installed.exists() and record.exists() and f'"evcxr_jupyter {paths.EVCXR_VERSION} ' in record.read_text(encoding="utf-8"):
        return installed
    return None


def ensure() -> Path:
    """Installs the kernel unless it is there."""
    with say.lock(paths.user_cache() / "evcxr.lock", "installing the Rust notebook kernel"):
        found = find()
        if found:
            return found
        if not download():
            with say.step(f"Building the Rust notebook kernel, evcxr_jupyter {paths.EVCXR_VERSION}", "3 to 10 minutes, once for this machine"):
                command = ["cargo", "install", "--locked", "--root", install_root(), "--version", f"={paths.EVCXR_VERSION}", "evcxr_jupyter"]
                say.run(command, cwd=paths.user_cache())
        return find()


def download() -> bool:
    """Tries the project's own release binary; a machine without it builds from source."""
    target = TARGETS.get((platform.system(), platform.machine()))
    if target is None or os.environ.get("CARGO_NET_OFFLINE") == "true":
        return False
    name = f"evcxr_jupyter-v{paths.EVCXR_VERSION}-{target}"
    say.note(f"• Looking for a prebuilt Rust notebook kernel {paths.EVCXR_VERSION} …")
    root = install_root()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        archive = Path(folder) / "archive.tar.gz"
        try:
            with urllib.request.urlopen(f"{RELEASES}/v{paths.EVCXR_VERSION}/{name}.tar.gz", timeout=10) as reply, open(archive, "wb") as file:
                shutil.copyfileobj(reply, file)
            with tarfile.open(archive) as packed:
                member = next(m for m in packed.getmembers() if m.isfile() and Path(m.name).name == "evcxr_jupyter")
                member.name = "evcxr_jupyter"
                packed.extract(member, folder)
            binary = Path(folder) / "evcxr_jupyter"
            binary.chmod(0o755)
            # A binary for a newer C library, say, would fail only when a notebook starts.
            say.run([binary, "--help"], quiet=True)
        except (OSError, tarfile.TarError, StopIteration, say.Failure) as error:
            say.note(f"  none could be used here ({error})")
            return False
        (root / "bin").mkdir(parents=True, exist_ok=True)
        os.replace(binary, root / "bin" / "evcxr_jupyter")
    return True


if __name__ == "__main__":
    print(ensure(), file=sys.stdout)
