"""`scripts/test [check …]`: sets up and runs every check there is."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time

from . import environment, paths, say

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/test", description="Runs every check; the first run builds everything and takes about half an hour on 2 cores.")
    parser.add_argument("checks", nargs="*", help=f"only these: {', '.join(CHECKS)}")
    chosen = parser.parse_args(arguments).checks or list(CHECKS)
    unknown = sorted(set(chosen) - set(CHECKS))
    if unknown:
        parser.error(f"no check is called {', '.join(unknown)}; there are: {', '.join(CHECKS)}")
    environment.check_rust()
    if {"notebooks", "scripts", "lessons"} & set(chosen):
        environment.ensure(build=bool({"scripts", "lessons"} & set(chosen)))
    if "scripts" in chosen:
        ensure_browser()
    results = []
    for name in chosen:
        usually, commands = CHECKS[name]
        say.note(f"\n• {name} (usually {usually})")
        start = time.monotonic()
        passed, counts = True, []
        for command in commands():
            code, output = stream(command)
            passed = passed and code == 0
            counts += count(output)
        results.append((name, passed, time.monotonic() - start, ", ".join(counts)))
    print("\ncheck      result  time         counts")
    for name, passed, took, counts in results:
        print(f"{name:<10} {'ok' if passed else 'FAILED':<7} {say.seconds(took):<12} {counts}".rstrip())
    failed = [name for name, passed, _, _ in results if not passed]
    if failed:
        raise say.Failure(f"failed: {', '.join(failed)}")
    return 0


def crate_commands() -> list:
    if shutil.which("cargo-nextest"):
        tests = ["cargo", "nextest", "run", "--workspace", "--locked", "--no-fail-fast"]
    else:
        tests = ["cargo", "test", "--workspace", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"]
    return [tests, ["cargo", "test", "--workspace", "--locked", "--doc"]]


# name: (how long it usually takes when built, the commands)
CHECKS = {
    "format": ("1 s", lambda: [["cargo", "fmt", "--all", "--check"]]),
    "lint": ("10 s; 3 minutes the first time", lambda: [["cargo", "clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]]),
    "crate": ("2 minutes; 8 minutes the first time", crate_commands),
    "docs": ("10 s; 2 minutes the first time", lambda: [["cargo", "doc", "--workspace", "--no-deps", "--locked"]]),
    "scripts": ("7 minutes, and 6 more for a stock kernel", lambda: [[paths.venv_python(), "-m", "pytest", "-ra", "--durations=8", paths.PROJECT / "tests"]]),
    "notebooks": ("2 s", lambda: [[sys.executable, paths.PROJECT / "scripts" / "build-notebooks", "--check"]]),
    "lessons": ("2 minutes a lesson", lambda: [[sys.executable, paths.PROJECT / "scripts" / "run"]]),
}


def stream(command: list) -> tuple:
    """Runs a command in the project's folder, shows its output as it comes and keeps it."""
    environment_ = dict(os.environ, RUSTDOCFLAGS="-D warnings", CARGO_TERM_COLOR="never", NO_COLOR="1", PYTHONUNBUFFERED="1")
    say.note(f"  $ {' '.join(str(part) for part in command)}")
    kept = []
    with subprocess.Popen(
        [str(part) for part in command], cwd=paths.PROJECT, env=environment_, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as child:
        for line in child.stdout:
            kept.append(line)
            # One line per passing test would bury the one that failed.
            if not re.match(r"\s*(PASS \[|test .* ok$)", line):
                sys.stdout.write(line)
                sys.stdout.flush()
    return child.returncode, "".join(kept)


def count(output: str) -> list:
    """How many tests ran, as the test runners say it."""
    found = [f"{run} tests" for run in re.findall(r"Summary \[.*?\]\s+(\d+) tests? run", output)]
    passed = [int(number) for number in re.findall(r"test result: \w+\. (\d+) passed", output)]
    if passed:
        found.append(f"{sum(passed)} tests" + (" in documentation" if "Doc-tests" in output else ""))
    found += [match.strip() for match in re.findall(r"=+ (\d+ passed[^=]*?) in ", output)]
    lessons = re.findall(r"^\S+ +\d+ +[\d.]+ .*(?:ok|FAILED)$", output, re.MULTILINE)
    if lessons:
        found.append(f"{len(lessons)} lessons")
    return found


def ensure_browser() -> None:
    """The browser test needs Chromium; it is part of the checks, so its absence is an error."""
    if any(shutil.which(name) for name in BROWSERS):
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        with say.step("Installing Chromium for the browser test", "1 minute"):
            say.run(["apt-get", "update", "-q"], quiet=True)
            say.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium"], quiet=True, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
        return
    raise say.Failure("the browser test needs Chromium or Chrome: `sudo apt install chromium`, or leave out the check named `scripts`")
