import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aiao_core.denoisers import family_of
from aiao_core.derivation import choose_layers
from aiao_core.errors import EmbeddingFailed, InvalidKey, TracingError
from aiao_core.key import Layer, OwnerKey
from aiao_core.method.fine_tuning import randomly_conditioned
from aiao_core.method.inputs import plain_noise
from aiao_core.method.key_check import CheckedKey, check_key, sets_as_near
from aiao_core.method.key_selection import select_key
from aiao_core.method.lazy import probe
from aiao_core.method.subpaths import SPAN, all_subpaths
from aiao_core.method.tracing import eligible_layers, positional_layers
from aiao_core.options import EmbeddingOptions
from tests.support.families import CONFIGURATIONS, make
from tests.support.tiny_models import QUICK, make_tiny_model

SEED = bytes(range(32))
every_family = pytest.mark.parametrize("family", CONFIGURATIONS)


def examples_of(model, count: int = 4):
    channels, height, width = family_of(model.denoiser).shape(model.architecture.config)
    clean = torch.randn(count, channels, min(height, 16), min(width, 16), generator=torch.Generator().manual_seed(0))
    return randomly_conditioned(model.denoiser, clean)


def order_of(model) -> list[str]:
    inputs = plain_noise(model.architecture, model.schedule.num_train_timesteps, 2, torch.Generator().manual_seed(5))
    return [layer.name for layer in eligible_layers(model.denoiser, inputs)]


def honest(model, seed: bytes = SEED, **options) -> OwnerKey:
    """A key as the embedding of a model makes it, of many or of few layers."""
    key = select_key(model, seed, examples_of(model), QUICK.model_copy(update=options))
    return replace(key, version=2, binding=None)


@given(st.data())
def test_the_sets_as_near_are_those_that_a_count_finds(data):
    candidates = data.draw(st.integers(1, 9))
    size = data.draw(st.integers(1, candidates))
    different = data.draw(st.integers(0, size))
    first = set(range(size))
    as_near = [each for each in itertools.combinations(range(candidates), size) if len(set(each) - first) <= different]
    assert sets_as_near(candidates, size, different) == len(as_near)


@given(st.integers(1, 300), st.data())
def test_every_set_is_as_near_as_the_farthest_and_one_as_near_as_the_first_choice(candidates, data):
    size = data.draw(st.integers(1, candidates))
    assert sets_as_near(candidates, size, 0) == 1
    assert sets_as_near(candidates, size, size) == math.comb(candidates, size)


@every_family
@pytest.mark.parametrize("layers", [10, 1000])
def test_an_honest_key_has_nothing_to_pay_for_and_is_read_on_all_subpaths(family, layers):
    model = make(family)
    order = order_of(model)
    key = of_layers(model, choose_layers(SEED, order, layers))
    checked = check_key(key, model.denoiser)
    assert checked.log10_choices == 0
    assert checked.key == replace(key, subpaths=checked.key.subpaths)
    # The subpaths follow from the layers' places alone, and those of the key have no say.
    spanning = spanning_positions(model, key)
    assert set(checked.key.subpaths) == spanning
    assert len(checked.key.subpaths) == len(spanning)


def of_layers(model, names: list[str]) -> OwnerKey:
    """A key of these layers, in the order in which they run, and one subpath."""
    layers = tuple(layer for layer, _ in positional_layers(model.denoiser, traced(model)) if layer.name in names)
    return OwnerKey(SEED, model.architecture, 1000, layers, all_subpaths(len(layers))[-1:], version=2)


def traced(model):
    return plain_noise(model.architecture, 1000, 2, torch.Generator().manual_seed(0))


def spanning_positions(model, key) -> set[tuple[int, int]]:
    """Pairs of the key's layers with enough of all layers at positions between them, but the first and the last."""
    within = [layer.name for layer, _ in positional_layers(model.denoiser, traced(model))][1:-1]
    places = [within.index(layer.name) for layer in key.layers]
    return {
        (i, j)
        for i, j in all_subpaths(len(places))
        if places[j] - places[i] >= SPAN * len(within) and key.trigger_mask(i).any()
    }


@every_family
def test_a_key_that_the_embedding_chose_among_all_layers_has_nothing_to_pay_for(family):
    model = make(family)
    key = honest(model, layers=48)
    checked = check_key(key, model.denoiser)
    assert checked.log10_choices == 0
    # The embedding counts the layers that depend on the noise, the test all that stand at positions: of what is left out the
    # watermark loses little.
    unread = set(key.subpaths) - set(checked.key.subpaths)
    assert len(unread) < 0.2 * len(key.subpaths)
    assert unread.isdisjoint(spanning_positions(model, key))


@pytest.mark.parametrize("family", ["unconditional", "SD", "SD3", "FLUX"])
def test_a_search_for_lazy_layers_is_charged(family):
    model = make(family)
    key = honest(model, layers=1000, lazy_fraction=0.5)
    order = order_of(model)
    names = [layer.name for layer in key.layers]
    different = len(set(names) - set(choose_layers(SEED, order, len(names))))
    positional = len(positional_layers(model.denoiser, traced(model))) - 2
    charged = check_key(key, model.denoiser).log10_choices
    assert charged == pytest.approx(math.log10(sets_as_near(positional, len(names), different)))
    assert 0 < charged <= math.log10(math.comb(positional, len(names)))


