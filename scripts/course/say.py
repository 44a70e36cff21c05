"""Messages, timing, child processes and locks shared by the commands."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from . import paths

# What a folder that cannot be written answers with; any other `OSError` is a fault of ours.
UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}


class Failure(Exception):
    """A command cannot go on; the message says what to do about it."""


def note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(message: str, usually: str = ""):
    """Announces a piece of work, and how long it took."""
    note(f"• {message}" + (f" (usually {usually})" if usually else "") + " …")
    start = time.monotonic()
    yield
    note(f"  done in {seconds(time.monotonic() - start)}")


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60):02d} s"


def run(arguments, quiet: bool = False, **options) -> subprocess.CompletedProcess:
    """Runs a child without stdin; raises `Failure` with its output when it fails."""
    arguments = [str(argument) for argument in arguments]
    options.setdefault("stdin", subprocess.DEVNULL)
    if quiet:
        options.update(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    else:
        # Progress belongs with our own messages; standard output is kept for results.
        options.setdefault("stdout", sys.stderr.fileno())
    try:
        result = subprocess.run(arguments, **options)
    except FileNotFoundError:
        raise Failure(f"`{arguments[0]}` was not found on this machine") from None
    if result.returncode != 0:
        raise Failure(f"`{' '.join(arguments)}` ended with code {result.returncode}\n{result.stdout or ''}".rstrip())
    return result


@contextlib.contextmanager
def lock(path: Path, waiting_for: str):
    """Holds an advisory lock; says so when another process holds it first.

    What is done under it writes into the lock's folder; `Failure` when that cannot be written.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(f"  waiting for another process that is {waiting_for} …")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


@contextlib.contextmanager
def writing(folder: Path):
    """Says what `folder` needs when it cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        advice = f"{folder} must be a folder that you may write, with 2 GB free"
        if paths.user_cache() in (folder, *folder.parents):
            advice += "; XDG_CACHE_HOME names another place for it"
        raise Failure(f"{error}\n{advice}") from None


def write_if_changed(path: Path, text: str) -> bool:
    """Writes through a temporary file, so that an interruption leaves the old text or the new."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return True
