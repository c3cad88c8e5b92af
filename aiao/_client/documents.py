"""Answers of the service, as typed objects. Unknown fields of a newer service are ignored."""

from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from aiao._client.errors import ClientError
from aiao_core.key import PublicKey

Document = TypeVar("Document", bound=BaseModel)


def read(kind: type[Document], answer: str | bytes | dict[str, Any]) -> Document:
    """Return the document in an answer. Raises :class:`ClientError` if there is none, as when a proxy answered."""
    try:
        return kind.model_validate(answer) if isinstance(answer, dict) else kind.model_validate_json(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole of it"
        raise ClientError(
            f"the answer is not a {kind.__name__} that this client understands ({where}: {first['msg']}); "
            "is it an AIAO service at this address, and as new as this client?"
        ) from error


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class Failure(_Document):
    """Why a job failed."""

    code: str
    """Stable slug, such as ``invalid-checkpoint``."""
    detail: str
    """What failed and why, in a sentence."""


class JobProgress(_Document):
    """Where a running job stands: ``step`` of ``total`` in ``stage``."""

    stage: str
    step: int
    total: int
    metrics: dict[str, float]
    """Figures of the computation so far, by their names."""
    seconds_left: float | None
    """Estimate for this stage; None while none can be made."""


class Artifact(_Document):
    """An uploaded file."""

    id: str
    filename: str
    sha256: str
    size: int
    """Bytes."""
    kind: Literal["archive", "safetensors", "pickle", "gguf", "images"]


class Page(_Document):
    """A page of a list."""

    items: list[dict[str, Any]]
    next_cursor: str | None


class Job(_Document):
    """An embedding, a verification or an audit under way."""

    id: str
    kind: Literal["embed", "verify", "audit"]
    state: Literal["queued", "running", "succeeded", "failed", "canceled"]
    attempt: int
    subject_id: str
    """The model, verification or audit that it serves."""
    memory_bytes: int | None = None
    """Estimated memory that it needs."""
    progress: JobProgress | None
    result: str | None
    """Path of the result, once it has succeeded."""
    error: Failure | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in ("succeeded", "failed", "canceled")


class Checkpoint(_Document):
    """The watermarked checkpoint."""

    sha256: str
    size: int
    """Bytes."""


class RegisteredModel(_Document):
    """A registered model."""

    id: str
    name: str
    status: Literal["embedding", "ready", "failed", "retired"]
    custody: str = "service"
    artifact_id: str
    images_artifact_id: str | None
    options: dict[str, Any]
    renews: str | None = None
    """The model from whose source and images this one was made by a renewal."""
    checkpoint: Checkpoint | None
    commitment: str
    """Digest that binds the owner to the key without revealing it."""
    key_version: int | None = None
    """None until the embedding is done. The signs of keys before version 3 can be read out of published weights."""
    job_id: str
    error: Failure | None
    created_at: datetime


class PublicKeyDocument(PublicKey):
    """The public part of a model's key."""

    model_config = ConfigDict(extra="ignore")


class KeyOpened(_Document):
    """A key that was shown to others: since then it takes no more tests."""

    model_id: str
    opened_at: datetime


class Verification(_Document):
    """One test of a suspect."""

    id: str
    model_id: str
    artifact_id: str | None
    hub: str | None = None
    base_artifact_id: str | None = None
    suspect_name: str
    suspect_sha256: str | None
    options: dict[str, Any]
    status: str
    verdict: str | None
    """match, no-match, base-marked (an adapter's base carries the mark; nothing is said of the adapter) or invalid; None before
    the job has succeeded."""
    reason: str | None = None
    tested: str | None = None
    base_name: str | None = None
    bound_log10_p: float | None = None
    with_key: int | None = None
    of_file: int | None = None
    key_version: int | None = None
    """Of the key; None until there is a verdict, and of tests from before version 3."""
    log10_p: float | None
    vs_rate: float | None
    rs_rate: float | None
    job_id: str
    error: Failure | None
    created_at: datetime


class AuditSummary(_Document):
    """The attacks of an audit by their outcome."""

    withstood: list[str]
    ended_by: list[str]
    ruined: list[str]
    no_model: list[str]


class Audit(_Document):
    """One audit of a model."""

    id: str
    model_id: str
    preset: str | None
    attacks: list[str] | None
    images_artifact_id: str | None
    options: dict[str, Any]
    status: str
    summary: AuditSummary | None
    job_id: str
    error: Failure | None
    created_at: datetime


class Token(_Document):
    """A bearer token of the tenant, without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class TokenIssued(_Document):
    """A new token, and its secret: keep it, it is never shown again."""

    token: Token
    secret: str | None


class Webhook(_Document):
    """An address that hears of every job that ends."""

    id: str
    url: str
    disabled_at: datetime | None
    created_at: datetime


class WebhookCreated(_Document):
    """A new webhook, and the secret that verifies its messages: keep it, it is never shown again."""

    webhook: Webhook
    secret: str | None


class Delivery(_Document):
    """One message to one webhook."""

    id: str
    event: str
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: datetime | None
    status_code: int | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class Registration(_Document):
    """A model under embedding, its job, and its secret key: keep it, it is never shown again."""

    model: RegisteredModel
    job: Job
    secret_key: str | None


class Submission(_Document):
    """A verification and its job."""

    verification: Verification
    job: Job


class AuditStart(_Document):
    """An audit and its job."""

    audit: Audit
    job: Job
