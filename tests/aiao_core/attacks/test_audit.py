from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.attacks.audit import DECOYS, LOSS_INPUTS, AuditSubject, Judge, audit, split
from aiao_core.attacks.catalogue import CATALOGUE, PRESETS, Trial
from aiao_core.attacks.thief import Thief
from aiao_core.audit_options import ATTACKS, AuditOptions, Preset
from aiao_core.errors import AttackNotPossible, Canceled, InvalidImages
from aiao_core.method.fine_tuning import Examples
from aiao_core.progress import Progress
from aiao_core.reports.audit import AuditInput, AuditReport
from aiao_core.reports.parts import best_of
from aiao_core.verification.measurement import know_source, measure
from tests.support.tiny_models import fine_tuned

FEW = AuditOptions(draws=6, seed=3)


def trial(attack, name: str = "mine") -> Trial:
    return Trial(name, f"the attack {name}", "tests", attack)


def scaled(factor: float):
    """An attack that multiplies every weight."""

    def attack(thief):
        copied = thief.copy().denoiser
        for parameter in copied.parameters():
            parameter.data *= factor
        return copied

    return attack


unchanged = trial(scaled(1), "nothing")


def tried(model, key, examples, *trials: Trial, **more) -> AuditReport:
    return audit(model, key, examples, trials, options=FEW, **more)


def test_the_ids_that_the_service_accepts_are_those_of_the_catalogue():
    assert tuple(CATALOGUE) == ATTACKS
    assert tuple(PRESETS) == get_args(Preset)


def test_a_model_that_nothing_was_done_to_is_as_good_as_published(tiny_model, tiny_key, tiny_examples):
    report = tried(tiny_model, tiny_key, tiny_examples, unchanged)
    assert report.attacks[0].measured == report.published
    assert report.published.quality_loss == 0
    assert 0 < report.published.test.bits <= tiny_key.bits
    assert report.published.test.best_of == 1
    assert len(report.published.decoys) == DECOYS
    assert report.draws == 6
    assert report.published.vs_rate.draws == 6 * len(tiny_key.trigger_layers)
    # Nobody has embedded this key, so it is no match, and the model is as useful as before.
    assert report.summary.ended_by == ("nothing",)
    assert AuditReport.from_json(report.to_json()) == report


def test_an_attack_that_ruins_the_model_does_not_count_as_the_end_of_the_watermark(tiny_model, tiny_key, tiny_examples):
    report = tried(tiny_model, tiny_key, tiny_examples, trial(scaled(2), "doubled"))
    assert report.attacks[0].measured.quality_loss > report.max_quality_loss
    assert (report.summary.ruined, report.summary.ended_by) == (("doubled",), ())


def impossible(thief):
    raise AttackNotPossible("this denoiser has no attention")


@pytest.mark.parametrize(
    ("attack", "reason"),
    [(impossible, "has no attention"), (scaled(float("nan")), "predicts NaN"), (scaled(1e30), "NaN or infinite")],
)
def test_an_attack_that_leaves_no_model_is_a_row_that_says_why(tiny_model, tiny_key, tiny_examples, attack, reason):
    report = tried(tiny_model, tiny_key, tiny_examples, trial(attack), unchanged)
    assert reason in report.attacks[0].reason
    assert report.attacks[0].measured is None
    assert report.summary.no_model == ("mine",)
    assert report.attacks[1].measured is not None


def test_the_published_model_stays_as_it_is(tiny_model, tiny_key, tiny_examples):
    before = {name: value.clone() for name, value in tiny_model.denoiser.state_dict().items()}
    tried(tiny_model, tiny_key, tiny_examples, trial(scaled(3)), CATALOGUE["quantisation-4"], CATALOGUE["weight-noise-10"])
    after = tiny_model.denoiser.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report(tiny_model, tiny_key, tiny_examples):
    trials = CATALOGUE["weight-noise-20"], CATALOGUE["re-initialisation-1"]
    first, second = (tried(tiny_model, tiny_key, tiny_examples, *trials) for _ in range(2))
    assert [attack.measured for attack in first.attacks] == [attack.measured for attack in second.attacks]
    other = audit(tiny_model, tiny_key, tiny_examples, trials, options=FEW.model_copy(update={"seed": 4}))
    assert [attack.measured for attack in other.attacks] != [attack.measured for attack in first.attacks]


