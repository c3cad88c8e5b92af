"""Calls that many tests make over HTTP, and what every error answer has in common."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.context import Context
from service.models.service import Checkpoint
from tests.support import rows, uploads
from tests.support.processes import System

PROBLEM = "application/problem+json"

PREFIXES = {
    "model_id": "mdl", "job_id": "job", "audit_id": "aud", "verification_id": "ver", "webhook_id": "whk", "delivery_id": "dlv",
    "token_id": "tok", "upload_id": "upl", "direct_upload_id": "mpu", "artifact_id": "art",
}  # fmt: skip
UNKNOWN = {name: f"{prefix}_01kaw3v0h9m6f0x2e7d8c9b1a5" for name, prefix in PREFIXES.items()}
"""An identifier that nothing has, for each parameter of a path."""


def problem(answer: httpx.Response, status: int, slug: str) -> str:
    """Check that ``answer`` is this problem and return its sentence."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail"}
    assert (body["type"], body["status"]) == (slug, status)
    assert body["title"]
    assert len(body["detail"]) > 10
    return body["detail"]


@contextmanager
def callers(api: System, backstage: Context) -> Iterator[Callable[[], httpx.Client]]:
    """Makes HTTP clients, each with the token of a new tenant, until the block ends."""
    with ExitStack() as clients:

        def call() -> httpx.Client:
            headers = {"Authorization": f"Bearer {rows.token(backstage.database)}"}
            return clients.enter_context(httpx.Client(base_url=api.url, headers=headers, timeout=30))

        yield call


def post(http: httpx.Client, path: str, body: object, **headers: str) -> httpx.Response:
    return http.post(path, json=body, headers=headers)


def send(http: httpx.Client, content: Any, filename: str = "model.zip", *, sha256: str = "", key: str = "") -> httpx.Response:
    """Upload ``content``."""
    query = {"filename": filename} | ({"sha256": sha256} if sha256 else {})
    return http.post("/v1/artifacts", params=query, content=content, headers={"Idempotency-Key": key} if key else {})


def upload(http: httpx.Client, content: bytes = uploads.MODEL_ZIP) -> str:
    """The identifier of a new artifact."""
    return send(http, content).raise_for_status().json()["id"]


TUS = {"Tus-Resumable": "1.0.0"}


def begin(http: httpx.Client, length: int, filename: str = "model.zip", sha256: str = "") -> str:
    """The identifier of a new resumable upload."""
    values = {"filename": filename} | ({"sha256": sha256} if sha256 else {})
    metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items())
    headers = TUS | {"Upload-Length": str(length), "Upload-Metadata": metadata}
    return http.post("/v1/uploads", headers=headers).raise_for_status().headers["location"].rpartition("/")[2]


def append(http: httpx.Client, upload_id: str, content: Any, offset: int = 0, **headers: str) -> httpx.Response:
    """Send bytes of a resumable upload."""
    sent = TUS | {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"} | headers
    return http.patch(f"/v1/uploads/{upload_id}", content=content, headers=sent)


def register(http: httpx.Client, **body: object) -> dict[str, Any]:
    """A model under embedding, its queued job, its secret."""
    return post(http, "/v1/models", {"name": "model", "artifact_id": upload(http)} | body).raise_for_status().json()


def make_ready(http: httpx.Client, backstage: Context, folder: Path) -> tuple[str, bytes]:
    """A model whose embedding is done, and its checkpoint."""
    registered = register(http)
    model_id, content = registered["model"]["id"], uploads.MODEL_ZIP
    (folder / "checkpoint.zip").write_bytes(content)
    backstage.storage.put(f"marked/{model_id}.zip", folder / "checkpoint.zip")
    checkpoint = Checkpoint(f"marked/{model_id}.zip", hashlib.sha256(content).hexdigest(), len(content))
    rows.finish_embedding(backstage, model_id, registered["secret_key"], checkpoint)
    return model_id, content


@dataclass(frozen=True)
class Owned:
    """What one tenant has: a model that is ready and audited, another under embedding, a suspect and its finished test."""

    model_id: str
    checkpoint: bytes
    embedding_id: str
    job_id: str
    artifact_id: str
    verification_id: str
    report: str
    finished_job_id: str
    audit_id: str
    audit_report: str
    upload_id: str
    direct_upload_id: str
    token_id: str
    webhook_id: str
    delivery_id: str


def own(http: httpx.Client, backstage: Context, folder: Path) -> Owned:
    webhook = post(http, "/v1/webhooks", {"url": "https://example.com/aiao"}).raise_for_status().json()["webhook"]["id"]
    model_id, checkpoint = make_ready(http, backstage, folder)
    embedding = register(http)
    artifact_id = upload(http, uploads.safetensors())
    submitted = post(http, "/v1/verifications", {"model_id": model_id, "artifact_id": artifact_id}).raise_for_status().json()
    verification_id, finished = submitted["verification"]["id"], submitted["job"]["id"]
    tenant_id = rows.job(backstage.database, finished).tenant_id
    report = rows.finish_verification(backstage, tenant_id, verification_id, finished)
    started = post(http, f"/v1/models/{model_id}/audits", {"preset": "quick"}).raise_for_status().json()
    audit_id = started["audit"]["id"]
    audit_report = rows.finish_audit(backstage, tenant_id, audit_id, started["job"]["id"])
    token = post(http, "/v1/tokens", {"name": "reader", "scopes": ["read"]}).raise_for_status().json()["token"]
    deliveries = http.get(f"/v1/webhooks/{webhook}/deliveries").raise_for_status().json()["items"]
    upload_id = begin(http, len(uploads.MODEL_ZIP))
    return Owned(
        model_id, checkpoint, embedding["model"]["id"], embedding["job"]["id"], artifact_id, verification_id,
        report.to_json(), finished, audit_id, audit_report.to_json(), upload_id,
        rows.direct_upload(backstage.database, tenant_id), token["id"], webhook, deliveries[0]["id"],
    )  # fmt: skip


def count(backstage: Context, table: str) -> int:
    """Rows of every tenant."""
    with backstage.database.engine.connect() as connection:
        return connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
