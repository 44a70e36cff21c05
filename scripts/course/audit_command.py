"""`scripts/audit [part …]`: known faults in what the project depends on, as RustSec and PyPI list them."""

import argparse
import os
import re
import shutil

from . import paths, say, source, test_command

# Of one part. The lists are fetched, and a server may be slow.
LIMIT_SECONDS = 300
# A fault is told with its history, in which a network may occur.
FOUND = re.compile(r"^Found \d+ known|^error\[(?!advisory-db)[\w-]+\]|\bRUSTSEC-\d{4}-\d{4}\b", re.MULTILINE)
OFFLINE = re.compile(
    r"[Cc]ould(n't| not) resolve host|failed to (resolve|lookup)|name resolution|[Nn]etwork is unreachable|[Cc]ould not connect|(Connect|Read)Timeout|Connection(Error| refused| reset)|[Mm]ax retries exceeded"
    r"|timed out|failed to (fetch|open) (advisory|the )|error sending request|ServiceError|ProxyError|SSLError|not? cached|--offline"
)


def rust() -> list:
    if not shutil.which("cargo-deny"):
        raise say.Failure("cargo-deny is not installed (`cargo install cargo-deny --locked`)")
    return ["cargo", "deny", "--locked", "check", "advisories"]


def python() -> list:
    """Everything that the lock pins, for every version of Python; nothing is installed for it."""
    found = shutil.which("pip-audit") or next((str(path) for path in [paths.VENV / "bin" / "pip-audit"] if path.exists()), None)
    if not found:
        raise say.Failure("pip-audit is not installed (`pipx install pip-audit`)")
    return [found, "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--timeout", "30", "--requirement", str(paths.LOCK)]


# What is audited: whose packages, and the command.
PARTS = {"rust": ("RUST'S PACKAGES", rust), "python": ("PYTHON'S PACKAGES", python)}


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/audit", description="Asks whether what the project depends on has known faults. Needs the network.")
    parser.add_argument("parts", nargs="*", help=f"only these: {', '.join(PARTS)}")
    chosen = parser.parse_args(arguments).parts or list(PARTS)
    for part in chosen:
        if part not in PARTS:
            parser.error(f"no part is called {part!r}; there are: {', '.join(PARTS)}{source.nearest(part, list(PARTS))}")
    results = [audit(*PARTS[part]) for part in chosen]
    if False in results:
        raise say.Failure("known faults were found: take versions without them, or say in deny.toml why one does not matter")
    return test_command.SKIPPED if None in results else 0


def audit(whose: str, command_of) -> bool:
    """Whether nothing is known against a part; None where that cannot be told here."""
    written = []
    try:
        if os.environ.get("CARGO_NET_OFFLINE") == "true":
            raise say.Failure("CARGO_NET_OFFLINE forbids the network")
        code = say.stream(command_of(), written.append, LIMIT_SECONDS, cwd=paths.PROJECT)
    except say.Failure as failure:
        say.note(f"  {failure}: {whose} ARE NOT AUDITED")
        return None
    output = "".join(written)
    offline = OFFLINE.search(output)
    if code != 0 and offline and not FOUND.search(output):
        say.note(f"  the network is not there ({offline.group()}): {whose} ARE NOT AUDITED")
        return None
    print(output.rstrip(), flush=True)
    unknown = len(re.findall(r"could not be audited", output))
    if code == 0 and unknown:
        say.note(f"  the index tells nothing of {unknown} packages: {whose} ARE NOT AUDITED")
        return None
    return code == 0
