"""A key file is its claimant's word: nothing in it may be chosen for what an innocent model happens to answer."""

import random
from dataclasses import replace

import pytest
import torch

from aiao_core.errors import InvalidKey
from aiao_core.key import OwnerKey
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import eligible_layers
from aiao_core.method.watermark import Watermark
from aiao_core.verification.decoding import Draws, observe
from tests.support.tiny_models import fine_tuned, make_tiny_model

ANCESTOR = make_tiny_model()
"""A public model. Its fine-tunes are innocent."""

INPUTS = plain_noise(ANCESTOR.architecture, 1000, 64, torch.Generator().manual_seed(123))
LAYERS = tuple(eligible_layers(ANCESTOR.denoiser, INPUTS[:2]))
OTHERS = 16


def natural_answers(key: OwnerKey) -> dict[tuple[int, int], torch.Tensor]:
    """z-scores by subpath: what the ancestor, which no key ever marked, answers to the key's triggers, times its signs."""
    denoiser = ANCESTOR.denoiser
    owner = Watermark(key, denoiser)
    others = [Watermark(replace(key, seed=bytes([200 + number]) * 32), denoiser) for number in range(OTHERS)]
    found = {}
    for i in key.trigger_layers:
        draws = Draws(INPUTS, ((i, len(LAYERS) - 1),) * len(INPUTS))
        own = observe(denoiser, owner, draws, [(owner, i)] * len(draws))
        other = observe(denoiser, owner, draws, [(others[draw % OTHERS], i) for draw in range(len(draws))])
        for j in range(i + 1, len(LAYERS)):
            contrast = (own[j] - other[j]).double()
            error = contrast.std(0) / len(draws) ** 0.5 + 1e-30
            found[i, j] = contrast.mean(0) / error * owner.response_signs[j]
    return found


def fit(answers: dict[tuple[int, int], torch.Tensor]) -> tuple[tuple[int, int], ...]:
    """For each response layer the trigger to which the ancestor's clear answers happen to have the key's signs."""

    def score(path: tuple[int, int]) -> float:
        clear = answers[path][answers[path].abs() > 2]
        return float(2 * (clear > 0).sum() - len(clear)) / max(1, len(clear)) ** 0.5

    best = [max(((i, j) for i in range(j)), key=score) for j in range(1, len(LAYERS))]
    return tuple(path for path in best if score(path) > 1)


@pytest.fixture(scope="module")
def fitted() -> list[OwnerKey]:
    """Keys with honest seeds and all layers, and subpaths that were picked to suit the ancestor."""
    everything = tuple((i, j) for i in range(len(LAYERS)) for j in range(i + 1, len(LAYERS)))
    keys = [OwnerKey(bytes([seed]) * 32, ANCESTOR.architecture, 1000, LAYERS, everything, version=2) for seed in range(3)]
    return [replace(key, subpaths=tuple(sorted(fit(natural_answers(key))))) for key in keys]


def test_subpaths_that_were_fitted_to_a_public_ancestor_accuse_none_of_its_fine_tunes(fitted, tested):
    """In release 0.1.0 one of these keys comes to 10^-9 or less on an innocent's fine-tune."""
    reports = [tested(fine_tuned(ANCESTOR, seed=seed), key) for seed, key in enumerate(fitted)]
    assert {report.verdict for report in reports} == {"no-match"}
    assert min(report.test.log10_p for report in reports) > -4
    # The fit is real: it shows in the readings of the file's own subpaths, which do not count.
    assert min(way.test.log10_p for report in reports for way in report.ways if way.subpaths == "registered") < -6


def test_layers_that_were_picked_are_paid_for(fitted, tested):
    """The p-value is multiplied by the number of sets of layers from which the claimant may have picked this one."""
    key = fitted[0]
    used = sorted({layer for path in key.subpaths for layer in path})[3:]
    picked = replace(
        key,
        layers=tuple(LAYERS[layer] for layer in used),
        subpaths=tuple((i, j) for i in range(len(used)) for j in range(i + 1, len(used))),
    )
    report = tested(fine_tuned(ANCESTOR), picked)
    assert report.verdict == "no-match"
    assert report.test.log10_choices > 1
    assert tested(fine_tuned(ANCESTOR), key).test.log10_choices == 0


def test_a_key_that_repeats_a_lucky_layer_is_refused(tested):
    """Forty copies of a layer that happens to agree are not forty proofs."""
    seed = bytes([9]) * 32
    pairs = random.Random(1).sample([(i, j) for i in range(len(LAYERS)) for j in range(i + 8, len(LAYERS))], 20)
    i, j = pairs[0]
    repeated = OwnerKey(
        seed,
        ANCESTOR.architecture,
        1000,
        (LAYERS[i],) + (LAYERS[j],) * 40,
        tuple((0, copy) for copy in range(1, 41)),
        version=2,
    )
    with pytest.raises(InvalidKey, match="once each"):
        tested(ANCESTOR.denoiser, repeated)


@pytest.mark.parametrize(
    ("layers", "subpaths", "reason"),
    [
        ([5, 3, 20], [(0, 2), (1, 2)], "once each, in the order in which they run"),
        ([3, 5, 20, 20], [(0, 2), (0, 3)], "once each"),
        ([3, 5, 20], [(0, 2), (0, 2)], "lists a subpath twice"),
        ([3, 4], [(0, 1)], "too near to each other"),
    ],
)
def test_a_key_that_no_model_can_have_is_refused(tested, layers, subpaths, reason):
    key = OwnerKey(
        bytes([7]) * 32, ANCESTOR.architecture, 1000, tuple(LAYERS[layer] for layer in layers), tuple(subpaths), version=2
    )
    with pytest.raises(InvalidKey, match=reason):
        tested(ANCESTOR.denoiser, key)


@pytest.mark.parametrize("name", ["conv_in", "conv_out", "time_embedding.linear_1", "down_blocks.0.resnets.0.time_emb_proj"])
def test_a_key_with_a_layer_that_cannot_carry_a_mark_is_refused(tested, name):
    module = ANCESTOR.denoiser.get_submodule(name)
    channels = getattr(module, "out_channels", None) or module.out_features
    layer = LAYERS[0].model_copy(update={"name": name, "channels": channels})
    layers = (layer, *LAYERS[1:]) if name != "conv_out" else (*LAYERS[:-1], layer)
    key = OwnerKey(bytes([7]) * 32, ANCESTOR.architecture, 1000, layers, ((0, len(layers) - 1),), version=2)
    with pytest.raises(InvalidKey, match="cannot carry a watermark"):
        tested(ANCESTOR.denoiser, key)
