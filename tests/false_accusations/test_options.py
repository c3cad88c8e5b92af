"""Who may choose limit, seed or draws of a test repeats it until an innocent matches."""

import itertools
import shutil

import pytest

from aiao_core.options import VerificationOptions
from aiao_core.verification.verify import Subject, verify
from tests.support.tiny_models import make_tiny_model

LAX = [
    {"max_log10_p": -0.000001},
    {"max_log10_p": -9},
    {"draws": 1},
    {"draws": 99},
    {"draws": 1000},
    {"decoys": 0},
    {"decoys": 7},
    {"tau": 0.51},
    {"seed": 7},
]


def test_a_lax_limit_accuses_nobody(owner, tested):
    """With this limit random weights were a match in release 0.1.0, headline and all."""
    for seed in range(3):
        report = tested(make_tiny_model(seed + 1).denoiser, owner.key, max_log10_p=-1e-6)
        assert report.verdict == "exploratory"
        assert "laxer limit accuses innocents" in report.reason


@pytest.mark.parametrize("options", LAX, ids=str)
def test_even_the_marked_model_matches_by_the_rules_alone(owner, tested, options):
    report = tested(owner.marked.denoiser, owner.key, **options)
    assert report.verdict == "exploratory"
    assert report.reason == "; ".join(VerificationOptions(**options).departures())


def test_a_file_that_is_packed_again_is_tested_once(owner, tested, tmp_path):
    """The seed follows from the weights: neither a new name nor another archive is another throw of the dice."""
    archive = shutil.make_archive(str(tmp_path / "other name"), "zip", owner.folder / "source")
    suspects = [owner.source.denoiser, owner.folder / "source", tmp_path / "other name.zip"]
    assert archive == str(suspects[-1])
    reports = [tested(suspect, owner.key) for suspect in suspects]
    for first, second in itertools.pairwise(reports):
        assert (first.seed, first.test, first.decoys) == (second.seed, second.test, second.decoys)
        assert first.suspect_weights == second.suspect_weights


def test_no_report_claims_more_than_the_derivation_of_the_signs_can_bear(owner):
    """256 bits of seed make at most 2^256 rows of signs: 10^-400 is a score and cannot be a probability."""
    subject, source = Subject("marked", "model"), owner.source.denoiser
    report = verify(owner.marked.denoiser, owner.key, subject=subject, source=source, registration="service")
    assert report.test.log10_p < -38.6
    assert report.bound_log10_p == pytest.approx(-38.53, abs=0.01)
