"""docs/reliability.md: what is promised, what was tried and how often, as the tests noted it."""

import json
import os
from pathlib import Path

from . import paths, say

VARIABLE = "CANDLE_COURSE_TRIED"
PAGE = paths.PROJECT / "docs" / "reliability.md"
BEGIN, END = "<!-- rows: written by scripts/test -->\n", "<!-- end of rows -->"


def tried(promise: str, what: str, times: int) -> None:
    """For tests in Python: the counterpart of `test_support::tried` in the crate."""
    if file := os.environ.get(VARIABLE):
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"promise": promise, "what": what, "times": times}) + "\n")


def rows(file: Path) -> dict:
    """How often each thing was tried, by promise and what was tried."""
    found = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line in map(json.loads, lines):
        key = (line["promise"], line["what"])
        found[key] = found.get(key, 0) + line["times"]
    return found


def page(found: dict) -> str:
    """The page with these rows."""
    head, rest = say.read_text(PAGE).split(BEGIN)
    lines = ["| promise | what was tried | times |\n", "| --- | --- | ---: |\n"]
    lines += [f"| {promise} | {what} | {times:,} |\n" for (promise, what), times in sorted(found.items())]
    return head + BEGIN + "\n" + "".join(lines) + "\n" + END + rest.split(END)[1]


def write(found: dict) -> None:
    say.write_if_changed(PAGE, page(found))
