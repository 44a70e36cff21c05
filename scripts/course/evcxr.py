"""Finds or installs the pinned evcxr Jupyter kernel."""

import os
import platform
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

from . import build_folder, paths, progress, say

# What GitHub says of a release: of each file its address, and the SHA-256 that it took when the file came in.
RELEASE = f"https://api.github.com/repos/evcxr/evcxr/releases/tags/v{paths.EVCXR_VERSION}"
TARGETS = {
    ("Linux", "x86_64"): "x86_64-unknown-linux-gnu",
    ("Darwin", "arm64"): "aarch64-apple-darwin",
    ("Darwin", "x86_64"): "x86_64-apple-darwin",
}
# How it is compiled: at full speed what a cell waits for (reading code, finding its parts again), a little
# what uses that (a profile sees 3 % of a first cell in `hir_def`, 1 % in `hir_ty`, the two that take longest
# to compile), and the rest as it comes. What is at full speed is one code unit, whose
# parts need not be optimised a second time across each other: done for all crates, that is a fifth of the
# compiling; left out for all as they are, half a second of a first cell.
HOT = """
    drop_bomb hashbrown indexmap memchr ra-ap-rustc_lexer ra_ap_intern ra_ap_mbe ra_ap_parser ra_ap_span ra_ap_syntax
    ra_ap_syntax-bridge ra_ap_tt rowan rustc-hash salsa triomphe
"""
WARM = """
    arrayvec boxcar countme crossbeam-channel crossbeam-utils dashmap hashlink la-arena libmimalloc-sys mimalloc
    once_cell parking_lot parking_lot_core ra-ap-rustc_next_trait_solver ra-ap-rustc_type_ir ra_ap_base_db
    ra_ap_cfg ra_ap_edition ra_ap_hir ra_ap_hir_def ra_ap_hir_expand ra_ap_hir_ty ra_ap_stdx ra_ap_vfs rayon rayon-core
    smallvec smol_str text-size thin-vec
"""
# Seconds of a core for the crates that take longest to compile, to tell the time left by.
HEAVY = {"ra_ap_hir_ty": 127, "ra_ap_hir_def": 66, "ra_ap_intern": 28, "ra_ap_hir": 23, "ra_ap_syntax": 19, "ra_ap_hir_expand": 17, "ra_ap_ide_assists": 16, "ra_ap_ide": 9, "ra_ap_ide_db": 7, "ra_ap_base_db": 7, "ra_ap_ide_completion": 6}


def settings() -> list:
    """Arguments for cargo: the profile of the kernel's own build."""
    chosen = {"opt-level": 0, "codegen-units": 16, "debug": "false", "strip": '"symbols"', "lto": '"off"'}
    chosen |= {f"package.{name}.opt-level": level for names, level in [(HOT, 3), (WARM, 1)] for name in names.split()}
    chosen |= {f"package.{name}.codegen-units": 1 for name in HOT.split()}
    return [argument for name, value in chosen.items() for argument in ("--config", f"profile.release.{name}={value}")]


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
    try:
        if installed.exists() and f'"evcxr_jupyter {paths.EVCXR_VERSION} '.encode() in record.read_bytes():
            return installed
    except OSError:
        pass
    return None


def ensure() -> Path:
    """Installs the kernel unless it is there."""
    with say.lock(paths.user_cache() / "evcxr.lock", "installing the Rust notebook kernel"):
        found = find()
        if found:
            return found
        if not download():
            with say.step(f"Building the Rust notebook kernel, evcxr_jupyter {paths.EVCXR_VERSION}", "3 to 10 minutes, once for this machine"):
                build()
        return find()


def build() -> None:
    """Compiles it in a folder of the cache, where an interrupted build goes on."""
    target = paths.user_cache() / "evcxr-build"
    command = [*build_folder.linker(), "install", "--locked", "--root", install_root(), "--version", f"={paths.EVCXR_VERSION}", *settings(), "evcxr_jupyter"]
    variables = dict(os.environ, CARGO_TARGET_DIR=str(target), **progress.VARIABLES)
    with progress.Build("the kernel", HEAVY, target) as build:
        say.run(command, take=build.take, cwd=paths.user_cache(), env=variables, log=paths.user_cache() / "evcxr.log")
    shutil.rmtree(target, ignore_errors=True)


def download() -> bool:
    """Tries the project's own release binary; a machine without it builds from source.

    Only with a checksum from elsewhere than the file itself; cargo checks what it builds from.
    """
    target = TARGETS.get((platform.system(), platform.machine()))
    if target is None or os.environ.get("CARGO_NET_OFFLINE") == "true":
        return False
    name = f"evcxr_jupyter-v{paths.EVCXR_VERSION}-{target}.tar.gz"
    say.note(f"• Looking for a prebuilt Rust notebook kernel {paths.EVCXR_VERSION} …")
    from . import network

    root = install_root()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        archive = Path(folder) / "archive.tar.gz"
        try:
            network.download(*announced(name), archive)
            binary = unpack(archive, Path(folder) / "evcxr_jupyter")
            install(binary)
        except say.Failure as failure:
            say.note(f"  none could be used here ({failure})")
            return False
    return True


def install(binary: Path) -> None:
    """Puts a program that somebody else has compiled in place, if it runs here."""
    # One for a newer C library, say, would fail only when a notebook starts.
    say.run([binary, "--help"], limit=30)
    (install_root() / "bin").mkdir(parents=True, exist_ok=True)
    os.replace(binary, install_root() / "bin" / "evcxr_jupyter")


def announced(name: str) -> tuple:
    """The address and the SHA-256 of a release's file, as the release tells them."""
    from . import network

    release = network.read_json(RELEASE)
    files = release.get("assets") if isinstance(release, dict) else None
    for file in files if isinstance(files, list) else []:
        if isinstance(file, dict) and file.get("name") == name:
            digest = re.fullmatch(r"sha256:([0-9a-f]{64})", str(file.get("digest")))
            if not digest:
                raise say.Failure(f"the release tells no checksum of {name}")
            return str(file.get("browser_download_url")), digest.group(1)
    raise say.Failure(f"the release has no {name}")


def unpack(archive: Path, binary: Path) -> Path:
    """Takes the one program out of an archive; nothing else of it is written."""
    try:
        with tarfile.open(archive) as packed:
            member = next((m for m in packed if m.isfile() and Path(m.name).name == "evcxr_jupyter"), None)
            if member is None:
                raise say.Failure("the archive holds no evcxr_jupyter")
            with packed.extractfile(member) as source, open(binary, "wb") as target:
                shutil.copyfileobj(source, target)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise say.Failure(f"the archive is damaged: {error}") from None
    binary.chmod(0o755)
    return binary


if __name__ == "__main__":
    print(ensure(), file=sys.stdout)
