"""A loud mark is read out of its weights, a whisper is not; and no attacker sees the key."""

import ast
import inspect
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import aiao_core.attacks.inversion
from aiao_core.attacks.inversion.methods import METHODS, QUICK, QUICK_LAYERS, quick_readings
from aiao_core.attacks.inversion.reader import INPUTS, Guess, Reader, Triggered
from aiao_core.attacks.inversion.scoring import Score, scored
from aiao_core.attacks.weights import weight_noise
from aiao_core.denoisers import predict
from aiao_core.key import OwnerKey
from aiao_core.method.tracing import trace
from aiao_core.method.watermark import channel_means, trigger
from aiao_core.proof import READABLE_SHARE
from aiao_core.protocol import CONTROL_LOG10_P, LIMIT_LOG10_P
from aiao_core.statistics import log10_binomial_tail
from tests.support.thieves import make_thief
from tests.support.tiny_models import make_tiny_model

ROWS = 300


@pytest.fixture(scope="module")
def loud(old_marked):
    return replace(make_tiny_model(), denoiser=old_marked.denoiser)


@pytest.fixture(scope="module")
def whispering(marked):
    return replace(make_tiny_model(), denoiser=marked.denoiser)


FLAT = {"gradient-flat", "flattest-component"}
"""Methods for models with more channels than this: of eight, or sixteen, many directions are flat."""


@pytest.mark.parametrize("method", sorted(METHODS.keys() - FLAT))
def test_a_mark_of_version_2_is_read(loud, old_marked, method):
    score = scored(METHODS[method](Reader(loud), ROWS), old_marked.key)
    assert score.read > old_marked.key.bits  # its signs come again and again
    assert score.folded_share > 0.6


def test_a_mark_of_version_2_is_read_so_well_that_it_could_be_forged(loud, old_marked):
    first, _ = (scored(reading, old_marked.key) for reading in quick_readings(loud))
    assert first.share > 0.75
    assert first.log10_p < LIMIT_LOG10_P


@pytest.mark.parametrize("method", METHODS)
def test_a_mark_of_version_3_is_not_read_so_well(whispering, marked, method):
    score = scored(METHODS[method](Reader(whispering), ROWS), marked.key)
    assert score.read > marked.key.bits / 2
    assert score.log10_p > LIMIT_LOG10_P


def test_the_attacker_cannot_see_a_key():
    """Only the module that scores imports the key, and nothing else in the package imports that module."""
    folder = Path(aiao_core.attacks.inversion.__file__).parent
    knowing = {}
    for file in folder.glob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
        knowing[file.stem] = imported
    assert "aiao_core.key" in knowing["scoring"]
    for name, imported in knowing.items():
        if name != "scoring":
            assert not any(module.endswith((".key", ".scoring", ".derivation")) for module in imported), name
    for method in METHODS.values():
        annotations = inspect.signature(method).parameters
        assert list(annotations)[:2] == ["reader", "rows"]
    assert OwnerKey not in [each.annotation for each in inspect.signature(Reader).parameters.values()]


def test_a_reading_does_not_depend_on_the_key(whispering, marked):
    """Another key on the same weights: the same guesses."""
    other = replace(marked.key, seed=bytes(32))
    first, second = (METHODS["flattest-component"](Reader(whispering), 60) for _ in range(2))
    assert list(first) == list(second)
    for name in first:
        for end, answers in first[name].answers.items():
            assert torch.equal(answers, second[name].answers[end])
    assert scored(first, marked.key) != scored(first, other)


def test_an_answer_is_what_the_trigger_moves_in_deviations(whispering):
    reader = Reader(whispering)
    layer, ends = next(iter(reader.reached.items()))
    triggered = reader.random(layer, 3)
    answers = reader.split(reader.answers(layer, triggered, ends), ends)
    end, axis = ends[0], reader.axes[layer]
    edit = {layer: lambda features: trigger(features, triggered.mask, triggered.sign, axis)}
    with torch.no_grad(), trace(whispering.denoiser, capture=ends, edit=edit) as features:
        predict(whispering.denoiser, reader.inputs[torch.arange(3)])
    moved = (channel_means(features[end], reader.axes[end]) - reader.clean[end][:3]) / reader.deviation[end]
    assert torch.allclose(answers[end], moved, atol=1e-6)
    hard = reader.soft_answers(layer, triggered.mask.float(), triggered.sign, ends)
    again = Triggered(triggered.mask, triggered.sign).repeated(2)
    assert torch.allclose(hard, reader.answers(layer, again, ends).view(3, 2, -1).mean(1), atol=1e-5)
    assert reader.averaged(layer, triggered, ends).shape == hard.shape
    assert len(reader.inputs) == INPUTS