def test_permuted_channels_are_found_again_with_the_source(tiny_model, tiny_key, tiny_examples):
    attack, source = CATALOGUE["channel-permutation"], tiny_model.denoiser
    published = replace(tiny_model, denoiser=fine_tuned(tiny_model))
    report = tried(published, tiny_key, tiny_examples, attack, source=source)
    assert abs(report.attacks[0].measured.quality_loss) < 1e-3
    permuted = attack.attack(Thief(published, tiny_examples, FEW.seed))
    known = know_source(source, tiny_key, FEW.seed, draws=FEW.draws)
    before, after = (
        measure(each, tiny_key, FEW.seed, draws=FEW.draws, source=known) for each in (published.denoiser, permuted)
    )
    assert report.published.test == best_of(before.readings())
    assert report.attacks[0].measured.test == best_of(after.readings())
    differing = []
    for first, second in zip(before.readings(), after.readings(), strict=True):
        if second.aligned:  # a channel or two that look like another are mistaken for it, and what is left of no mark is small
            few = 0.03 if second.without_interference else 0.01
            assert abs(first.test.matches - second.test.matches) <= few * first.test.bits
        differing.append(first.test != second.test)
    assert any(differing[:2])
    without = tried(published, tiny_key, tiny_examples, attack)
    assert without.attacks[0].measured.test.best_of == 1


def test_an_interrupted_audit_goes_on_after_the_results_that_were_kept(tiny_model, tiny_key, tiny_examples):
    runs, kept = [], []

    def counted(thief):
        runs.append(1)
        return scaled(1)(thief)

    def stopping(thief):
        if len(runs) < 2:
            thief.progress(Progress("fine-tuning", 1, 2))
        return scaled(1)(thief)

    def stop(at: Progress) -> None:
        if at.stage == "2/2 second: fine-tuning":
            raise Canceled("stopped")

    trials = trial(counted, "first"), trial(stopping, "second")
    with pytest.raises(Canceled):
        tried(tiny_model, tiny_key, tiny_examples, *trials, keep=kept.append, progress=stop)
    assert [result.id for result in kept] == ["first"]
    report = tried(tiny_model, tiny_key, tiny_examples, *trials, finished=tuple(kept), keep=kept.append)
    assert runs == [1]
    assert report.attacks == tuple(kept)
    assert [attack.id for attack in report.attacks] == ["first", "second"]


def test_an_error_of_the_program_is_no_result(tiny_model, tiny_key, tiny_examples):
    with pytest.raises(ZeroDivisionError):
        tried(tiny_model, tiny_key, tiny_examples, trial(lambda thief: 1 / 0))


def test_an_attack_sees_no_held_out_image_and_the_report_says_how_many_there_are(tiny_model, tiny_key, tiny_examples):
    seen = []

    def watching(thief):
        seen.append(thief.examples.clean)
        return scaled(1)(thief)

    images = AuditInput(role="images", name="mine.zip", sha256="0" * 64)
    report = tried(tiny_model, tiny_key, tiny_examples, trial(watching), subject=AuditSubject("emoji", (images,)))
    _, held_out = split(tiny_examples, FEW.seed)
    assert (report.attack_examples, report.held_out_examples) == (len(seen[0]), len(held_out)) == (48, 16)
    assert (report.data, report.model_name) == ("images", "emoji")
    assert tried(tiny_model, tiny_key, tiny_examples, unchanged).data == "own-samples"


@given(st.integers(2, 200), st.integers(0, 2**32 - 1))
def test_the_data_are_split_into_two_parts_without_loss(count, seed):
    examples = Examples(torch.arange(count).view(-1, 1, 1, 1), {"label": torch.arange(count)})
    attack, held_out = split(examples, seed)
    assert sorted([*attack.clean.flatten().tolist(), *held_out.clean.flatten().tolist()]) == list(range(count))
    assert len(attack) > 0
    assert 0 < len(held_out) <= count / 4 + 1
    assert torch.equal(attack.conditions["label"], attack.clean.flatten())


def test_one_image_is_too_few(tiny_model, tiny_key, tiny_examples):
    with pytest.raises(InvalidImages, match="at least two"):
        tried(tiny_model, tiny_key, tiny_examples[:1], unchanged)


def test_the_loss_is_the_mean_squared_error_of_the_prediction(tiny_model, tiny_key, tiny_examples):
    judge = Judge(tiny_model, tiny_key, tiny_examples, FEW, None)

    tiny_model.denoiser.conv_out.weight.data.zero_()
    tiny_model.denoiser.conv_out.bias.data.fill_(0.5)  # it predicts 0.5 whatever it sees
    assert len(judge.target) == LOSS_INPUTS
    assert judge.loss(tiny_model.denoiser) == pytest.approx(float((judge.target - 0.5).square().mean()), rel=1e-5)
