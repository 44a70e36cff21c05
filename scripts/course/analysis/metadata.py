"""`cargo metadata`, cut down to the crates whose types a lesson's variables have.

evcxr asks rust-analyzer for the types of variables, and rust-analyzer reads the source of every
package that cargo names: 250 of them below the crate, and the whole of Rust's library with the
intrinsics of every processor. What is cut here saves a kernel many seconds and a gigabyte. A
variable whose type comes from a hidden crate needs a type annotation.
"""

import contextlib
import json
import os
import subprocess
import sys

# The crate, and its dynamic library over it for notebooks.
OURS = {"candle_course", "candle_course_notebook"}
VISIBLE = OURS | {"candle-core", "candle-nn", "half"}
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


def main() -> None:
    result = subprocess.run([os.environ["CANDLE_COURSE_CARGO"], *sys.argv[1:]], stdout=subprocess.PIPE)
    output = result.stdout
    if result.returncode == 0:
        # What another cargo writes is handed on as it came: slower, and right.
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            output = json.dumps(cut(json.loads(output))).encode()
    sys.stdout.buffer.write(output)
    sys.exit(result.returncode)


if __name__ == "__main__":
    main()
