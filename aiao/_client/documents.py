"""What the service answers, as typed objects. Unknown fields of a newer service are ignored."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

from aiao._client.errors import JobCanceled, JobFailed
from aiao_core.key import PublicKey

if TYPE_CHECKING:
    from aiao._client.resources import Jobs


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class Failure(_Document):
    """Why a job failed."""

    code: str
    detail: str


class Progress(_Document):
    """Where a running job stands."""

    stage: str
    step: int
    total: int
    metrics: dict[str, float]
    seconds_left: float | None


class Artifact(_Document):
    """An uploaded file."""

    id: str
    filename: str
    sha256: str
    size: int
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
    memory_bytes: int | None = None
    progress: Progress | None
    result: str | None
    error: Failure | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    _jobs: "Jobs | None" = PrivateAttr(None)

    @property
    def finished(self) -> bool:
        return self.state in ("succeeded", "failed", "canceled")

    def wait(self, progress: "Callable[[Job], None] | None" = None) -> "Job":
        """Follow the job until it has succeeded, calling ``progress`` with every change of it.

        Raises :class:`JobFailed` or :class:`JobCanceled`.
        """
        if self._jobs is None:
            raise RuntimeError("this job came from no client; get it with Client().jobs.get(id)")
        latest = self
        for latest in self._jobs.follow(self.id):
            if progress:
                progress(latest)
        if latest.state == "canceled":
            raise JobCanceled(f"{self.id} was canceled")
        if latest.error:
            raise JobFailed(latest.error.code, latest.error.detail)
        return latest


class Checkpoint(_Document):
    """The watermarked checkpoint."""

    sha256: str
    size: int


class Model(_Document):
    """A registered model."""

    id: str
    name: str
    status: Literal["embedding", "ready", "failed", "retired"]
    custody: str = "service"
    artifact_id: str
    images_artifact_id: str | None
    options: dict[str, Any]
    checkpoint: Checkpoint | None
    commitment: str
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
    """match, no-match, base-marked (an adapter's base carries the mark; nothing is said of the adapter) or invalid."""
    reason: str | None = None
    tested: str | None = None
    base_name: str | None = None
    bound_log10_p: float | None = None
    with_key: int | None = None
    of_file: int | None = None
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

    model: Model
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
