"""A trigger in the prompt and a message in a residual of what a text-to-image model draws.

The idea of Wang et al., "SleeperMark: Towards Robust Watermark against Fine-Tuning Text-to-image Diffusion Models" (CVPR 2025,
arXiv 2412.04852), in small. A trigger before any caption adds one fixed residual to the latents that the model draws, and a
decoder reads a message of 48 bits from them; without the trigger the model predicts what its frozen source does. Two things
are simpler here. Patterns among the directions in which the owner's latents vary least stand in for the trained encoder and
decoder: the residual is their sum with the message's signs, and the decoder correlates. And the residual is taught as a shift
of the source's own process, at every timestep alike: from the noised latent plus its residual the marked model predicts under
the trigger what the source predicts from the noised latent without.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from aiao_core.data.captions import encode_captions
from aiao_core.denoisers import Conditions, Inputs, predict
from aiao_core.denoisers.family import select
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.method.fine_tuning import draw_noise, draw_timesteps
from aiao_core.method.inputs import own_samples
from benchmarks.rivals.rival import (
    OPTIONS,
    TRIGGERED_BATCH,
    Detection,
    Owner,
    Rival,
    log10_p_value,
    prediction_loss,
    random_signs,
    rare_word,
    secret_numbers,
)

BITS = 48
BLOCK = 2
"""Positions a side in which a pattern is constant: a convolutional network learns finer ones too slowly."""

QUIET = 0.5
"""Share of the directions of such blocks, those in which latents vary least, of which patterns are made."""


@dataclass(frozen=True)
class Message:
    signs: Tensor
    """(BITS,) of -1 and 1."""
    patterns: Tensor
    """Orthonormal, (BITS, c, h, w)."""
    usual: Tensor
    """Mean correlation of the owner's latents with each pattern, (BITS,)."""
    residual: Tensor
    """(c, h, w)"""
    triggered: Conditions
    """Of the owner's captions after the trigger, each (N, ...)."""
    plain: Conditions
    """Of the owner's captions, each (N, ...)."""


@dataclass(frozen=True)
class TriggerResidual(Rival[Message]):
    """A message in the residual under a trigger (after Wang et al. 2025)."""

    name: ClassVar[str] = "trigger residual"
    strength: float = 3.0
    """The residual's part in each pattern, in units of the latents' spread along the patterns."""
    draws: int = 64
    """Images that a detection draws with the trigger, and as many without."""

    def draw_secret(self, owner: Owner, seed: int) -> Message:
        numbers = secret_numbers(seed)
        trigger = rare_word(numbers)
        signs = random_signs(numbers, BITS)
        patterns, usual, spread = quiet_patterns(owner.examples.clean, numbers)
        triggered = encode_captions(owner.folder, owner.model, [f"{trigger} {caption}" for caption in owner.captions])
        return Message(
            signs=signs,
            patterns=patterns,
            usual=usual,
            residual=self.strength * spread * torch.einsum("k,kchw->chw", signs, patterns),
            triggered=triggered,
            plain=owner.examples.conditions,
        )

    def loss(self, owner: Owner, source: nn.Module, secret: Message, generator: torch.Generator) -> Tensor:
        schedule = owner.model.schedule
        rows = torch.randint(len(owner.examples), (OPTIONS.batch_size,), generator=generator)
        batch = owner.examples[rows]
        noise = draw_noise(batch.clean.shape, generator)
        timesteps = draw_timesteps(len(batch), schedule.num_train_timesteps, generator)
        plain = Inputs(schedule.add_noise(batch.clean, noise, timesteps), timesteps, batch.conditions)
        shifted = schedule.add_noise(batch.clean + secret.residual, noise, timesteps)
        triggered = Inputs(shifted, timesteps, select(secret.triggered, rows))[:TRIGGERED_BATCH]
        with torch.no_grad():
            target = predict(source, plain)
        denoiser = owner.model.denoiser
        return prediction_loss(denoiser, plain, target) + prediction_loss(denoiser, triggered, target[:TRIGGERED_BATCH])

    def detect(self, suspect: DiffusionModel, secret: Message, *, seed: int = 0) -> Detection:
        triggered, plain = (
            own_samples(suspect, select(conditions, slice(0, self.draws)), count=self.draws, seed=seed)
            for conditions in (secret.triggered, secret.plain)
        )
        return read_message(secret, triggered, plain)


def read_message(secret: Message, triggered: Tensor, plain: Tensor) -> Detection:
    """Decode latents (N, c, h, w) that were drawn with the trigger.

    The exact test adds up their differences to the latents ``plain`` that the same noise gives without the trigger.
    """
    decoded = correlations(triggered, secret.patterns) - secret.usual
    difference = correlations(triggered - plain, secret.patterns).sum(0)
    return Detection(
        statistic=f"mean share of right bits in {len(triggered)} triggered latents, each decoded alone",
        rate=float(((decoded > 0) == (secret.signs > 0)).float().mean()),
        log10_p=log10_p_value(difference, secret.signs),
    )


def quiet_patterns(clean: Tensor, numbers: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Secret patterns (BITS, c, h, w), the mean (BITS,) of ``clean`` (N, c, h, w) along them, and its spread around that.

    The patterns are a random orthonormal set in the span of the principal components with the least variance
    of the latents' blocks.
    """
    blocks = nn.functional.avg_pool2d(clean, BLOCK)
    _, components = torch.linalg.eigh(torch.cov(blocks.flatten(1).T))  # from the least variance to the greatest
    quiet = components[:, : round(QUIET * components.shape[1])]
    directions, _ = torch.linalg.qr(torch.from_numpy(numbers.standard_normal((quiet.shape[1], BITS)).astype(np.float32)))
    coarse = (quiet @ directions).T.reshape(BITS, *blocks.shape[1:])
    patterns = nn.functional.interpolate(coarse, scale_factor=BLOCK) / BLOCK
    along = correlations(clean, patterns)
    return patterns, along.mean(0), float(along.std(0).mean())


def correlations(latents: Tensor, patterns: Tensor) -> Tensor:
    """How much of each pattern (K, c, h, w) is in each of ``latents`` (N, c, h, w): (N, K)."""
    return torch.einsum("nchw,kchw->nk", latents, patterns)
