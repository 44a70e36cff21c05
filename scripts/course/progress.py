"""How far cargo is: one line for the builds that run at once, with crates done and to do, and the time left."""

import re
import threading
import time

from . import say

# Makes cargo tell it where nobody looks at a terminal.
VARIABLES = {"CARGO_TERM_PROGRESS_WHEN": "always", "CARGO_TERM_PROGRESS_WIDTH": "120"}
LINE = re.compile(r"\s*Building \[[=> ]*\] (\d+)/(\d+)(?:: (.*))?$")
# In a log, a line in so many seconds.
LOG_SECONDS = 15
# Before that much is done, whatever is said of the time left is a guess.
FIRST_SECONDS, FIRST_PART = 10, 0.03

_lock = threading.Lock()
_running = {}
_began = _told = 0.0


class Build:
    """One cargo at work. `heavy` says of the crates that take longest how many seconds; any other counts one.

    `target` is where cargo puts what it has compiled.
    """

    def __init__(self, name: str, heavy: dict, target):
        self.name, self.heavy, self.target = name, heavy, target
        self.waiting, self.compiling = {}, {}
        self.done = self.first = self.total = 0

    def __enter__(self):
        global _began
        with _lock:
            if not _running:
                _began = time.monotonic()
            _running[id(self)] = self
        return self

    def __exit__(self, *_):
        with _lock:
            _running.pop(id(self))
            say.live("")

    def take(self, line: str) -> bool:
        """Whether the line only tells how far cargo is; then it is not kept."""
        found = LINE.fullmatch(line.rstrip())
        if not found:
            return False
        with _lock:
            self.done, total = int(found[1]), int(found[2])
            if not self.total:
                self.begin()
            self.total = total
            now = (found[3] or "").replace("...", "").split(", ")
            for crate in [crate for crate in self.compiling if crate not in now]:
                del self.compiling[crate]
            for crate in now:
                crate = crate.split("(")[0]
                if crate in self.waiting:
                    self.compiling[crate] = self.waiting.pop(crate)
            show()
        return True

    def begin(self) -> None:
        """What an interrupted build has left is not built again."""
        self.first = self.done
        there = {path.name.rpartition("-")[0] for path in self.target.rglob("lib*.rlib")}
        self.heavy = {crate: seconds for crate, seconds in self.heavy.items() if f"lib{crate.replace('-', '_')}" not in there}
        self.waiting = dict(self.heavy)

    def left(self) -> float:
        """In seconds of the machine on which the heavy ones were measured."""
        return sum(self.waiting.values()) + sum(self.compiling.values()) / 2 + self.total - self.done

    def whole(self) -> float:
        return sum(self.heavy.values()) + self.total - self.first


def show() -> None:
    global _told
    now = time.monotonic()
    if not say.terminal() and now - _told < LOG_SECONDS:
        return
    _told = now
    builds = [build for build in _running.values() if build.total]
    parts = [f"{build.name}: {build.done} of {build.total} crates" for build in builds]
    whole, left = sum(build.whole() for build in builds), sum(build.left() for build in builds)
    elapsed = now - _began
    if len(builds) == len(_running) and elapsed > FIRST_SECONDS and whole - left > FIRST_PART * whole:
        parts.append(f"about {say.roughly(elapsed * left / (whole - left))} left")
    say.live(f"  {', '.join(parts)}")
