"""`scripts/test [check …]`: sets up and runs every check there is."""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import arm64, environment, mpi, paths, reliability, say, source

# A mirror that says nothing is given up after half a minute.
APT = ("apt-get", "-q", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30", "-o", "Acquire::Retries=2")
# How a check says that it could not be made here; `automake` began it.
SKIPPED = 77
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/test", description="Runs every check; the first run builds everything and takes about half an hour on 2 cores.")
    parser.add_argument("checks", nargs="*", help=f"only these: {', '.join(CHECKS)}; or `release`: {', '.join(RELEASE)}, which compile everything anew and run only when they are named")
    parser.add_argument("--record", action="store_true", help="write what the tests of the crate and the scripts tried into docs/reliability.md")
    parsed = parser.parse_args(arguments)
    named = parsed.checks or [name for name in CHECKS if name not in RELEASE]
    chosen = [name for part in named for name in (RELEASE if part == "release" else (part,))]
    unknown = sorted(set(chosen) - set(CHECKS))
    if unknown:
        parser.error(f"no check is called {', '.join(unknown)}; there are: {', '.join(CHECKS)}, release{source.nearest(unknown[0], [*CHECKS, 'release'])}")
    environment.check_rust()
    environment.check_project()
    if {"notebooks", "scripts", "lessons"} & set(chosen):
        environment.ensure(build=bool({"scripts", "lessons"} & set(chosen)))
    elif "site" in chosen:
        environment.ensure_venv()
    if {"scripts", "site"} & set(chosen):
        ensure_browser()
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / "tried"
        os.environ[reliability.VARIABLE] = str(tried)
        results = run_checks(chosen)
        if {"crate", "scripts"} <= set(chosen) and all(result == "ok" for name, result, _, _ in results if name in ("crate", "scripts")):
            found = reliability.rows(tried)
            if parsed.record:
                reliability.write(found)
            state = "says so" if reliability.page(found) == say.read_text(reliability.PAGE) else "says something else: `scripts/test --record` writes it anew"
            print(f"\n{sum(found.values()):,} trials of {len(found)} promises; docs/reliability.md {state}")
    print("\ncheck      result  time         counts")
    for name, result, took, counts in results:
        print(f"{name:<10} {result:<7} {say.seconds(took):<12} {counts}".rstrip())
    failed = [name for name, result, _, _ in results if result == "FAILED"]
    if failed:
        raise say.Failure(f"failed: {', '.join(failed)}")
    return 0


def run_checks(chosen: list) -> list:
    """Name, result, seconds and counts of every check."""
    results = []
    for name in chosen:
        usually, commands = CHECKS[name]
        say.note(f"\n• {name} (usually {usually})")
        start = time.monotonic()
        result, counts = "skipped", []
        for command in commands():
            code, output = stream(command)
            if code == SKIPPED:
                continue
            result = "FAILED" if code != 0 or result == "FAILED" else "ok"
            counts += count(output)
        results.append((name, result, time.monotonic() - start, ", ".join(counts)))
    return results


# candle-datasets and candle-transformers take minutes to compile and are compiled by their own checks
# alone; the program is built in a profile of its own; candle_course_mpi needs an MPI.
CRATES = ["--workspace", "--exclude", "candle_course_mpi", "--exclude", "candle_datasets_oracle", "--exclude", "candle_transformers_oracle", "--exclude", "candle_course_program", "--locked"]


def crate_commands() -> list:
    if shutil.which("cargo-nextest"):
        tests = ["cargo", "nextest", "run", *CRATES, "--no-fail-fast"]
    else:
        tests = ["cargo", "test", *CRATES, "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"]
    return [tests, ["cargo", "test", *CRATES, "--doc"]]


def datasets_commands() -> list:
    """Files read by candle-datasets and by us, then the conversions between the two."""
    return [
        ["cargo", "test", "--locked", "-p", "candle_datasets_oracle"],
        ["cargo", "test", "--locked", "-p", "candle_course", "--features", "candle-datasets", "--lib", "candle_sets"],
    ]


def transformers_commands() -> list:
    """Models of candle-transformers, trained and compared with PyTorch's values."""
    return [["cargo", "test", "--locked", "-p", "candle_transformers_oracle"]]


def mpi_commands() -> list:
    """Processes of MPI on this machine, over loopback. Nothing is installed for it: a machine with MPI has its own."""
    missing = mpi.missing()
    if missing:
        say.note(f"  {missing}: TRAINING ON SEVERAL PROCESSES IS NOT CHECKED; the crate's tests did it with threads")
        return []
    return [["cargo", "test", "--locked", "-p", "candle_course", "--features", "mpi", "--test", "mpi"]]


def arm64_commands() -> list:
    """NEON kernels on a machine that has none. Nothing is installed for it: a machine of arm64 tests them natively."""
    if platform.machine() in ("aarch64", "arm64"):
        say.note("  this machine is of arm64: its NEON kernels are among the crate's tests")
        return []
    missing = arm64.missing()
    if missing:
        say.note(f"  {missing}: NEON KERNELS ARE NOT CHECKED; the crate's tests did it with a stand-in")
        return []
    return [arm64.tests()]


def program_commands() -> list:
    return [["cargo", "run", "--locked", "-q", "-p", "candle_course_program", "--profile", "program"]]


def licence_commands() -> list:
    if not shutil.which("cargo-deny"):
        say.note("  cargo-deny is not installed: LICENCES ARE NOT CHECKED (`cargo install cargo-deny --locked`)")
        return []
    return [["cargo", "deny", "--locked", "check", "licenses", "bans", "sources"]]


def package_commands() -> list:
    """The packages as a registry would get them, each built from what is packed."""
    named = [argument for name in PACKAGES for argument in ("-p", name)]
    # As where its documentation is built: without the part in C.
    without = ["env", "DOCS_RS=1"] if mpi.missing() else []
    if without:
        say.note(f"  {mpi.missing()}: WHAT candle_course_mpi HAS IN C IS PACKED, NOT COMPILED")
    return [[*without, "cargo", "package", "--locked", "--allow-dirty", *named], [sys.executable, paths.PROJECT / "scripts" / "package_sizes.py"]]


def oldest_rust_commands() -> list:
    """Builds with the oldest Rust that the manifest promises, if rustup has it."""
    version = re.search(r'^rust-version = "([\d.]+)"', (paths.PROJECT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE).group(1)
    installed = shutil.which("rustup") and subprocess.run(["rustup", "run", version, "cargo", "--version"], capture_output=True).returncode == 0
    if not installed:
        say.note(f"  Rust {version} is not installed: WHAT THE MANIFEST PROMISES IS NOT CHECKED (`rustup toolchain install {version} --profile minimal`)")
        return []
    return [["rustup", "run", version, "cargo", "check", "--locked", "-p", "candle_course", "--target-dir", f"target/rust-{version}"]]


PACKAGES = ("candle_course_samples", "candle_course_mpi", "candle_course", "candle_course_notebook")


# What a release needs on top: half an hour of compiling for what seldom changes.
RELEASE = ("program", "datasets", "transformers", "arm64", "package", "oldest")

SITE = paths.PROJECT / "tests" / "test_site.py"

# name: (how long it usually takes when built, the commands)
CHECKS = {
    "format": ("1 s", lambda: [["cargo", "fmt", "--all", "--check"]]),
    "lint": ("10 s; 3 minutes the first time", lambda: [["cargo", "clippy", *CRATES, "--all-targets", "--", "-D", "warnings"]]),
    "crate": ("2 minutes; 8 minutes the first time", crate_commands),
    "mpi": ("1 minute; 5 minutes the first time", mpi_commands),
    "docs": ("10 s; 2 minutes the first time", lambda: [["cargo", "doc", *CRATES, "--no-deps"]]),
    "licences": ("10 s", licence_commands),
    "audit": ("30 s", lambda: [[sys.executable, paths.PROJECT / "scripts" / "audit"]]),
    "program": ("5 s; 5 minutes the first time", program_commands),
    "datasets": ("20 s; 8 minutes the first time", datasets_commands),
    "transformers": ("1 minute; 6 minutes the first time", transformers_commands),
    "arm64": ("2 minutes; 12 minutes the first time", arm64_commands),
    "package": ("5 minutes", package_commands),
    "oldest": ("10 s; 3 minutes the first time", oldest_rust_commands),
    "scripts": ("9 minutes, and 6 more for a stock kernel", lambda: [[paths.venv_python(), "-m", "pytest", "-ra", "--durations=8", "--ignore", SITE, paths.PROJECT / "tests"]]),
    "notebooks": ("2 s", lambda: [[sys.executable, paths.PROJECT / "scripts" / "build-notebooks", "--check"]]),
    "site": ("3 minutes", lambda: [[sys.executable, paths.PROJECT / "scripts" / "site"], [paths.venv_python(), "-m", "pytest", "-ra", SITE]]),
    "lessons": ("2 minutes a lesson", lambda: [[sys.executable, paths.PROJECT / "scripts" / "run"]]),
}


def stream(command: list) -> tuple:
    """Runs a command in the project's folder, shows its output as it comes and keeps it."""
    environment_ = dict(os.environ, RUSTDOCFLAGS="-D warnings", CARGO_TERM_COLOR="never", NO_COLOR="1", PYTHONUNBUFFERED="1")
    say.note(f"  $ {' '.join(str(part) for part in command)}")
    kept = []

    def each(line: str) -> None:
        kept.append(line)
        # One line per passing test would bury the one that failed.
        if not re.match(r"\s*(PASS \[|test .* ok$)", line):
            sys.stdout.write(line)
            sys.stdout.flush()

    return say.stream(command, each, cwd=paths.PROJECT, env=environment_), "".join(kept)


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
            say.run([*APT, "update"], limit=300)
            say.run([*APT, "install", "-y", "--no-install-recommends", "chromium"], limit=1800, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
        return
    raise say.Failure("the browser tests need Chromium or Chrome: `sudo apt install chromium`, or leave out the checks named `scripts` and `site`")
