"""Each rival finds its own watermark after a short embedding, and nothing where there is none."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.data.captions import encode_captions
from aiao_core.data.latents import encode_images, load_autoencoder
from aiao_core.formats.pipelines import load_model
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.inputs import own_samples
from benchmarks.rivals import RIVALS, Owner
from benchmarks.rivals.input_output import WatermarkDiffusionProcess, blended
from benchmarks.rivals.picture import THRESHOLD, draw_cells, find_picture, paint
from benchmarks.rivals.prompt_trigger import PromptTrigger
from benchmarks.rivals.rival import log10_p_value, secret_numbers
from benchmarks.rivals.trigger_residual import TriggerResidual, correlations, read_message
from benchmarks.rivals.uchida import Uchida
from demo_models.emoji.data import MODEL, THIEF_CATEGORY, load_images
from demo_models.emoji_text.parts import captions
from demo_models.emoji_text.train import HELD_OUT
from tests.support.places import PROJECT
from tests.support.tiny_models import make_tiny_model

TEXT_MODEL = PROJECT / "demo_models" / "emoji_text" / "unet"
IMAGES = load_images(without=["Flags", THIEF_CATEGORY])[:256]
NONE = -2
"""log10 p above which nothing is found: one unmarked suspect in a hundred is below it, and the seeds here are fixed."""


def owner_of_images(count=256):
    return Owner(MODEL, load_model(MODEL), Examples(IMAGES[:count], {}))


def owner_of_captions(count=256):
    model, texts = load_model(TEXT_MODEL), captions(without=HELD_OUT)[:count]
    latents = encode_images(load_autoencoder(TEXT_MODEL), load_images(size=32, without=HELD_OUT)[:count])
    return Owner(TEXT_MODEL, model, Examples(latents, encode_captions(TEXT_MODEL, model, texts)), texts)


def tiny_owner():
    model = make_tiny_model()
    return Owner(MODEL, model, Examples(load_images(size=8)[:64], {}))


CASES = [
    pytest.param(owner_of_images, WatermarkDiffusionProcess(draws=8), 45, id="WDM"),
    pytest.param(owner_of_captions, PromptTrigger(draws=8), 40, id="prompt trigger"),
    pytest.param(owner_of_captions, TriggerResidual(strength=12, draws=16), 40, id="trigger residual"),
    pytest.param(owner_of_images, Uchida(), 20, id="Uchida"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("owner_of", "rival", "steps"), CASES)
def test_a_short_embedding_is_found_and_only_where_it_is(owner_of, rival, steps):
    owner = owner_of()
    source = copy.deepcopy(owner.model)
    reports = []
    secret = rival.embed(owner, seed=1, steps=steps, progress=reports.append)
    assert [report.step for report in reports] == list(range(1, steps + 1))
    assert not any(parameter.requires_grad for parameter in owner.model.denoiser.parameters())

    marked, unmarked = rival.detect(owner.model, secret, seed=1), rival.detect(source, secret, seed=1)
    if isinstance(rival, TriggerResidual):  # of all rivals the slowest to learn: a few per cent of the bits, and no proof yet
        assert marked.rate > unmarked.rate + 0.03
    else:
        assert marked.log10_p < -4
    assert unmarked.log10_p > NONE
    assert rival.detect(owner.model, rival.draw_secret(owner, 2), seed=1).log10_p > NONE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner_of", "rival"),
    [
        pytest.param(owner_of_images, WatermarkDiffusionProcess(draws=1), id="WDM"),
        pytest.param(owner_of_captions, PromptTrigger(draws=1), id="prompt trigger"),
        pytest.param(owner_of_captions, TriggerResidual(draws=1), id="trigger residual"),
        pytest.param(owner_of_images, Uchida(), id="Uchida"),
    ],
)
def test_two_steps_change_the_model_and_it_can_be_tested(owner_of, rival):
    owner = owner_of(16)
    source = copy.deepcopy(owner.model)
    reports = []
    secret = rival.embed(owner, seed=1, steps=2, progress=reports.append)
    assert [report.step for report in reports] == [1, 2]
    assert not any(parameter.requires_grad for parameter in owner.model.denoiser.parameters())
    pairs = zip(owner.model.denoiser.parameters(), source.denoiser.parameters(), strict=True)
    assert not all(torch.equal(marked, unmarked) for marked, unmarked in pairs)
    found = rival.detect(owner.model, secret, seed=1)
    assert 0 <= found.rate <= 1
    assert NONE < found.log10_p <= 0


@pytest.mark.long
@pytest.mark.parametrize(("owner_of", "rival", "_steps"), CASES)
def test_the_same_seed_gives_the_same_secret_and_another_seed_another(owner_of, rival, _steps):
    owner = owner_of()
    first, again, other = (tensors_of(rival.draw_secret(owner, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first.keys() - {"plain", "empty"})


def tensors_of(secret):
    values = {name: next(iter(value.values())) if isinstance(value, dict) else value for name, value in vars(secret).items()}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=7), st.floats(0, 1))
def test_whatever_a_suspect_decodes_to_the_p_value_is_valid(decoded, level):
    everything = [torch.tensor(signs) for signs in itertools.product([-1.0, 1.0], repeat=len(decoded))]
    p_values = [10 ** log10_p_value(torch.tensor(decoded), signs) for signs in everything]
    assert sum(p <= level for p in p_values) / len(p_values) <= level + 1e-9


def test_the_samples_of_an_unmarked_model_hold_no_secret_picture():
    owner = owner_of_images()
    rival = WatermarkDiffusionProcess()
    plain = own_samples(owner.model, {}, count=8, seed=0, steps=10)
    with blended(owner.model.denoiser, rival.draw_secret(owner, 0).trigger):
        triggered = own_samples(owner.model, {}, count=8, seed=0, steps=10)
    assert torch.equal(own_samples(owner.model, {}, count=8, seed=0, steps=10), plain)  # the trigger is gone again
    assert not torch.equal(triggered, plain)
    found = [find_picture(draw_cells(secret_numbers(seed)), triggered, plain) for seed in range(500)]
    assert max(detection.rate for detection in found) == 0
    assert sum(detection.log10_p < NONE for detection in found) <= 12


def test_an_unmarked_model_holds_no_secret_bits():
    owner = tiny_owner()
    found = [Uchida().detect(owner.model, Uchida().draw_secret(owner, seed)).log10_p for seed in range(200)]
    assert sum(log10_p < NONE for log10_p in found) <= 7


def test_the_picture_is_found_under_noise_below_the_threshold_and_not_above():
    cells = draw_cells(secret_numbers(0))
    picture = paint(cells, 3, 16)
    noise = torch.randn((4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    plain = torch.ones(4, 3, 16, 16)
    seen, hidden = (find_picture(cells, picture + noise * power**0.5, plain) for power in (0.9 * THRESHOLD, 1.1 * THRESHOLD))
    assert (seen.rate, hidden.rate) == (1, 0)
    assert seen.log10_p == pytest.approx(-64 * math.log10(2))


def test_the_patterns_are_orthonormal_and_the_residual_spells_the_message():
    owner = owner_of_captions()
    secret = TriggerResidual().draw_secret(owner, 3)
    torch.testing.assert_close(correlations(secret.patterns, secret.patterns), torch.eye(len(secret.signs)))
    assert torch.equal(correlations(secret.residual[None], secret.patterns)[0].sign(), secret.signs)
    clean = owner.examples.clean[:64]
    marked, unmarked = read_message(secret, clean + secret.residual, clean), read_message(secret, clean, clean.roll(1, 0))
    assert marked.rate > 0.95
    assert marked.log10_p == pytest.approx(-48 * math.log10(2))
    assert unmarked.rate < 0.6
    assert unmarked.log10_p > NONE


def test_every_kind_of_model_has_rivals_and_their_names_differ():
    for rivals in RIVALS.values():
        assert len({rival.name for rival in rivals}) == len(rivals) > 1
