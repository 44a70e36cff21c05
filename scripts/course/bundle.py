"""Ready-made parts from a release: the notebook kernel's program, and the compiled dependencies of the crate.

Both are files of bytes that a checksum names before anything of them is used. What a release does not
have, or has for another compiler, is compiled here instead, and a line says so.

Cargo itself decides what of the compiled dependencies is used. Its own records would not do: they name
the folders of the machine that made them. So cargo builds, and `bundle-bin/rustc`, in the compiler's
place, hands it each crate that the bundle has under the very name that cargo asks for: a name that tells
the crate's version, features, settings and compiler. The crate of this project is handed over where its
sources are those that the bundle was made of.
"""

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from . import build_folder, evcxr, network, paths, say

SUMS = "SHA256SUMS"
LARGEST = 1 << 30
# Reads its standard input and writes what was packed in it.
UNPACK = "import sys, zstandard; zstandard.ZstdDecompressor().copy_stream(sys.stdin.buffer, sys.stdout.buffer)"


def address() -> str:
    """Where bundles are: `CANDLE_COURSE_BUNDLES`, else the project's release; empty where there is none."""
    named = os.environ.get("CANDLE_COURSE_BUNDLES")
    if named is not None:
        return named.rstrip("/")
    return f"{paths.repository()}/releases/download/bundles" if paths.repository() else ""


def rust() -> str:
    return re.search(r"^release: (\S+)$|$", build_folder.compiler(), re.MULTILINE)[1] or build_folder.compiler().split()[1]


def kernel_name() -> str:
    return f"evcxr_jupyter-{paths.EVCXR_VERSION}-{build_folder.host_target()}.tar.zst"


def libraries_name() -> str:
    """Names the compiler, the machine, and what is compiled and how."""
    parts = [build_folder.compiler(), (paths.PROJECT / "Cargo.lock").read_text(encoding="utf-8"), build_folder.cargo_config(), build_folder.CARGO_TOML]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return f"libraries-{build_folder.host_target()}-rust-{rust()}-{key}.tar.zst"


def take(wait_for_environment=lambda: None, build: bool = True) -> None:
    """Brings what is missing and there is a bundle for; says in a line what is compiled instead.

    `wait_for_environment` returns when the virtual environment stands, which can unpack a bundle; without
    `build`, the kernel alone is wanted.
    """
    if not address() or os.environ.get("CARGO_NET_OFFLINE") == "true":
        return
    wanted = [(kernel_name(), install_kernel)] if evcxr.find() is None else []
    if build and not build_folder.BuildFolder().is_built():
        wanted.append((libraries_name(), install_libraries))
    if not wanted:
        return
    say.note(f"• Looking for ready-made parts in {say.name(address())} …")
    try:
        sums = listing()
    except say.Failure as failure:
        say.note(f"  none could be had, and all is compiled here: {first_line(failure)}")
        return
    paths.user_cache().mkdir(parents=True, exist_ok=True)
    for name, install in wanted:
        try:
            if name not in sums:
                raise say.Failure(why_not(name, sums))
            with tempfile.TemporaryDirectory(prefix="bundle-", dir=paths.user_cache()) as temporary:
                archive = Path(temporary) / name
                network.download(f"{address()}/{name}", sums[name], archive, largest=LARGEST)
                wait_for_environment()
                install(archive, Path(temporary))
            say.note(f"  {name}: taken, its checksum is right")
        except say.Failure as failure:
            say.note(f"  {name.split('-')[0]}: compiled here instead: {first_line(failure)}")


def first_line(failure) -> str:
    return str(failure).splitlines()[0]


def listing() -> dict:
    """The files of the release and their SHA-256, as `sha256sum` writes them."""
    text = b"".join(network.chunks(f"{address()}/{SUMS}", network.STALL_SECONDS, 60, 1 << 20)).decode(errors="replace")
    found = [re.fullmatch(r"([0-9a-f]{64}) [ *]([\w.+-]+)", line) for line in text.splitlines()]
    if not found or not all(found):
        raise say.Failure(f"{address()}/{SUMS} is no list of checksums")
    return {match[2]: match[1] for match in found}


def why_not(name: str, sums: dict) -> str:
    """What the bundles that there are were made for."""
    target, compilers = build_folder.host_target(), []
    for other in sums:
        found = re.fullmatch(rf"libraries-{re.escape(target)}-rust-(\S+)-[0-9a-f]{{12}}\.tar\.zst", other)
        if found and name.startswith("libraries"):
            compilers.append(found[1])
    if rust() in compilers:
        return "the bundle is for another state of Cargo.lock"
    if compilers:
        return f"the bundle is for Rust {', '.join(sorted(set(compilers)))}, and this is {rust()}"
    return f"there is no bundle for {target}"


def install_kernel(archive: Path, temporary: Path) -> None:
    unpack(archive, temporary, lambda name: name == "evcxr_jupyter")
    binary = temporary / "evcxr_jupyter"
    if not binary.is_file():
        raise say.Failure("the archive holds no evcxr_jupyter")
    binary.chmod(0o755)
    evcxr.install(binary)


def install_libraries(archive: Path, temporary: Path) -> None:
    """Puts the compiled crates where the next build finds them."""
    unpack(archive, temporary / "libraries", lambda name: re.fullmatch(r"[\w.+-]+-[0-9a-f]{16}(\.\w+)?|(lib)?candle_course_notebook\.\w+", name))
    store = build_folder.BuildFolder().ready_made
    shutil.rmtree(store, ignore_errors=True)
    store.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary / "libraries", store)


