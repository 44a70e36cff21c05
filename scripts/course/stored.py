"""Notebooks as files: read whole or refused in one line, and which of them the build has made."""

import hashlib
import re

from . import paths, say

# What git leaves in a file that two people changed.
CONFLICT = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)
# Nothing that a person writes comes near it.
LARGEST = 64 << 20


def read(path) -> tuple:
    """The bytes of a notebook file and the notebook in them; `Failure` says what is wrong with it."""
    return parse(bytes_of(path), say.name(path.name))


def bytes_of(path) -> bytes:
    name = say.name(path.name)
    try:
        if path.is_symlink() and not path.exists():
            raise say.Failure(f"{name} is a link that leads nowhere")
        # A fifo would keep its reader waiting.
        if not path.is_file():
            raise say.Failure(f"{name} is no file" if path.exists() else f"{name} does not exist")
        if path.stat().st_size > LARGEST:
            raise say.Failure(f"{name} has more than {LARGEST >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise say.Failure(f"{name} cannot be read: {error.strerror or error}") from None


def parse(data: bytes, name: str) -> tuple:
    import nbformat

    if not data.strip():
        raise say.Failure(f"{name} is empty")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise say.Failure(f"{name} is not UTF-8 text") from None
    try:
        notebook = nbformat.convert(nbformat.reader.reads(text), 4)
        nbformat.validate(notebook)
    # Whatever can be in a file: no JSON, another shape, a hundred thousand brackets.
    except Exception as error:
        if CONFLICT.search(text):
            raise say.Failure(f"{name} holds conflict marks of git; build it again, or take one side") from None
        # Other errors speak of the reader, not of the file.
        reason = f": {(str(error).strip().splitlines() or [''])[0][:120]}" if isinstance(error, ValueError) else ""
        raise say.Failure(f"{name} is no notebook{reason}") from None
    return data, notebook


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest():
    """The file that names what the build has written; beside the lessons, where no learner saves."""
    return paths.LESSONS / "notebooks.sha256"


def built() -> dict:
    """The hashes of the notebooks that the build has written, by their places in `notebooks/`."""
    if not manifest().exists():
        return {}
    # As `sha256sum` writes and checks it.
    found = [re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line) for line in say.read_text(manifest()).splitlines()]
    if not all(found):
        raise say.Failure(f"{manifest()} is damaged in line {found.index(None) + 1}; `scripts/build-notebooks --prose` writes it anew")
    return {match.group(2): match.group(1) for match in found}


def record(written: dict) -> None:
    """Adds what the build has just written, texts by their places; forgets lessons that are gone."""
    try:
        hashes = built()
    except say.Failure:
        hashes = {}
    hashes.update({place: hash_of(text.encode()) for place, text in written.items()})
    lines = [f"{digest}  {place}\n" for place, digest in sorted(hashes.items()) if (paths.LESSONS / f"{place.split('/')[-1].removesuffix('.ipynb')}.md").exists()]
    say.write_if_changed(manifest(), "".join(lines))
