"""A job that hangs is ended, and its worker goes on."""

import pytest

from service.context import Context
from service.jobs import service as jobs
from service.settings import Settings
from tests.support import rows
from tests.support.processes import private_redis, system, wait_for


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """A system whose worker hangs over every verification."""
    folder = tmp_path_factory.mktemp("hanging")
    with (
        private_redis() as broker,
        system(folder, broker_url=broker, AIAO_JOB_SECONDS="1", AIAO_LEASE_SECONDS="2") as running,
    ):
        running.start_worker(app="tests.support.stuck")
        yield running


@pytest.fixture(scope="module")
def context(hanging):
    context = Context.open(Settings(data_dir=hanging.data_dir, broker_url=hanging.settings["AIAO_BROKER_URL"]))
    yield context
    context.close()


@pytest.mark.slow
def test_a_job_that_hangs_fails_for_its_time_and_the_worker_takes_the_next(hanging, context):
    tenant = rows.tenant(context.database)
    for number in range(2):
        with context.database.session() as session:
            job = jobs.create(session, tenant, "verify", f"ver_{number}", None)
        context.dispatcher.notify(job)
        wait_for(lambda: rows.job(context.database, job.id).state == "failed", "the job goes on for ever")  # noqa: B023
        failed = rows.job(context.database, job.id)
        assert (failed.attempt, failed.error["code"]) == (1, "time-limit")
    assert "Hard time limit" in hanging.log("worker")
