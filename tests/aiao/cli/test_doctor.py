"""``aiao doctor`` says what a machine lacks, and what to do about it."""

import re
import sys

import pytest

from aiao._cli.commands import doctor
from tests.support.processes import free_port
from tests.support.shell import Shell

pytestmark = pytest.mark.process


@pytest.fixture
def no_flaw(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "has_slow_tar_headers", lambda: False)


def rows(printed: str) -> dict[str, tuple[str, str]]:
    """State and words of each part."""
    found = re.findall(r"^(.+?) +(ok|fix|-) +(.*?) *$", printed, re.MULTILINE)
    return {part: (state, words) for part, state, words in found}


@pytest.fixture
def private(tmp_path) -> Shell:
    """A user whose data folder is private, for whom no service runs."""
    (tmp_path / "data").mkdir(mode=0o700)
    return Shell(tmp_path, AIAO_DATA_DIR=str(tmp_path / "data"))


@pytest.mark.usefixtures("no_flaw")
def test_a_machine_that_has_everything_has_nothing_to_fix(private):
    printed = private.aiao("doctor").stdout
    assert "Nothing is to be fixed." in printed
    found = rows(printed)
    assert {name for name, (state, _) in found.items() if state == "ok"} >= {
        "Python", "torch", "aiao-server", "confinement", "settings", "data folder",
    }  # fmt: skip
    assert found["service"][0] == "-"
    assert "aiao up" in found["service"][1]


@pytest.mark.usefixtures("no_flaw")
def test_without_torch_and_the_server_it_says_so(private, monkeypatch):
    for name in ("torch", "worker", "worker.doctor", "service"):
        monkeypatch.setitem(sys.modules, name, None)
    found = rows(private.aiao("doctor").stdout)
    assert found["torch"][0] == "-"
    assert "pip install 'aiao[torch]'" in found["torch"][1]
    assert found["aiao-server"][0] == "-"
    assert "pip install aiao-server" in found["aiao-server"][1]
    assert "confinement" not in found


def test_half_of_what_workers_need_is_to_be_fixed(private, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    found = rows(private.aiao("doctor", status=1).stdout)
    assert found["torch"] == ("fix", "peft not installed; run: pip install 'aiao[torch]'")


@pytest.mark.parametrize(
    ("version", "pattern", "flawed"),
    [
        ((3, 11, 9), False, True), ((3, 11, 10), False, False), ((3, 12, 5), False, True), ((3, 12, 6), True, False),
        ((3, 13, 0), True, False), ((3, 11, 2), True, False),
    ],
)  # fmt: skip
def test_a_python_with_the_flaw_of_tar_headers_is_named(private, monkeypatch, version, pattern, flawed):
    """One that a distribution has fixed has the new pattern, whatever its version."""
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    monkeypatch.delattr("tarfile._header_length_prefix_re", raising=False)
    if pattern:
        monkeypatch.setattr("tarfile._header_length_prefix_re", None, raising=False)
    row = doctor._python()
    assert (row[1] == "fix") == flawed
    assert ("CVE-2024-6232" in row[2]) == flawed


@pytest.mark.usefixtures("no_flaw")
def test_a_service_that_answers_and_one_that_does_not(user, tmp_path):
    url, token = user.environment["AIAO_URL"], user.environment["AIAO_TOKEN"]
    found = rows(user.aiao("doctor").stdout)
    assert (found["service"], found["token"]) == (("ok", url), ("ok", "taken"))
    found = rows(Shell(tmp_path, AIAO_URL=url, AIAO_TOKEN="aiao_wrong").aiao("doctor", status=1).stdout)
    assert found["token"][0] == "fix"
    assert "this token is unknown" in found["token"][1]
    nowhere = f"http://127.0.0.1:{free_port()}"
    found = rows(Shell(tmp_path, AIAO_URL=nowhere, AIAO_TOKEN=token).aiao("doctor", status=1).stdout)
    assert found["service"] == ("fix", f"{nowhere} does not answer (ConnectError); start it: aiao up, or set AIAO_URL")


@pytest.mark.usefixtures("no_flaw")
def test_a_setting_that_cannot_be_used_is_named(private):
    private.environment["AIAO_PORT"] = "many"
    assert rows(private.aiao("doctor", status=1).stdout)["settings"][1].startswith("AIAO_PORT: ")


@pytest.mark.usefixtures("no_flaw")
def test_a_folder_that_everybody_may_look_into_is_to_be_closed(private, tmp_path):
    (tmp_path / "data").chmod(0o755)
    found = rows(private.aiao("doctor", status=1).stdout)["data folder"]
    assert found[0] == "fix"
    assert "chmod 700" in " ".join(found[1].split())
