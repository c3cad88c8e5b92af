"""What is only kept for a while goes, and no sooner."""

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from service.context import Context
from service.idempotency import REMEMBERED_FOR
from service.kit.database import utc_now
from service.processes import pruning
from service.processes.garbage import collect
from service.processes.pruning import DELIVERIES_KEPT_FOR
from service.tables.idempotency import IdempotencyRecord
from service.tables.webhooks import Delivery
from tests.support import rows
from tests.support.webhooks import deliveries, end_a_job, subscribe

pytestmark = pytest.mark.dialect

DAY = timedelta(days=1)


def remember(context: Context, tenant: str, key: str, at: datetime) -> None:
    with context.database.session() as session:
        session.add(
            IdempotencyRecord(
                tenant_id=tenant, key=key, request_sha256="0", status=201, headers={}, body={}, created_at=at
            )
        )  # fmt: skip


def remembered(context: Context, tenant: str) -> set[str]:
    with context.database.session() as session:
        mine = IdempotencyRecord.tenant_id == tenant
        return set(session.scalars(sa.select(IdempotencyRecord.key).where(mine)))


def test_answers_are_forgotten_after_a_week(context, tenant, monkeypatch):
    monkeypatch.setattr(pruning, "ROWS_AT_ONCE", 2)
    now, other = utc_now(), rows.tenant(context.database)
    for number in range(5):
        remember(context, tenant, f"old {number}", now - REMEMBERED_FOR - DAY)
    remember(context, tenant, "young", now - REMEMBERED_FOR + DAY)
    remember(context, other, "old 0", now - DAY)  # the same key of another tenant
    collect(context, now)
    assert remembered(context, tenant) == {"young"}
    assert remembered(context, other) == {"old 0"}


def test_messages_are_forgotten_a_month_after_their_end_and_never_before_it(context, tenant):
    subscribe(context, tenant, "https://example.com/")
    ended = {state: end_a_job(context, tenant) for state in ("delivered", "failed", "pending", "young")}
    by_job = {job_id: row.id for row in deliveries(context, tenant) for job_id in ended.values() if job_id in row.body}
    now = utc_now()
    with context.database.session() as session:
        for state, job_id in ended.items():
            age = DELIVERIES_KEPT_FOR - DAY if state == "young" else DELIVERIES_KEPT_FOR + DAY
            values = {"created_at": now - 2 * DELIVERIES_KEPT_FOR, "finished_at": None if state == "pending" else now - age}
            session.execute(sa.update(Delivery).where(Delivery.id == by_job[job_id]).values(**values))
    collect(context, now)
    left = {row.id for row in deliveries(context, tenant)}
    assert left == {by_job[ended["pending"]], by_job[ended["young"]]}
