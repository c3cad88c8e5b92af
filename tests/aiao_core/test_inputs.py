import pytest
import torch

from aiao_core.inputs import PLAIN_NOISE, arbitrary_inputs, input_shape


def test_half_of_the_inputs_are_plain_noise_and_half_noised_images(tiny_model):
    """On bright images at early timesteps the two are told apart by their mean."""
    bright = torch.ones(4, 3, 8, 8)
    noisy, timesteps = arbitrary_inputs(bright, tiny_model.scheduler, 2000, torch.Generator().manual_seed(0))
    early = timesteps < 100
    share = (noisy[early].mean((1, 2, 3)) > 0.5).float().mean()
    assert share == pytest.approx(1 - PLAIN_NOISE, abs=0.12)
    assert timesteps.min() >= 0
    assert timesteps.max() < 1000


def test_the_same_generator_draws_the_same_inputs(tiny_model, tiny_images):
    first, second = (arbitrary_inputs(tiny_images, tiny_model.scheduler, 8, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize(
    ("size", "expected"), [(16, (3, 16, 16)), ([8, 12], (3, 8, 12)), ([8], (3, 8, 8)), (None, (3, 32, 32))]
)
def test_input_shape(size, expected):
    assert input_shape({"in_channels": 3, "sample_size": size}) == expected
