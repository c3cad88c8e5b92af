import os
import subprocess
import sys

import pytest

from service.settings import InvalidSettings, read_settings
from tests.support.places import PROJECT


def test_a_setting_that_cannot_be_used_is_named_and_no_key_repeated(monkeypatch):
    monkeypatch.setenv("AIAO_KEY_ENCRYPTION_KEY", "the-key")
    monkeypatch.setenv("AIAO_RATE_LIMIT", "10/minute")
    monkeypatch.setenv("AIAO_BROKER_URL", "amqp://127.0.0.1:5672//")
    with pytest.raises(InvalidSettings, match="AIAO_RATE_LIMIT needs a Redis") as caught:
        read_settings()
    assert "the-key" not in str(caught.value) + str(caught.value.__cause__)
    monkeypatch.setenv("AIAO_PORT", "many")
    with pytest.raises(InvalidSettings, match="AIAO_PORT: Input should be a valid integer"):
        read_settings()


def test_queues_that_cannot_be_read_are_told_in_our_own_words(monkeypatch):
    monkeypatch.setenv("AIAO_QUEUES", "gpu:lots")
    with pytest.raises(InvalidSettings, match=r"^AIAO_QUEUES: gpu:lots is not a queue with its memory"):
        read_settings()


@pytest.mark.process
@pytest.mark.parametrize(("name", "value"), [("AIAO_RATE_LIMIT", "many"), ("AIAO_KEY_ENCRYPTION_KEY", "no base64")])
@pytest.mark.parametrize("command", [["service.processes.embedded"], ["service.admin", "migrate"]])
def test_a_start_with_such_a_setting_ends_in_a_sentence(tmp_path, command, name, value):
    environment = os.environ | {"AIAO_DATA_DIR": str(tmp_path), "AIAO_CONFIG_FILE": str(tmp_path / "config"), name: value}
    done = subprocess.run([sys.executable, "-m", *command], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert ("AIAO_RATE_LIMIT" if name == "AIAO_RATE_LIMIT" else "openssl rand") in done.stderr
