"""An audit of a watermarked model, every part of the service a process of its own."""

import os
import signal

import pytest

from aiao import JobCanceled, JobFailed
from aiao_core.formats.digests import sha256_file
from aiao_core.protocol import DRAWS
from aiao_core.reports.audit import AuditReport
from demo_models.emoji.data import DATA
from tests.support.processes import wait_for

CHEAP = ["quantisation-8", "weight-noise-40", "channel-permutation"]
"""Attacks that train nothing."""


def report_of(owner, audit_id) -> AuditReport:
    return AuditReport.from_json(owner.audits.report(audit_id))


@pytest.fixture(scope="module")
def audit(owner, registered):
    """An audit of three attacks with the owner's images."""
    start = owner.audits.create(registered.model.id, attacks=CHEAP, images=DATA, options={"seed": 7})
    owner.jobs.wait(start)
    return owner.audits.get(start.audit.id)


@pytest.mark.slow
def test_the_audit_says_what_the_watermark_withstands_and_what_ruins_the_model(owner, registered, audit, marked):
    report = report_of(owner, audit.id)
    quantised, noisy, permuted = (attack.measured for attack in report.attacks)
    assert report.summary.withstood == ("quantisation-8", "channel-permutation")
    assert report.summary.ruined == ("weight-noise-40",)
    assert audit.summary.model_dump() == report.model_dump(mode="json")["summary"]
    assert report.published.test.log10_p < -30
    assert quantised.test.log10_p < -30
    assert abs(quantised.quality_loss) < 0.05
    assert abs(permuted.quality_loss) < 0.001
    assert noisy.quality_loss > 0.2
    assert min(decoy.log10_p for part in (quantised, noisy, permuted) for decoy in part.decoys) > -6
    digests = {entry.role: entry.sha256 for entry in report.inputs}
    assert digests["watermarked"] == sha256_file(marked)
    assert digests["images"] == sha256_file(DATA)
    assert set(digests) == {"watermarked", "source", "images"}
    assert (report.data, report.commitment) == ("images", registered.model.commitment)
    assert report.attack_examples > 2 * report.held_out_examples


@pytest.mark.slow
def test_the_report_is_json_or_a_page_and_tells_no_secret(owner, registered, audit):
    text, page = owner.audits.report(audit.id), owner.audits.report_html(audit.id)
    assert page.startswith("<!doctype html>")
    assert "channel permutation" in page
    assert registered.secret_key not in text + page


def test_without_images_the_model_draws_its_own(owner, registered):
    start = owner.audits.create(registered.model.id, attacks=CHEAP[:1])
    stages = []
    owner.jobs.wait(start, progress=lambda job: stages.append(job.progress and job.progress.stage))
    report = report_of(owner, start.audit.id)
    assert (report.data, report.attack_examples + report.held_out_examples, report.draws) == ("own-samples", 32, DRAWS)
    assert report.summary.withstood == ("quantisation-8",)


def test_a_pipeline_is_no_image_set(owner, registered, source):
    start = owner.audits.create(registered.model.id, attacks=CHEAP[:1], images=source / "unet")
    with pytest.raises(JobFailed, match="the image set is empty"):
        owner.jobs.wait(start)
    assert owner.audits.get(start.audit.id).status == "failed"


def attack_under_way(owner, job_id: str, number: int) -> bool:
    progress = owner.jobs.get(job_id).progress
    return bool(progress and progress.stage.startswith(f"{number}/"))


@pytest.mark.slow
def test_a_killed_worker_tries_no_attack_twice(production, owner, registered):
    start = owner.audits.create(registered.model.id, attacks=["weight-clipping", "lora-4-100"], images=DATA)
    wait_for(lambda: attack_under_way(owner, start.job.id, 2), "the second attack does not begin", 180)
    os.killpg(production.processes["worker"].pid, signal.SIGKILL)
    production.processes["worker"].wait()
    production.start_worker()
    stages = []

    def note(job) -> None:
        if job.attempt == 2 and job.progress:
            stages.append(job.progress.stage)

    assert owner.jobs.wait(start, progress=note).attempt == 2
    assert stages
    assert not [stage for stage in stages[1:] if stage.startswith("1/")]  # the first is the killed attempt's last
    assert [attack.id for attack in report_of(owner, start.audit.id).attacks] == ["weight-clipping", "lora-4-100"]


def test_a_canceled_audit_stops(owner, registered):
    start = owner.audits.create(registered.model.id, attacks=["full-fine-tuning-800"], images=DATA)
    wait_for(lambda: attack_under_way(owner, start.job.id, 1), "the attack does not begin", 180)
    owner.jobs.cancel(start.job.id)
    with pytest.raises(JobCanceled):
        owner.jobs.wait(start)
    assert owner.audits.get(start.audit.id).status == "canceled"
