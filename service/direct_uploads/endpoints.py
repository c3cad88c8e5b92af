"""HTTP calls for direct uploads: a large file goes to the storage's bucket and not through the service."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from service.activity.service import record
from service.artifacts.schemas import ArtifactOut
from service.auth.dependencies import CallerFirst, ContextDep, Reader, Writer
from service.context import Context
from service.direct_uploads import service
from service.direct_uploads.repository import DirectUploadRepository
from service.direct_uploads.schemas import CompleteIn, DirectUploadIn, DirectUploadOut, PartsOut
from service.idempotency import Idempotency, IdempotentJson
from service.kit.bucket import MAX_PARTS
from service.kit.errors import InvalidParts, UploadTooLarge, responses
from service.kit.schemas import DirectUploadId, Limit
from service.tables.artifacts import Artifact

router = APIRouter(prefix="/v1/direct-uploads", tags=["uploads"], route_class=CallerFirst)


@router.post(
    "",
    status_code=201,
    summary="Begin a direct upload",
    response_model=DirectUploadOut,
    responses=responses(400, 401, 403, 409, 413, 422, 503),
)
def create(request: DirectUploadIn, context: ContextDep, caller: Writer, idempotency: IdempotentJson) -> Response:
    """A multipart upload in the service's own S3 bucket, for large files. `no-direct-uploads`: the storage takes none; use tus.

    Ask for its parts, send each to its URL, and name their ETags to complete it.
    """
    limit = context.settings.max_upload_bytes
    if request.size > limit:
        raise UploadTooLarge.beyond(limit)
    with service.begun(context, caller, request) as store, context.database.session() as session:
        if replay := idempotency.replay(session):
            return replay
        upload = store(session)
        record(session, caller.tenant_id, caller.token_id, "upload.create", upload.id)
        body = DirectUploadOut.model_validate(upload).model_dump(mode="json")
        headers = {"Location": f"{router.prefix}/{upload.id}"}
        idempotency.remember(session, 201, body, headers)
    return JSONResponse(body, 201, headers)


@router.get("/{direct_upload_id}", summary="Show a direct upload", responses=responses(401, 404, 422))
def show(direct_upload_id: DirectUploadId, context: ContextDep, caller: Reader) -> DirectUploadOut:
    """Into how many parts of which size to cut the file, and what came of it."""
    with context.database.read_session() as session:
        return DirectUploadOut.model_validate(DirectUploadRepository(session, caller.tenant_id).get(direct_upload_id))


@router.get(
    "/{direct_upload_id}/parts",
    summary="Where to send the parts",
    responses=responses(401, 403, 404, 409, 410, 422, 503),
)
def list_parts(
    direct_upload_id: DirectUploadId,
    context: ContextDep,
    caller: Writer,
    after: Annotated[int, Query(ge=0, le=MAX_PARTS, description="Parts after this number.")] = 0,
    limit: Limit = 50,
) -> PartsOut:
    """A URL for each part, signed for an hour, and the ETags of those that are in the bucket already."""
    upload = service.go_on(context, caller, direct_upload_id)
    items = service.parts(context, upload, after, limit)
    return PartsOut(items=items, next_after=after + limit if after + limit < upload.parts else None)


@router.post(
    "/{direct_upload_id}/complete",
    status_code=201,
    summary="Complete a direct upload",
    response_model=ArtifactOut,
    responses=responses(400, 401, 403, 404, 409, 410, 413, 422, 503),
)
async def complete(
    direct_upload_id: DirectUploadId,
    request: CompleteIn,
    context: ContextDep,
    caller: Writer,
    idempotency: IdempotentJson,
) -> Response:
    """Make an artifact of the parts, by their ETags. The answer takes as long as the service needs to read the whole file once.

    `invalid-parts`: send the parts that the answer names, and complete the upload then. A file that is damaged or of no known
    kind is refused, and the upload is forgotten.
    """
    if replay := await run_in_threadpool(_replay, context, idempotency):
        return replay
    etags = {part.number: part.etag for part in request.parts}
    if len(etags) < len(request.parts):
        raise InvalidParts("a part is named twice; name each once")
    upload = await run_in_threadpool(service.go_on, context, caller, direct_upload_id)

    def kept(session: Session, artifact: Artifact) -> None:
        idempotency.remember(session, 201, ArtifactOut.model_validate(artifact).model_dump(mode="json"), {})

    artifact = await service.complete(context, caller, upload, etags, kept)
    return Response(ArtifactOut.model_validate(artifact).model_dump_json(), 201, media_type="application/json")


@router.delete(
    "/{direct_upload_id}", status_code=204, summary="Give a direct upload up", responses=responses(401, 403, 404, 422, 503)
)
def terminate(direct_upload_id: DirectUploadId, context: ContextDep, caller: Writer) -> None:
    """Its parts are deleted; an artifact that came of it stays."""
    service.terminate(context, caller, direct_upload_id)


def _replay(context: Context, idempotency: Idempotency) -> JSONResponse | None:
    with context.database.read_session() as session:
        return idempotency.replay(session)
