"""Keeps a kernel and all that it starts from outliving whoever started it, however that one ends.

Jupyter starts a kernel in a session of its own and tells it (`JPY_PARENT_PID`) when it is meant to
end with its parent. A parent that is killed cannot end it, so the kernel's own process watches.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

from . import say

POLL_SECONDS = 0.5
# prctl(2): the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1


def begin() -> None:
    """From here on this process's group ends when its parent does."""
    parent, named = os.getppid(), os.environ.get("JPY_PARENT_PID")
    if os.getpgrp() != os.getpid():
        os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: end())
    # The kernel decides what an interrupt is; a handler, unlike "ignore", is not handed down.
    signal.signal(signal.SIGINT, lambda *_: None)
    if named:
        # It had ended before we could look.
        if parent == 1 and named != "1":
            end()
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    end()


def end() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


def run(arguments: list, environment: dict) -> int:
    """Runs the kernel, and ends what it leaves behind: a cell's process, a compiler."""
    # The lock on the kernel's build folder is handed down.
    with say.started(arguments, env=environment, close_fds=False, preexec_fn=die_with_parent()) as kernel:
        code = kernel.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.killpg(os.getpgrp(), signal.SIGTERM)
    return code if code >= 0 else 128 - code


def die_with_parent():
    """What a child of ours does first where the system knows how to end it with us (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
