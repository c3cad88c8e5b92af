"""What a worker makes of a suspect: the rules of a verdict hold whatever the row of a verification asks for."""

import math
import pickle

import pytest
import sqlalchemy as sa

from aiao_core.protocol import DRAWS, LIMIT_LOG10_P, verification_seed
from aiao_core.reports.parts import BitTest
from aiao_core.reports.verification import Counts, Report
from service.tables.jobs import Job
from service.tables.keys import StoredKey
from service.tables.verifications import Verification
from tests.support import uploads
from tests.support.attempts import run
from tests.support.tiny import artifact, make_old, ready, report_of, row, submitted
from worker.verify import verify_suspect

pytestmark = [pytest.mark.usefixtures("same_seed"), pytest.mark.xdist_group("worker")]


@pytest.fixture
def tested(context):
    """Runs the job of a verification, and returns both as they are then."""

    def tested(verification: Verification) -> tuple[Verification, Job]:
        run(verification.job_id, verify_suspect)
        return row(context, Verification, verification.id), row(context, Job, verification.job_id)

    return tested


def test_the_published_model_matches_beside_its_source(context, tiny, tested):
    model = ready(context, tiny)
    panel = [BitTest.of(500, 1000).model_dump(mode="json")]
    with context.database.session() as session:
        session.execute(sa.update(StoredKey).where(StoredKey.model_id == model.id).values(panel=panel))
    found, job = tested(submitted(context, model, tiny["marked.zip"]))
    report = report_of(context, found)
    assert (job.state, found.verdict, found.tested) == ("succeeded", "match", "checkpoint")
    assert found.log10_p == report.test.log10_p < LIMIT_LOG10_P
    assert (report.key_version, report.source_weights) == (3, tiny.key.binding.source)
    assert (report.registration, report.tests) == ("service", Counts(with_key=1, of_file=1))
    assert report.panel == (BitTest.of(500, 1000),)
    assert found.suspect_weights == report.suspect_weights
    assert [entry.role for entry in report.inputs] == ["suspect", "watermarked", "source"]


def test_another_source_than_the_registered_one_is_an_error(context, tiny, tested):
    """Nobody can change the source of a key: its signs follow from the one that was registered."""
    model = ready(context, tiny)
    marked = artifact(context, tiny["marked.zip"])
    with context.database.session() as session:
        session.merge(model).artifact_id = marked
    found, job = tested(submitted(context, model, tiny["marked.zip"]))
    assert (job.state, job.error["code"], found.verdict) == ("failed", "wrong-source", None)
    assert tiny.key.binding.source in job.error["detail"]


def test_stored_keys_of_version_2_are_tested_as_before(context, tiny, tested, tmp_path):
    old = make_old(tmp_path)
    model = ready(context, old)
    found, job = tested(submitted(context, model, old["marked.safetensors"]))
    report = report_of(context, found)
    assert (job.state, found.verdict) == ("succeeded", "match")
    assert (report.key_version, report.protocol, report.draws) == (2, 2, 100)
    assert report.source_test.log10_p > -6
    other, _ = tested(submitted(context, model, tiny["source.safetensors"]))
    assert other.verdict == "no-match"


@pytest.mark.parametrize("form", ["lora.bin", "lora.zip"])
def test_an_adapter_without_a_base_is_no_match_but_an_error(context, tiny, tested, form):
    """What the service cannot see in the header of a safetensors file, its worker sees in a pickle and in an archive."""
    found, job = tested(submitted(context, ready(context, tiny), tiny[form]))
    assert (job.state, job.error["code"]) == ("failed", "adapter-without-base")
    assert "submit it again with base_artifact_id" in job.error["detail"]
    assert "never merged into the owner's marked model" in job.error["detail"]
    assert (found.verdict, found.with_key, found.suspect_weights) == (None, None, None)


@pytest.mark.parametrize(
    ("base", "verdict", "part"), [("marked.zip", "base-marked", "base"), ("source.zip", "no-match", "adapter")]
)
@pytest.mark.parametrize("form", ["lora.bin", "lora.zip"])
def test_of_an_adapter_the_base_is_tested_first(context, tiny, tested, form, base, verdict, part):
    found, job = tested(submitted(context, ready(context, tiny), tiny[form], tiny[base]))
    report = report_of(context, found)
    assert (job.state, found.verdict, found.tested, found.base_name) == ("succeeded", verdict, part, base)
    assert (report.verdict, report.tested, report.base_name) == (verdict, part, base)
    assert [(entry.role, entry.name) for entry in report.inputs[:2]] == [("suspect", form), ("base", base)]
    assert (report.base_test is None) == (part == "base")


