import base64
import os
import secrets
import subprocess
import sys
from threading import Thread

import pytest
import sqlalchemy as sa

from aiao_core.key import encode_secret
from service import admin
from service.keys import service as keys
from service.tables.keys import StoredKey
from service.vault.key_encryption import LocalKey, VaultError
from service.vault.sealed_rows import rotate
from service.vault.vault import Vault
from tests.support import rows
from tests.support.places import PROJECT

pytestmark = pytest.mark.dialect


def texts(count: int) -> list[str]:
    return [base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(count)]


def secret_of(database, vault, tenant, model_id) -> str:
    with database.session() as session:
        return encode_secret(keys.seed_of(session, vault, tenant, model_id, "job_test"))


def rotate_kek(context, new: str, former: str) -> str:
    environment = os.environ | {
        "AIAO_DATA_DIR": str(context.settings.data_dir), "AIAO_DATABASE_URL": context.settings.database_url,
        "AIAO_KEY_ENCRYPTION_KEY": new, "AIAO_FORMER_KEY_ENCRYPTION_KEYS": former,
    }  # fmt: skip
    command = [sys.executable, "-m", "service.admin", "rotate-kek"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not any(text in done.stdout + done.stderr for text in (new, former))
    return done.stdout


@pytest.mark.slow
def test_after_a_rotation_the_former_key_is_needed_no_more(context):
    tenants = [rows.tenant(context.database) for _ in range(2)]
    registered = [(tenant, rows.registered(context, tenant)) for tenant in tenants for _ in range(3)]
    (new,) = texts(1)
    former = (context.settings.data_dir / "key-encryption-key").read_text().strip()
    key = LocalKey.of_text(new)
    assert f"6 secrets were sealed again; every secret is now under {key.id}" in rotate_kek(context, new, former)
    for tenant, (model, _, secret) in registered:
        assert secret_of(context.database, Vault(key), tenant, model.id) == secret
        with pytest.raises(VaultError):
            secret_of(context.database, context.vault, tenant, model.id)
    assert "0 secrets were sealed again" in rotate_kek(context, new, former)


def test_a_rotation_goes_on_until_no_key_is_left(context, tenant, monkeypatch, capsys):
    for _ in range(5):
        rows.registered(context, tenant)
    former = (context.settings.data_dir / "key-encryption-key").read_text().strip()
    monkeypatch.setenv("AIAO_DATA_DIR", str(context.settings.data_dir))
    monkeypatch.setenv("AIAO_DATABASE_URL", context.settings.database_url)
    monkeypatch.setenv("AIAO_KEY_ENCRYPTION_KEY", texts(1)[0])
    monkeypatch.setenv("AIAO_FORMER_KEY_ENCRYPTION_KEYS", former)
    monkeypatch.setattr(admin, "ROTATED_AT_ONCE", 2)
    admin.rotate_kek()
    assert "5 secrets were sealed again" in capsys.readouterr().out


def test_keys_of_the_first_release_are_rotated_too(context, tenant):
    model, _, secret = rows.registered(context, tenant)
    old, new = (LocalKey(secrets.token_bytes(32)) for _ in range(2))
    ciphertext = old.seal(secret.encode(), f"aiao/v1/owner-key/{tenant}/{model.id}")
    with context.database.session() as session:
        row = {"ciphertext": ciphertext, "data_key": None, "key_encryption_key_id": old.id}
        session.execute(sa.update(StoredKey).where(StoredKey.model_id == model.id).values(**row))
    assert secret_of(context.database, Vault(old), tenant, model.id) == secret
    with context.database.session() as session:
        assert rotate(session, Vault(new, [old]), 10) == 1
    assert secret_of(context.database, Vault(new), tenant, model.id) == secret


def test_an_embedding_that_ends_during_a_rotation_loses_nothing(context, tenant):
    model, _, secret = rows.registered(context, tenant)
    key, new = rows.a_key(secret), LocalKey(secrets.token_bytes(32))
    old = LocalKey.of_text((context.settings.data_dir / "key-encryption-key").read_text())
    during = Vault(new, [old])

    def complete() -> None:
        with context.database.session() as session:
            keys.complete(session, during, tenant, model.id, key, ())

    with context.database.session() as session:
        assert rotate(session, during, 10) == 1
        ending = Thread(target=complete)
        ending.start()
        ending.join(1)
    ending.join(30)
    with context.database.session() as session:
        assert keys.owner_key(session, Vault(new), tenant, model.id, "job_test") == key
