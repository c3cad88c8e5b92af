"""HTTP calls for jobs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse, ServerSentEvent

from service.activity.service import record
from service.auth.dependencies import ContextDep, Reader, Writer
from service.context import Context
from service.idempotency import IdempotentJson
from service.jobs import service
from service.jobs.repository import JobRepository
from service.jobs.schemas import JobKind, JobOut, JobState
from service.kit.errors import responses
from service.kit.etags import PreconditionDep, conditional, weak
from service.kit.schemas import JobId, Page, PageQuery
from service.kit.telemetry import untraced

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

POLL_SECONDS = 0.5

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events named `job` whose data is the job as JSON; the stream ends with the job.",
        "content": {
            "text/event-stream": {"schema": {"type": "string"}, "example": 'event: job\ndata: {"state": "running"}\n\n'}
        },
    }
}


@router.get("", summary="List jobs", responses=responses(401, 422))
def list_jobs(
    context: ContextDep, caller: Reader, paging: PageQuery, state: JobState | None = None, kind: JobKind | None = None
) -> Page[JobOut]:
    """All of them, or those of a state or a kind."""
    with context.database.read_session() as session:
        rows, next_cursor = JobRepository(session, caller.tenant_id).page(paging, state=state, kind=kind)
        return Page(items=[JobOut.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/{job_id}", summary="Show a job", responses=conditional() | responses(401, 404, 422))
def show(job_id: JobId, context: ContextDep, caller: Reader, precondition: PreconditionDep) -> JobOut:
    """State, progress, where the result is, and what went wrong."""
    with context.database.read_session() as session:
        job = JobRepository(session, caller.tenant_id).get(job_id)
        precondition.check(weak(job.id, job.state, job.attempt, job.cancel_requested, job.progress))
        return JobOut.model_validate(job)


@router.get(
    "/{job_id}/events", summary="Follow a job", response_class=EventSourceResponse, responses=EVENTS | responses(401, 404, 422)
)
async def events(job_id: JobId, context: ContextDep, caller: Reader) -> EventSourceResponse:
    """The job as server-sent events, one for each change, until it has ended."""
    first = await run_in_threadpool(_job, context, caller.tenant_id, job_id)

    async def stream() -> AsyncIterator[ServerSentEvent]:
        job = first
        yield ServerSentEvent(event="job", data=job.model_dump_json())
        while job.state not in service.FINAL:
            await asyncio.sleep(POLL_SECONDS)
            latest = await run_in_threadpool(untraced()(_job), context, caller.tenant_id, job_id)
            if latest != job:
                job = latest
                yield ServerSentEvent(event="job", data=job.model_dump_json())

    return EventSourceResponse(stream())


@router.post(
    "/{job_id}/cancel", summary="Cancel a job", response_model=JobOut, responses=responses(401, 403, 404, 409, 413, 422)
)
def cancel(job_id: JobId, context: ContextDep, caller: Writer, idempotency: IdempotentJson) -> Response:
    """A queued job is canceled at once, a running one stops at its next step; a finished one stays as it is."""
    with context.database.session() as session:
        if replay := idempotency.replay(session):
            return replay
        kind = JobRepository(session, caller.tenant_id).get(job_id).kind
        caller.require("verifications:write" if kind == "verify" else "models:write")
        job = JobOut.model_validate(service.cancel(session, context.storage, caller.tenant_id, job_id))
        record(session, caller.tenant_id, caller.token_id, "job.cancel", job_id)
        idempotency.remember(session, 200, job.model_dump(mode="json"), {})
    return Response(job.model_dump_json(), media_type="application/json")


def _job(context: Context, tenant_id: str, job_id: str) -> JobOut:
    with context.database.read_session() as session:
        return JobOut.model_validate(JobRepository(session, tenant_id).get(job_id))
