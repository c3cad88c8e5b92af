"""One tenant floods the service: another's job is the next to start, on a real worker and a real broker."""

from collections.abc import Iterator

import pytest

from aiao import ApiError
from demo_models.emoji.data import MODEL
from tests.support.databases import postgres_database
from tests.support.processes import HURRY, TICKING, System, private_redis, system, wait_for

QUICK = {"steps": 3, "batch_size": 8}
LONG = {"steps": 50_000, "checkpoint_every": 10_000}
"""A quarter of an hour, unless it is hurried: longer than it takes to submit the others."""
FLOOD = 24


@pytest.fixture(scope="module")
def flooded(tmp_path_factory) -> Iterator[System]:
    """A service with a cap of jobs and of steps. Its jobs tick."""
    with (
        postgres_database() as database,
        private_redis() as broker,
        system(
            tmp_path_factory.mktemp("flooded"),
            database_url=database,
            broker_url=broker,
            AIAO_MAX_UNFINISHED_JOBS=str(FLOOD),
            AIAO_MAX_STEPS="50000",
        ) as running,
    ):
        yield running


@pytest.mark.slow
def test_the_next_job_is_anothers_however_many_one_tenant_has_sent(flooded):
    with flooded.client("flood") as flood:
        first = flood.models.register(MODEL, name="first", options=LONG)
        artifact_id = first.model.artifact_id

        def more(name: str, **options: int) -> dict:
            body = {"name": name, "artifact_id": artifact_id, "options": QUICK | options}
            return flood.transport.post("/v1/models", json=body).json()

        for name in ("steps", "probe_steps"):
            with pytest.raises(ApiError, match=f"options.{name} is 100000, but this service takes at most 50000") as refused:
                more("too long", **{name: 100_000})
            assert (refused.value.status, refused.value.type) == (422, "too-many-steps")
        for number in range(FLOOD - 1):
            more(f"flood {number}")
        with pytest.raises(ApiError, match=f"{FLOOD} of your jobs have not ended yet") as refused:
            more("too many")
        assert (refused.value.status, refused.value.type) == (429, "too-many-jobs")

        flooded.start_worker(app=TICKING)
        wait_for(lambda: flood.jobs.get(first.job.id).state == "running", "no worker takes a job")
        others = []
        for number in range(9):
            with flooded.client(f"other {number}") as other:
                others.append((f"other {number}", other.models.register(MODEL, name="one", options=QUICK).job.id))
        (flooded.data_dir / HURRY).touch()
        starts = {}
        for tenant, job_id in others:
            with flooded.client(tenant) as other:
                job = other.jobs.wait(job_id)
                assert job.state == "succeeded"
                starts[job.started_at] = tenant
        wait_for(lambda: all(job.finished for job in flood.jobs.list()), "the flood's own jobs are never done")
        starts |= {job.started_at: "flood" for job in flood.jobs.list()}
        assert {job.state for job in flood.jobs.list()} == {"succeeded"}
    order = [starts[moment] for moment in sorted(starts)]
    assert order == ["flood", *(f"other {number}" for number in range(9)), *["flood"] * (FLOOD - 1)]
