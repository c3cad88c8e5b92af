"""HTTP calls for models."""

from collections.abc import Callable

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from service.activity.service import record
from service.auth.callers import Caller
from service.auth.dependencies import CallerFirst, ContextDep, ModelWriter, Reader
from service.context import Context
from service.idempotency import Idempotency, IdempotentJson
from service.jobs.accepting import accept
from service.jobs.schemas import JobOut
from service.keys.repository import KeyRepository
from service.kit.errors import Conflict, responses
from service.kit.etags import PreconditionDep, conditional, strong, weak
from service.kit.schemas import ModelId, Page, PageQuery
from service.models import service
from service.models.repository import ModelRepository
from service.models.schemas import ModelIn, ModelOut, Registered, RenewalIn, Status
from service.tables.jobs import Job
from service.tables.models import Model

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=CallerFirst)

Embedding = tuple[Model, Job, str]
"""A model under embedding, its job and its secret key."""


@router.post(
    "",
    status_code=202,
    summary="Register a model",
    response_model=Registered,
    responses=responses(400, 401, 403, 404, 409, 413, 422),
)
def register(request: ModelIn, context: ContextDep, caller: ModelWriter, idempotency: IdempotentJson) -> Response:
    """Start embedding a watermark in an uploaded model. The answer shows the **secret key, this once**."""

    def embed(session: Session) -> Embedding:
        return service.register(session, context, caller.tenant_id, request)

    return _accepted(context, caller, idempotency, embed)


@router.post(
    "/{model_id}/renewals",
    status_code=202,
    summary="Renew a model",
    response_model=Registered,
    responses=responses(400, 401, 403, 404, 409, 413, 422),
)
def renew(
    model_id: ModelId, request: RenewalIn, context: ContextDep, caller: ModelWriter, idempotency: IdempotentJson
) -> Response:
    """Register the source and images of a model again, as a new model with a new **secret key, shown this once**.

    For a model whose key is of an older version, or was opened; its status does not matter. It stays as it is, with its key,
    reports and checkpoint: what was made from that checkpoint is found by its key alone. From now on publish the new one.
    """

    def embed(session: Session) -> Embedding:
        return service.renew(session, context, caller.tenant_id, model_id, request)

    return _accepted(context, caller, idempotency, embed)


@router.get("", summary="List models", responses=responses(401, 422))
def list_models(context: ContextDep, caller: Reader, paging: PageQuery, status: Status | None = None) -> Page[ModelOut]:
    """All of them, retired ones included, or those of a status."""
    with context.database.read_session() as session:
        rows, next_cursor = ModelRepository(session, caller.tenant_id).page(paging, status=status)
        return Page(items=_shown(session, caller.tenant_id, rows), next_cursor=next_cursor)


@router.get("/{model_id}", summary="Show a model", responses=conditional() | responses(401, 404, 422))
def show(model_id: ModelId, context: ContextDep, caller: Reader, precondition: PreconditionDep) -> ModelOut:
    """Status: embedding, ready, failed or retired."""
    with context.database.read_session() as session:
        model = ModelRepository(session, caller.tenant_id).get(model_id)
        shown = _shown(session, caller.tenant_id, [model])[0]
        precondition.check(weak(shown.model_dump_json()))
        return shown


@router.delete("/{model_id}", status_code=204, summary="Retire a model", responses=responses(401, 403, 404, 422))
def retire(model_id: ModelId, context: ContextDep, caller: ModelWriter) -> None:
    """No more verifications; its key, reports and checkpoint are kept for disputes."""
    with context.database.session() as session:
        service.retire(session, context.storage, caller.tenant_id, model_id)
        record(session, caller.tenant_id, caller.token_id, "model.retire", model_id)


@router.get(
    "/{model_id}/checkpoint",
    summary="Download the watermarked checkpoint",
    response_class=StreamingResponse,
    responses=conditional(
        content={"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        description="A diffusers pipeline folder as .zip, with `marked.safetensors` if the model came as a single file.",
    )
    | responses(401, 404, 409, 422),
)
def checkpoint(model_id: ModelId, context: ContextDep, caller: Reader, precondition: PreconditionDep) -> StreamingResponse:
    """The pipeline folder with marked weights, which any diffusers user loads unchanged. Publish this, not the source.

    A model that came as a single file is in it as such a file too: `marked.safetensors`.
    """
    with context.database.session() as session:
        model = ModelRepository(session, caller.tenant_id).get(model_id)
        if model.checkpoint_object is None or model.checkpoint_sha256 is None:
            raise Conflict(f"{model_id} has no checkpoint: it is {model.status}; follow {model.job_id}")
        headers = precondition.check(strong(model.checkpoint_sha256))
        record(session, caller.tenant_id, caller.token_id, "checkpoint.download", model_id)
    headers |= {
        "Content-Length": str(model.checkpoint_size),
        "Content-Disposition": f'attachment; filename="{model_id}.zip"',
    }
    return StreamingResponse(context.storage.stream(model.checkpoint_object), headers=headers, media_type="application/zip")


def _accepted(context: Context, caller: Caller, idempotency: Idempotency, embed: Callable[[Session], Embedding]) -> Response:
    """Accept an embedding, of which ``embed`` makes the model, its job and its secret key."""

    def submit(session: Session) -> tuple[Job, Registered]:
        model, job, secret = embed(session)
        shown = _shown(session, caller.tenant_id, [model])[0]
        return job, Registered(model=shown, job=JobOut.model_validate(job), secret_key=secret)

    return accept(context, caller, idempotency, "model.register", submit, shown_once=("secret_key",))


def _shown(session: Session, tenant_id: str, models: list[Model]) -> list[ModelOut]:
    keys = KeyRepository(session, tenant_id).told([model.id for model in models])
    elsewhere = ("checkpoint", "commitment", "key_version")
    return [
        ModelOut.model_validate(
            {name: getattr(model, name) for name in ModelOut.model_fields if name not in elsewhere}
            | {
                "checkpoint": model.checkpoint_object and {"sha256": model.checkpoint_sha256, "size": model.checkpoint_size},
                "commitment": keys[model.id].commitment,
                "key_version": keys[model.id].version,
            }
        )
        for model in models
    ]
