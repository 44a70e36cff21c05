"""Starts one of the commands and turns a failure into a message and an exit code."""

import importlib
import os
import signal
import sys

from . import say


def run(module: str) -> None:
    # Being told to end must end the kernels too, which stand in sessions of their own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Kernels run in the notebooks' folder; the person meant the one they stand in.
    data = os.environ.get("CANDLE_COURSE_DATA")
    if data:
        os.environ["CANDLE_COURSE_DATA"] = os.path.abspath(os.path.expanduser(data))
    try:
        code = importlib.import_module(f"course.{module}").main(sys.argv[1:])
    except say.Failure as failure:
        say.note(f"\n✗ {failure}")
        code = 1
    except KeyboardInterrupt:
        say.note("\nInterrupted; run the command again to go on where it stopped.")
        code = 130
    sys.exit(code)
