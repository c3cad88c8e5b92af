"""What a worker's machine lacks is named, with what to do."""

import subprocess
import sys

import pytest

from tests.support.places import PROJECT
from worker import doctor
from worker.sandbox import files, system_calls


@pytest.mark.skipif(sys.platform != "linux", reason="confined by the Linux kernel")
def test_each_layer_that_the_kernel_lacks_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "has_namespaces", lambda: False)
    assert [row[:2] for row in doctor.confinement()] == [("confinement", "ok"), ("namespaces", "-")]
    monkeypatch.setattr(files, "version", lambda: 0)
    monkeypatch.setattr(system_calls, "supported", lambda: False)
    (_, one, landlock), (_, other, calls), (_, _, namespaces) = doctor.confinement()
    assert one == other == "fix"
    assert "Landlock" in landlock
    assert "system calls" in calls
    assert "AIAO_ALLOW_WEAK_CONFINEMENT" in landlock
    assert "user.max_user_namespaces" in namespaces


def test_another_system_has_no_confinement(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [row[:2] for row in doctor.confinement()] == [("confinement", "fix")]


@pytest.mark.parametrize(("mode", "state"), [(0o700, "ok"), (0o750, "-"), (0o755, "fix"), (0o701, "fix")])
def test_the_modes_of_the_data_folder_are_looked_at(tmp_path, mode, state):
    tmp_path.chmod(mode)
    assert doctor.data_folder(tmp_path)[1] == state
    tmp_path.chmod(0o700)


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    assert doctor.data_folder(tmp_path / "data")[1] == "-"
    assert not (tmp_path / "data").exists()


@pytest.mark.process
def test_it_looks_without_torch(tmp_path):
    script = "import sys, worker.doctor; worker.doctor.main(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True, capture_output=True)
