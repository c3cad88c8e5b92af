"""Resumable uploads by the tus protocol, version 1.0: creation, checksum, expiration and termination.

https://tus.io/protocols/resumable-upload. Written here because the server library for FastAPI reads a body before it
authenticates the caller, checks no checksums and knows no owners of uploads.
"""

from collections.abc import Callable
from datetime import UTC
from email.utils import format_datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from service.activity.service import record
from service.artifacts.coming_in import coming_in
from service.auth.dependencies import ContextDep, Reader, Writer
from service.kit.errors import (
    Conflict,
    ServiceError,
    UnsupportedMediaType,
    UnsupportedTusVersion,
    UploadTooLarge,
    invalid_request,
    responses,
)
from service.kit.schemas import UploadId, header
from service.tables.uploads import Upload
from service.uploads import service
from service.uploads.schemas import ALGORITHMS, Checksum, parse_metadata

VERSION = "1.0.0"
ARTIFACT = "AIAO-Artifact"
"""The header that names the artifact that came of an upload."""
UPLOAD = "AIAO-Upload"
"""The header that names the upload, for clients that take identifiers instead of addresses."""


class TusRoute(APIRoute):
    """Names the version of the protocol in every answer, also in that of an error."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def versioned(request: Request) -> Response:
            try:
                response: Response = await handle(request)
            except ServiceError as error:
                error.headers = error.headers | {"Tus-Resumable": VERSION}
                raise
            except RequestValidationError as error:
                response = invalid_request(error)
            response.headers["Tus-Resumable"] = VERSION
            return response

        return versioned


def speaks_tus(version: Annotated[str | None, Header(alias="Tus-Resumable", include_in_schema=False)] = None) -> None:
    if version != VERSION:
        raise UnsupportedTusVersion(f"send the header Tus-Resumable: {VERSION}", {"Tus-Version": VERSION})


router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=TusRoute)
TUS = [Depends(speaks_tus)]
TUS_HEADER = {"name": "Tus-Resumable", "in": "header", "required": True, "schema": {"type": "string", "enum": [VERSION]}}
SPEAKS_TUS = {"parameters": [TUS_HEADER]}
"""Described here because a client that leaves it out gets the protocol's 412, not the 422 of a header that FastAPI requires."""

