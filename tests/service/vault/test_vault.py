import base64
import secrets
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.settings import Settings
from service.vault.key_encryption import LocalKey, VaultError
from service.vault.vault import SealedSecret, Vault

CONTEXT = "aiao/v1/owner-key/ten_1/mdl_1"


def opened(settings: Settings) -> Vault:
    return Vault.open(settings.key_encryption_key, settings.former_key_encryption_keys, settings.data_dir, settings.credentials)


def sealed(vault: Vault, text: str = "the secret") -> SealedSecret:
    return vault.encrypt(text, CONTEXT)


@given(st.text())
def test_what_goes_in_comes_out(text):
    vault = Vault(LocalKey(bytes(32)))
    assert vault.decrypt(sealed(vault, text), CONTEXT) == text


def test_the_same_text_is_never_the_same_ciphertext():
    vault = Vault(LocalKey(bytes(32)))
    assert sealed(vault) != sealed(vault)


@pytest.mark.parametrize("context", ["", "aiao/v1/owner-key/ten_1/mdl_2", "aiao/v1/owner-key/ten_2/mdl_1"])
def test_a_ciphertext_opens_in_its_own_row_only(context):
    vault = Vault(LocalKey(bytes(32)))
    with pytest.raises(VaultError):
        vault.decrypt(sealed(vault), context)


@given(st.data())
def test_a_changed_ciphertext_or_data_key_does_not_open(data):
    vault = Vault(LocalKey(bytes(32)))
    kept = sealed(vault)
    part = data.draw(st.sampled_from(["ciphertext", "data_key"]))
    changed = bytearray(getattr(kept, part))
    if data.draw(st.booleans()):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        changed = changed[: data.draw(st.integers(0, len(changed) - 1))]
    with pytest.raises(VaultError, match="does not open"):
        vault.decrypt(replace(kept, **{part: bytes(changed)}), CONTEXT)


def test_another_key_does_not_open_it_and_the_error_names_the_settings():
    other, kept = Vault(LocalKey(bytes(31) + b"1")), sealed(Vault(LocalKey(bytes(32))))
    with pytest.raises(VaultError, match="neither AIAO_KEY_ENCRYPTION_KEY nor AIAO_FORMER_KEY_ENCRYPTION_KEYS"):
        other.decrypt(kept, CONTEXT)
    with pytest.raises(VaultError, match="does not open"):
        other.decrypt(replace(kept, key_encryption_key_id=other.key_id), CONTEXT)


def of_the_first_release(key: LocalKey, text: str) -> SealedSecret:
    return SealedSecret(key.seal(text.encode(), CONTEXT), None, key.id)


@given(st.text())
def test_what_the_first_release_wrote_still_opens_and_is_resealed_in_the_new_form(text):
    key = LocalKey(bytes(32))
    written = of_the_first_release(key, text)
    vault = Vault(LocalKey(bytes(31) + b"1"), [key])
    assert vault.decrypt(written, CONTEXT) == text
    resealed = vault.reseal(written, CONTEXT)
    assert resealed.data_key
    assert resealed.key_encryption_key_id == vault.key_id
    assert vault.decrypt(resealed, CONTEXT) == text


def test_a_resealed_key_needs_the_former_one_no_more():
    old, new = LocalKey(bytes(32)), LocalKey(bytes(31) + b"1")
    kept = sealed(Vault(old))
    resealed = Vault(new, [old]).reseal(kept, CONTEXT)
    assert resealed.ciphertext == kept.ciphertext
    assert Vault(new).decrypt(resealed, CONTEXT) == "the secret"
    with pytest.raises(VaultError):
        Vault(old).decrypt(resealed, CONTEXT)


def test_the_key_id_tells_keys_apart_and_not_what_they_are():
    key = secrets.token_bytes(32)
    assert Vault(LocalKey(key)).key_id == Vault(LocalKey(key)).key_id != Vault(LocalKey(bytes(32))).key_id
    assert Vault(LocalKey(key)).key_id not in key.hex()


def test_the_first_start_makes_a_key_for_the_owner_alone(tmp_path):
    settings = Settings(data_dir=tmp_path / "data")
    file = settings.data_dir / "key-encryption-key"
    vault = opened(settings)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o077 == 0
    assert opened(settings).decrypt(sealed(vault), CONTEXT) == "the secret"
    assert list(file.parent.iterdir()) == [file]


def test_the_setting_is_preferred_and_no_file_is_made(tmp_path):
    key = secrets.token_bytes(32)
    text = base64.b64encode(key).decode()
    (tmp_path / "kek").write_text(text + "\n")
    for setting in (text, f"file:{tmp_path / 'kek'}"):
        vault = opened(Settings(data_dir=tmp_path / "data", key_encryption_key=SecretStr(setting)))
        assert vault.key_id == LocalKey(key).id
    assert not (tmp_path / "data").exists()


def test_former_keys_open_what_they_sealed(tmp_path):
    texts = [base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(3)]
    kept = [sealed(Vault(LocalKey.of_text(text))) for text in texts]
    settings = Settings(data_dir=tmp_path, key_encryption_key=texts[0], former_key_encryption_keys=" ".join(texts[1:]))
    vault = opened(settings)
    assert [vault.decrypt(each, CONTEXT) for each in kept] == ["the secret"] * 3
    assert vault.key_id == kept[0].key_encryption_key_id
    assert not any(text in repr(settings) for text in texts)


@pytest.mark.parametrize("text", ["no base64!", "AAAA", base64.b64encode(bytes(33)).decode(), "schlüssel", "="])
@pytest.mark.parametrize("place", ["setting", "file"])
def test_a_malformed_key_is_refused_with_the_way_to_make_one(tmp_path, text, place):
    (tmp_path / "key").write_text(text)
    setting = text if place == "setting" else f"file:{tmp_path / 'key'}"
    with pytest.raises(VaultError, match="openssl rand -base64 32"):
        opened(Settings(data_dir=tmp_path, key_encryption_key=setting))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(VaultError, match="nowhere of a key-encryption key cannot be read: No such file"):
        opened(Settings(data_dir=tmp_path, key_encryption_key=f"file:{tmp_path / 'nowhere'}"))


@pytest.mark.process
def test_processes_that_start_together_agree_on_one_key(tmp_path):
    script = (
        "import sys; from pathlib import Path; from service.vault.key_encryption import made_at_first_start\n"
        "print('ready', flush=True); sys.stdin.read()\n"
        "print({made_at_first_start(Path(sys.argv[1]) / str(n)).id: n for n in range(60)})"
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
