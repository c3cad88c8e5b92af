"""What was read is planted in an innocent model, and taken out of the marked one."""

from dataclasses import replace

import pytest

from aiao_core.attacks.audit import audit
from aiao_core.attacks.catalogue import CATALOGUE
from aiao_core.attacks.inversion.methods import METHODS
from aiao_core.attacks.inversion.planting import plant
from aiao_core.attacks.inversion.reader import Reader
from aiao_core.attacks.thief import Thief
from aiao_core.audit_options import AuditOptions
from aiao_core.errors import AttackNotPossible
from aiao_core.protocol import CONTROL_LOG10_P, LIMIT_LOG10_P
from aiao_core.verification.verify import Subject, verify
from tests.support.tiny_models import make_tiny_examples, make_tiny_model


@pytest.fixture(scope="module")
def reading(old_marked):
    return METHODS["first-component"](Reader(replace(make_tiny_model(), denoiser=old_marked.denoiser)), 1000)


def log10_p(denoiser, old_marked) -> float:
    subject = Subject("suspect", "model")
    return verify(denoiser, old_marked.key, subject=subject, source=old_marked.source, registration="service").test.log10_p


@pytest.mark.slow
def test_a_mark_that_is_read_is_planted_in_an_innocent_model(old_marked, reading):
    innocent = make_tiny_model()
    forged = plant(innocent, reading, make_tiny_examples(), steps=130, learning_rate=5e-3, margin=1.5)
    assert log10_p(innocent.denoiser, old_marked) > -3
    assert log10_p(forged, old_marked) < CONTROL_LOG10_P


@pytest.mark.slow
def test_a_mark_that_is_read_is_taken_out(old_marked, reading):
    model = replace(make_tiny_model(), denoiser=old_marked.denoiser)
    removed = plant(model, reading, make_tiny_examples(), steps=100, learning_rate=5e-3, margin=1.5, direction=-1.0)
    assert log10_p(old_marked.denoiser, old_marked) < LIMIT_LOG10_P
    assert log10_p(removed, old_marked) > CONTROL_LOG10_P


def test_a_forgery_needs_a_model_to_plant_in(whisper_thief):
    with pytest.raises(AttackNotPossible, match="a model without the watermark"):
        CATALOGUE["read-and-forged"].attack(whisper_thief)


@pytest.fixture
def whisper_thief(marked):
    return Thief(replace(make_tiny_model(), denoiser=marked.denoiser), make_tiny_examples())


def test_in_an_audit_a_forged_model_that_does_not_match_is_a_watermark_that_withstands(marked):
    model = replace(make_tiny_model(), denoiser=marked.denoiser)
    planted = []

    def forging(thief):
        planted.append(thief.innocent.denoiser)
        return thief.copy().denoiser if len(planted) == 2 else make_tiny_model().denoiser

    trial = replace(CATALOGUE["read-and-forged"], attack=forging)
    trials = trial, replace(trial, id="a-copy")
    report = audit(model, marked.key, make_tiny_examples(), trials, options=AuditOptions(draws=4), source=marked.source)
    assert planted == [marked.source, marked.source]
    assert report.attacks[0].measured.verdict == "no-match"
    assert report.attacks[1].measured.verdict == "match"
    assert (report.summary.withstood, report.summary.ended_by) == (("read-and-forged",), ("a-copy",))