def test_an_adapter_that_brings_the_marked_model_along_is_not_accused_for_it(context, tiny, tested):
    found, _ = tested(submitted(context, ready(context, tiny), tiny["bundle.zip"]))
    assert (found.verdict, found.tested) == ("base-marked", "base")


LAX = {"draws": 2, "decoys": 0, "tau": 0.51, "max_log10_p": -1e-6, "seed": 7}


def test_what_release_0_1_0_has_queued_is_tested_by_the_rules_of_today(context, tiny, tested):
    """With these options an innocent matched."""
    verification = submitted(context, ready(context, tiny), tiny["source.safetensors"])
    with context.database.session() as session:
        columns = {"options": LAX, "token_id": None}
        session.execute(sa.update(Verification).where(Verification.id == verification.id).values(**columns))
    found, job = tested(verification)
    report = report_of(context, found)
    assert (job.state, found.verdict) == ("succeeded", "no-match")
    assert (report.draws, len(report.decoys), report.tau) == (DRAWS, 8, 0.75)
    assert report.max_log10_p == LIMIT_LOG10_P
    assert report.seed == verification_seed(report.commitment, report.source_weights, report.suspect_weights) != 7
    assert report.registration == "service"
    assert found.options == LAX  # as it was asked for


def test_a_stricter_limit_is_kept(context, tiny, tested):
    verification = submitted(context, ready(context, tiny), tiny["marked.safetensors"])
    with context.database.session() as session:
        columns = {"options": LAX | {"max_log10_p": -9_999}}
        session.execute(sa.update(Verification).where(Verification.id == verification.id).values(**columns))
    found, _ = tested(verification)
    assert found.verdict == "no-match"
    assert report_of(context, found).max_log10_p == -9_999


def test_one_file_has_one_answer_however_it_is_packed_and_every_test_of_it_is_counted(context, tiny, tested):
    model = ready(context, tiny)
    reports = [
        report_of(context, tested(submitted(context, model, tiny[name]))[0])
        for name in ("source.safetensors", "source.zip", "source.safetensors")
    ]
    assert {(report.seed, report.suspect_weights, report.test.log10_p) for report in reports} == {
        (reports[0].seed, reports[0].suspect_weights, reports[0].test.log10_p)
    }
    assert reports[0].ways == reports[1].ways == reports[2].ways
    assert [report.tests for report in reports] == [Counts(with_key=n, of_file=n) for n in (1, 2, 3)]
    assert reports[2].corrected_log10_p == min(0.0, reports[2].claimed_log10_p + math.log10(5))


def test_another_attempt_keeps_its_number(context, tiny, tested, monkeypatch):
    """Its first attempt ended in an outage after it was counted, and another test of the file came in between."""
    model = ready(context, tiny)
    first, second = (submitted(context, model, tiny["source.safetensors"]) for _ in range(2))

    def outage(*_: object, **__: object) -> Report:
        raise sa.exc.OperationalError("SELECT 1", {}, Exception("gone"))

    with monkeypatch.context() as away:
        away.setattr("aiao_core.verification.examine.verify", outage)
        found, job = tested(first)
    assert (job.state, job.attempt, found.with_key, found.of_file, found.verdict) == ("queued", 1, 1, 1, None)
    assert tested(second)[0].with_key == 2
    found, job = tested(first)
    assert (job.state, job.attempt, found.with_key, found.of_file) == ("succeeded", 2, 1, 1)
    assert report_of(context, found).tests == Counts(with_key=1, of_file=1)
    assert report_of(context, second).tests == Counts(with_key=2, of_file=2)


@pytest.mark.parametrize("packed", [False, True])
def test_an_error_calls_a_file_as_its_client_does(context, tiny, tested, tmp_path, packed):
    """And not by the id under which the worker keeps it."""
    name = "my model (v1).zip" if packed else "my model (v1).bin"
    content = uploads.zip_of({"a.txt": b"", "b.txt": b""}) if packed else uploads.pickle(legacy=True)[:-1]
    (tmp_path / name).write_bytes(content)
    _, job = tested(submitted(context, ready(context, tiny), tmp_path / name))
    assert job.error["detail"].startswith(
        f"the folder {name} holds no weights" if packed else f"{name} is not a complete pickle"
    )
    assert "art_" not in job.error["detail"]


def test_a_pickle_of_no_weights_is_not_counted(context, tiny, tested, tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": 1}))
    found, job = tested(submitted(context, ready(context, tiny), tmp_path / "x.bin"))
    assert (job.state, job.error["code"]) == ("failed", "invalid-checkpoint")
    assert found.with_key is None
