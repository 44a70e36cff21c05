"""Starts one of the commands and turns a failure into a message and an exit code."""

import importlib
import sys

from . import say


def run(module: str) -> None:
    try:
        code = importlib.import_module(f"course.{module}").main(sys.argv[1:])
    except say.Failure as failure:
        say.note(f"\n✗ {failure}")
        code = 1
    except KeyboardInterrupt:
        say.note("\nInterrupted; run the command again to go on where it stopped.")
        code = 130
    sys.exit(code)
