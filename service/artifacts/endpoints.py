"""HTTP calls for artifacts."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.activity.service import record
from service.artifacts import service
from service.artifacts.coming_in import coming_in
from service.artifacts.quota import Hold, check_quota, held
from service.artifacts.repository import ArtifactRepository
from service.artifacts.schemas import ArtifactOut
from service.auth.callers import Caller
from service.auth.dependencies import ContextDep, Reader, Writer
from service.context import Context
from service.idempotency import Idempotency, IdempotentUpload
from service.kit.errors import InvalidArtifact, UploadTooLarge, responses
from service.kit.etags import PreconditionDep, conditional, weak
from service.kit.id_patterns import SHA256
from service.kit.schemas import ArtifactId, Name, Page, PageQuery

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])

BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "description": "The file itself, for example by `curl --data-binary @emoji.zip`.",
    }
}


@router.post(
    "",
    status_code=201,
    summary="Upload a file",
    response_model=ArtifactOut,
    responses=responses(401, 403, 409, 413, 422, 503),
    openapi_extra=BODY,
)
async def upload(
    request: Request,
    context: ContextDep,
    caller: Writer,
    idempotency: IdempotentUpload,
    filename: Annotated[Name, Query(description="The file's name, kept for reports.", examples=["emoji.zip"])],
    sha256: Annotated[
        str | None, Query(pattern=SHA256, description="If given, an upload with another digest is refused.")
    ] = None,
) -> Response:
    """Stream in a diffusers folder as .zip or .tar, a .safetensors or GGUF file, a PyTorch checkpoint, or an image set.

    Nothing is kept of an upload that is interrupted, too large, damaged or of no known kind.
    """
    limit = context.settings.max_upload_bytes
    announced = int(request.headers.get("content-length") or 0)
    if announced > limit:
        raise UploadTooLarge.beyond(limit)
    try:
        with coming_in(caller.tenant_id):
            async with held(context, caller, filename, announced, sha256) as hold:
                received = await service.receive(
                    context.storage,
                    hold.bounded(request.stream()),
                    filename=filename,
                    expected_sha256=sha256,
                    max_bytes=announced or limit,
                )
                return await run_in_threadpool(_keep, context, caller, idempotency, received, hold)
    except ClientDisconnect as error:
        raise InvalidArtifact("the upload was interrupted; send it again") from error


def _keep(context: Context, caller: Caller, idempotency: Idempotency, received: service.ReceivedFile, hold: Hold) -> Response:
    with service.spare_deleted(context, received) as keep, context.database.session() as session:
        if replay := idempotency.replay(session, received.sha256):
            return replay
        row = keep(session, caller)
        hold.release(session)
        if row.object_name == received.object_name:  # the content is new, and a quota may have been set meanwhile
            check_quota(session, caller.tenant_id)
        artifact = ArtifactOut.model_validate(row)
        idempotency.remember(session, 201, artifact.model_dump(mode="json"), {}, received.sha256)
    return Response(artifact.model_dump_json(), 201, media_type="application/json")


@router.get("", summary="List artifacts", responses=responses(401, 422))
def list_artifacts(
    context: ContextDep,
    caller: Reader,
    paging: PageQuery,
    sha256: Annotated[str | None, Query(pattern=SHA256, description="Only files with this content.")] = None,
) -> Page[ArtifactOut]:
    """Without deleted ones."""
    with context.database.read_session() as session:
        rows, next_cursor = ArtifactRepository(session, caller.tenant_id).page(paging, sha256=sha256)
        return Page(items=[ArtifactOut.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/{artifact_id}", summary="Show an artifact", responses=conditional() | responses(401, 404, 422))
def show(artifact_id: ArtifactId, context: ContextDep, caller: Reader, precondition: PreconditionDep) -> ArtifactOut:
    """Digest, size and kind of an uploaded file."""
    with context.database.read_session() as session:
        artifact = ArtifactRepository(session, caller.tenant_id).get(artifact_id)
        precondition.check(weak(artifact.id))
        return ArtifactOut.model_validate(artifact)


@router.delete("/{artifact_id}", status_code=204, summary="Delete an artifact", responses=responses(401, 403, 404, 409, 422))
def delete(artifact_id: ArtifactId, context: ContextDep, caller: Writer) -> None:
    """The file goes; reports keep its name and digest. Refused while a model or an unfinished job needs it.

    A token without the scope `models:write` deletes what it uploaded itself.
    """
    with context.database.session() as session:
        spare = service.delete(session, caller, artifact_id)
        record(session, caller.tenant_id, caller.token_id, "artifact.delete", artifact_id)
    if spare:
        context.storage.delete(spare)
