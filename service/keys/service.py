"""Owner keys: made at registration, completed by the embedding, never stored in the clear."""

from collections.abc import Sequence

from pydantic import SecretStr
from sqlalchemy.orm import Session

from aiao_core.errors import InvalidKey
from aiao_core.key import OwnerKey, PublicKey, commitment, decode_secret, encode_secret, generate_seed
from aiao_core.reports.parts import BitTest
from service.activity.service import record
from service.keys.repository import KeyRepository, LentSecretRepository
from service.kit.database import utc_now
from service.kit.errors import Conflict, InvalidSecret
from service.kit.ids import new_id
from service.tables.keys import LentSecret, StoredKey
from service.tables.models import Model
from service.vault.vault import Vault


def create(session: Session, vault: Vault, model: Model) -> str:
    """Make a key for a model and return its printable secret, the only time it is in the clear.

    It is stored, or, if its owner is to hold it, lent to the model's embedding.
    """
    seed = generate_seed()
    secret = encode_secret(seed)
    tenant_id = model.tenant_id
    key = StoredKey(id=new_id("key"), tenant_id=tenant_id, model_id=model.id, commitment=commitment(seed), created_at=utc_now())
    if model.custody == "owner":
        _lend(session, vault, tenant_id, model.job_id, secret)
    else:
        key.seal(vault, secret)
    KeyRepository(session, tenant_id).add(key)
    return secret


def lend(session: Session, vault: Vault, model: Model, job_id: str, secret: SecretStr | None) -> None:
    """Let a job use the secret that its owner holds, or check that there is none to lend.

    Raise :class:`InvalidSecret` if it is missing, of another key, or needless.
    """
    if model.custody == "service":
        if secret:
            raise InvalidSecret(f"the service keeps the key of {model.id}; leave secret_key out")
        return
    if secret is None:
        raise InvalidSecret(f"you hold the key of {model.id}; send its secret as secret_key, for this job alone")
    expected = KeyRepository(session, model.tenant_id).of_model(model.id).commitment
    try:
        seed = decode_secret(secret.get_secret_value())
    except InvalidKey as error:
        raise InvalidSecret(f"secret_key: {error}") from error
    if commitment(seed) != expected:
        raise InvalidSecret(f"this secret belongs to the commitment {commitment(seed)}, not to {expected} of {model.id}")
    _lend(session, vault, model.tenant_id, job_id, encode_secret(seed))


def _lend(session: Session, vault: Vault, tenant_id: str, job_id: str, secret: str) -> None:
    lent = LentSecret(id=job_id, tenant_id=tenant_id)
    lent.seal(vault, secret)
    LentSecretRepository(session, tenant_id).add(lent)


def seed_of(session: Session, vault: Vault, tenant_id: str, model_id: str, job_id: str) -> bytes:
    """Return the seed of a model whose embedding is not done yet, for a job."""
    return decode_secret(_plaintext(session, vault, tenant_id, model_id, job_id))


def complete(session: Session, vault: Vault, tenant_id: str, model_id: str, key: OwnerKey, panel: Sequence[BitTest]) -> None:
    """Store a completed key: the public part, and the whole key file, encrypted, unless its owner holds it.

    ``panel`` are the key's tests on other models.
    """
    row = KeyRepository(session, tenant_id).of_model(model_id)
    row.panel = [test.model_dump(mode="json") for test in panel]
    if row.ciphertext is not None:
        row.seal(vault, key.to_json())
    row.public_key = key.public().model_dump(mode="json")


def panel_of(session: Session, tenant_id: str, model_id: str) -> tuple[BitTest, ...] | None:
    """Return the tests of a model's key on other models; None for a key from before there was a panel."""
    stored = KeyRepository(session, tenant_id).of_model(model_id).panel
    return None if stored is None else tuple(BitTest.model_validate(test) for test in stored)


def check_unopened(session: Session, tenant_id: str, model_id: str) -> None:
    """Raise :class:`Conflict` for a key that was opened: models that match it may have been made with it."""
    if opened := KeyRepository(session, tenant_id).of_model(model_id).opened_at:
        raise Conflict(
            f"the key of {model_id} was opened on {opened:%Y-%m-%d}: since then others can make models that match it or do "
            "not, so a new test proves nothing; earlier reports stand. Renew the model for a new key"
        )


def mark_opened(session: Session, tenant_id: str, actor: str, model_id: str) -> StoredKey:
    """Note that the key was shown to others, and which actor says so. Doing so twice changes nothing."""
    key = KeyRepository(session, tenant_id).of_model(model_id)
    if key.opened_at is None:
        key.opened_at = utc_now()
        record(session, tenant_id, actor, "key.open", model_id)
    return key


def owner_key(session: Session, vault: Vault, tenant_id: str, model_id: str, job_id: str) -> OwnerKey:
    """Return the complete key of a model that is ready, for a job."""
    row = KeyRepository(session, tenant_id).of_model(model_id)
    plaintext = _plaintext(session, vault, tenant_id, model_id, job_id)
    if row.ciphertext is None:
        return OwnerKey.from_public(PublicKey.model_validate(row.public_key), plaintext)
    return OwnerKey.from_json(plaintext)


def _plaintext(session: Session, vault: Vault, tenant_id: str, model_id: str, job_id: str) -> str:
    row = KeyRepository(session, tenant_id).of_model(model_id)
    record(session, tenant_id, job_id, "key.decrypt", model_id)
    sealed = LentSecretRepository(session, tenant_id).get(job_id) if row.ciphertext is None else row
    return sealed.unseal(vault)
