"""A child that an attacker has taken over may answer anything: the job fails with a reason, and the worker goes on."""

from pathlib import Path

import pytest

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.pipelines import load_model
from aiao_core.options import EmbeddingOptions
from service.jobs import service as jobs
from service.jobs.repository import LeaseRepository
from service.kit.ids import new_id
from tests.support import attempts, liars
from tests.support.tiny import TENANT, save
from tests.support.tiny_models import make_tiny_model
from worker import confined, reading
from worker.running import Work

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("worker")]


@pytest.fixture
def ended(context):
    """Runs a task as a job; returns the code and sentence of its error."""

    def end(task) -> tuple[str, str]:
        with context.database.session() as session:
            job_id = jobs.create(session, TENANT, "verify", new_id("ver"), None).id
        attempts.run(job_id, task)
        with context.database.session() as session:
            job = LeaseRepository(session).get(job_id)
        assert job.state == "failed"
        return job.error["code"], job.error["detail"]

    return end


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A tiny model's pipeline; a .zip of it is beside it."""
    folder = tmp_path_factory.mktemp("model") / "source"
    save(make_tiny_model(), folder)
    return folder


def read(name: str, source: Path, work: Work, images: bool) -> None:
    """Read as a job does, and use what came of it."""
    file, model = source.with_suffix(".zip"), load_model(source)
    match name:
        case "read_model":
            confined.read_model(file, work=work)()
        case "read_suspect":
            found = confined.read_suspect(file, model.architecture, work=work)
            found.load()
            if found.load_base:
                found.load_base()
        case "read_source":
            confined.read_source(file, model.architecture, work=work)
        case "read_examples":
            confined.examples_for(model, file, file if images else None, EmbeddingOptions(samples=4), work=work)
        case "write_marked":
            confined.read_model(confined.write_marked(file, file, work=work), work=work)()


@pytest.mark.parametrize("reader", liars.LIARS)
def test_whatever_a_taken_over_child_says_the_job_fails_with_a_reason(ended, source, context, monkeypatch, reader):
    for lie, liar in liars.LIARS[reader].items():
        monkeypatch.setattr(reading, reader, liar)
        for images in (True, False) if reader == "read_examples" and not lie.endswith("no tensor") else (True,):

            def task(work: Work, lie: str = lie, images: bool = images) -> None:
                read(reader, source, work, images)
                raise AssertionError(f"{lie} was believed")

            code, detail = ended(task)
            assert code in ("invalid-checkpoint", "wrong-architecture", "unsafe-archive"), (lie, images, detail)
            assert 10 < len(detail) <= 21_000
            assert str(context.settings.data_dir) not in detail


def test_a_sentence_for_a_client_names_no_folder_of_the_worker(ended, context):
    def task(work: Work) -> None:
        file, ours = work.scratch / "unet" / "config.json", Path(pytest.__file__)
        raise InvalidCheckpoint(f"there is no '{file}', nor {file.parent}; {ours}: /v1/models, https://a.b/c/d and 1/2/3")

    code, detail = ended(task)
    assert code == "invalid-checkpoint"
    assert detail == "there is no 'config.json', nor unet; __init__.py: /v1/models, https://a.b/c/d and 1/2/3"