def test_beside_another_model_what_both_answer_is_gone(whispering):
    layer, ends = next(iter(Reader(whispering).reached.items()))
    alone, beside = Reader(whispering), Reader(whispering, beside=whispering.denoiser)
    assert not beside.answers(layer, beside.random(layer, 4), ends).any()
    assert alone.answers(layer, alone.random(layer, 4), ends).any()


@pytest.mark.parametrize("family", ["DiT", "SD3.5"])
def test_every_family_can_be_read(family):
    thief = make_thief(family)
    beside = weight_noise(thief, strength=0.01)
    for method in ("gradient-moved", "coupling"):
        reading = METHODS[method](Reader(thief.model, beside=beside), 20)
        assert reading
        for guess in reading.values():
            assert all(answers.isfinite().all() for answers in guess.answers.values())


def test_a_quick_reading_tries_few_layers(whispering):
    readings = quick_readings(whispering)
    assert len(readings) == len(QUICK)
    assert all(len(reading) == QUICK_LAYERS for reading in readings)


def test_the_worth_of_a_reading_counts_unread_bits_as_tossed_and_pays_for_every_turn():
    score = Score({"a": 90, "b": 5}, {"a": 100, "b": 100}, 400)
    assert (score.read, score.share, score.folded_share) == (200, 95 / 200, 185 / 200)
    assert score.log10_p == pytest.approx(log10_binomial_tail(185 + 100, 400) + 3 * math.log10(2))
    nothing = Score({}, {}, 400)
    assert (nothing.share, nothing.log10_p, nothing.certain_share) == (0, 0, 0)


def test_a_good_reading_of_few_layers_speaks_for_the_others():
    few = Score({"a": 95}, {"a": 100}, 10_000)
    assert few.log10_p > CONTROL_LOG10_P
    assert few.certain_share > READABLE_SHARE
    assert Score({"a": 60}, {"a": 100}, 10_000).certain_share < 0.5


def test_tossed_coins_are_not_taken_for_a_reading(marked):
    """Guesses of nothing, at every layer, of many attackers: the figures are as small as they say, and no smaller."""
    generator = torch.Generator().manual_seed(0)
    reader = Reader(replace(make_tiny_model(), denoiser=marked.denoiser))
    figures = []
    for _ in range(300):
        reading = {
            layer: Guess(
                reader.random(layer, 1),
                {end: torch.randn(reader.channels[end], generator=generator) for end in ends},
                0.0,
            )
            for layer, ends in reader.reached.items()
        }
        score = scored(reading, marked.key)
        figures.append(score.log10_p)
        assert score.certain_share < 0.5
    assert sum(figure <= -1 for figure in figures) / len(figures) < 0.1


def test_the_nearness_of_a_trigger_is_a_standard_score(marked):
    reader, key = Reader(replace(make_tiny_model(), denoiser=marked.denoiser), seed=1), marked.key
    layer = key.layers[key.trigger_layers[0]].name

    def nearness(triggered: Triggered) -> float:
        return scored({layer: Guess(triggered, {}, 0.0)}, key).nearness[layer]

    drawn = torch.tensor([nearness(reader.random(layer, 1)) for _ in range(400)])
    assert abs(float(drawn.mean())) < 0.2
    assert float(drawn.std()) == pytest.approx(1, abs=0.15)
    mask, sign = (torch.from_numpy(part(key.trigger_layers[0]))[None] for part in (key.trigger_mask, key.trigger_sign))
    own = Triggered(mask, sign.float())
    assert nearness(own) == pytest.approx(math.sqrt(2 * int(mask.sum()))) == -nearness(Triggered(mask, -sign.float()))
