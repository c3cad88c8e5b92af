"""Accept a job: once, however often its call is repeated, and queue it for the workers once it is committed."""

from collections.abc import Callable, Collection

from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from service.activity.schemas import Action
from service.activity.service import record
from service.auth.callers import Caller
from service.context import Context
from service.idempotency import Idempotency
from service.jobs.service import check_room
from service.tables.jobs import Job
from service.tenants import lock_tenant

RETRY_SECONDS = 2
"""How long a client should wait before it first asks for its job."""


def accept(
    context: Context,
    caller: Caller,
    idempotency: Idempotency,
    action: Action,
    submit: Callable[[Session], tuple[Job, BaseModel]],
    *,
    shown_once: Collection[str] = (),
) -> JSONResponse:
    """Answer a call with 202 and where to follow its job; answer a repeated call as the first one.

    ``submit`` makes the job and the answer, in one transaction with the caller's ``action``. Fields of the answer that are
    ``shown_once`` are secret: they are null in a repeated answer. Raise :class:`service.kit.errors.TooManyJobs`.
    """
    with context.database.session() as session:
        lock_tenant(session, caller.tenant_id)
        if replay := idempotency.replay(session):
            return replay
        check_room(session, caller.tenant_id, context.settings.max_unfinished_jobs)
        job, answer = submit(session)
        record(session, caller.tenant_id, caller.token_id, action, job.subject_id)
        body = answer.model_dump(mode="json")
        headers = {"Location": f"/v1/jobs/{job.id}", "Retry-After": str(RETRY_SECONDS)}
        idempotency.remember(session, 202, body | dict.fromkeys(shown_once), headers)
    context.dispatcher.notify(job)
    return JSONResponse(body, 202, headers)
