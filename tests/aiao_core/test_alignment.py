import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import nn

from aiao_core.alignment import align, find_places, reference
from aiao_core.attacks.reparametrisation import reparametrisation
from aiao_core.attacks.thief import Thief
from aiao_core.checkpoints import DiffusionModel
from aiao_core.decoding import decode_decoys, make_draws, observe_baseline
from aiao_core.embedding import embed
from aiao_core.options import EmbeddingOptions, VerificationOptions
from aiao_core.selection import select_key
from aiao_core.statistics import randomised_p_value
from aiao_core.training import Examples, fine_tune
from aiao_core.verification import Subject, verify
from tests.aiao_core.conftest import QUICK

SUBJECT = Subject("suspect", "model")
OPTIONS = VerificationOptions(seed=4, draws=60, decoys=8)


def permuted(model: DiffusionModel, denoiser: nn.Module | None = None) -> nn.Module:
    """The same function with hidden channels of other places, signs and scales."""
    stolen = replace(model, denoiser=denoiser or model.denoiser)
    return reparametrisation(Thief(stolen, Examples(torch.zeros(0, 3, 8, 8), {})))


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


def test_the_alignment_needs_the_source_and_the_layers_alone_not_the_key_s_bits(tiny_model, tiny_key):
    suspect = permuted(tiny_model)
    other = replace(tiny_key, seed=bytes(32))
    ours = align(suspect, tiny_key, reference(tiny_model.denoiser, tiny_key))
    theirs = align(suspect, other, reference(tiny_model.denoiser, other))
    assert all(torch.equal(ours[name].place, theirs[name].place) for name in ours)
    assert sum(places.strayed for places in ours.values()) > 0


@pytest.mark.parametrize("tuned", [False, True], ids=["source", "fine-tuned source"])
def test_a_wrong_key_stays_exactly_binomial_on_an_unmarked_permuted_model(tiny_model, tiny_key, tiny_examples, tuned):
    """600 keys that nobody embedded, at the places that the alignment finds: uniform p-values, and none near a match."""
    source = reference(tiny_model.denoiser, tiny_key)
    suspect = replace(tiny_model, denoiser=permuted(tiny_model))
    if tuned:
        fine_tune(suspect, tiny_examples, steps=40, learning_rate=1e-3, batch_size=8)
    alignment = align(suspect.denoiser, tiny_key, source)
    assert sum(places.strayed for places in alignment.values()) > 0
    draws = make_draws(tiny_key, 4, torch.Generator().manual_seed(1))
    baseline = observe_baseline(suspect.denoiser, tiny_key, draws, 1, alignment)
    random = torch.Generator().manual_seed(0)
    p_values: dict[str, list[float]] = {"plain": [], "without_interference": []}
    for start in range(0, 600, 20):
        seeds = [number.to_bytes(32, "big") for number in range(start, start + 20)]
        for decoded in decode_decoys(suspect.denoiser, tiny_key, seeds, draws, baseline, alignment):
            for reading, of_reading in p_values.items():
                bits = torch.cat(list(getattr(decoded, reading).values()))
                toss = float(torch.rand((), generator=random))
                of_reading.append(randomised_p_value(int(bits.sum()), len(bits), toss))
    for of_reading in p_values.values():
        assert kstest(of_reading, "uniform").pvalue > 1e-3
        assert min(of_reading) > 1e-9


def test_a_permuted_watermarked_model_gives_its_bits_back_by_its_source_alone(emoji_model, emoji_examples):
    source = copy.deepcopy(emoji_model.denoiser)
    options = EmbeddingOptions(steps=60, batch_size=12)
    key = embed(emoji_model, bytes(range(32)), examples=emoji_examples, options=options).key
    known = reference(source, key)
    plain = verify(emoji_model.denoiser, key, options=OPTIONS, subject=SUBJECT)
    aligned = verify(emoji_model.denoiser, key, options=OPTIONS, subject=SUBJECT, source=known)
    assert (plain.verdict, plain.strayed_channels, aligned.strayed_channels) == ("match", None, 0)
    assert aligned.test == plain.test

    suspect = permuted(emoji_model)
    without = verify(suspect, key, options=OPTIONS, subject=SUBJECT)
    found = verify(suspect, key, options=OPTIONS, subject=SUBJECT, source=known)
    assert found.strayed_channels > 0
    assert found.test.matches > 0.95 * plain.test.matches
    assert without.test.log10_p > plain.test.log10_p / 2
    innocent = verify(permuted(emoji_model, source), key, options=OPTIONS, subject=SUBJECT, source=known)
    assert innocent.verdict == "no-match"


def test_another_model_gives_permutations_too(tiny_model, tiny_key):
    other = copy.deepcopy(tiny_model.denoiser)
    for parameter in other.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    for places in align(other, tiny_key, reference(tiny_model.denoiser, tiny_key)).values():
        assert sorted(places.place.tolist()) == list(range(len(places.place)))