def unpack(archive: Path, folder: Path, wanted) -> None:
    """Unpacks the plain files whose name `wanted` accepts; nothing of an archive leads out of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with unpacked(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as packed:
            for member in packed:
                if member.isfile() and "/" not in member.name and wanted(member.name):
                    with packed.extractfile(member) as source, open(folder / member.name, "wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
                    os.chmod(folder / member.name, 0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in say.UNUSABLE:
            raise
        raise say.Failure(f"the archive is damaged: {error}") from None


def unpacking() -> list:
    """A program that reads a zstd file and writes what is packed in it; empty where there is none."""
    if shutil.which("zstd"):
        return ["zstd", "-dcq"]
    for python in (paths.venv_python(), sys.executable):
        if os.path.exists(python) and subprocess.run([python, "-c", "import zstandard"], capture_output=True).returncode == 0:
            return [str(python), "-c", UNPACK]
    return []


@contextlib.contextmanager
def unpacked(archive: Path):
    """The bytes in a zstd file."""
    command = unpacking()
    if not command:
        raise say.Failure("nothing here unpacks zstd: install the package `zstd`")
    with open(archive, "rb") as source, say.started(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            yield child.stdout
            child.stdout.read()
        except BaseException:
            say.end(child)
            raise
        complaint = child.stderr.read().decode(errors="replace").strip()
        if child.wait() != 0:
            raise ValueError(complaint.splitlines()[-1] if complaint else f"`{command[0]}` ended with code {child.returncode}")


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bundle", description="Packs the notebook kernel and the compiled dependencies of the crate for a release, with their checksums.")
    parser.add_argument("folder", nargs="?", type=Path, default=paths.PROJECT / "target" / "bundle", help="where to put them (default: target/bundle)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--key", action="store_true", help="print what this machine's bundle is named by, and stop: the key of a cache")
    only.add_argument("--sums", action="store_true", help="only write the checksums of what is in the folder, from several machines")
    chosen = parser.parse_args(arguments)
    folder = chosen.folder.absolute()
    if chosen.key:
        print(libraries_name().removeprefix("libraries-").removesuffix(".tar.zst"))
        return 0
    if chosen.sums:
        return write_sums(folder)
    from . import environment

    environment.set_up()
    folder.mkdir(parents=True, exist_ok=True)
    template = build_folder.BuildFolder().template / "target"
    with say.step("Packing"):
        pack(folder / kernel_name(), [evcxr.find()])
        with tempfile.TemporaryDirectory() as temporary:
            pack(folder / libraries_name(), portable(compiled(template) + own(template), template.parent, Path(temporary)))
    return write_sums(folder)


def write_sums(folder: Path) -> int:
    written = sorted(folder.glob("*.tar.zst"))
    if not written:
        raise say.Failure(f"there is no bundle in {folder}")
    say.write_if_changed(folder / SUMS, "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in written))
    for path in written:
        print(f"{path.stat().st_size / 1e6:7.1f} MB  {path.name}")
    return 0


def compiled(target: Path) -> list:
    """What cargo has compiled of the dependencies: libraries, plug-ins, build scripts."""
    libraries = [path for path in target.rglob("deps/*") if path.suffix in (".rlib", ".rmeta", ".so", ".dylib", ".d")]
    scripts = [path for path in target.rglob("build/*/build_script_*-*") if re.fullmatch(r"build_script_\w+-[0-9a-f]{16}(\.d)?", path.name)]
    return [path for path in libraries + scripts if not path.name.startswith(build_folder.OWN)]


def own(target: Path) -> list:
    """The project's own crates, as they were last compiled."""
    files = []
    for crate, mark in (("candle_course", "-*"), ("candle_course_samples", "-*"), (paths.NOTEBOOK_PACKAGE, "")):
        # Other features leave others under other names.
        newest = max(target.glob(f"*/debug/deps/lib{crate}{mark}.rlib"), key=lambda path: path.stat().st_mtime)
        files += [path for path in newest.parent.glob(f"{newest.stem}.*") if path.suffix in build_folder.LIBRARIES]
        files.append(newest.with_name(f"{newest.stem.removeprefix('lib')}.d"))
    return files


def portable(files: list, template: Path, temporary: Path) -> list:
    """The files, and in `temporary` those that name where sources lie, without the folders of this machine."""
    for path in files:
        if path.suffix == ".d":
            told = path.read_text(encoding="utf-8").replace(f"{paths.PROJECT}/", "@project@/").replace(str(template), "@template@")
            (temporary / path.name).write_text(re.sub(r"/\S*/registry/src/[^/\s]+/", "@registry@/", told), encoding="utf-8")
    (temporary / f"sources-{build_folder.own_sources(paths.PROJECT)}").touch()
    return [path for path in files if path.suffix != ".d"] + sorted(temporary.iterdir())


def pack(archive: Path, files: list) -> None:
    """The same bytes for the same files: no times, no names of users, in order."""
    import zstandard

    def plain(member):
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    part = archive.with_suffix(".part")
    with open(part, "wb") as file, zstandard.ZstdCompressor(level=12, threads=-1).stream_writer(file) as stream, tarfile.open(fileobj=stream, mode="w|") as packed:
        for path in sorted(files, key=lambda path: path.name):
            packed.add(path, path.name, filter=plain)
    os.replace(part, archive)
