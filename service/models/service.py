"""Rules of registered models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy.orm import Session

from aiao_core import sizing
from aiao_core.key import OwnerKey
from aiao_core.options import EmbeddingOptions
from aiao_core.reports.parts import BitTest
from service.artifacts.adapters import is_adapter
from service.artifacts.repository import ArtifactRepository
from service.artifacts.service import denoiser_of
from service.context import Context
from service.jobs import service as jobs
from service.keys import service as keys
from service.kit.database import utc_now
from service.kit.errors import Conflict, InvalidArtifact, TooManySteps
from service.kit.ids import new_id
from service.kit.storage import Storage
from service.models.repository import ModelRepository
from service.models.schemas import Custody, ModelIn, RenewalIn
from service.tables.jobs import Job
from service.tables.keys import StoredKey
from service.tables.models import Model
from service.vault.vault import Vault


def register(
    session: Session, context: Context, tenant_id: str, request: ModelIn, *, renews: str | None = None
) -> tuple[Model, Job, str]:
    """Queue the embedding of a model, which may renew another one. Return the model, its job and the secret key.

    Raise :class:`TooManySteps`, :class:`service.kit.errors.NotFound` for an unknown artifact, :class:`InvalidArtifact` for one
    of another kind and :class:`service.kit.errors.NotEnoughMemory`.
    """
    _check_length(request.options, context.settings.max_steps)
    artifacts = ArtifactRepository(session, tenant_id)
    source = artifacts.get_for_use(request.artifact_id)
    if source.kind not in ("archive", "safetensors", "pickle"):
        raise InvalidArtifact(
            "artifact_id must be a diffusers pipeline folder, packed as .zip or .tar, or a single .safetensors or .ckpt file; "
            "of a GGUF file register what it was quantized from"
        )
    if is_adapter(context.storage, source):
        raise InvalidArtifact(
            "artifact_id is an adapter, which changes a base model; register the model that it is merged into"
        )
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
        renews=renews,
        job_id=job.id,
        created_at=utc_now(),
    )
    ModelRepository(session, tenant_id).add(model)
    return model, job, keys.create(session, context.vault, model)


def _check_length(options: EmbeddingOptions, limit: int) -> None:
    for name in ("steps", "probe_steps", "samples"):
        if limit and (asked := getattr(options, name)) > limit:
            raise TooManySteps(
                f"options.{name} is {asked}, but this service takes at most {limit}; send fewer, or ask the operator for more"
            )


def renew(session: Session, context: Context, tenant_id: str, model_id: str, request: RenewalIn) -> tuple[Model, Job, str]:
    """Queue the embedding of a new key in the source of a registered model, of whatever status. Return as :func:`register`.

    The registered model stays as it is: its key finds what was made from its checkpoint, and no other key does. Raise
    :class:`service.kit.errors.NotFound` for an unknown model, :class:`Conflict` if its source or images were deleted, and
    otherwise as :func:`register`.
    """
    model = ModelRepository(session, tenant_id).get(model_id)
    artifacts = ArtifactRepository(session, tenant_id)
    images_id = model.images_artifact_id
    again = ModelIn(
        name=request.name or model.name,
        artifact_id=_stored(artifacts, model, model.artifact_id, "source"),
        images_artifact_id=images_id and _stored(artifacts, model, images_id, "image set"),
        options=request.options or EmbeddingOptions.model_validate(model.options),
        custody=request.custody or cast(Custody, model.custody),
    )
    return register(session, context, tenant_id, again, renews=model.id)


def _stored(artifacts: ArtifactRepository, model: Model, artifact_id: str, what: str) -> str:
    stored = artifacts.stored(artifact_id)
    if stored is None:
        raise Conflict(
            f"the {what} of {model.id}, {artifact_id}, was deleted, and no other artifact has its content: upload the same "
            "file again and repeat this call, or register another one"
        )
    return stored.id


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
