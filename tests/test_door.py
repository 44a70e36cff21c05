"""The one door of the commands: whatever goes wrong inside leaves as a line and an exit code."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from course import command, reliability, say
from machine import PROJECT

# What goes wrong, the exit code, and what is said of it.
FAULTS = [
    ("raise say.Failure('the reason')", 1, "✗ the reason"),
    ("raise KeyboardInterrupt", 130, "Interrupted; run the command again"),
    ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, "Interrupted"),
    ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 143, ""),
    ("os.kill(os.getpid(), signal.SIGHUP); time.sleep(60)", 129, ""),
    ("raise BrokenPipeError(errno.EPIPE, 'Broken pipe')", 141, ""),
    ("open('/nowhere/file')", 1, "No such file or directory: /nowhere/file; "),
    ("raise PermissionError(errno.EACCES, 'Permission denied', '/a/b')", 1, "Permission denied: /a/b\nThis user may not"),
    ("raise OSError(errno.ENOSPC, 'No space left on device', '/a/b')", 1, "No space left on device: /a/b\nFree some space"),
    ("raise OSError(errno.EROFS, 'Read-only file system')", 1, "Read-only file system\nThis user may not"),
    ("raise OSError('an odd one')", 1, "an odd one; "),
    ("b'\\xff'.decode()", 1, "a file is not UTF-8 text"),
    ("json.loads('{')", 1, "a fault of the command itself: JSONDecodeError"),
    ("subprocess.run(['false'], check=True)", 1, "`false` ended with code 1"),
    ("subprocess.run(['sh', '-c', 'kill -9 $$'], check=True)", 1, "was ended by signal 9"),
    ("subprocess.run(['/nowhere/program'])", 1, "No such file or directory: /nowhere/program"),
    ("subprocess.run(['sh', '-c', 'echo No space left on device >&2; exit 3'], check=True, capture_output=True)", 1, "the disk is full"),
    ("import no_such_package", 1, "lacks the Python package 'no_such_package'"),
    ("raise MemoryError", 1, "not enough memory"),
    ("f = lambda: f(); f()", 1, "a fault of the command itself: RecursionError"),
    ("{}['key']", 1, "a fault of the command itself: KeyError: 'key'"),
    ("assert False, 'why'", 1, "a fault of the command itself: AssertionError: why"),
    ("raise ExceptionGroup('several', [ValueError('one')])" if sys.version_info >= (3, 11) else "raise ValueError('several')", 1, "several"),
    ("sys.exit(7)", 7, ""),
    ("return 5", 5, ""),
    ("pass", 0, ""),
    ("print('\\udcff ✗ 🦀')", 0, ""),
    ("say.note('\\udcff ✗ 🦀')", 0, ""),
]


def through_the_door(body, **options):
    code = "import errno, json, os, signal, subprocess, sys, time\nsys.path.insert(0, sys.argv[1])\nfrom course import command, say\n"
    code += f"def main():\n    {body}\nsys.exit(command.door(main))"
    options = {"capture_output": True, "text": True, "errors": "replace"} | options
    return subprocess.run([sys.executable, "-c", code, str(PROJECT / "scripts")], **options)


@pytest.mark.parametrize(("body", "code", "said"), FAULTS)
def test_every_fault_becomes_a_line(body, code, said):
    result = through_the_door(body)
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) <= 3
    reliability.tried("A command fails in a line, never with a traceback", "a fault inside a command", 1)


def test_the_traceback_can_be_had():
    result = through_the_door("{}['key']", env=dict(os.environ, CANDLE_COURSE_TRACEBACK="1"))
    assert "Traceback" in result.stderr and "✗ a fault of the command itself" in result.stderr


def test_a_script_of_its_own_is_guarded_too():
    code = "import sys; sys.path.insert(0, sys.argv[1]); from course import command; command.guard()\n"
    for fault, said in (("open('/nowhere/file')", "✗ No such file or directory: /nowhere/file"), ("{}['key']", "✗ a fault of the command itself: KeyError"), ("import no_such_package", "lacks the Python package"), ("raise KeyboardInterrupt", "Interrupted")):
        result = subprocess.run([sys.executable, "-c", code + fault, PROJECT / "scripts"], capture_output=True, text=True)
        assert result.returncode != 0 and said in result.stderr and "Traceback" not in result.stderr, result.stderr
    result = subprocess.run([sys.executable, PROJECT / "scripts" / "nvrtc_check.py"], capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.startswith("usage: ")


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}])
def test_a_poor_locale_costs_no_message(locale):
    signs = r"'\u2026 \u2717 \U0001f980'"
    result = through_the_door(f"print({signs}); raise say.Failure('why ' + {signs})", env=dict(os.environ, **locale))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert r"\u2717 why \u2026 \u2717 \U0001f980" in result.stderr and r"\u2026" in result.stdout


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_borne(closing):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from course import command, say\nsys.exit(command.door(lambda: print(1) or say.note('x') or say.run(['sh', '-c', 'echo 1; echo 2 >&2']) and 3))"
    result = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" "$2" {closing}', sys.executable, code, PROJECT / "scripts"], capture_output=True, text=True)
    assert result.returncode == 3 and "Traceback" not in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_that_nobody_takes():
    with open("/dev/full", "w") as full:
        result = through_the_door("print('x' * 100_000)", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert result.returncode == 1 and "No space left on device" in result.stderr and "Traceback" not in result.stderr
    reading, writing = os.pipe()
    os.close(reading)
    result = through_the_door("print('x' * 100_000)", stdout=writing, stderr=subprocess.PIPE, capture_output=False)
    os.close(writing)
    assert result.returncode == 141 and result.stderr == ""


def test_an_old_python_is_named(monkeypatch, capsys):
    monkeypatch.setattr(command.paths, "MINIMUM_PYTHON", (99, 0))
    monkeypatch.setattr(command, "end_on_signals", lambda: None)
    assert command.door(lambda: pytest.fail("was run")) == 1
    assert "Python 99.0 or newer is needed" in capsys.readouterr().err


def test_a_child_that_takes_too_long_is_ended(tmp_path):
    with pytest.raises(say.Failure, match="did not end within 0.3 s"):
        say.run(["sh", "-c", "echo $$ > pid; exec sleep 600"], limit=0.3, cwd=tmp_path)
    from machine import alive

    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_child_does_not_outlive_a_fault(tmp_path):
    def stop(line):
        raise RuntimeError(line)

    with pytest.raises(RuntimeError):
        say.stream(["sh", "-c", "echo $$ > pid; echo begun; exec sleep 600"], stop, cwd=tmp_path)
    from machine import alive

    assert not alive(int((tmp_path / "pid").read_text()))


def test_what_a_child_writes_is_kept_but_for_its_progress(tmp_path):
    output = say.run(["sh", "-c", "printf 'Compiling a\\nnoise \\377\\n'; echo error >&2"], take=lambda line: line.startswith("Compiling"))
    assert output == "noise \\xff\nerror\n"
    assert say.ask(["sh", "-c", "echo ' answer '; echo complaint >&2"]) == "answer"
    with pytest.raises(say.Failure, match="`false` ended with code 1"):
        say.ask(["false"])
    with pytest.raises(say.Failure, match="was not found on this machine"):
        say.ask(["/nowhere/program"])
    with pytest.raises(say.Failure, match="`.*/nowhere` was not found"):
        say.run(["true"], cwd=tmp_path / "nowhere")
    (tmp_path / "text").write_text("no program")
    with pytest.raises(say.Failure, match="could not be started: Permission denied"):
        say.run([tmp_path / "text"])


def test_an_error_in_the_code_is_shown_as_it_is():
    output = 'error[E0425]: cannot find value `x`\n 3 | // too slow: Connection refused, Permission denied\n'
    told = say.ended(["cargo", "build"], 101, "   Compiling a\n" * 30 + output + "note\n" * 40)
    assert told.startswith("`cargo build` ended with code 101\nerror[E0425]") and "network" not in told and len(told.splitlines()) == say.SHOWN_LINES + 2
    assert say.ended("cargo", 101, output + "No space left on device (os error 28)\n").startswith("the disk is full")
    assert say.ended("pip", 1, "Connection refused\n").startswith("the network is needed")
    assert say.ended("cc", 1, "\n".join(map(str, range(100)))).splitlines()[1:] == [str(number) for number in range(100 - say.SHOWN_LINES, 100)]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    assert say.write_if_changed(path, "old ação") and not say.write_if_changed(path, "old ação")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in ("replace", "write_bytes"):
        with monkeypatch.context() as fault:
            fault.setattr(*((os, "replace") if step == "replace" else (type(path), "write_bytes")), full)
            with pytest.raises(OSError):
                say.write_if_changed(path, "new")
        assert path.read_text(encoding="utf-8") == "old ação"
        assert [each.name for each in path.parent.iterdir()] == ["file"]
    path.write_bytes(b"\xff\xfe damaged")
    assert say.write_if_changed(path, "new") and path.read_text() == "new"


def test_metadata_that_is_none_is_handed_on(tmp_path):
    fake = tmp_path / "cargo"
    for answer in ("no json", '{"packages": 7}', "[]"):
        fake.write_text(f"#!/bin/sh\ncat <<'E'\n{answer}\nE\n")
        fake.chmod(0o755)
        result = subprocess.run([sys.executable, PROJECT / "scripts/course/analysis/metadata.py"], env=dict(os.environ, CANDLE_COURSE_CARGO=str(fake)), capture_output=True, text=True)
        assert (result.returncode, result.stdout.strip(), result.stderr) == (0, answer, "")
    good = {"packages": [], "workspace_members": [], "resolve": None}
    fake.write_text(f"#!/bin/sh\ncat <<'E'\n{json.dumps(good)}\nE\n")
    result = subprocess.run([sys.executable, PROJECT / "scripts/course/analysis/metadata.py"], env=dict(os.environ, CANDLE_COURSE_CARGO=str(fake)), capture_output=True, text=True)
    assert json.loads(result.stdout) == good


def test_of_pieces_of_work_that_run_at_once_one_that_fails_ends_the_others(tmp_path):
    from machine import alive

    def fail():
        until = time.monotonic() + 30
        while not (tmp_path / "pid").exists() and time.monotonic() < until:
            time.sleep(0.01)
        raise say.Failure("the reason")

    began = time.monotonic()
    with pytest.raises(say.Failure, match="the reason"):
        say.together(fail, lambda: say.run(["sh", "-c", "echo $$ > part; mv part pid; exec sleep 600"], cwd=tmp_path))
    assert time.monotonic() - began < 60 and not alive(int((tmp_path / "pid").read_text()))
    done = []
    say.together(lambda: done.append(1), lambda: done.append(2))
    assert sorted(done) == [1, 2]


def test_an_interruption_ends_all_that_runs_at_once(tmp_path):
    from machine import alive, wait_for

    body = f"say.together(*[lambda name=name: say.run(['sh', '-c', f'echo $$ > part-{{name}}; mv part-{{name}} {{name}}; exec sleep 600'], cwd={str(tmp_path)!r}) for name in 'ab'])"
    code = "import errno, json, os, signal, subprocess, sys, time\nsys.path.insert(0, sys.argv[1])\nfrom course import command, say\n" + f"def main():\n    {body}\nsys.exit(command.door(main))"
    for number, returned in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        for name in "ab":
            (tmp_path / name).unlink(missing_ok=True)
        command = subprocess.Popen([sys.executable, "-c", code, str(PROJECT / "scripts")], stderr=subprocess.PIPE, text=True)
        pids = [int(wait_for(lambda: (tmp_path / name).exists() and (tmp_path / name).read_text(), "a child")) for name in "ab"]
        command.send_signal(number)
        assert "Traceback" not in command.communicate()[1] and command.returncode == returned
        assert not any(map(alive, pids))
