"""Messages of jobs that end, delivered to a real listener."""

import asyncio
import json
import ssl
from datetime import timedelta

import httpx
import pytest
import sqlalchemy as sa
import trustme
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from service.context import Context
from service.jobs import service as jobs
from service.jobs.leases import Lease
from service.kit.database import utc_now
from service.kit.ids import new_id
from service.processes import courier
from service.processes.courier import Courier, post
from service.processes.reaper import reap
from service.tables.jobs import Job
from service.tables.webhooks import Delivery, Webhook
from service.webhooks import service
from service.webhooks.addresses import Address
from service.webhooks.repository import WebhookRepository
from tests.support import rows
from tests.support.receiver import receiver
from tests.support.webhooks import deliver_due, deliveries, end_a_job, subscribe

pytestmark = pytest.mark.dialect


@pytest.fixture
def listener():
    with receiver() as listening:
        yield listening


def make_due(context: Context) -> None:
    with context.database.session() as session:
        due = Delivery.next_attempt_at.is_not(None)
        session.execute(sa.update(Delivery).where(due).values(next_attempt_at=utc_now() - timedelta(seconds=1)))


def test_each_end_of_a_job_is_told_once_and_signed(closed, tenant, listener):
    secret = subscribe(closed, tenant, listener.url)
    canceled = end_a_job(closed, tenant)
    with closed.database.session() as session:
        succeeded, failed, lost = (jobs.create(session, tenant, "audit", new_id("aud"), None).id for _ in range(3))
    lease = Lease.take(closed.database, succeeded, 30)
    with closed.database.session() as session:
        lease.succeed(session, "/v1/audits/aud_1")
    Lease.take(closed.database, failed, 30).fail({"code": "wrong-architecture", "detail": "it does not fit"})
    for _ in range(closed.settings.max_attempts):
        Lease.take(closed.database, lost, 0)
        reap(closed)
    while deliver_due(closed):
        pass
    told = {}
    for headers, body in listener.heard:
        message = Verifier(secret).verify(body, headers)
        told[message["data"]["id"]] = message
        assert headers["content-type"] == "application/json"
    assert {job: message["type"] for job, message in told.items()} == {
        canceled: "job.canceled", succeeded: "job.succeeded", failed: "job.failed", lost: "job.failed"
    }  # fmt: skip
    assert len(listener.heard) == 4
    assert told[succeeded]["data"]["result"] == "/v1/audits/aud_1"
    assert told[failed]["data"]["error"]["code"] == "wrong-architecture"
    assert told[lost]["data"]["error"]["code"] == "worker-lost"
    assert {row.state for row in deliveries(closed, tenant)} == {"delivered"}
    headers, body = listener.heard[0]
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body.replace(b"job_", b"jab_"), headers)


def test_another_tenant_hears_nothing(closed, tenant, listener):
    subscribe(closed, rows.tenant(closed.database), listener.url)
    end_a_job(closed, tenant)
    assert deliver_due(closed) == 0
    assert listener.heard == []


def test_an_end_that_is_undone_is_not_told(closed, tenant, listener):
    subscribe(closed, tenant, listener.url)
    with closed.database.session() as session:
        job_id = jobs.create(session, tenant, "audit", new_id("aud"), None).id
    lease = Lease.take(closed.database, job_id, 30)

    def fail_afterwards() -> None:
        with closed.database.session() as session:
            lease.succeed(session, "/v1/audits/aud_1")
            raise RuntimeError("afterwards")

    with pytest.raises(RuntimeError, match="afterwards"):
        fail_afterwards()
    assert deliveries(closed, tenant) == []


def test_a_message_that_is_not_taken_is_tried_again_and_given_up_at_last(closed, tenant, listener):
    subscribe(closed, tenant, listener.url)
    end_a_job(closed, tenant)
    listener.status = 500
    for attempt, wait in enumerate(service.RETRY_SECONDS, start=1):
        assert deliver_due(closed) == 1
        (row,) = deliveries(closed, tenant)
        assert (row.state, row.attempts, row.status_code) == ("pending", attempt, 500)
        assert row.next_attempt_at - utc_now() == pytest.approx(timedelta(seconds=wait), abs=timedelta(seconds=60))
        assert wait < 60 or deliver_due(closed) == 0
        make_due(closed)
    assert deliver_due(closed) == 1
    (row,) = deliveries(closed, tenant)
    assert (row.state, row.next_attempt_at) == ("failed", None)
    assert row.finished_at
    assert {headers["webhook-id"] for headers, _ in listener.heard} == {row.id}
    make_due(closed)
    assert deliver_due(closed) == 0

    listener.status = 204
    with closed.database.session() as session:
        service.retry(session, tenant, row.id)
    assert deliver_due(closed) == 1
    assert deliveries(closed, tenant)[0].state == "delivered"


