"""What a forge, a container and a cloud do with the project is what its scripts do here."""

import json
import os
import re
import subprocess

import pytest
import yaml
from conftest import PROJECT
from course import paths

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
# What a forge brings itself: tools to install, a release to upload to.
OF_THE_FORGE = r"(rustup|gh|sudo apt-get|toolchain=\$\(sed) "


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_step_calls_a_script_of_the_project(path):
    workflow = yaml.safe_load(path.read_text())
    scripts = set()
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120 if "timeout-minutes" in job else job.get("needs")
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            for line in step.get("run", "").splitlines():
                named = re.findall(r"(?:^|[ (])scripts/([\w-]+)", line)
                assert named or re.match(OF_THE_FORGE, line), line
                scripts |= set(named)
    assert scripts
    for name in scripts:
        assert os.access(PROJECT / "scripts" / name, os.X_OK), name


def test_the_checks_that_workflows_name_exist():
    from course import test_command

    named = [name for path in WORKFLOWS for call in re.findall(r"scripts/test ([\w ]+)", path.read_text()) for name in call.split()]
    assert named and set(named) <= {*test_command.CHECKS, "release"}


def test_there_is_a_workflow_for_every_machine():
    text = (PROJECT / ".github" / "workflows" / "test.yml").read_text()
    assert all(machine in text for machine in ("ubuntu-24.04,", "ubuntu-24.04-arm", "macos-")) and "scripts/bundle --key" in text
    assert "schedule:" in (PROJECT / ".github" / "workflows" / "weekly.yml").read_text()


def test_the_image_is_made_by_its_script():
    steps = re.findall(r"^RUN (.*)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    assert steps == ["scripts/image system", "scripts/image user"]
    lines = (PROJECT / "Dockerfile").read_text().splitlines()
    assert lines.index("USER ${NB_USER}") < lines.index("RUN scripts/image user")
    assert (PROJECT / ".binder" / "Dockerfile").samefile(PROJECT / "Dockerfile")
    container = json.loads(re.sub(r"^\s*//.*$", "", (PROJECT / ".devcontainer" / "devcontainer.json").read_text(), flags=re.MULTILINE))
    assert (PROJECT / ".devcontainer" / container["build"]["dockerfile"]).samefile(PROJECT / "Dockerfile") and container["remoteUser"] != "root"


@pytest.mark.parametrize(("arguments", "code", "said"), [(["--help"], 0, "scripts/image system"), ([], 2, "expected system, user or try"), (["sytem"], 2, "got 'sytem'")])
def test_the_images_script_explains_itself(arguments, code, said):
    result = subprocess.run([PROJECT / "scripts" / "image", *arguments], capture_output=True, text=True)
    assert result.returncode == code and said in result.stdout + result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone is refused")
def test_the_users_step_is_not_done_by_root():
    result = subprocess.run([PROJECT / "scripts" / "image", "user"], capture_output=True, text=True)
    assert result.returncode == 2 and "no step for root" in result.stderr


def test_the_pinned_compiler_can_build_the_kernel():
    assert tuple(map(int, paths.TOOLCHAIN.split(".")[:2])) >= paths.KERNEL_RUST


def test_the_kernel_is_registered_for_other_frontends(machine):
    machine = machine().set_up()
    result = machine.call("lab", "--register")
    assert result.returncode == 0, result.stderr
    written = json.loads((machine.root / "home/.local/share/jupyter/kernels/rust/kernel.json").read_text())
    assert written["argv"] == [f"{machine.project}/.venv/bin/python", f"{machine.project}/scripts/course/launcher.py", "{connection_file}"]
    assert machine.call("lab", "--register").returncode == 0
    (machine.root / "home/.local/share/jupyter/kernels/rust/kernel.json").write_text('{"argv": ["evcxr_jupyter"]}')
    result = machine.call("lab", "--register")
    assert result.returncode == 1 and "another kernel is registered as 'rust'" in result.stderr
