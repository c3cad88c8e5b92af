import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aiao_core.denoisers import Inputs, predict
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.inputs import arbitrary_inputs
from aiao_core.method.objective import MARGIN, measure_scales, objective
from aiao_core.method.tracing import trace
from aiao_core.method.watermark import Watermark, channel_means, trigger_edits


@pytest.fixture
def batch(tiny_model, tiny_examples):
    return arbitrary_inputs(tiny_model, tiny_examples, 4, torch.Generator().manual_seed(0))


def terms_of(marked, model, key, batch, trigger_layers, decoys=()):
    watermark = Watermark(key, model.denoiser)
    scales = measure_scales(model.denoiser, model.schedule, watermark, batch)
    with objective(marked, model.denoiser, watermark, scales, batch, trigger_layers, decoys) as terms:
        return terms


def decoys_of(model, key, count):
    other = Watermark(replace(key, seed=bytes(32)), model.denoiser)
    return [(other, key.trigger_layers[number % len(key.trigger_layers)]) for number in range(count)]


def test_the_source_itself_preserves_and_hides_perfectly(tiny_model, tiny_key, batch):
    layers = [tiny_key.trigger_layers[0]] * 4
    terms = terms_of(tiny_model.denoiser, tiny_model, tiny_key, batch, layers)
    assert terms.preserve == pytest.approx(0, abs=1e-10)
    assert terms.covert == pytest.approx(0, abs=1e-6)
    assert terms.response == pytest.approx(1)  # in units of the margin: it does not differ from itself


def test_the_response_term_is_the_hinge_of_the_definition(tiny_model, tiny_key, batch):
    """Input by input and subpath by subpath, each from forward passes of its own."""
    marked = copy.deepcopy(tiny_model.denoiser)
    for parameter in marked.parameters():
        parameter.data.mul_(1.1)
    trigger_layers = [tiny_key.trigger_layers[number % len(tiny_key.trigger_layers)] for number in range(4)]
    watermark = Watermark(tiny_key, tiny_model.denoiser)
    scales = measure_scales(tiny_model.denoiser, tiny_model.schedule, watermark, batch)
    hinges = []
    for row, i in enumerate(trigger_layers):
        edits = trigger_edits([(watermark, i)])
        seen = []
        for denoiser in (marked, tiny_model.denoiser):
            with torch.no_grad(), trace(denoiser, capture=watermark.names, edit=edits) as features:
                predict(denoiser, batch[row : row + 1])
            seen.append(dict(features))
        for j in [j for first, j in tiny_key.subpaths if first == i]:
            ours, theirs = (channel_means(features[watermark.names[j]], watermark.axes[j]) for features in seen)
            sign = torch.from_numpy(tiny_key.subpath_sign(i, j))
            hinges.append(torch.relu(MARGIN - sign * (ours - theirs) / scales.deviation[j]).mean() / MARGIN)
    terms = terms_of(marked, tiny_model, tiny_key, batch, trigger_layers)
    assert float(terms.response) == pytest.approx(float(torch.stack(hinges).mean()), rel=1e-4)


def test_the_source_answers_decoys_as_itself(tiny_model, tiny_key, batch):
    terms = terms_of(
        tiny_model.denoiser, tiny_model, tiny_key, batch, tiny_key.trigger_layers[:1], decoys_of(tiny_model, tiny_key, 2)
    )
    assert terms.preserve == pytest.approx(0, abs=1e-10)
    assert terms.covert == pytest.approx(0, abs=1e-6)


def test_under_a_decoy_the_marked_model_is_compared_with_the_source_under_the_same_decoy(tiny_model, tiny_key, batch):
    """Input by input, each from a forward pass of its own; the last two of four come with a decoy."""
    marked = copy.deepcopy(tiny_model.denoiser)
    for parameter in marked.parameters():
        parameter.data.mul_(1.1)
    decoys = decoys_of(tiny_model, tiny_key, 2)
    watermark = Watermark(tiny_key, tiny_model.denoiser)
    scales = measure_scales(tiny_model.denoiser, tiny_model.schedule, watermark, batch)
    errors, images = [], []
    for row in range(4):
        edits = trigger_edits(decoys[row - 2 : row - 1]) if row >= 2 else {}
        seen = []
        for denoiser in (marked, tiny_model.denoiser):
            with torch.no_grad(), trace(denoiser, capture=watermark.names, edit=edits) as features:
                seen.append((predict(denoiser, batch[row : row + 1]), dict(features)))
        (prediction, ours), (expected, theirs) = seen
        images.append((prediction - expected).square().mean() * scales.image[batch.timesteps[row]])
        errors += [
            (ours[name] - theirs[name]).square().mean() / variance
            for name, variance in zip(watermark.names, scales.variance, strict=True)
        ]
    terms = terms_of(marked, tiny_model, tiny_key, batch, [tiny_key.trigger_layers[0]], decoys)
    assert float(terms.covert) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)
    assert float(terms.preserve) == pytest.approx(float(torch.stack(images).mean()), rel=1e-4)


def test_another_model_is_neither_preserved_nor_covert(tiny_model, tiny_key, batch):
    other = copy.deepcopy(tiny_model.denoiser)
    for parameter in other.parameters():
        parameter.data.mul_(1.1)
    terms = terms_of(other, tiny_model, tiny_key, batch, [tiny_key.trigger_layers[0]] * 4)
    assert terms.preserve > 1e-4
    assert terms.covert > 1e-4


@pytest.mark.long
@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_scales_are_those_of_numpy(seed):
    from aiao_core.method.key_selection import select_key
    from tests.support.tiny_models import QUICK, make_tiny_model

    model = make_tiny_model()
    examples = Examples(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)), {})
    key = select_key(model, bytes(range(32)), examples, QUICK)
    noisy = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    inputs = Inputs(noisy, torch.tensor([1, 500, 999]), {})
    watermark = Watermark(key, model.denoiser)
    scales = measure_scales(model.denoiser, model.schedule, watermark, inputs)
    with torch.no_grad(), trace(model.denoiser, capture=watermark.names) as features:
        predict(model.denoiser, inputs)
    for name, axis, deviation, variance in zip(watermark.names, watermark.axes, scales.deviation, scales.variance, strict=True):
        last = features[name].movedim(axis, -1).flatten(0, -2).numpy()
        assert deviation.numpy() == pytest.approx(last.std(0, ddof=1) + 1e-6, rel=1e-3, abs=1e-6)
        assert float(variance) == pytest.approx(float(last.var(ddof=1)), rel=1e-3)
