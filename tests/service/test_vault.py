import base64
import secrets
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.ids import new_id
from service.vault import Vault, VaultError

TENANT, MODEL = new_id("ten"), new_id("mdl")


def sealed(vault: Vault, text: str = "the secret") -> bytes:
    return vault.encrypt(text, tenant_id=TENANT, model_id=MODEL)


@given(st.text())
def test_what_goes_in_comes_out(text):
    vault = Vault(bytes(32))
    assert vault.decrypt(sealed(vault, text), tenant_id=TENANT, model_id=MODEL) == text


def test_the_same_text_is_never_the_same_ciphertext():
    vault = Vault(bytes(32))
    assert sealed(vault) != sealed(vault)


@pytest.mark.parametrize(
    "place", [{"tenant_id": new_id("ten"), "model_id": MODEL}, {"tenant_id": TENANT, "model_id": new_id("mdl")}]
)
def test_a_ciphertext_opens_in_its_own_row_only(place):
    vault = Vault(bytes(32))
    with pytest.raises(VaultError):
        vault.decrypt(sealed(vault), **place)


@given(st.data())
def test_a_changed_ciphertext_does_not_open(data):
    vault = Vault(bytes(32))
    changed = bytearray(sealed(vault))
    if data.draw(st.booleans()):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        changed = changed[: data.draw(st.integers(0, len(changed) - 1))]
    with pytest.raises(VaultError, match="cannot be decrypted"):
        vault.decrypt(bytes(changed), tenant_id=TENANT, model_id=MODEL)


def test_another_key_does_not_open_it_and_the_error_names_the_setting():
    with pytest.raises(VaultError, match="AIAO_KEY_ENCRYPTION_KEY"):
        Vault(bytes(31) + b"1").decrypt(sealed(Vault(bytes(32))), tenant_id=TENANT, model_id=MODEL)


def test_the_key_id_tells_keys_apart_and_not_what_they_are():
    key = secrets.token_bytes(32)
    assert Vault(key).key_id == Vault(key).key_id != Vault(bytes(32)).key_id
    assert Vault(key).key_id not in key.hex()


def test_the_first_start_makes_a_key_for_the_owner_alone(tmp_path):
    file = tmp_path / "data" / "key"
    vault = Vault.open(None, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o077 == 0
    assert Vault.open(None, file).decrypt(sealed(vault), tenant_id=TENANT, model_id=MODEL) == "the secret"
    assert list(file.parent.iterdir()) == [file]


def test_the_setting_is_preferred_and_no_file_is_made(tmp_path):
    key = secrets.token_bytes(32)
    vault = Vault.open(SecretStr(base64.b64encode(key).decode()), tmp_path / "key")
    assert vault.key_id == Vault(key).key_id
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["no base64!", "AAAA", base64.b64encode(bytes(33)).decode(), "schlüssel", "="])
@pytest.mark.parametrize("place", ["setting", "file"])
def test_a_malformed_key_is_refused_with_the_way_to_make_one(tmp_path, text, place):
    (tmp_path / "key").write_text(text)
    with pytest.raises(VaultError, match="openssl rand -base64 32"):
        Vault.open(SecretStr(text) if place == "setting" else None, tmp_path / "key")


def test_processes_that_start_together_agree_on_one_key(tmp_path):
    script = (
        "import sys; from pathlib import Path; from service.vault import Vault\n"
        "print('ready', flush=True); sys.stdin.read()\n"
        "print({Vault.open(None, Path(sys.argv[1]) / str(n)).key_id: n for n in range(60)})"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    starting = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for process in starting:
        assert process.stdout.readline() == b"ready\n"
    for process in starting:
        process.stdin.close()
    answers = [process.stdout.read() for process in starting]
    assert [process.wait() for process in starting] == [0, 0, 0]
    assert answers[0] == answers[1] == answers[2]
