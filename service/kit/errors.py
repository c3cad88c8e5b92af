"""Errors a client sees: RFC 9457 problem details, each with a stable slug as its type."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPMethod, HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from service.kit.id_patterns import IN_WORDS
from service.kit.observer import method_of, route_of
from service.kit.safe_headers import DEFAULTS

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

SLUGS = {413: "body-too-large"}
"""Slugs for statuses whose phrase is not stable: Python 3.13 renamed this one."""

UNROUTED = {
    404: "there is no such path; the calls are listed under /docs",
    405: "this path does not take this method; the calls are listed under /docs",
}
"""Details for errors of which Starlette says only the phrase."""


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(examples=["not-found"], description="A stable slug to program against.")
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no model mdl_01k… for this token"], description="What was wrong and what to do.")


class ServiceError(Exception):
    """Base of the errors that the service raises on purpose; the sentence is for the user."""

    status: ClassVar[int] = 400
    slug: ClassVar[str] = "bad-request"
    headers: dict[str, str] = {}  # noqa: RUF012  # of the class; an error may have its own

    def __init__(self, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or self.headers


class BadRequest(ServiceError):
    """A header cannot be read."""


class Unauthorized(ServiceError):
    status, slug, headers = 401, "unauthorized", {"WWW-Authenticate": "Bearer"}


class Forbidden(ServiceError):
    """The token is known, but not for this."""

    status, slug = 403, "forbidden"


class NotFound(ServiceError):
    """The thing does not exist, or not for this tenant: the two look alike on purpose."""

    status, slug = 404, "not-found"


class Conflict(ServiceError):
    """The thing is not in a state that allows the call."""

    status, slug = 409, "conflict"


class Gone(ServiceError):
    status, slug = 410, "gone"


class NoDirectUploads(ServiceError):
    """The storage is a folder, or a bucket that clients cannot reach."""

    status, slug = 409, "no-direct-uploads"


class UnsupportedTusVersion(ServiceError):
    status, slug = 412, "unsupported-tus-version"


class UploadTooLarge(ServiceError):
    status, slug = 413, "upload-too-large"

    @classmethod
    def beyond(cls, limit: int) -> "UploadTooLarge":
        return cls(f"this upload has more than {limit} bytes, the largest that this service takes")


class UnsupportedMediaType(ServiceError):
    status, slug = 415, "unsupported-media-type"


class QuotaExceeded(ServiceError):
    status, slug = 403, "quota-exceeded"


class InvalidArtifact(ServiceError):
    status, slug = 422, "invalid-artifact"


class AdapterWithoutBase(ServiceError):
    """An adapter without the model that it changes."""

    status, slug = 422, "adapter-without-base"


class InvalidParts(ServiceError):
    """Parts of a direct upload are missing, or differ from those that the client names."""

    status, slug = 422, "invalid-parts"


class NotEnoughMemory(ServiceError):
    """No worker could run the job."""

    status, slug = 422, "not-enough-memory"


class ChecksumMismatch(ServiceError):
    """460 is tus's own."""

    status, slug = 460, "checksum-mismatch"


class InvalidSecret(ServiceError):
    status, slug = 422, "invalid-secret"


class InvalidWebhook(ServiceError):
    status, slug = 422, "invalid-webhook"


class IdempotencyKeyReused(ServiceError):
    status, slug = 422, "idempotency-key-reused"


class TooManySteps(ServiceError):
    """An embedding would take longer than the operator lets one."""

    status, slug = 422, "too-many-steps"


class TooManyRequests(ServiceError):
    status, slug = 429, "too-many-requests"


class TooManyJobs(ServiceError):
    """The tenant has as many unfinished jobs as one may have."""

    status, slug = 429, "too-many-jobs"


class NotReady(ServiceError):
    status, slug = 503, "not-ready"


def problem(status: int, slug: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Make a response of a problem document."""
    body = Problem(type=slug, title=_title(status), status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, headers, MEDIA_TYPE)


def _title(status: int) -> str:
    return "Checksum Mismatch" if status == ChecksumMismatch.status else HTTPStatus(status).phrase


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe for OpenAPI the problems that a call may answer with."""
    return {
        status: {
            "description": _title(status),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem document."""

    @app.exception_handler(ServiceError)
    def service_error(_: Request, error: ServiceError) -> JSONResponse:
        return problem(error.status, error.slug, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        return invalid_request(error)

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> JSONResponse:
        phrase = HTTPStatus(error.status_code).phrase
        slug = SLUGS.get(error.status_code, phrase.lower().replace(" ", "-"))
        detail = UNROUTED.get(error.status_code, phrase) if error.detail == phrase else str(error.detail)
        headers = {"Allow": _allowed(request)} if error.status_code == 405 else dict(error.headers or {})
        return problem(error.status_code, slug, detail, headers)

    @app.exception_handler(ClientDisconnect)
    def interrupted(_: Request, _error: ClientDisconnect) -> JSONResponse:
        return problem(400, "bad-request", "the request ended before all of its body came; send it again")

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", method_of(request.scope), route_of(request.scope), exc_info=error)
        detail = "internal error; see the service log"
        # The server closes the connection after an unexpected error: a client must not send its next request on it.
        # This answer is made outside of all middleware.
        return problem(500, "internal-server-error", detail, DEFAULTS | {"Connection": "close"})

    @app.exception_handler(OperationalError)
    def database_away(_: Request, error: OperationalError) -> JSONResponse:
        logger.error("the database does not answer: %s", error.orig)
        return problem(503, "not-ready", "the database does not answer; try again in a moment", {"Retry-After": "2"})


def invalid_request(error: RequestValidationError) -> JSONResponse:
    """Answer a request that does not fit the OpenAPI document."""
    return problem(422, "invalid-request", _in_words(error.errors()))


def _allowed(request: Request) -> str:
    """Return all methods that the path takes; Starlette names those of one route."""
    asked = {"type": "http", "path": request.scope["path"], "root_path": request.scope["root_path"]}
    taken = (
        method
        for method in HTTPMethod
        if any(route.matches(asked | {"method": method.value})[0] is Match.FULL for route in request.app.routes)
    )
    return ", ".join(taken)


def _in_words(errors: Sequence[Any]) -> str:
    """Say where and why a request does not fit. Do not repeat its content: it may be secret, or not valid text."""
    return "; ".join(f"{'.'.join(str(part) for part in error['loc'])}: {_sentence(error)}" for error in errors[:5])


def _sentence(error: Mapping[str, Any]) -> str:
    """Return the framework's own sentence, except for a regular expression."""
    return IN_WORDS.get(error.get("ctx", {}).get("pattern"), str(error["msg"]))
