import pytest
import torch

from aiao_core.method.fine_tuning import Examples
from aiao_core.method.inputs import PLAIN_NOISE, arbitrary_inputs, measuring_inputs


def test_half_of_the_inputs_are_plain_noise_and_half_noised_images(tiny_model):
    """On bright images at early timesteps the two are told apart by their mean."""
    bright = Examples(torch.ones(4, 3, 8, 8), {})
    inputs = arbitrary_inputs(tiny_model, bright, 2000, torch.Generator().manual_seed(0))
    early = inputs.timesteps < 100
    share = (inputs.noisy[early].mean((1, 2, 3)) > 0.5).float().mean()
    assert share == pytest.approx(1 - PLAIN_NOISE, abs=0.12)
    assert inputs.timesteps.min() >= 0
    assert inputs.timesteps.max() < 1000


def test_examples_of_another_size_make_batches_of_one_kind(tiny_model):
    """A larger image than verification draws: either all of a batch is noise at the small size, or none."""
    bright = Examples(torch.ones(4, 3, 16, 16), {})
    generator = torch.Generator().manual_seed(0)
    batches = [arbitrary_inputs(tiny_model, bright, 4, generator) for _ in range(200)]
    sides = [batch.noisy.shape[-1] for batch in batches]
    assert set(sides) == {8, 16}
    assert sides.count(8) / len(sides) == pytest.approx(PLAIN_NOISE, abs=0.12)


def test_features_are_measured_at_the_size_of_verification(tiny_model, tiny_examples):
    generator = torch.Generator().manual_seed(0)
    for examples in (tiny_examples, Examples(torch.ones(4, 3, 16, 16), {})):
        assert measuring_inputs(tiny_model, examples, 6, generator).noisy.shape == (6, 3, 8, 8)


def test_the_same_generator_draws_the_same_inputs(tiny_model, tiny_examples):
    first, second = (arbitrary_inputs(tiny_model, tiny_examples, 8, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.noisy, second.noisy)
    assert torch.equal(first.timesteps, second.timesteps)
