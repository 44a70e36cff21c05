"""The crate's tests on arm64, on a Linux machine of another kind: compiled across, and run by QEMU."""

import shutil
import subprocess
from pathlib import Path

TARGET = "aarch64-unknown-linux-gnu"
LINKER = "aarch64-linux-gnu-gcc"
# Where Debian's cross compiler keeps the C library.
SYSTEM = "/usr/aarch64-linux-gnu"
INSTALL = "apt install gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"

# What has instruction sets, and what is built on it.
TESTS = ["kernels::", "ops::", "nn::", "losses::", "optimizers::"]


def missing() -> str:
    """What lacks for compiling across and running the result, and how to get it; empty if nothing does."""
    lacking = [name for name in (LINKER, "aarch64-linux-gnu-g++", "qemu-aarch64") if not shutil.which(name)]
    if lacking or not Path(SYSTEM, "lib/libc.so.6").exists():
        return f"there is no {', no '.join(lacking or [f'{SYSTEM}/lib/libc.so.6'])} here (Debian: `{INSTALL}`)"
    library = subprocess.run(["rustc", "--print", "target-libdir", "--target", TARGET], capture_output=True, text=True)
    if library.returncode != 0 or not Path(library.stdout.strip()).is_dir():
        return f"Rust's library for arm64 is not here (`rustup target add {TARGET}`)"
    return ""


def tests() -> list:
    """The command that compiles and runs them."""
    emulator = ["qemu-aarch64", "-L", SYSTEM]
    settings = [
        f'target.{TARGET}.linker="{LINKER}"',
        f"target.{TARGET}.runner={emulator}",
        # For tests that start themselves again.
        f'env.CANDLE_COURSE_TEST_RUNNER="{" ".join(emulator)}"',
    ]
    named = [argument for setting in settings for argument in ("--config", setting)]
    return ["cargo", *named, "test", "--locked", "-p", "candle_course", "--lib", "--no-default-features", "--target", TARGET, "--", *TESTS]
