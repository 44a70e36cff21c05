"""Tests on arm64 are run where everything for them is there, and what lacks is named."""

import platform

import pytest
from course import arm64, test_command


def test_what_lacks_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(arm64, "SYSTEM", str(tmp_path / "system"))
    tools = ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++", "qemu-aarch64")
    assert arm64.missing() == f"there is no {', no '.join(tools)} here (Debian: `{arm64.INSTALL}`)"
    for name in tools:
        (tmp_path / name).touch(mode=0o755)
    assert "there is no " + str(tmp_path / "system/lib/libc.so.6") in arm64.missing()
    (tmp_path / "system/lib").mkdir(parents=True)
    (tmp_path / "system/lib/libc.so.6").touch()
    compiler = tmp_path / "rustc"
    compiler.write_text(f"#!/bin/sh\necho {tmp_path}/library\n")
    compiler.chmod(0o755)
    assert "rustup target add aarch64-unknown-linux-gnu" in arm64.missing()
    (tmp_path / "library").mkdir()
    assert arm64.missing() == ""


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64"])
@pytest.mark.parametrize("missing", ["", "there is no qemu-aarch64 here"])
def test_the_check_runs_where_it_can_and_is_needed(monkeypatch, capsys, machine, missing):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(arm64, "missing", lambda: missing)
    commands = test_command.arm64_commands()
    said = capsys.readouterr()
    if machine == "x86_64" and not missing:
        assert commands == [arm64.tests()] and commands[0][-len(arm64.TESTS) :] == arm64.TESTS
    else:
        assert commands == [] and ("of arm64" if machine != "x86_64" else "NOT CHECKED") in said.out + said.err
