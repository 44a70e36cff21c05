"""Starts one of the commands and turns a failure into a message and an exit code."""

import importlib
import signal
import sys

from . import say


def run(module: str) -> None:
    # Being told to end must end the kernels too, which stand in sessions of their own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code = importlib.import_module(f"course.{module}").main(sys.argv[1:])
    except say.Failure as failure:
        say.note(f"\n✗ {failure}")
        code = 1
    except KeyboardInterrupt:
        say.note("\nInterrupted; run the command again to go on where it stopped.")
        code = 130
    sys.exit(code)
