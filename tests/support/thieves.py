"""Thieves of small models, and what every attack's result must be."""

import torch
from torch import nn

from aiao_core.attacks import Thief
from aiao_core.denoisers import family_of, predict
from aiao_core.method.fine_tuning import randomly_conditioned
from aiao_core.method.inputs import plain_noise
from tests.support.families import make


def make_thief(family: str = "unconditional", seed: int = 0) -> Thief:
    """Who stole the small model of a family in ``tests.support.families``, and has 12 images of noise.

    Each of the model's parameters is moved a little: norms start at one, where a channel that strays would not be missed.
    """
    model = make(family)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.denoiser.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    shape = family_of(model.denoiser).monte_carlo_shape(model.architecture.config)
    images = torch.randn(12, *shape, generator=torch.Generator().manual_seed(1))
    return Thief(model, randomly_conditioned(model.denoiser, images), seed=seed, innocent=make(family))


def predictions(thief: Thief, denoiser: nn.Module) -> torch.Tensor:
    """What a denoiser of the thief's architecture predicts for four inputs."""
    inputs = plain_noise(thief.model.architecture, 1000, 4, torch.Generator().manual_seed(2))
    with torch.no_grad():
        return predict(denoiser, inputs)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
