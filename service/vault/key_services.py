"""Key-encryption keys that never leave a key management service."""

import base64
import os
from typing import Any

import httpx

from service.kit.credentials import Credentials
from service.kit.errors import NotReady
from service.vault.key_encryption import VaultError

TIMEOUT_SECONDS = 10


class AwsKms:
    """A symmetric key of AWS KMS, by its identifier, ARN or ``alias/…``.

    Region, and credentials that are not given, are found as boto3 finds them.

    Needs ``pip install 'aiao-server[aws]'``.
    """

    def __init__(self, key: str, credentials: Credentials) -> None:
        import boto3
        from botocore.config import Config

        config = Config(connect_timeout=TIMEOUT_SECONDS, read_timeout=TIMEOUT_SECONDS, retries={"total_max_attempts": 2})
        self._client, self._key, self.id = boto3.client("kms", config=config, **credentials.of("aws")), key, f"aws-kms:{key}"

    def seal(self, plaintext: bytes, context: str) -> bytes:
        sealed: bytes = self._ask("encrypt", Plaintext=plaintext, EncryptionContext={"aiao": context})["CiphertextBlob"]
        return sealed

    def unseal(self, sealed: bytes, context: str) -> bytes:
        plaintext: bytes = self._ask("decrypt", CiphertextBlob=sealed, EncryptionContext={"aiao": context})["Plaintext"]
        return plaintext

    def _ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self._client, call)(KeyId=self._key, **arguments)
        except ClientError as error:
            raise VaultError(f"{self.id} refused to {call}: {error.response['Error']['Code']}") from error
        except BotoCoreError as error:
            raise NotReady(f"the key management service does not answer ({type(error).__name__})") from error
        return answer


class VaultTransit:
    """A key of the transit engine of HashiCorp Vault or OpenBao, at ``VAULT_ADDR`` with ``VAULT_TOKEN``.

    Of a type with authenticated data, such as the default, aes256-gcm96.
    """

    def __init__(self, key: str, credentials: Credentials) -> None:
        address, token = os.environ.get("VAULT_ADDR"), credentials.vault_token
        if not address or not token:
            raise VaultError(
                f"vault-transit:{key} needs VAULT_ADDR and VAULT_TOKEN; {'VAULT_TOKEN' if address else 'VAULT_ADDR'} is not set"
            )
        headers = {"X-Vault-Token": token.get_secret_value()}
        self._client = httpx.Client(base_url=f"{address}/v1/transit", headers=headers, timeout=TIMEOUT_SECONDS)
        self._key, self.id = key, f"vault-transit:{key}"

    def seal(self, plaintext: bytes, context: str) -> bytes:
        arguments = {"plaintext": _encoded(plaintext), "associated_data": _encoded(context.encode())}
        return self._ask("encrypt", "ciphertext", **arguments).encode()

    def unseal(self, sealed: bytes, context: str) -> bytes:
        arguments = {"ciphertext": sealed.decode(errors="replace"), "associated_data": _encoded(context.encode())}
        return base64.b64decode(self._ask("decrypt", "plaintext", **arguments))

    def _ask(self, call: str, field: str, **arguments: str) -> str:
        try:
            answer = self._client.post(f"/{call}/{self._key}", json=arguments)
        except httpx.HTTPError as error:
            raise NotReady(f"the key management service does not answer ({type(error).__name__})") from error
        if answer.status_code >= 500:
            raise NotReady(f"the key management service does not answer (status {answer.status_code})")
        if answer.status_code != 200:
            raise VaultError(f"{self.id} refused to {call}: status {answer.status_code}")
        return str(answer.json()["data"][field])


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
