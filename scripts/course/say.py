"""Messages, timing, child processes and locks shared by the commands."""

import contextlib
import errno
import fcntl
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from . import paths

# What a folder that cannot be written answers with; any other `OSError` is a fault of ours.
UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}

# What a person can do about the usual reasons why cargo, rustc or pip give up.
CAUSES = [
    (r"No space left on device|os error 28\b|Disk quota exceeded|os error 122\b", "the disk is full; free 2 GB and run the command again"),
    (r"could not execute process `[^`]*rustc", "cargo finds no `rustc`; install both with https://rustup.rs"),
    (r"NOT MATCH THE HASHES|--require-hashes mode|checksum for .* changed|failed to verify the checksum", "a package is not the one that was checked when it was pinned, and is not installed"),
    (r"signal: 9, SIGKILL|Killed signal terminated|Cannot allocate memory|os error 12\b", "the machine ran out of memory; close other programs, or set CARGO_BUILD_JOBS=1"),
    (r"[Rr]ead-only file system|Permission denied|os error (13|30)\b", "a folder cannot be written by this user"),
    (
        r"[Cc]ould(n't| not) resolve host|name resolution|Connection (refused|reset|timed out)|[Nn]etwork is unreachable|[Tt]imeout was reached|[Rr]ead timed out"
        r"|operation timed out|Max retries exceeded|NewConnectionError|spurious network error|too slow|[Nn]o route to host|attempting to make an HTTP request, but --offline",
        "the network is needed for it, once",
    ),
]
# Of a message without a known cause.
SHOWN_LINES = 15
# Whether the last line on the terminal is one that is replaced.
_live = False
# The programs that run, to be ended where one of several pieces of work fails.
_children = set()


class Failure(Exception):
    """A command cannot go on; the message says what to do about it."""


def note(message: str) -> None:
    global _live
    # Nobody may listen any more.
    with contextlib.suppress(OSError, ValueError):
        print(f"\r\x1b[K{message}" if _live else message, file=sys.stderr, flush=True)
    _live = False


def terminal() -> bool:
    return bool(sys.stderr) and sys.stderr.isatty()


def live(text: str) -> None:
    """A line that the next one replaces on a terminal; elsewhere a line, if there is text in it."""
    global _live
    if not terminal():
        return note(text) if text else None
    if text or _live:
        with contextlib.suppress(OSError, ValueError):
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
            print(f"\r\x1b[K{text[:max(20, columns - 1)]}", end="", file=sys.stderr, flush=True)
        _live = bool(text)


