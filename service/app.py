"""The FastAPI application.

uvicorn --factory service.app:create_app --http service.kit.connections:Connection
"""

import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiao_core import __version__
from aiao_core.formats.archives import has_slow_tar_headers
from service import health
from service.activity import endpoints as activity
from service.artifacts import endpoints as artifacts
from service.audits import endpoints as audits
from service.auth.callers import RecentCallers
from service.context import Context
from service.direct_uploads import endpoints as direct_uploads
from service.jobs import endpoints as jobs
from service.kit import docs, errors, etags, logs, telemetry
from service.kit import openapi_links as links
from service.kit.observer import RequestObserver
from service.models import endpoints as models
from service.models import key_endpoints as keys
from service.settings import Settings, read_settings
from service.tokens import endpoints as tokens
from service.uploads import endpoints as uploads
from service.verifications import endpoints as verifications
from service.webhooks import endpoints as webhooks

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 1 << 20

SLOW_TAR_HEADERS = (
    "this Python has CVE-2024-6232: a small TAR archive can keep it busy for minutes. Uploads and models are read in processes "
    "with a time limit, but use Python 3.11.10, 3.12.6 or newer"
)

DESCRIPTION = """Register a diffusion model, publish its watermarked checkpoint, and prove later, with an exact probability,
whether a suspect checkpoint was made with knowledge of its key or of its marked weights."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application for ``settings``, by default those of the environment."""
    settings = settings or read_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        logs.configure(settings.log_format)
        if has_slow_tar_headers():
            logger.warning(SLOW_TAR_HEADERS)
        telemetry.configure("aiao-api", settings.credentials)
        app.state.context, app.state.recent_callers = Context.open(settings), RecentCallers()
        gc.collect()
        gc.freeze()  # objects of the start live to the end: looking through them again would stop every request meanwhile
        yield
        app.state.context.close()
        telemetry.close()

    app = FastAPI(
        title="AIAO ownership service", version=__version__, description=DESCRIPTION, lifespan=lifespan,
        generate_unique_id_function=_operation_id, docs_url=None, redoc_url=None,
        redirect_slashes=False,  # Starlette makes the address of the Host that the client names
    )  # fmt: skip
    errors.install(app)
    etags.install(app)
    app.add_middleware(JsonLimit)
    app.add_middleware(RequestObserver, health.count_answer)
    for part in (artifacts, uploads, direct_uploads, models, keys, verifications, audits, jobs, tokens, activity, webhooks):
        app.include_router(part.router, responses=errors.responses(429))
    app.include_router(health.router)
    app.include_router(docs.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.router.routes.insert(0, Route("/openapi.json", _document(app), include_in_schema=False))
    return app


def _document(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    """Serve the document as FastAPI does, but write it once: to write so long a one for each stranger takes all the time."""

    once = CapacityLimiter(1)

    @cache
    def written() -> bytes:
        return bytes(JSONResponse(app.openapi()).body)

    async def document(_: Request) -> Response:
        return Response(await to_thread.run_sync(written, limiter=once), media_type="application/json")

    return document


def _operation_id(route: APIRoute) -> str:
    """Name the call for clients generated from the document: ``models_register``, ``models_list``, ``tokens_issue``."""
    resource = route.endpoint.__module__.split(".")[1]
    return f"{resource}_{route.name.removesuffix(f'_{resource}')}"


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Make FastAPI's document, with problem documents instead of its own validation errors, and with links."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document["components"]["schemas"]
        schemas["Problem"] = errors.Problem.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        links.add(document)
        app.openapi_schema = document
    return app.openapi_schema


class JsonLimit:
    """Refuse a body that no JSON call needs before it fills the memory. Uploads are streamed and have a limit of their own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streamed = (artifacts.router.prefix, uploads.router.prefix)
        if scope["type"] != "http" or scope["path"].startswith(streamed):
            await self.app(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_JSON_BYTES:
                # FastAPI lets no other exception through while it reads a body.
                raise HTTPException(413, f"this body has more than {MAX_JSON_BYTES} bytes; no call needs so many")
            return message

        await self.app(scope, limited, send)
