"""Whose turn it is in a queue: the oldest waiting job of the tenant that has the fewest jobs running there is next.

A message of the broker wakes a worker and no more: however many jobs a tenant has sent, it decides nothing.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.kit.queues import Share
from service.tables.jobs import Job
from service.tables.turns import Turn

INSERT: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
"""Of each database: both know ON CONFLICT, and SQLAlchemy has no word for both."""


def next_job(session: Session, share: Share, now: datetime) -> str | None:
    """Return the job whose turn it is in a queue, and note its tenant's turn. None if no job waits there.

    Workers that ask at the same time get the same job: one of them can take it, and the others ask again. Among tenants with
    equally many running jobs the one whose last turn is the longest ago is next, or one worker would do all of a tenant's jobs
    before another's first.
    """
    running = (
        select(Job.tenant_id, func.count().label("count")).where(Job.state == "running", _is_of(share)).group_by(Job.tenant_id)
    ).subquery()
    last = select(Turn.tenant_id, Turn.taken_at).where(Turn.queue == share.queue).subquery()
    query = (
        select(Job.id, Job.tenant_id)
        .outerjoin(running, running.c.tenant_id == Job.tenant_id)
        .outerjoin(last, last.c.tenant_id == Job.tenant_id)
        .where(Job.state == "queued", _is_of(share), or_(Job.waits_until.is_(None), Job.waits_until <= now))
        .order_by(func.coalesce(running.c.count, 0), last.c.taken_at.nulls_first(), Job.id)
        .limit(1)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        return None
    job_id, tenant_id = found
    turn = INSERT[session.get_bind().dialect.name](Turn).values(queue=share.queue, tenant_id=tenant_id, taken_at=now)
    session.execute(turn.on_conflict_do_update(index_elements=["queue", "tenant_id"], set_={"taken_at": now}))
    return str(job_id)


def _is_of(share: Share) -> ColumnElement[bool]:
    """Whether a job waits in the queue, as :meth:`service.kit.queues.Fleet.queue_for` decides."""
    need, unknown = Job.memory_bytes, Job.memory_bytes.is_(None)
    above = need > share.above if share.above is not None else need >= 0
    return and_(above, need <= share.limit) if share.limit is not None else or_(above, unknown)
