from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aiao_core import key as key_module
from aiao_core.attacks.reparametrization import reparametrization
from aiao_core.attacks.thief import Thief
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.method.key_selection import select_key
from aiao_core.reports.parts import best_of
from aiao_core.reports.verification import Report
from aiao_core.verification.alignment import align, find_places, reference
from aiao_core.verification.old_keys import measure_shout
from aiao_core.verification.verify import Subject, verify
from tests.support.tiny_models import QUICK
from tests.support.wrong_keys import MANY, check_coin_tosses, read

SUBJECT = Subject("suspect", "model")


def permuted(model: DiffusionModel, denoiser: nn.Module | None = None) -> nn.Module:
    """The same function with hidden channels of other places, signs and scales."""
    stolen = replace(model, denoiser=denoiser or model.denoiser)
    return reparametrization(Thief(stolen, Examples(torch.zeros(0, 3, 8, 8), {})))


@pytest.fixture
def tiny_key(tiny_model, tiny_examples):
    """Of every layer, the hidden ones of the blocks among them."""
    options = QUICK.model_copy(update={"layers": 100, "lazy_fraction": 1.0})
    key = select_key(tiny_model, bytes(range(32)), tiny_examples, options)
    assert any(name.endswith("conv1") for name in (layer.name for layer in key.layers))
    return key


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(0, 1))
def test_moved_and_flipped_channels_are_found_again(seed, channels, noise):
    random = torch.Generator().manual_seed(seed)
    source = standardised(torch.randn(channels, 2048, generator=random))
    order = torch.randperm(channels, generator=random)
    sign = torch.randint(2, (channels,), generator=random).float() * 2 - 1
    suspect = torch.empty_like(source)
    suspect[order] = sign[:, None] * source + noise * torch.randn(source.shape, generator=random)
    places = find_places(source, standardised(suspect))
    assert torch.equal(places.place, order)
    assert torch.equal(places.sign, sign)
    assert sorted(places.place.tolist()) == list(range(channels))


def test_channels_of_the_same_model_stay_and_dead_ones_do_no_harm():
    source = standardised(torch.randn(6, 512, generator=torch.Generator().manual_seed(0)))
    source[3] = 0
    places = find_places(source, source)
    assert places.strayed == 0


def standardised(values):
    centred = values - values.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt()


def test_the_response_signs_have_no_say_in_the_places(tiny_model, tiny_key, monkeypatch):
    """The exact test rests on it: with every response sign turned round, every channel is found in the same place."""
    suspect = permuted(tiny_model)
    ours = align(suspect, tiny_key, 3, reference(tiny_model.denoiser, tiny_key, 3))
    derive = key_module.bound_bits
    monkeypatch.setattr(key_module, "bound_bits", lambda *of: ~derive(*of))
    turned = align(suspect, tiny_key, 3, reference(tiny_model.denoiser, tiny_key, 3))
    assert all(torch.equal(ours[name].place, turned[name].place) for name in ours)
    assert all(torch.equal(ours[name].sign, turned[name].sign) for name in ours)
    assert sum(places.strayed for places in ours.values()) > 0


def test_the_inputs_follow_from_the_seed_and_nobody_foresees_them_without_the_key(tiny_model, tiny_key):
    """In release 0.1.0 they were the same for every test, so that a suspect could be trained to be missed."""
    first, again, other = (reference(tiny_model.denoiser, tiny_key, seed) for seed in (1, 1, 2))
    foreign = reference(tiny_model.denoiser, replace(tiny_key, seed=bytes(32)), 1)
    for name in first:
        assert all(map(torch.equal, first[name], again[name]))
        for another in (other, foreign):
            assert not any(map(torch.equal, first[name], another[name]))


def test_every_seed_finds_the_places_of_a_permuted_source(tiny_model, tiny_key):
    """Whatever the inputs are: the channels are where the permutation has put them, but for a few that are alike."""
    suspect = permuted(tiny_model)
    found = [align(suspect, tiny_key, seed, reference(tiny_model.denoiser, tiny_key, seed)) for seed in range(4)]
    names = [layer.name for layer in tiny_key.layers if layer.name.endswith("conv1")]
    assert min(found[0][name].strayed for name in names) > 0
    same = [(places[name].place == found[0][name].place).float().mean() for places in found for name in names]
    assert torch.stack(same).mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("tuned", [False, True], ids=["source", "fine-tuned source"])
def test_a_wrong_key_stays_exactly_binomial_on_an_unmarked_permuted_model(tiny_model, tiny_key, tiny_examples, tuned):
    """Many keys of version 2 that nobody embedded, at the places that the alignment finds and at their own."""
    suspect, key = replace(tiny_model, denoiser=permuted(tiny_model)), replace(tiny_key, version=2, binding=None)
    if tuned:
        fine_tune(suspect, tiny_examples, steps=40, learning_rate=1e-3, batch_size=8)
    found = measure_shout(suspect.denoiser, key, 1, draws=4, source=reference(tiny_model.denoiser, key, 1))
    assert found.strayed > 0
    readings = list(read(found, [number.to_bytes(32, "big") for number in range(MANY)]))
    check_coin_tosses(readings, ways=8, limits=(0.3, 0.1, 0.03))


@pytest.mark.slow
@pytest.mark.xdist_group("emoji")
def test_a_permuted_watermarked_model_gives_its_bits_back_by_its_source_alone(emoji_model, emoji_marked):
    source, (marked, key) = emoji_model.denoiser, emoji_marked

    def tested(suspect: nn.Module) -> Report:
        return verify(suspect, key, subject=SUBJECT, source=source, registration="service")

    beside = tested(marked.denoiser)
    assert (beside.verdict, beside.strayed_channels, beside.test.best_of) == ("match", 0, 4)

    suspect = permuted(marked)
    found = tested(suspect)
    assert found.strayed_channels > 0
    assert (found.verdict, found.test.best_of) == ("match", 4)
    assert found.test.matches > 0.95 * beside.test.matches
    unaligned = best_of([way for way in found.ways if not way.aligned])
    assert unaligned.log10_p > found.test.log10_p / 2
