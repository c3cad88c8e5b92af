"""Keys that their owners hold: the service borrows the secret for a job, and has nothing of it afterwards."""

import base64
import secrets

import httpx
import pytest
import sqlalchemy as sa
from alembic import command

from aiao_core.key import OwnerKey, PublicKey, encode_secret, generate_seed
from service.keys import service as keys
from service.kit.database import alembic_config
from service.models.schemas import ModelIn
from service.models.service import Checkpoint, register
from service.tables.keys import LentSecret, StoredKey
from service.vault.key_encryption import LocalKey
from service.vault.sealed_rows import rotate
from service.vault.vault import Vault
from tests.support import rows, uploads
from tests.support.calls import post, problem, upload

pytestmark = pytest.mark.dialect


def begun(http: httpx.Client) -> dict:
    body = {"name": "mine", "artifact_id": upload(http), "custody": "owner"}
    return post(http, "/v1/models", body).raise_for_status().json()


@pytest.fixture
def held(http, backstage) -> tuple[str, str]:
    """A ready model whose key its owner holds, and the secret."""
    registered = begun(http)
    model_id, secret = registered["model"]["id"], registered["secret_key"]
    rows.finish_embedding(backstage, model_id, secret, Checkpoint(f"marked/{model_id}", "0" * 64, 1))
    return model_id, secret


def lent(backstage, job_id: str) -> LentSecret | None:
    with backstage.database.session() as session:
        return session.get(LentSecret, job_id)


def stored(backstage, model_id: str) -> StoredKey:
    with backstage.database.session() as session:
        return session.scalars(sa.select(StoredKey).where(StoredKey.model_id == model_id)).one()


def test_the_secret_is_lent_to_the_embedding_and_then_forgotten(http, backstage):
    registered = begun(http)
    model, secret = registered["model"], registered["secret_key"]
    assert model["custody"] == "owner"
    assert stored(backstage, model["id"]).ciphertext is None
    with backstage.database.session() as session:
        tenant_id = rows.job(backstage.database, model["job_id"]).tenant_id
        assert encode_secret(keys.seed_of(session, backstage.vault, tenant_id, model["id"], model["job_id"])) == secret
    key = rows.finish_embedding(backstage, model["id"], secret, Checkpoint(f"marked/{model['id']}", "0" * 64, 1))
    assert lent(backstage, model["job_id"]) is None
    assert stored(backstage, model["id"]).ciphertext is None
    public = PublicKey.model_validate(stored(backstage, model["id"]).public_key)
    assert OwnerKey.from_public(public, secret) == key


def test_an_embedding_that_ends_otherwise_forgets_the_secret_too(http, backstage):
    job_id = begun(http)["model"]["job_id"]
    assert lent(backstage, job_id)
    post(http, f"/v1/jobs/{job_id}/cancel", None).raise_for_status()
    assert lent(backstage, job_id) is None


def test_a_verification_borrows_the_secret_for_as_long_as_its_job_lasts(http, backstage, held, api):
    model_id, secret = held
    body = {"model_id": model_id, "artifact_id": upload(http, uploads.safetensors()), "secret_key": f" {secret.upper()} "}
    submitted = post(http, "/v1/verifications", body).raise_for_status()
    assert secret not in submitted.text
    job_id = submitted.json()["job"]["id"]
    tenant_id = rows.job(backstage.database, job_id).tenant_id
    with backstage.database.session() as session:
        assert keys.owner_key(session, backstage.vault, tenant_id, model_id, job_id) == rows.a_key(secret)
    rows.finish_verification(backstage, tenant_id, submitted.json()["verification"]["id"], job_id)
    assert lent(backstage, job_id) is None
    assert secret not in api.log("api")


def test_an_audit_borrows_it_too(http, backstage, held):
    model_id, secret = held
    problem(post(http, f"/v1/models/{model_id}/audits", {"preset": "quick"}), 422, "invalid-secret")
    body = {"preset": "quick", "secret_key": secret}
    started = post(http, f"/v1/models/{model_id}/audits", body).raise_for_status().json()
    assert lent(backstage, started["job"]["id"])
    tenant_id = rows.job(backstage.database, started["job"]["id"]).tenant_id
    rows.finish_audit(backstage, tenant_id, started["audit"]["id"], started["job"]["id"])
    assert lent(backstage, started["job"]["id"]) is None


@pytest.mark.parametrize("given", ["nothing", "another key's", "mistyped", "no secret"])
def test_a_secret_that_does_not_fit_begins_no_job(http, backstage, held, api, given):
    model_id, secret = held
    another = encode_secret(generate_seed())
    mistyped = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    sent = {"nothing": None, "another key's": another, "mistyped": mistyped, "no secret": "x" * 999}[given]
    body = {"model_id": model_id, "artifact_id": upload(http)} | ({"secret_key": sent} if sent else {})
    before = http.get("/v1/jobs").json()["items"][0]["id"]
    detail = problem(post(http, "/v1/verifications", body), 422, "invalid-secret")
    assert not (sent and sent in detail)
    assert not (sent and sent in api.log("api"))
    assert http.get("/v1/jobs").json()["items"][0]["id"] == before


def test_a_secret_that_the_service_keeps_is_not_to_be_sent(http, backstage):
    registered = post(http, "/v1/models", {"name": "kept", "artifact_id": upload(http)}).raise_for_status().json()
    model_id, secret = registered["model"]["id"], registered["secret_key"]
    rows.finish_embedding(backstage, model_id, secret, Checkpoint(f"marked/{model_id}", "0" * 64, 1))
    body = {"model_id": model_id, "artifact_id": upload(http), "secret_key": secret}
    assert "leave secret_key out" in problem(post(http, "/v1/verifications", body), 422, "invalid-secret")


@pytest.mark.parametrize("secret", [1, ["a"], "a" * 1001])
def test_a_secret_of_another_shape_is_not_repeated(http, held, secret):
    body = {"model_id": held[0], "artifact_id": upload(http), "secret_key": secret}
    detail = problem(post(http, "/v1/verifications", body), 422, "invalid-request")
    assert "secret_key" in detail
    assert "aaaa" not in detail


def owner_held(context, tenant: str) -> tuple[str, str, str]:
    request = ModelIn(name="mine", artifact_id=rows.artifact(context.database, tenant), custody="owner")
    with context.database.session() as session:
        model, job, secret = register(session, context, tenant, request)
    return model.id, job.id, secret


def test_what_is_lent_moves_to_another_key_encryption_key_and_nothing_else_is_there_to_move(context, tenant):
    model_id, job_id, secret = owner_held(context, tenant)
    former = LocalKey.of_text((context.settings.data_dir / "key-encryption-key").read_text().strip())
    current = LocalKey.of_text(base64.b64encode(secrets.token_bytes(32)).decode())
    with context.database.session() as session:
        assert rotate(session, Vault(current, [former]), 10) == 1
        assert encode_secret(keys.seed_of(session, Vault(current), tenant, model_id, job_id)) == secret


def test_a_step_back_that_could_not_hold_such_keys_is_refused(context, tenant):
    owner_held(context, tenant)
    with pytest.raises(RuntimeError, match="1 models have keys"), context.database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0009")
