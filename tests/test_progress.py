"""What cargo tells of its progress, told to a person."""

import os
import re

import pytest
from course import progress, say


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    monkeypatch.setattr(progress, "_told", 0.0)
    return Clock


def told(capsys):
    return capsys.readouterr().err.splitlines()


def test_only_progress_is_taken(tmp_path, capsys, clock):
    with progress.Build("the crate", {}, tmp_path) as build:
        for line in ("   Compiling serde v1.0.0\n", "warning: `p` (lib) generated 1 warning\n", "error: Building [x] 1/2\n", "\n"):
            assert not build.take(line)
        assert build.take("    Building [======>                      ] 3/10: serde, syn(build)     \n")
    assert told(capsys) == ["  the crate: 3 of 10 crates"]


def test_the_time_left_follows_what_is_heavy(tmp_path, capsys, clock):
    with progress.Build("the crate", {"candle-core": 90}, tmp_path) as build:
        build.take("    Building [> ] 0/10: serde")
        clock.now += 20
        # Nine light ones in 20 seconds, and the heavy one is left.
        build.take("    Building [=> ] 9/10: candle-core")
        clock.now += 180
        build.take("    Building [=> ] 10/10: ")
    lines = told(capsys)
    assert lines[0] == "  the crate: 0 of 10 crates"
    # 54 of 100 are done; 46 are left.
    assert re.fullmatch(r"  the crate: 9 of 10 crates, about 1 minute left", lines[1]), lines


def test_what_an_interrupted_build_has_left_is_no_work(tmp_path, clock):
    (tmp_path / "debug").mkdir()
    (tmp_path / "debug" / "libcandle_core-0123456789abcdef.rlib").touch()
    with progress.Build("the crate", {"candle-core": 90, "tokenizers": 30}, tmp_path) as build:
        build.take("    Building [=> ] 5/10: serde")
        assert build.heavy == {"tokenizers": 30} and build.whole() == 35


def test_builds_that_run_at_once_share_a_line(tmp_path, capsys, clock):
    with progress.Build("the kernel", {}, tmp_path) as first, progress.Build("the crate", {}, tmp_path) as second:
        first.take("    Building [=> ] 5/20: a")
        clock.now += 60
        second.take("    Building [=> ] 1/10: b")
        clock.now += progress.LOG_SECONDS + 1
        first.take("    Building [=> ] 15/20: a")
    lines = told(capsys)
    assert lines[-1].startswith("  the kernel: 15 of 20 crates, the crate: 1 of 10 crates, about ")


def test_a_log_is_not_flooded(tmp_path, capsys, clock):
    with progress.Build("the crate", {}, tmp_path) as build:
        for number in range(100):
            clock.now += 1
            build.take(f"    Building [=> ] {number}/100: a")
    assert 100 / progress.LOG_SECONDS - 1 <= len(told(capsys)) <= 100 / progress.LOG_SECONDS + 1


def test_a_line_of_a_terminal_gives_way_to_a_message(monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def fileno(self):
            return 0

    terminal = Terminal()
    monkeypatch.setattr(say.sys, "stderr", terminal)
    monkeypatch.setattr(say.os, "get_terminal_size", lambda _: os.terminal_size((30, 10)))
    say.live("  " + "progress " * 10)
    say.note("done")
    say.live("")
    assert terminal.getvalue() == "\r\x1b[K  " + ("progress " * 10)[:27] + "\r\x1b[Kdone\n"