Offset = Annotated[int, Header(alias="Upload-Offset", ge=0, description="How many bytes are there already.")]
PATCH_TYPE = "application/offset+octet-stream"
BODY = SPEAKS_TUS | {
    "requestBody": {"required": True, "content": {PATCH_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
}

WHERE = {
    "Upload-Offset": header("integer", "How many bytes are there."),
    "Upload-Expires": header("string", "When the upload is forgotten, unless more bytes come in."),
}
CAME_OF_IT = {ARTIFACT: header("string", "The artifact that came of the upload, once all bytes are there.", required=False)}


def answers(status: int, headers: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of an answer that says where the upload stands, with more headers."""
    return {status: {"headers": WHERE | headers}}


@router.options("", status_code=204, summary="What this server can do of the tus protocol")
def options(context: ContextDep) -> Response:
    """Its version, its extensions and the largest upload, in headers."""
    abilities = {
        "Tus-Version": VERSION,
        "Tus-Extension": "creation,checksum,expiration,termination",
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        "Tus-Max-Size": str(context.settings.max_upload_bytes),
    }
    return Response(status_code=204, headers=abilities)


@router.post(
    "",
    status_code=201,
    summary="Begin a resumable upload",
    response_class=Response,
    dependencies=TUS,
    responses=answers(
        201, {"Location": header("string", "The upload's address."), UPLOAD: header("string", "The upload's identifier.")}
    )
    | responses(400, 401, 403, 412, 413, 422),
    openapi_extra=SPEAKS_TUS,
)
def create(
    context: ContextDep,
    caller: Writer,
    length: Annotated[int, Header(alias="Upload-Length", ge=1, description="Bytes of the whole file.")],
    metadata: Annotated[
        str,
        Header(
            alias="Upload-Metadata",
            max_length=4096,
            description="`filename`, and `sha256` of the whole in hexadecimal if you like, each before its value in base64.",
            examples=["filename ZW1vamkuemlw"],
        ),
    ],
) -> Response:
    """`Location` is the upload's address, `AIAO-Upload` its identifier. It lives for a day after its last bytes."""
    limit = context.settings.max_upload_bytes
    if length > limit:
        raise UploadTooLarge.beyond(limit)
    with context.database.session() as session:
        upload = service.create(session, caller, parse_metadata(metadata), length)
        record(session, caller.tenant_id, caller.token_id, "upload.create", upload.id)
    headers = {"Location": f"{router.prefix}/{upload.id}", UPLOAD: upload.id}
    return Response(status_code=201, headers=headers | _where(upload, 0))


@router.head(
    "/{upload_id}",
    summary="How much of an upload is there?",
    response_class=Response,
    dependencies=TUS,
    responses=answers(200, CAME_OF_IT | {"Upload-Length": header("integer", "Bytes of the whole file.")})
    | responses(401, 404, 410, 412, 422),
    openapi_extra=SPEAKS_TUS,
)
def show(upload_id: UploadId, context: ContextDep, caller: Reader) -> Response:
    """`Upload-Offset` bytes have come in of `Upload-Length`; go on from there. `AIAO-Artifact` names what came of them all."""
    upload = service.find(context, caller.tenant_id, upload_id)
    headers = {"Upload-Length": str(upload.length)}
    if upload.artifact_id:
        headers[ARTIFACT] = upload.artifact_id
    return Response(headers=headers | _where(upload, upload.offset))


@router.patch(
    "/{upload_id}",
    status_code=204,
    summary="Append to an upload",
    dependencies=TUS,
    responses=answers(204, CAME_OF_IT) | responses(400, 401, 403, 404, 409, 410, 412, 413, 415, 422, 460, 503),
    openapi_extra=BODY,
)
async def append(
    request: Request,
    upload_id: UploadId,
    context: ContextDep,
    caller: Writer,
    offset: Offset,
    checksum: Annotated[
        str | None,
        Header(alias="Upload-Checksum", description="Algorithm and digest in base64; if it differs, 460 and nothing is kept."),
    ] = None,
) -> Response:
    """Send the bytes from `Upload-Offset` on. After the last ones `AIAO-Artifact` names the artifact.

    The last answer takes as long as the service needs to read the whole file once. A file that is damaged or of no known kind
    is refused, and the upload is forgotten.
    """
    if request.headers.get("content-type") != PATCH_TYPE:
        raise UnsupportedMediaType(f"send the header Content-Type: {PATCH_TYPE}")
    announced = Checksum(checksum) if checksum else None
    upload = await run_in_threadpool(service.find, context, caller.tenant_id, upload_id)
    service.check_changeable(caller, upload)
    if offset != upload.offset:
        raise Conflict(f"{upload.offset} bytes of {upload_id} are there, not {offset}; go on from there")
    with coming_in(caller.tenant_id):
        there = await service.append(context, upload, request.stream(), announced)
        headers = _where(upload, there)
        if there == upload.length:
            headers[ARTIFACT] = (await service.finish(context, caller, upload)).id
    return Response(status_code=204, headers=headers)


@router.delete(
    "/{upload_id}",
    status_code=204,
    summary="Give an upload up",
    dependencies=TUS,
    responses=responses(401, 403, 404, 412, 422),
    openapi_extra=SPEAKS_TUS,
)
def terminate(upload_id: UploadId, context: ContextDep, caller: Writer) -> Response:
    """What has come in is deleted; an artifact that came of it stays."""
    service.terminate(context, caller, upload_id)
    return Response(status_code=204)


def _where(upload: Upload, offset: int) -> dict[str, str]:
    return {"Upload-Offset": str(offset), "Upload-Expires": format_datetime(upload.expires_at.astimezone(UTC), usegmt=True)}
