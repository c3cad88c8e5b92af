"""The end of an embedding: the mark is proved against its source, and the key tried on models that it never marked."""

from types import SimpleNamespace

import pytest

from aiao_core.denoisers.weights import digest
from aiao_core.formats.pipelines import load_model, untrained
from aiao_core.protocol import verification_seed
from aiao_core.reports.parts import BitTest
from service.keys import service as keys
from service.kit.database import utc_now
from service.kit.ids import new_id
from service.tables.jobs import Job
from service.tables.models import Model
from service.tables.tokens import Tenant
from tests.support.attempts import run
from tests.support.tiny import SOURCE, TENANT, ready, registered, report_of, row, submitted
from tests.support.tiny_models import make_tiny_model
from worker import embed as module
from worker import panel
from worker.embed import embed_model
from worker.verify import verify_suspect

pytestmark = [pytest.mark.usefixtures("same_seed"), pytest.mark.xdist_group("worker")]


@pytest.fixture
def other_tenant(context) -> str:
    tenant_id = new_id("ten")
    with context.database.session() as session:
        session.add(Tenant(id=tenant_id, name="another", created_at=utc_now()))
    return tenant_id


@pytest.fixture
def embedded(context, tiny, monkeypatch):
    """Registers a source, and runs the job of its embedding without the training: the mark is there already.

    Returns model and job as they are then.
    """
    monkeypatch.setattr(module, "examples_for", lambda *_, **__: None)

    def embedded(source: str = "source.zip", result: str = "marked") -> tuple[Model, Job]:
        def trained(model, seed, **_):
            assert seed == tiny.key.seed
            model.denoiser.load_state_dict(load_model(tiny[result]).denoiser.state_dict())
            return SimpleNamespace(key=tiny.key)

        monkeypatch.setattr(module, "embed", trained)
        model, job = registered(context, tiny[source])
        run(job.id, embed_model)
        return row(context, Model, model.id), row(context, Job, job.id)

    return embedded


@pytest.fixture
def tried(monkeypatch) -> list[str]:
    """Digests of the models on which a new key was tried, in their order."""
    seen, real = [], panel.test_on

    def test_on(denoiser, key, seed, source) -> BitTest:
        seen.append(digest(denoiser.state_dict()))
        return real(denoiser, key, seed, source)

    monkeypatch.setattr(module, "test_on", test_on)
    return seen


def panel_of(context, model: Model) -> tuple[BitTest, ...] | None:
    with context.database.session() as session:
        return keys.panel_of(session, TENANT, model.id)


def failed(context, model: Model, job: Job) -> str:
    """The reason for which an embedding failed, which leaves neither checkpoint nor key behind."""
    assert (job.state, job.error["code"]) == ("failed", "embedding-failed")
    assert (model.status, model.error, model.checkpoint_object) == ("failed", job.error, None)
    assert panel_of(context, model) is None
    assert not [each.key for stored in context.storage.list("marked/") for each in stored if model.id in each.key]
    return job.error["detail"]


def test_a_new_key_is_tried_on_an_untrained_model_and_on_the_tenants_other_marked_ones(context, tiny, embedded, tried):
    other = ready(context, tiny, checkpoint=tiny["source.zip"])  # marked by a key that this one does not find
    model, job = embedded()
    assert (job.state, model.status) == ("succeeded", "ready")
    found = panel_of(context, model)
    assert len(found) == len(tried) == 2
    expected = (untrained(tiny.key.architecture), make_tiny_model(SOURCE).denoiser)
    assert tried == [digest(model.state_dict()) for model in expected]
    assert tried[0] != tried[1]
    assert min(test.log10_p for test in found) > -6
    assert [test.bits > 0 for test in found] == [True, False]  # the other one is this key's source, which has no bits
    assert panel_of(context, other) == ()


def test_a_key_that_finds_itself_in_another_model_ends_its_embedding(context, tiny, embedded, tried):
    """Its proofs would be worth nothing: the test finds what is not there."""
    ready(context, tiny, checkpoint=tiny["marked.zip"])
    assert failed(context, *embedded()) == (
        "the key is found in a model that it never marked, so it can prove nothing; register the model again"
    )
    assert len(tried) == 2


def test_a_key_is_never_tried_on_another_tenants_model(context, tiny, embedded, tried, other_tenant):
    """It would tell one customer of another's model, and there the key would be found."""
    ready(context, tiny, checkpoint=tiny["marked.zip"], tenant_id=other_tenant)
    model, job = embedded()
    assert (job.state, model.status) == ("succeeded", "ready")
    assert len(panel_of(context, model)) == len(tried) == 1


def test_a_key_is_tried_on_models_of_its_architecture_alone_and_on_the_newest(context, tiny, embedded, tried):
    oldest = ready(context, tiny, checkpoint=tiny["marked.zip"])  # there the key would be found
    ready(context, tiny, architecture="sha256:" + "0" * 64, checkpoint_object="nowhere")
    for _ in range(panel.MAX_OTHER_MODELS):
        ready(context, tiny, checkpoint=tiny["source.zip"], status="retired")
    model, job = embedded()
    assert job.state == "succeeded"
    assert model.architecture == oldest.architecture
    assert len(panel_of(context, model)) == len(tried) == 1 + panel.MAX_OTHER_MODELS
    assert set(tried[1:]) == {digest(make_tiny_model(SOURCE).denoiser.state_dict())}


def test_the_draws_of_a_panel_follow_from_key_and_source(context, tiny, embedded, monkeypatch):
    ready(context, tiny, checkpoint=tiny["source.zip"])
    seeds, real = [], panel.measure

    def measure(denoiser, key, seed, **options):
        seeds.append(seed)
        assert options["source"].weights == tiny.key.binding.source
        return real(denoiser, key, seed, **options)

    monkeypatch.setattr(panel, "measure", measure)
    assert embedded()[1].state == "succeeded"
    assert seeds == [verification_seed(tiny.key.commitment, tiny.key.binding.source, "panel")] * 2


def test_a_source_that_the_key_is_not_bound_to_proves_nothing(context, tiny, embedded):
    model, job = embedded(source="marked.zip")
    assert (job.state, job.error["code"], model.checkpoint_object) == ("failed", "wrong-source", None)


def test_a_mark_that_cannot_be_found_is_not_proved(context, tiny, embedded):
    detail = failed(context, *embedded(result="source"))
    assert detail.startswith("the watermark cannot be proved: log10 p is ")
    assert detail.endswith("; use more steps or more layers")


def test_the_panel_is_a_control_of_every_later_report(context, tiny, embedded):
    ready(context, tiny, checkpoint=tiny["source.zip"])
    model, _ = embedded()
    verification = submitted(context, model, tiny["marked.zip"])
    run(verification.job_id, verify_suspect)
    report = report_of(context, verification)
    assert (report.verdict, report.panel) == ("match", panel_of(context, model))
    assert len(report.panel) == 2
