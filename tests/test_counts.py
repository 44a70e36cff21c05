"""The counts that `scripts/test` prints come from the runners' own words."""

from course import execute, test_command


def test_counts_are_read_from_every_runner():
    assert test_command.count("     Summary [   1.2s] 312 tests run: 312 passed, 1 skipped") == ["312 tests"]
    assert test_command.count("   Doc-tests candle_course\ntest result: ok. 48 passed; 0 failed; 0 ignored") == ["48 tests in documentation"]
    assert test_command.count("test result: ok. 40 passed; 0 failed\ntest result: ok. 2 passed; 0 failed") == ["42 tests"]
    assert test_command.count("=========== 61 passed, 1 skipped in 201.15s (0:03:21) ===========") == ["61 passed, 1 skipped"]


def test_what_a_kernel_says_cannot_steer_the_terminal():
    assert execute.plain("\x1b[31mred\x1b[0m\ttab\nline\x1b]0;title\x07\x1b[2J\x9b5n\r!") == "red\ttab\nline]0;title[2J5n!"


def test_the_table_counts_as_lessons():
    reports = [execute.Report(name=name, cells=3, total_seconds=12.5, first_result_seconds=9.0, cell_seconds=[5.0, 1.0, 0.5]) for name in ("3.1-loop", "3.2-data")]
    table = execute.table(reports)
    assert test_command.count(table) == ["2 lessons"]
    assert "3.1-loop  3      12.5     1.00 s       #1 5.0 s      ok" in table
    assert "start to first result: 9.0 s" in table
