"""A worker starts only where it can confine the reading of clients' files, or where the operator trusts every client."""

import os
import subprocess
import sys

import pytest

from tests.support.places import PROJECT
from worker.sandbox import files, namespaces, strength

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="confined by the Linux kernel")]

START = (
    "import worker.sandbox.files as files; files.version = lambda: 0; import worker.app as app; app.look_at_the_confinement()"
)


def test_a_kernel_without_landlock_is_named(monkeypatch):
    monkeypatch.setattr(files, "version", lambda: 0)
    assert [layer.split()[0] for layer in strength.lacking()] == ["Landlock"]


def test_no_layer_is_missed_here():
    assert strength.lacking() == []


def test_whether_there_are_namespaces_is_tried(monkeypatch):
    tried = strength.has_namespaces()
    monkeypatch.setattr(namespaces, "allowed", lambda: False)
    assert not strength.has_namespaces()
    assert tried in (True, False)


@pytest.mark.parametrize("trusting", [False, True])
def test_a_worker_without_landlock_starts_for_trusted_clients_alone(tmp_path, trusting):
    environment = os.environ | {"AIAO_DATA_DIR": str(tmp_path), "AIAO_ALLOW_WEAK_CONFINEMENT": str(trusting).lower()}
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == trusting
    assert "Landlock" in done.stderr
    assert ("AIAO_ALLOW_WEAK_CONFINEMENT" in done.stderr) != trusting