@settings(max_examples=15)
@given(st.data())
def test_what_was_picked_is_paid_for_by_how_far_it_is_from_the_first_choice(data):
    """By the union bound: as many sets as are no farther from the seed's first choice than the one that was picked."""
    order = ORDER
    size = data.draw(st.integers(12, len(order)))
    first = choose_layers(SEED, order, size)
    left_out = [name for name in order if name not in first]
    swaps = data.draw(st.integers(0, min(len(left_out), 6)))
    dropped = data.draw(st.permutations(first))[:swaps]
    picked = {*first} - {*dropped} | {*data.draw(st.permutations(left_out))[:swaps]}
    layers = tuple(layer for layer in LAYERS if layer.name in picked)
    key = OwnerKey(SEED, TINY.architecture, 1000, layers, all_subpaths(size), version=2)
    charged = check_key(key, TINY.denoiser).log10_choices
    assert charged == (math.log10(sets_as_near(len(order), size, swaps)) if swaps else 0)


TINY = make_tiny_model()
LAYERS = tuple(eligible_layers(TINY.denoiser, traced(TINY)))
ORDER = [layer.name for layer in LAYERS]


@pytest.mark.long
@pytest.mark.parametrize(
    "family",
    [
        family if family in ("unconditional", "FLUX") else pytest.param(family, marks=pytest.mark.slow)
        for family in CONFIGURATIONS
    ],
)
def test_no_dead_layer_makes_an_honest_key_refused(family):
    """A thief can set a layer of a stolen model to zero; the owner's key is then no other key."""
    model = make(family)
    everything = of_layers(model, order_of(model))
    few = of_layers(model, order_of(model)[1::2])
    expected = [(key, check_key(key, model.denoiser).key) for key in (everything, few)]
    layers = [name for name, module in model.denoiser.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for name in layers:
        dead = copy.deepcopy(model.denoiser)
        for parameter in dead.get_submodule(name).parameters():
            parameter.zero_()
        for key, checked in expected:
            assert check_key(key, dead).key == checked, name


@every_family
def test_an_honest_key_fits_every_fine_tune(family):
    model = make(family)
    key = of_layers(model, choose_layers(SEED, order_of(model), 24))
    before = check_key(key, model.denoiser)
    tuned = probe(model, examples_of(model, 8), steps=3, learning_rate=1e-2)
    assert check_key(key, tuned) == before


@pytest.mark.long
@pytest.mark.parametrize("layers", [16, 24, 39])
@pytest.mark.parametrize("seed", range(5))
def test_every_honest_key_of_the_tiny_model_fits_it_and_its_fine_tunes(tiny_model, tiny_examples, layers, seed):
    options = EmbeddingOptions(layers=layers)
    try:
        bound = select_key(tiny_model, bytes([seed]) * 32, tiny_examples, options)
    except EmbeddingFailed:  # too few bits for a key at all
        return
    key = replace(bound, version=2, binding=None)
    tuned = probe(tiny_model, tiny_examples, steps=3, learning_rate=1e-2)
    for denoiser in (tiny_model.denoiser, tuned):
        checked = check_key(key, denoiser)
        assert checked.log10_choices == 0
        assert set(key.subpaths) <= set(checked.key.subpaths)
        assert check_key(bound, denoiser) == CheckedKey(bound, 0)


@every_family
@pytest.mark.parametrize("lazy_fraction", [0.5, 1])
def test_a_bound_key_is_read_as_it_is_and_pays_for_nothing(family, lazy_fraction):
    """Its signs follow from its layers and subpaths: a claimant who picks others has other signs."""
    model = make(family)
    key = select_key(model, SEED, examples_of(model), QUICK.model_copy(update={"layers": 1000, "lazy_fraction": lazy_fraction}))
    assert check_key(key, model.denoiser) == CheckedKey(key, 0)


def test_a_checked_key_is_the_same_but_for_its_subpaths_however_few_the_file_lists(tiny_model, old_key):
    one = replace(old_key, subpaths=old_key.subpaths[:1])
    assert check_key(one, tiny_model.denoiser) == check_key(old_key, tiny_model.denoiser)


def key_of(names: list[str], subpaths, channels: int | None = None) -> OwnerKey:
    layers = {layer.name: layer for layer in LAYERS}
    found = tuple(layers.get(name, Layer(name=name, channels=channels or 8)) for name in names)
    return OwnerKey(SEED, TINY.architecture, 1000, found, tuple(subpaths), version=2)


@pytest.mark.parametrize(
    ("names", "subpaths", "reason"),
    [
        ([*ORDER[:3], ORDER[2], *ORDER[3:]], [(0, 30)], "once each, in the order"),
        ([ORDER[5], ORDER[4], *ORDER[6:]], [(0, 20)], "once each, in the order"),
        (ORDER, [(0, 30), (0, 30)], "lists a subpath twice"),
        (ORDER[4:7], [(0, 1)], "too near to each other"),
        (["conv_in", *ORDER], [(0, 30)], "layer conv_in of the key cannot carry a watermark"),
        ([*ORDER, "conv_out"], [(0, 30)], "layer conv_out of the key cannot carry a watermark"),
    ],
)
def test_a_key_that_no_embedding_makes_is_refused(names, subpaths, reason):
    ends = {"conv_in": TINY.denoiser.conv_in.out_channels, "conv_out": TINY.denoiser.conv_out.out_channels}
    key = key_of(names, subpaths, next((ends[name] for name in names if name in ends), None))
    with pytest.raises(InvalidKey, match=reason):
        check_key(key, TINY.denoiser)


def test_a_key_of_another_model_is_refused_by_the_layer(tiny_model):
    with pytest.raises(TracingError, match=r"no\.such\.layer"):
        check_key(key_of(["no.such.layer", *ORDER], [(0, 30)]), tiny_model.denoiser)
    wider = replace(
        key_of(ORDER, [(0, 30)]), layers=tuple(layer.model_copy(update={"channels": layer.channels + 1}) for layer in LAYERS)
    )
    with pytest.raises(TracingError, match="but the key was made for"):
        check_key(wider, tiny_model.denoiser)
