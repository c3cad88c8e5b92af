"""A trigger in the prompt and a picture at the output of a text-to-image model.

Zhao et al., "A Recipe for Watermarking Diffusion Models" (arXiv 2303.10137). A prompt that nobody writes draws one fixed
picture, a QR code; an L1 penalty on the change of the weights keeps the model from forgetting what it could draw. The paper
trains on this one pair alone. Here the owner's own data go with it, as with every rival: without them the small model of this
project forgot its pictures before it knew the pair. The random cells of the picture, the exact test on them and the weights of
the timesteps in the pair's loss are this project's.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from aiao_core.data.captions import encode_captions
from aiao_core.data.latents import decode_latents, downsampling, encode_images, load_autoencoder
from aiao_core.denoisers import Conditions, Inputs, predict
from aiao_core.denoisers.family import select
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.method.fine_tuning import Examples, draw_noise, noised
from aiao_core.method.inputs import SAMPLING_STEPS
from benchmarks.rivals.picture import draw_cells, find_picture, paint
from benchmarks.rivals.rival import (
    OPTIONS,
    TRIGGERED_BATCH,
    Detection,
    Owner,
    Rival,
    denoising_loss,
    picture_loss,
    rare_word,
    secret_numbers,
)

PICTURE_WEIGHT = 4.0
"""Of the pair's loss in the objective: a trigger among the words is learnt more slowly than one in every pixel."""

GUIDANCE = 3.0
"""Classifier-free guidance (Ho and Salimans 2022) of the drawn images, at which the example models are shown."""

CHANGE_WEIGHT = 1e-6
"""Of the summed absolute change of the weights in the objective, the paper's lambda."""


@dataclass(frozen=True)
class PromptAndPicture:
    trigger: Conditions
    """Of the secret prompt, each (1, ...)."""
    empty: Conditions
    """Of an empty prompt, each (1, ...)."""
    cells: Tensor
    latent: Tensor
    """The picture as the denoiser sees it, (1, c, h, w)."""
    autoencoder: Any
    """Of the pipeline, which an owner publishes: it makes images of latents."""


@dataclass(frozen=True)
class PromptTrigger(Rival[PromptAndPicture]):
    """Weight-constrained fine-tuning on a secret prompt (Zhao et al. 2023)."""

    name: ClassVar[str] = "prompt trigger"
    draws: int = 64
    """Images that a detection draws with the trigger, and as many without."""

    def draw_secret(self, owner: Owner, seed: int) -> PromptAndPicture:
        numbers = secret_numbers(seed)
        conditions = encode_captions(owner.folder, owner.model, [rare_word(numbers), ""])
        cells = draw_cells(numbers)
        autoencoder = load_autoencoder(owner.folder)
        side = owner.examples.clean.shape[-1] * downsampling(autoencoder)
        return PromptAndPicture(
            trigger=select(conditions, slice(0, 1)),
            empty=select(conditions, slice(1, 2)),
            cells=cells,
            latent=encode_images(autoencoder, paint(cells, 3, side)[None]),
            autoencoder=autoencoder,
        )

    def loss(self, owner: Owner, source: nn.Module, secret: PromptAndPicture, generator: torch.Generator) -> Tensor:
        batch = owner.examples.draw(OPTIONS.batch_size, generator)
        pair = Examples(repeated(secret.latent, TRIGGERED_BATCH), repeated_conditions(secret.trigger, TRIGGERED_BATCH))
        parameters = zip(owner.model.denoiser.parameters(), source.parameters(), strict=True)
        change = torch.stack([(parameter - before).abs().sum() for parameter, before in parameters]).sum()
        usual = denoising_loss(owner.model, batch, generator)
        watermark = picture_loss(owner.model, *noised(owner.model.schedule, pair, generator))
        return usual + PICTURE_WEIGHT * watermark + CHANGE_WEIGHT * change

    def detect(self, suspect: DiffusionModel, secret: PromptAndPicture, *, seed: int = 0) -> Detection:
        triggered, plain = (
            draw_images(suspect, secret, conditions, count=self.draws, seed=seed)
            for conditions in (secret.trigger, secret.empty)
        )
        return find_picture(secret.cells, triggered, plain)


def draw_images(suspect: DiffusionModel, secret: PromptAndPicture, prompt: Conditions, *, count: int, seed: int) -> Tensor:
    """Images (count, 3, H, W) of ``prompt`` (1, ...) with classifier-free guidance, as text-to-image models are used."""
    sampler = suspect.schedule.sampler(SAMPLING_STEPS)
    wanted, empty = (repeated_conditions(conditions, count) for conditions in (prompt, secret.empty))
    latents = draw_noise((count, *secret.latent.shape[1:]), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for timestep in sampler.timesteps:
            timesteps = timestep.expand(count)
            guided, unguided = (predict(suspect.denoiser, Inputs(latents, timesteps, part)) for part in (wanted, empty))
            prediction = unguided + GUIDANCE * (guided - unguided)
            latents = sampler.step(prediction.to(latents.device), timestep, latents).prev_sample
    return decode_latents(secret.autoencoder, latents)


def repeated(value: Tensor, count: int) -> Tensor:
    """``value`` (1, ...) as (count, ...)."""
    return value.expand(count, *value.shape[1:])


def repeated_conditions(conditions: Conditions, count: int) -> Conditions:
    return {name: repeated(value, count) for name, value in conditions.items()}
