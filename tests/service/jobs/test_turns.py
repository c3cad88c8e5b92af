"""Which of many waiting jobs a worker takes."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
import sqlalchemy as sa

from service.context import Context
from service.jobs import service as jobs
from service.jobs.leases import RETRY_SECONDS, Lease
from service.kit.database import utc_now
from service.kit.ids import new_id
from service.kit.queues import Fleet
from service.processes.reaper import NOTIFY_AGAIN_SECONDS
from service.tables.jobs import Job
from tests.support import rows

pytestmark = pytest.mark.dialect

ALL = Fleet.parse("aiao", "").share_of("aiao")


@pytest.fixture
def others(context) -> list[str]:
    """Nine more tenants."""
    return [rows.tenant(context.database) for _ in range(9)]


def queue(context: Context, tenant: str, memory_bytes: int | None = None) -> str:
    with context.database.session() as session:
        return jobs.create(session, tenant, "verify", new_id("ver"), memory_bytes).id


def take(context: Context, share=ALL) -> Lease | None:
    return Lease.take_next(context.database, share, 60)


def end(context: Context, lease: Lease) -> None:
    with context.database.session() as session:
        lease.succeed(session, "/v1/verifications/ver_1")


def takers(context: Context, count: int) -> list[str]:
    """The tenants of so many jobs that one worker runs, one after the other."""
    taken = []
    for _ in range(count):
        lease = take(context)
        taken.append(lease.job.tenant_id)
        end(context, lease)
    return taken


def test_one_worker_serves_nine_others_before_it_goes_on_with_the_flood(context, tenant, others):
    flood = [queue(context, tenant) for _ in range(48)]
    first = take(context)
    assert first.job_id == flood[0]
    for other in others:
        queue(context, other)
    end(context, first)
    assert takers(context, 12) == [*others, tenant, tenant, tenant]


def test_a_job_that_comes_later_is_the_next_however_many_wait(context, tenant, others):
    for _ in range(48):
        queue(context, tenant)
    takers(context, 5)
    for other in others:
        queue(context, other)
        assert takers(context, 2) == [other, tenant]


def test_tenants_that_all_have_many_jobs_take_turns_and_each_begins_with_its_oldest(context, tenant, others):
    waiting = {each: [queue(context, each) for _ in range(3)] for each in (tenant, *others)}
    assert takers(context, 30) == [tenant, *others] * 3
    for each, job_ids in waiting.items():
        started = [rows.job(context.database, job_id).started_at for job_id in job_ids]
        assert started == sorted(started), each


def test_of_several_workers_the_flood_gets_no_more_than_others(context, tenant, others):
    for _ in range(20):
        queue(context, tenant)
    for other in others[:3]:
        for _ in range(20):
            queue(context, other)
    assert Counter(take(context).job.tenant_id for _ in range(12)) == dict.fromkeys([tenant, *others[:3]], 3)


def test_a_tenant_whose_jobs_run_long_gets_the_next_worker_last(context, tenant, others):
    for _ in range(8):
        queue(context, tenant)
    running = [take(context) for _ in range(4)]
    assert {lease.job.tenant_id for lease in running} == {tenant}
    for _ in range(5):
        queue(context, others[0])
    assert takers(context, 4) == [others[0]] * 4  # one worker is free; the others are busy with the flood
    for _ in range(4):
        take(context)
    assert [take(context).job.tenant_id for _ in range(1)] == [tenant]


@pytest.mark.parametrize("at_once", [4, 8])
def test_workers_that_ask_at_once_get_different_jobs_of_different_tenants(context, tenant, others, at_once):
    for _ in range(20):
        queue(context, tenant)
    for other in others:
        queue(context, other)
    together = Barrier(at_once)

    def race(_: int) -> Lease | None:
        together.wait()
        return take(context)

    with ThreadPoolExecutor(at_once) as pool:
        leases = list(pool.map(race, range(at_once)))
    assert len({lease.job_id for lease in leases}) == at_once
    assert len({lease.job.tenant_id for lease in leases}) == at_once


def test_no_job_is_taken_twice_or_forgotten(context, tenant, others):
    waiting = {queue(context, each) for each in (tenant, *others[:3]) for _ in range(5)}

    def work(_: int) -> list[str]:
        taken = []
        while lease := take(context):
            taken.append(lease.job_id)
            end(context, lease)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [job_id for some in pool.map(work, range(4)) for job_id in some]
    assert sorted(taken) == sorted(waiting)


def test_a_worker_takes_the_jobs_of_the_queue_that_woke_it_alone(context, tenant):
    fleet = Fleet.parse("aiao", "small:10B middle:20B large:30B")
    job_ids = {need: queue(context, tenant, need) for need in (5, 10, 11, 20, 21, 30, 31, None)}
    got = {}
    for name in fleet.names:
        got[name] = []
        while lease := take(context, fleet.share_of(name)):
            got[name].append(lease.job_id)
    assert got == {name: [job_id for need, job_id in job_ids.items() if fleet.queue_for(need) == name] for name in fleet.names}


def test_turns_in_one_queue_are_none_in_another(context, tenant, others):
    """Or a tenant that uses the CPUs all the time would never get a GPU that another floods."""
    fleet = Fleet.parse("aiao", "cpu:10B gpu:20B")
    cpu, gpu = map(fleet.share_of, fleet.names)
    for _ in range(5):
        queue(context, tenant, 20)
        queue(context, others[0], 10)
    end(context, take(context, gpu))
    end(context, take(context, cpu))
    mine = queue(context, others[0], 20)
    next_one = take(context, gpu)
    assert next_one.job_id == mine


def test_a_canceled_job_has_no_turn(context, tenant, others):
    canceled, other = queue(context, tenant), queue(context, others[0])
    with context.database.session() as session:
        jobs.cancel(session, context.storage, tenant, canceled)
    assert take(context).job_id == other
    assert take(context) is None


def test_a_released_job_goes_on_before_the_tenants_others(context, tenant):
    first, second = queue(context, tenant), queue(context, tenant)
    take(context).release()
    assert [take(context).job_id for _ in range(2)] == [first, second]


def test_an_interrupted_job_waits_so_that_other_jobs_messages_do_not_use_up_its_attempts(context, tenant):
    first, second = queue(context, tenant), queue(context, tenant)
    take(context).retry_later(5, {"code": "worker-lost", "detail": "the storage is away"})
    assert RETRY_SECONDS < NOTIFY_AGAIN_SECONDS  # or the reaper's message would come too soon
    assert take(context).job_id == second
    assert take(context) is None
    with context.database.session() as session:
        past = utc_now() - timedelta(seconds=1)
        session.execute(sa.update(Job).where(Job.id == first).values(waits_until=past))
    assert take(context).attempt == 2
