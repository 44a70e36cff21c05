"""`scripts/audit`: a fault fails it, a missing tool or network is said and skips it."""

import pytest

CLEAN = "echo 'No known vulnerabilities found'\n"
# Its text speaks of a network, as many do.
FAULTY = "echo 'Found 1 known vulnerability in 1 package'; echo 'jinja2 3.1.2 GHSA-x until it timed out'; exit 1\n"


def audit(machine, *parts, **environment):
    return machine.call("audit", *parts, **{"CARGO_NET_OFFLINE": "false"} | environment)


def test_nothing_known(machine):
    machine = machine()
    machine.program("pip-audit", CLEAN + 'echo "$*"\n')
    machine.program("cargo-deny", "")
    machine.program("cargo", 'echo "advisories ok"; echo "$*"\n')
    result = audit(machine)
    assert result.returncode == 0, result.stderr
    assert "No known vulnerabilities found" in result.stdout and "deny --locked check advisories" in result.stdout
    assert f"--require-hashes --disable-pip --progress-spinner off --timeout 30 --requirement {machine.project}/scripts/requirements.lock" in result.stdout


def test_a_known_fault_fails(machine):
    machine = machine()
    machine.program("pip-audit", FAULTY)
    result = audit(machine, "python")
    assert result.returncode == 1
    assert "GHSA-x" in result.stdout and "✗ known faults were found" in result.stderr


def test_a_fault_outweighs_what_was_skipped(machine):
    machine = machine()
    machine.program("pip-audit", FAULTY)
    result = audit(machine)
    assert result.returncode == 1 and "cargo-deny is not installed" in result.stderr


def test_missing_tools_skip(machine):
    result = audit(machine())
    assert result.returncode == 77
    assert "RUST'S PACKAGES ARE NOT AUDITED" in result.stderr and "pip-audit is not installed (`pipx install pip-audit`): PYTHON'S PACKAGES ARE NOT AUDITED" in result.stderr


@pytest.mark.parametrize(
    "says",
    [
        "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='pypi.org', port=443): Max retries exceeded",
        "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed: ConnectTimeout",
        "failed to fetch advisory database https://github.com/RustSec/advisory-db: error sending request",
        "Could not resolve host: github.com",
    ],
)
def test_without_a_network_it_is_skipped(machine, says):
    machine = machine()
    machine.program("pip-audit", f'echo "{says}" >&2; exit 1\n')
    result = audit(machine, "python")
    assert result.returncode == 77 and "the network is not there" in result.stderr and "ARE NOT AUDITED" in result.stderr


def test_an_index_that_tells_nothing_is_no_clean_bill(machine):
    machine = machine()
    machine.program("pip-audit", "echo 'No known vulnerabilities found'; echo 'jinja2 Dependency not found on PyPI and could not be audited: jinja2 (3.1.6)'\n")
    result = audit(machine, "python")
    assert result.returncode == 77 and "the index tells nothing of 1 packages: PYTHON'S PACKAGES ARE NOT AUDITED" in result.stderr


def test_the_network_may_be_forbidden(machine):
    machine = machine()
    machine.program("pip-audit", FAULTY)
    result = audit(machine, "python", CARGO_NET_OFFLINE="true")
    assert result.returncode == 77 and "CARGO_NET_OFFLINE forbids the network" in result.stderr


def test_a_server_that_stalls_is_given_up(machine, monkeypatch, capsys):
    from course import audit_command

    monkeypatch.delenv("CARGO_NET_OFFLINE", raising=False)
    monkeypatch.setattr(audit_command, "LIMIT_SECONDS", 0.3)
    assert audit_command.audit("PYTHON'S PACKAGES", lambda: ["sleep", "600"]) is None
    assert "did not end within 0.3 s: PYTHON'S PACKAGES ARE NOT AUDITED" in capsys.readouterr().err


def test_the_table_of_checks_says_skipped(machine):
    machine = machine().set_up()
    result = machine.call("test", "audit")
    assert result.returncode == 0, result.stderr
    assert [line.split()[:2] for line in result.stdout.splitlines() if line.startswith("audit")] == [["audit", "skipped"]]
