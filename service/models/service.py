"""Rules of registered models."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from aiao_core import sizing
from aiao_core.key import OwnerKey
from aiao_core.reports.parts import BitTest
from service.artifacts.repository import ArtifactRepository
from service.artifacts.service import denoiser_of
from service.context import Context
from service.jobs import service as jobs
from service.keys import service as keys
from service.kit.database import utc_now
from service.kit.errors import InvalidArtifact
from service.kit.ids import new_id
from service.kit.storage import Storage
from service.models.repository import ModelRepository
from service.models.schemas import ModelIn
from service.tables.jobs import Job
from service.tables.keys import StoredKey
from service.tables.models import Model
from service.vault.vault import Vault


def register(session: Session, context: Context, tenant_id: str, request: ModelIn) -> tuple[Model, Job, str]:
    """Queue the embedding of a model. Return the model, its job and the secret key.

    Raise :class:`service.kit.errors.NotFound` for an unknown artifact, :class:`InvalidArtifact` for one of another kind and
    :class:`service.kit.errors.NotEnoughMemory`.
    """
    artifacts = ArtifactRepository(session, tenant_id)
    source = artifacts.get_for_use(request.artifact_id)
    if source.kind != "archive":
        raise InvalidArtifact("artifact_id must be a diffusers pipeline folder, packed as .zip or .tar")
    if request.images_artifact_id and artifacts.get_for_use(request.images_artifact_id).kind not in ("images", "archive"):
        raise InvalidArtifact("images_artifact_id must be an image set: a .zip or .tar of images, or an .npz")
    model_id = new_id("mdl")
    needed = context.settings.fleet.accepted(sizing.of_embedding(denoiser_of(context.storage, source), request.options))
    job = jobs.create(session, tenant_id, "embed", model_id, needed)
    model = Model(
        id=model_id,
        tenant_id=tenant_id,
        name=request.name,
        status="embedding",
        custody=request.custody,
        artifact_id=request.artifact_id,
        images_artifact_id=request.images_artifact_id,
        options=request.options.model_dump(mode="json"),
        job_id=job.id,
        created_at=utc_now(),
    )
    ModelRepository(session, tenant_id).add(model)
    return model, job, keys.create(session, context.vault, model)


def retire(session: Session, storage: Storage, tenant_id: str, model_id: str) -> None:
    """Stop a model's embedding, if it runs, and refuse new verifications. Key and reports are kept for disputes."""
    model = ModelRepository(session, tenant_id).get(model_id)
    jobs.cancel(session, storage, tenant_id, model.job_id)
    model.status = "retired"


def open_key(session: Session, tenant_id: str, actor: str, model_id: str) -> StoredKey:
    """Note that a model's key was shown to others. Of two calls at once only the first sets the time."""
    ModelRepository(session, tenant_id).get(model_id, lock=True)
    return keys.mark_opened(session, tenant_id, actor, model_id)


@dataclass(frozen=True)
class Checkpoint:
    """A watermarked checkpoint in storage."""

    object_name: str
    sha256: str
    size: int


def mark_ready(
    session: Session,
    vault: Vault,
    tenant_id: str,
    model_id: str,
    key: OwnerKey,
    panel: Sequence[BitTest],
    checkpoint: Checkpoint,
) -> None:
    """Record a finished embedding. A model that was retired meanwhile stays so.

    End the job first: that locks it, so that a call to retire comes before or after, and never in between.
    """
    model = ModelRepository(session, tenant_id).get(model_id)
    model.architecture = key.architecture.fingerprint
    model.checkpoint_object, model.checkpoint_sha256 = checkpoint.object_name, checkpoint.sha256
    model.checkpoint_size = checkpoint.size
    if model.status == "embedding":
        model.status = "ready"
    keys.complete(session, vault, tenant_id, model_id, key, panel)
