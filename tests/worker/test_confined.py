"""A suspect that ends the child which reads it is a failed job, and the worker goes on.

The tests that stop the server come first: it imports torch each time it starts, and the last one serves those after it.
"""

import sys
from pathlib import Path

import pytest

from aiao_core.denoisers.weights import digest
from aiao_core.formats.pipelines import load_model
from demo_models.emoji.data import MODEL
from service.jobs.repository import LeaseRepository
from service.tables.jobs import Job
from service.tables.models import Model
from tests.support import children
from tests.support.attempts import run
from tests.support.tiny import registered, row
from worker.confined import read_suspect
from worker.embed import embed_model
from worker.running import Work
from worker.sandbox.client import ChildEnded, _server, confined

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("worker")]


@pytest.fixture
def reading(context, job_id):
    """Runs the job: it reads a suspect; returns how the job ended."""

    def end(suspect: Path, *, memory_bytes: int = 0, seconds: float = 600) -> tuple[str, str]:
        settings = context.settings.model_copy(update={"suspect_memory_bytes": memory_bytes, "suspect_seconds": seconds})
        like = load_model(MODEL).architecture

        def task(work: Work) -> None:
            work.context = type(work.context)(**vars(work.context) | {"settings": settings})
            found = read_suspect(suspect, like, (suspect, "itself"), work=work)
            assert found.load().state_dict().keys() == load_model(MODEL).denoiser.state_dict().keys()
            assert (found.base_name, found.weights) == (None, digest(load_model(MODEL).denoiser.state_dict()))
            with context.database.session() as session:
                work.lease.succeed(session, found.form)

        run(job_id, task)
        with context.database.session() as session:
            job = LeaseRepository(session).get(job_id)
        return job.state, (job.error or {}).get("detail") or job.result

    return end


def test_a_suspect_that_takes_too_long_fails_its_job(reading):
    state, detail = reading(MODEL, seconds=1e-9)
    assert state == "failed"
    assert "more than 1e-09 seconds" in detail


@pytest.mark.slow
def test_a_reader_that_was_killed_is_started_again(reading):
    killed = _server()
    killed.kill()
    killed.wait()
    assert reading(MODEL)[0] == "succeeded"
    assert _server() is not killed


def test_a_suspect_is_read(reading):
    assert reading(MODEL) == ("succeeded", "safetensors")


def test_a_suspect_that_takes_too_much_memory_fails_its_job(reading):
    state, detail = reading(MODEL, memory_bytes=1 << 20)
    assert state == "failed"
    assert "ended without a result" in detail
    assert "plain safetensors" in detail


@pytest.mark.skipif(sys.platform != "linux", reason="confined by the Linux kernel")
def test_a_tensor_that_takes_too_much_memory_ends_its_child_alone(tmp_path):
    with pytest.raises(ChildEnded, match="ran out of memory"):
        confined(children.fill_a_tensor, {}, room=tmp_path, seconds=300, memory_bytes=1 << 30, check=lambda: None)
    assert confined(children.add, {"one": 1, "other": 1}, room=tmp_path, seconds=300, memory_bytes=0, check=lambda: None) == {
        "sum": 2
    }


def test_a_child_sends_no_traces(tmp_path):
    loaded = confined(children.modules, {}, room=tmp_path, seconds=300, memory_bytes=0, check=lambda: None)["loaded"]
    assert "torch" in loaded
    assert not [name for name in loaded if name.startswith("opentelemetry")]


@pytest.mark.skipif(sys.platform != "linux", reason="confined by the Linux kernel")
def test_a_registered_model_whose_reading_takes_too_much_memory_fails_its_job_alone(context, tiny, monkeypatch):
    monkeypatch.setenv("AIAO_SUSPECT_MEMORY_BYTES", str(1 << 20))
    model, job = registered(context, tiny["source.zip"])
    run(job.id, embed_model)
    ended = row(context, Job, job.id)
    assert (ended.state, ended.error["code"]) == ("failed", "invalid-checkpoint")
    assert "was to read this model ended without a result: it ran out of memory" in ended.error["detail"]
    assert row(context, Model, model.id).status == "failed"