def name(path) -> str:
    """A name from outside as a terminal may show it: in one line, without codes for the terminal."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


@contextlib.contextmanager
def step(message: str, usually: str = ""):
    """Announces a piece of work, and how long it took."""
    note(f"• {message}" + (f" (usually {usually})" if usually else "") + " …")
    start = time.monotonic()
    yield
    note(f"  {message}: done in {seconds(time.monotonic() - start)}")


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60):02d} s"


def roughly(value: float) -> str:
    """A time that is only estimated."""
    return "1 minute" if value < 90 else f"{round(value / 60)} minutes"


def run(arguments, take=lambda line: False, limit: float = None, log: Path = None, **options) -> str:
    """Runs a child without stdin and returns what it wrote, but for the lines that `take` takes.

    `Failure` when it cannot be started, fails, or takes longer than `limit` seconds. All that it
    wrote then stands in `log`, and the message is short.
    """
    written = []
    code = stream(arguments, lambda line: None if take(line) else written.append(line), limit, **options)
    output = "".join(written)
    if code != 0:
        if log:
            with contextlib.suppress(OSError):
                log.write_text(output, encoding="utf-8", errors="backslashreplace")
                raise Failure(f"{ended(arguments, code, output)}\n(all of it: {log})")
        raise Failure(ended(arguments, code, output))
    return output


def stream(arguments, each, limit: float = None, **options) -> int:
    """Runs a child without stdin, hands every line that it writes to `each`, and returns its exit code.

    The child does not outlive an exception.
    """
    arguments = [os.fspath(argument) for argument in arguments]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    with started(arguments, **options, text=True, encoding="utf-8", errors="backslashreplace") as child:
        late = []
        timer = threading.Timer(limit or 0, lambda: (late.append(limit), end(child)))
        timer.daemon = True
        if limit:
            timer.start()
        _children.add(child)
        try:
            for line in child.stdout:
                each(line)
            child.wait()
        except BaseException:
            end(child)
            raise
        finally:
            timer.cancel()
            _children.discard(child)
    if late:
        raise Failure(f"{called(arguments)} did not end within {seconds(limit)}")
    return child.returncode


def ask(arguments, **options) -> str:
    """What a short program answers on standard output; `Failure` when it does not."""
    arguments = [os.fspath(argument) for argument in arguments]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with started(arguments, **options, text=True, encoding="utf-8", errors="backslashreplace") as child:
        answer, complaint = child.communicate()
    if child.returncode != 0:
        raise Failure(ended(arguments, child.returncode, complaint))
    return answer.strip()


def started(arguments: list, **options) -> subprocess.Popen:
    try:
        return subprocess.Popen(arguments, **options)
    except FileNotFoundError as error:
        # The folder to start in may be what is missing.
        raise Failure(f"`{error.filename or arguments[0]}` was not found on this machine") from None
    except OSError as error:
        raise Failure(f"`{arguments[0]}` could not be started: {error.strerror or error}") from None


def end(child: subprocess.Popen) -> None:
    child.terminate()
    try:
        child.wait(3)
    except subprocess.TimeoutExpired:
        child.kill()


def together(*works) -> None:
    """Does several pieces of work at once; where one fails, the others end, and its failure is told."""
    failures = []

    def do(work) -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=do, args=(work,), daemon=True) for work in works]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not failures:
            for thread in threads:
                thread.join(0.05)
    finally:
        # An interruption reaches this thread alone. One that waits for another process, or for a server,
        # ends with this process.
        if failures or sys.exc_info()[0]:
            until = time.monotonic() + 5
            while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
                for child in list(_children):
                    end(child)
                for thread in threads:
                    thread.join(0.05)
    if failures:
        raise failures[0]


def called(arguments) -> str:
    return f"`{' '.join(map(str, arguments)) if isinstance(arguments, (list, tuple)) else arguments}`"


def ended(arguments, code: int, output: str) -> str:
    """That a program failed, and why: in two lines where the cause is known, else with its own words."""
    output = output if isinstance(output, str) else (output or b"").decode(errors="backslashreplace")
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    # An error in the code comes with lines of it, which may speak of anything.
    in_the_code = re.search(r"^error\[E\d{4}\]", output, re.MULTILINE)
    for pattern, advice in CAUSES[:1] if in_the_code else CAUSES:
        found = next((line.strip() for line in output.splitlines() if re.search(pattern, line)), None)
        if found:
            return f"{advice}\n({called(arguments)} {how}: {found[:200]})"
    return f"{called(arguments)} {how}\n{excerpt(output)}".rstrip()


def excerpt(output: str) -> str:
    """The first error that a program tells, or its last words."""
    lines = output.rstrip().splitlines()
    first = next((number for number, line in enumerate(lines) if re.match(r"\s*(error|fatal)\b", line, re.IGNORECASE)), None)
    chosen = lines[first:][:SHOWN_LINES] if first is not None else lines[-SHOWN_LINES:]
    return "\n".join(chosen + (["…"] if first is not None and len(lines) - first > SHOWN_LINES else []))


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
        raise Failure(f"{os_error(error)}\n{advice}") from None


def os_error(error: OSError) -> str:
    """What the system refused, and where."""
    where = error.filename2 or error.filename
    return f"{error.strerror or error}" + (f": {name(os.fsdecode(where))}" if isinstance(where, (str, bytes)) else "")


def read_text(path: Path) -> str:
    """A text of our own, which may hold a path that is not UTF-8."""
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def write_if_changed(path: Path, text: str) -> bool:
    """Writes through a temporary file, so that an interruption leaves the old text or the new."""
    data = text.encode("utf-8", errors="surrogateescape")
    if path.exists() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return True
