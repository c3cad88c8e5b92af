"""A job that hangs is ended, and its worker goes on."""

import pytest

from service.jobs import service as jobs
from service.platform import Platform
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
def platform(hanging):
    platform = Platform.open(Settings(data_dir=hanging.data_dir, broker_url=hanging.settings["AIAO_BROKER_URL"]))
    yield platform
    platform.close()


def test_a_job_that_hangs_fails_for_its_time_and_the_worker_takes_the_next(hanging, platform):
    tenant = rows.tenant(platform.database)
    for number in range(2):
        with platform.database.session() as session:
            job = jobs.create(session, tenant, "verify", f"ver_{number}", None)
        platform.doorbell.ring(job)
        wait_for(lambda: rows.job(platform.database, job.id).state == "failed", "the job goes on for ever")  # noqa: B023
        failed = rows.job(platform.database, job.id)
        assert (failed.attempt, failed.error["code"]) == (1, "time-limit")
    assert "Hard time limit" in hanging.log("worker")
