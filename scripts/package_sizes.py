"""Prints the sizes of the packed crates; fails if one is larger than it may be."""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from course import command, paths, test_command  # noqa: E402

# A registry takes 10 MiB; code that grows beyond a megabyte has taken data in.
LIMITS = {"candle_course": 1_000_000, "candle_course_samples": 9_500_000, "candle_course_mpi": 100_000, "candle_course_notebook": 100_000}


def main() -> int:
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=paths.PROJECT, capture_output=True, check=True).stdout)
    versions = {package["name"]: package["version"] for package in metadata["packages"]}
    failed = False
    for name in test_command.PACKAGES:
        size = (Path(metadata["target_directory"]) / "package" / f"{name}-{versions[name]}.crate").stat().st_size
        failed |= size > LIMITS[name]
        print(f"{name:<24}{size:>12,} bytes of {LIMITS[name]:,} at most")
    return int(failed)


if __name__ == "__main__":
    command.guard()
    sys.exit(main())
