"""`cargo metadata`, cut down to the crates whose types a lesson's variables have.

evcxr asks rust-analyzer for the types of variables, and rust-analyzer reads the source of every
package that cargo names: 250 of them below the crate, and the whole of Rust's library with the
intrinsics of every processor. What is cut here saves a kernel many seconds and a gigabyte. A
variable whose type comes from a hidden crate needs a type annotation.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

# The crate, and its dynamic library over it for notebooks.
OURS = {"candle_course", "candle_course_notebook"}
VISIBLE = OURS | {"candle-core", "candle-nn", "half"}
PROJECT = Path(__file__).resolve().parents[3]
# Stands for a kernel's folder in an answer that is kept.
HERE = "@this kernel@"
LIBRARY = {"core", "alloc", "std", "proc_macro", "sysroot", "rustc-std-workspace-core", "rustc-std-workspace-alloc", "rustc-std-workspace-std"}


def cut(metadata: dict) -> dict:
    """Drops the crate's other dependencies; a learner's own dependencies and theirs stay."""
    names = {package["id"]: package["name"] for package in metadata["packages"]}
    nodes = {node["id"]: node for node in (metadata.get("resolve") or {}).get("nodes", [])}
    if {"core", "alloc", "std"} <= set(names.values()):
        hidden = {package for package, name in names.items() if name not in LIBRARY}
    else:
        members = metadata["workspace_members"]
        own = [dependency for package in members for dependency in nodes.get(package, {}).get("dependencies", [])]
        ours = [package for package in own if names[package] in OURS]
        kept = below(nodes, [package for package in own if package not in ours])
        hidden = {package for package in below(nodes, ours) if names[package] not in VISIBLE} - kept
    metadata["packages"] = [package for package in metadata["packages"] if package["id"] not in hidden]
    for key in ("workspace_members", "workspace_default_members"):
        if key in metadata:
            metadata[key] = [package for package in metadata[key] if package not in hidden]
    if metadata.get("resolve"):
        metadata["resolve"]["nodes"] = [
            {
                **node,
                "dependencies": [package for package in node["dependencies"] if package not in hidden],
                "deps": [dependency for dependency in node["deps"] if dependency["pkg"] not in hidden],
            }
            for package, node in nodes.items()
            if package not in hidden
        ]
    return metadata


def below(nodes: dict, roots: list) -> set:
    """`roots` and everything they depend on."""
    found, queue = set(), list(roots)
    while queue:
        package = queue.pop()
        if package not in found:
            found.add(package)
            queue.extend(nodes.get(package, {}).get("dependencies", []))
    return found


def cache(arguments: list):
    """Where the answer for a kernel's folder is kept, and the folder; None for a notebook with dependencies of its own.

    It names all that the answer follows from: the question, the manifests, the versions, the compiler.
    """
    if "--manifest-path" not in arguments[:-1]:
        return None
    folder = Path(arguments[arguments.index("--manifest-path") + 1]).parent
    # Any other name is written in other signs in the answer.
    if not re.fullmatch(r"/[\w./+-]+", str(folder), re.ASCII):
        return None
    answers = os.environ.get("CANDLE_COURSE_ANSWERS")
    if answers and folder.match("lib/rustlib/src/rust/library"):
        # Rust's own library, which the compiler brings.
        return Path(answers) / hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:24], folder
    manifest, quick = (folder / "Cargo.toml").read_bytes(), folder / "quick"
    if manifest not in [(quick / name).read_bytes() for name in ("empty.toml", "crate.toml")]:
        return None
    home = folder.parents[1]
    crates = [PROJECT, *(PROJECT / "candle_course" / part for part in ("", "notebook", "samples"))]
    told = [manifest, (home / "compiler").read_bytes(), (folder / "pinned.lock").read_bytes(), *[(crate / "Cargo.toml").read_bytes() for crate in crates]]
    told += [argument.replace(str(folder), "").encode() for argument in arguments]
    return home / "metadata" / hashlib.sha256(b"\0".join(told)).hexdigest()[:24], folder


def main() -> None:
    kept = None
    with contextlib.suppress(OSError, IndexError):
        kept = cache(sys.argv[1:])
        if kept and kept[0].exists():
            sys.stdout.write(kept[0].read_text(encoding="utf-8").replace(HERE, str(kept[1])))
            return
    result = subprocess.run([os.environ["CANDLE_COURSE_CARGO"], *sys.argv[1:]], stdout=subprocess.PIPE)
    output = result.stdout
    if result.returncode == 0:
        # What another cargo writes is handed on as it came: slower, and right.
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            output = json.dumps(cut(json.loads(output))).encode()
            if kept:
                keep(*kept, output.decode())
    sys.stdout.buffer.write(output)
    sys.exit(result.returncode)


def keep(path: Path, folder: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(text.replace(str(folder), HERE), encoding="utf-8")
        os.replace(temporary, path)


if __name__ == "__main__":
    main()
