"""The one door of the commands: every failure becomes a message and an exit code, never a traceback."""

import errno
import importlib
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from . import paths, say

# Shows the traceback as well, to whoever mends the commands.
SHOW_TRACEBACK = "CANDLE_COURSE_TRACEBACK"


def run(module: str) -> None:
    """Runs the command in `course.<module>` with this process's arguments, and exits."""
    # Kernels run in the notebooks' folder; the person meant the one they stand in.
    data = os.environ.get("CANDLE_COURSE_DATA")
    if data:
        os.environ["CANDLE_COURSE_DATA"] = os.path.abspath(os.path.expanduser(data))
    sys.exit(door(lambda: importlib.import_module(f"course.{module}").main(sys.argv[1:])))


def door(main, before: str = "\n✗ ") -> int:
    """What `main()` returns as an exit code; a failure is told in a line that begins with `before`."""
    open_streams()
    end_on_signals()
    try:
        check_python()
        code = main() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        say.note("\nInterrupted; run the command again to go on where it stopped.")
        return 130
    except BrokenPipeError:
        # Whoever read the output (`head`, a pager) has seen enough.
        drop_output()
        return 128 + signal.SIGPIPE
    except Exception as error:
        if os.environ.get(SHOW_TRACEBACK):
            traceback.print_exc()
        say.note(f"{before}{describe(error)}")
        drop_output()
        return 1


def guard() -> None:
    """The same for a script that is a file of its own: an error that nobody catches is told in a line."""
    open_streams()
    end_on_signals()

    def tell(kind, error, trace):
        if issubclass(kind, KeyboardInterrupt):
            say.note("\nInterrupted")
        elif not issubclass(kind, Exception) or os.environ.get(SHOW_TRACEBACK):
            sys.__excepthook__(kind, error, trace)
        else:
            say.note(f"\n✗ {describe(error)}")

    sys.excepthook = tell


def check_python() -> None:
    if sys.version_info[:2] < paths.MINIMUM_PYTHON:
        wanted = ".".join(map(str, paths.MINIMUM_PYTHON))
        raise say.Failure(f"Python {wanted} or newer is needed and this is {sys.version.split()[0]}")


def open_streams() -> None:
    """A closed standard stream swallows what is written; a character that a locale lacks is escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Lets the interpreter end in peace where standard output takes nothing more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def end_on_signals() -> None:
    """Being told to end, or losing the terminal, ends what the command has started, too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` has it ignored, and means it.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def describe(error: Exception) -> str:
    """An error as the person who called the command needs it."""
    if isinstance(error, say.Failure):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("course"):
        mended = f"; delete {paths.VENV} and run `scripts/lab --setup`" if Path(sys.prefix) == paths.VENV else ""
        return f"{sys.prefix} lacks the Python package {error.name!r}{mended}"
    if isinstance(error, subprocess.CalledProcessError):
        return say.ended(error.cmd, error.returncode, error.stderr or error.stdout)
    if isinstance(error, MemoryError):
        return "this machine has not enough memory for it"
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8 text: {error}; {place(error)}"
    return f"a fault of the command itself: {type(error).__name__}: {error}; {place(error)}. {SHOW_TRACEBACK}=1 shows more"


def describe_os_error(error: OSError) -> str:
    told = say.os_error(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{told}\nFree some space and run the command again; it goes on where it stopped."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{told}\nThis user may not; run the command as the owner, or in a clone of your own."
    return f"{told}; {place(error)}"


def place(error: Exception) -> str:
    """The last line of ours that took part."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(paths.PROJECT / "scripts")] or frames
    return f"{Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else "no place known"
