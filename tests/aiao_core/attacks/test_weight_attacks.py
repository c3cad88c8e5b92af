import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aiao_core.attacks.layers import key_layers, weighted_layers
from aiao_core.attacks.weights import (
    re_initialization,
    weight_averaging,
    weight_clipping,
    weight_noise,
    weight_quantization,
    weight_shifting,
)
from aiao_core.errors import AttackNotPossible
from tests.support.families import make
from tests.support.thieves import equal, make_thief

shares = st.floats(0, 1)


@pytest.mark.long
@settings(max_examples=10)
@given(shares)
def test_averaging_is_linear(share):
    thief = make_thief()
    other = make("unconditional", seed=5).denoiser
    averaged = weight_averaging(thief, other=other, share=share)
    for mine, first, second in zip(averaged.parameters(), thief.model.denoiser.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, (1 - share) * first + share * second)


def test_averaging_refuses_another_architecture():
    with pytest.raises(AttackNotPossible, match="same architecture"):
        weight_averaging(make_thief(), other=make("class-conditional").denoiser, share=0.5)


@pytest.mark.parametrize("strength", [0.05, 0.4])
def test_noise_is_relative_to_each_tensor(strength):
    thief = make_thief()
    for noisy, stolen in zip(
        weight_noise(thief, strength=strength).parameters(), thief.model.denoiser.parameters(), strict=True
    ):
        if stolen.numel() > 500:
            assert float((noisy - stolen).std() / stolen.std()) == pytest.approx(strength, rel=0.15)


@settings(max_examples=10)
@given(st.floats(0.1, 4))
def test_clipping_bounds_every_weight_and_leaves_the_others(deviations):
    thief = make_thief()
    clipped = weight_clipping(thief, deviations=deviations)
    for layer, stolen in zip(weighted_layers(clipped), weighted_layers(thief.model.denoiser), strict=True):
        bound = deviations * stolen.weight.square().mean().sqrt()
        assert layer.weight.abs().max() <= bound * (1 + 1e-6)
        inside = stolen.weight.abs() < bound * (1 - 1e-6)
        assert torch.equal(layer.weight[inside], stolen.weight[inside])


def test_shifting_by_the_mean_leaves_filters_of_mean_zero():
    for layer in weighted_layers(weight_shifting(make_thief(), strength=1.0)):
        assert layer.weight.mean(0).abs().max() < 1e-6


def test_re_initialisation_changes_as_many_layers_as_asked():
    thief = make_thief()
    state, stolen = re_initialization(thief, layers=3).state_dict(), thief.model.denoiser.state_dict()
    changed = {name.rpartition(".")[0] for name in state if not torch.equal(state[name], stolen[name])}
    assert len(changed) == 3
    assert changed <= {layer.name for layer in key_layers(thief)}


def test_re_initialisation_refuses_more_layers_than_there_are():
    with pytest.raises(AttackNotPossible, match="1000 layers"):
        re_initialization(make_thief(), layers=1000)


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
@pytest.mark.parametrize("family", ["unconditional", "SD3"])
def test_quantisation_has_at_most_two_to_the_bits_levels_for_each_channel(bits, family):
    thief = make_thief(family)
    quantised = weight_quantization(thief, bits=bits)
    for layer, stolen in zip(weighted_layers(quantised), weighted_layers(thief.model.denoiser), strict=True):
        step = stolen.weight.flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)
        assert all(len(channel.unique()) < 2**bits for channel in layer.weight)
        assert ((layer.weight - stolen.weight).flatten(1).abs().amax(1) <= step * 0.501).all()
    assert equal(weight_quantization(make_thief(family), bits=bits).state_dict(), quantised.state_dict())
