"""What every key-encryption key must do, wherever it lies: here, in AWS KMS (moto's server), in a transit engine."""

import subprocess
import sys

import boto3
import pytest

from service.kit.credentials import Credentials
from service.kit.errors import NotReady
from service.vault.key_encryption import KeyEncryptionKey, LocalKey, VaultError
from service.vault.vault import Vault, open_key
from tests.support.processes import free_port, stop, wait_for
from tests.support.transit import TOKEN, transit

PLACE = "aiao/v1/owner-key/ten_a/mdl_a"


@pytest.fixture(scope="module")
def kms():
    """The address of a KMS."""
    port = free_port()
    log = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: boto3.client("kms", "eu-central-1", endpoint_url=url, **CREDENTIALS).list_keys(), "no KMS")
        yield url
    finally:
        stop(process)


CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


@pytest.fixture
def aws(kms, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", kms)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name.upper(), value)


@pytest.fixture(params=["local", pytest.param("aws-kms", marks=pytest.mark.process), "vault-transit"])
def key(request, monkeypatch) -> KeyEncryptionKey:
    if request.param == "local":
        return LocalKey(bytes(32))
    if request.param == "aws-kms":
        request.getfixturevalue("aws")
        return open_key(f"aws-kms:{boto3.client('kms').create_key()['KeyMetadata']['KeyId']}", Credentials())
    address = request.getfixturevalue("engine")
    monkeypatch.setenv("VAULT_ADDR", address)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    return open_key("vault-transit:owners", Credentials())


@pytest.fixture(scope="module")
def engine():
    with transit() as address:
        yield address


def test_what_was_sealed_opens_in_its_context_alone(key):
    sealed = key.seal(b"a data key", "context")
    assert b"a data key" not in sealed
    assert key.unseal(sealed, "context") == b"a data key"
    with pytest.raises(VaultError):
        key.unseal(sealed, "another")


def test_what_was_changed_does_not_open(key):
    sealed = key.seal(b"a data key", "context")
    for changed in (sealed[:-1], sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:], b"", b"\xff" * 40):
        with pytest.raises(VaultError) as caught:
            key.unseal(changed, "context")
        assert "a data key" not in str(caught.value)


def test_a_vault_under_it_keeps_a_secret(key):
    vault = Vault(key)
    sealed = vault.encrypt("the secret", PLACE)
    assert sealed.key_encryption_key_id == key.id
    assert vault.decrypt(sealed, PLACE) == "the secret"


def test_one_vault_moves_its_keys_to_another(key):
    local = LocalKey(bytes(31) + b"1")
    for old, new in ((local, key), (key, local)):
        resealed = Vault(new, [old]).reseal(Vault(old).encrypt("the secret", PLACE), PLACE)
        assert Vault(new).decrypt(resealed, PLACE) == "the secret"


def test_a_key_that_is_not_there_is_named(aws, monkeypatch, engine):
    with pytest.raises(VaultError, match="aws-kms:nothing refused to encrypt: NotFoundException"):
        open_key("aws-kms:nothing", Credentials()).seal(b"a data key", "context")
    monkeypatch.setenv("VAULT_ADDR", engine)
    monkeypatch.setenv("VAULT_TOKEN", "wrong")
    with pytest.raises(VaultError, match="vault-transit:owners refused to encrypt: status 403"):
        open_key("vault-transit:owners", Credentials()).seal(b"a data key", "context")
    monkeypatch.delenv("VAULT_TOKEN")
    with pytest.raises(VaultError, match="VAULT_TOKEN"):
        open_key("vault-transit:owners", Credentials())


@pytest.mark.parametrize("name", ["aws-kms:owners", "vault-transit:owners"])
def test_a_service_that_does_not_answer_is_not_ready_and_no_wrong_key(aws, monkeypatch, name):
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", nobody)
    monkeypatch.setenv("VAULT_ADDR", nobody)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    with pytest.raises(NotReady, match="does not answer"):
        open_key(name, Credentials()).seal(b"a data key", "context")
