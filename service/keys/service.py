"""Owner keys: made at registration, completed by the embedding, never stored in the clear."""

from sqlalchemy.orm import Session

from aiao_core.key import OwnerKey, commitment, decode_secret, encode_secret, generate_seed
from service.activity.service import record
from service.database import utc_now
from service.ids import new_id
from service.keys.repository import KeyRepository
from service.keys.tables import StoredKey
from service.vault import Vault


def create(session: Session, vault: Vault, tenant_id: str, model_id: str) -> str:
    """Make and store a key for a model and return its printable secret, the only time it is in the clear."""
    seed = generate_seed()
    secret = encode_secret(seed)
    key = StoredKey(id=new_id("key"), tenant_id=tenant_id, model_id=model_id, commitment=commitment(seed), created_at=utc_now())
    key.seal(vault, secret)
    KeyRepository(session, tenant_id).add(key)
    return secret


def seed_of(session: Session, vault: Vault, tenant_id: str, model_id: str, job_id: str) -> bytes:
    """The seed of a model whose embedding is not done yet, for a job."""
    return decode_secret(_plaintext(session, vault, tenant_id, model_id, job_id))


def complete(session: Session, vault: Vault, tenant_id: str, model_id: str, key: OwnerKey) -> None:
    """Store what the embedding chose: the whole key file, encrypted, and its public part."""
    row = KeyRepository(session, tenant_id).of_model(model_id)
    row.seal(vault, key.to_json())
    row.public_key = key.public().model_dump(mode="json")


def owner_key(session: Session, vault: Vault, tenant_id: str, model_id: str, job_id: str) -> OwnerKey:
    """The complete key of a model that is ready, for a job."""
    return OwnerKey.from_json(_plaintext(session, vault, tenant_id, model_id, job_id))


def _plaintext(session: Session, vault: Vault, tenant_id: str, model_id: str, job_id: str) -> str:
    row = KeyRepository(session, tenant_id).of_model(model_id)
    record(session, tenant_id, job_id, "key.decrypt", model_id)
    return row.unseal(vault)