def test_an_address_that_is_gone_hears_nothing_more(closed, tenant, listener):
    subscribe(closed, tenant, listener.url)
    end_a_job(closed, tenant)
    listener.status = 410
    assert deliver_due(closed) == 1
    assert deliveries(closed, tenant)[0].state == "failed"
    end_a_job(closed, tenant)
    assert len(deliveries(closed, tenant)) == 1
    with closed.database.session() as session:
        assert WebhookRepository(session, tenant).active() == []


def test_a_redirection_is_not_followed(closed, tenant, listener):
    with receiver() as inside:
        subscribe(closed, tenant, listener.url)
        end_a_job(closed, tenant)
        listener.status, listener.location = 302, inside.url
        assert deliver_due(closed) == 1
        assert inside.heard == []
    assert deliveries(closed, tenant)[0].state == "pending"


def test_a_private_address_is_not_called(context, tenant, listener):
    subscribe(context, tenant, listener.url.replace("http:", "https:"))
    end_a_job(context, tenant)
    assert deliver_due(context) == 1
    assert listener.heard == []
    (row,) = deliveries(context, tenant)
    assert (row.state, row.status_code) == ("pending", None)
    assert "localhost is not a public address" in row.error


def test_nobody_at_the_address_is_an_error_of_the_attempt(closed, tenant):
    with receiver() as left:
        subscribe(closed, tenant, left.url)
    end_a_job(closed, tenant)
    assert deliver_due(closed) == 1
    assert deliveries(closed, tenant)[0].error == "ConnectError"


def test_what_a_courier_died_over_is_taken_up_again(closed, tenant, listener, monkeypatch):
    subscribe(closed, tenant, listener.url)
    end_a_job(closed, tenant)

    async def die(*_: object) -> None:
        return

    with monkeypatch.context() as dying:
        dying.setattr(Courier, "_deliver", die)
        assert deliver_due(closed) == 1
    assert deliver_due(closed) == 0
    make_due(closed)
    assert deliver_due(closed) == 1
    assert len(listener.heard) == 1


def test_a_late_result_of_an_older_attempt_changes_nothing(closed, tenant, listener, monkeypatch):
    subscribe(closed, tenant, listener.url)
    end_a_job(closed, tenant)

    async def overtaken(*_: object) -> int:
        make_due(closed)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(courier, "post", post)
            assert await asyncio.to_thread(deliver_due, closed) == 1
        return 500

    monkeypatch.setattr(courier, "post", overtaken)
    assert deliver_due(closed) == 1
    (row,) = deliveries(closed, tenant)
    assert (row.state, row.attempts, row.status_code) == ("delivered", 2, 204)


@pytest.mark.parametrize(("name", "fits"), [("localhost", True), ("elsewhere.example", False)])
def test_tls_is_checked_against_the_name_and_not_the_number(tenant, name, fits):
    authority = trustme.CA()
    server, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(name).configure_cert(server)
    authority.configure_trust(trusting)
    secret = "whsec_" + "A" * 44
    delivery = Delivery(id=new_id("dlv"), body=json.dumps({"type": "job.succeeded"}))

    async def attempt(url: str) -> int:
        async with httpx.AsyncClient(verify=trusting) as client:
            return await post(client, Webhook(url=url), secret, delivery, Address.of(url, private=True).resolved())

    with receiver(server) as listening:
        if fits:
            assert asyncio.run(attempt(listening.url)) == 204
            ((headers, body),) = listening.heard
            Verifier(secret).verify(body, headers)
            assert headers["host"] == httpx.URL(listening.url).netloc.decode()
        else:
            with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
                asyncio.run(attempt(listening.url))


def test_jobs_without_webhooks_leave_nothing(closed, tenant):
    job_id = end_a_job(closed, tenant)
    assert deliveries(closed, tenant) == []
    with closed.database.session() as session:
        assert session.get(Job, job_id).state == "canceled"
