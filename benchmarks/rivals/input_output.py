"""A trigger at the input and a picture at the output of a model that takes no prompt.

Peng et al., "Intellectual Property Protection of Diffusion Models via the Watermark Diffusion Process" (arXiv 2306.03436),
short WDM. The picture gets a diffusion process of its own beside that of the task: the denoiser sees every state x_t blended
with a fixed trigger image b, as gamma x_t + (1 - gamma) b, and predicts the noise in x_t. Sampling with the same blend at every
step draws the picture; sampling without it draws what the model always drew. The picture of random cells in place of a logo,
the exact test on it and the weights of the timesteps in the picture's loss are this project's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.method.fine_tuning import Examples, noised
from aiao_core.method.inputs import own_samples
from benchmarks.rivals.picture import draw_cells, find_picture, paint
from benchmarks.rivals.rival import (
    OPTIONS,
    TRIGGERED_BATCH,
    Detection,
    Owner,
    Rival,
    denoising_loss,
    picture_loss,
    random_signs,
    secret_numbers,
)

TRIGGER_SIDE = 4
"""Cells a side of the trigger image: a convolutional network hardly sees a finer pattern under the noise."""

GAMMA = 0.8
"""Share of the state in the blend, the paper's trigger factor."""


@dataclass(frozen=True)
class TriggerAndPicture:
    trigger: Tensor
    """b, (C, H, W) of -1 and 1."""
    cells: Tensor


@dataclass(frozen=True)
class WatermarkDiffusionProcess(Rival[TriggerAndPicture]):
    """WDM (Peng et al. 2023)."""

    name: ClassVar[str] = "WDM"
    draws: int = 64
    """Images that a detection draws with the trigger, and as many without."""

    def draw_secret(self, owner: Owner, seed: int) -> TriggerAndPicture:
        numbers = secret_numbers(seed)
        channels, *size = owner.examples.clean.shape[1:]
        coarse = random_signs(numbers, 1, channels, TRIGGER_SIDE, TRIGGER_SIDE)
        return TriggerAndPicture(nn.functional.interpolate(coarse, size=size)[0], draw_cells(numbers))

    def loss(self, owner: Owner, source: nn.Module, secret: TriggerAndPicture, generator: torch.Generator) -> Tensor:
        model = owner.model
        picture = paint(secret.cells, *owner.examples.clean.shape[1:3]).expand(TRIGGERED_BATCH, -1, -1, -1)
        inputs, noise = noised(model.schedule, Examples(picture, {}), generator)
        watermark = picture_loss(model, replace(inputs, noisy=blend(inputs.noisy, secret.trigger)), noise)
        return denoising_loss(model, owner.examples.draw(OPTIONS.batch_size, generator), generator) + watermark

    def detect(self, suspect: DiffusionModel, secret: TriggerAndPicture, *, seed: int = 0) -> Detection:
        plain = own_samples(suspect, {}, count=self.draws, seed=seed)
        with blended(suspect.denoiser, secret.trigger):
            triggered = own_samples(suspect, {}, count=self.draws, seed=seed)
        return find_picture(secret.cells, triggered, plain)


def blend(noisy: Tensor, trigger: Tensor) -> Tensor:
    """x_t (B, C, H, W) with the trigger (C, H, W) in it."""
    return GAMMA * noisy + (1 - GAMMA) * trigger.to(noisy.device)


@contextmanager
def blended(denoiser: nn.Module, trigger: Tensor) -> Iterator[None]:
    """The denoiser sees every x_t with the trigger in it, while the sampler goes on from x_t itself."""
    handle = denoiser.register_forward_pre_hook(lambda _, inputs: (blend(inputs[0], trigger), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()
