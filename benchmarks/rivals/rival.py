"""What every rival watermark has in common: what it starts from, how it is trained, what its detection says.

    secret = rival.embed(owner, seed=1)               # trains owner.model.denoiser in place
    detection = rival.detect(suspect, secret, seed=2)  # of a model with the suspect's denoiser

All rivals have the watermarked model, data, number of steps, batch size, optimiser and learning rate of
:func:`aiao_core.method.embedding.embed`. Each reports the figure of its own paper, ``rate``, and an exact p-value. For this its
secret holds uniform random bits that are independent of everything else in it, its triggers and patterns included. A suspect
made without knowledge of the secret is independent of the bits, so that among n decoded bits Binomial(n, 1/2) match: calling it
marked at ``log10_p <= -6`` is wrong with a probability of 1e-6 at most, whatever the suspect puts out.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from aiao_core.denoisers import Inputs, predict
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.method.acceleration import make_optimizer
from aiao_core.method.embedding import TRIGGERED, WARM_UP
from aiao_core.method.fine_tuning import Examples, noised
from aiao_core.options import EmbeddingOptions
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.statistics import log10_binomial_tail

Secret = TypeVar("Secret")

OPTIONS = EmbeddingOptions()
"""The budget that AIAO has by default."""

TRIGGERED_BATCH = round(TRIGGERED * OPTIONS.batch_size)
"""Examples that a step shows with a trigger besides the ``OPTIONS.batch_size`` without, as AIAO's does."""


@dataclass(frozen=True)
class Owner:
    """Everything an embedding starts from."""

    folder: Path
    """The pipeline folder, with the text encoder and the autoencoder where the model has these."""
    model: DiffusionModel
    examples: Examples
    captions: Sequence[str] = ()
    """The caption of each example, where the model takes captions; at least as many as a detection draws."""


@dataclass(frozen=True)
class Detection:
    """What a rival finds in a suspect."""

    statistic: str
    """What ``rate`` is, for people."""
    rate: float
    """The figure that the rival's paper reports, from 0 to 1."""
    log10_p: float
    """log10 of the probability that a suspect made without the secret matches as many bits."""


class Rival(ABC, Generic[Secret]):
    """A watermark of the literature. It keeps no state; what an owner must keep is in the secret."""

    name: ClassVar[str]

    @abstractmethod
    def draw_secret(self, owner: Owner, seed: int) -> Secret:
        """A secret for ``owner``'s model; the same seed gives the same."""

    @abstractmethod
    def loss(self, owner: Owner, source: nn.Module, secret: Secret, generator: torch.Generator) -> Tensor:
        """The objective of one training step on a fresh batch; ``source`` is the frozen denoiser as it was."""

    @abstractmethod
    def detect(self, suspect: DiffusionModel, secret: Secret, *, seed: int = 0) -> Detection:
        """Look for ``secret``; ``seed`` is that of the sampling noise."""

    def embed(self, owner: Owner, *, seed: int, steps: int = OPTIONS.steps, progress: ProgressCallback = silent) -> Secret:
        """Train the watermark of a fresh secret into ``owner.model.denoiser``, in place."""
        secret = self.draw_secret(owner, seed)
        denoiser = owner.model.denoiser
        source = copy.deepcopy(denoiser).requires_grad_(False).eval()
        parameters = list(denoiser.requires_grad_(True).eval().parameters())
        optimizer = make_optimizer(parameters, OPTIONS)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, OPTIONS.learning_rate, total_steps=steps, pct_start=WARM_UP)
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            loss = self.loss(owner, source, secret, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            progress(Progress(self.name, step + 1, steps, {"loss": loss.item()}))
        denoiser.requires_grad_(False)
        return secret


def secret_numbers(seed: int) -> np.random.Generator:
    """Where secrets come from: not torch's generators, whose streams the sampling noise of the same seed would share."""
    return np.random.default_rng(seed)


def random_signs(numbers: np.random.Generator, *shape: int) -> Tensor:
    """Uniform random bits as -1 and 1, float32 of ``shape``."""
    return torch.from_numpy(numbers.integers(0, 2, shape).astype(np.float32) * 2 - 1)


def rare_word(numbers: np.random.Generator) -> str:
    """A trigger for prompts that nobody writes by chance."""
    return "".join(numbers.choice(list("bcdfghjklmnpqrstvwxz"), 8))


def log10_p_value(decoded: Tensor, signs: Tensor) -> float:
    """The exact test of ``decoded`` values against secret ``signs`` of the same shape. A value at exactly zero is no bit."""
    bits = decoded != 0
    matches = (decoded > 0) == (signs > 0)
    return log10_binomial_tail(int(matches[bits].sum()), int(bits.sum()))


def denoising_loss(model: DiffusionModel, batch: Examples, generator: torch.Generator) -> Tensor:
    """The usual loss of ``model`` on ``batch`` (Ho et al. 2020)."""
    return prediction_loss(model.denoiser, *noised(model.schedule, batch, generator))


def prediction_loss(denoiser: nn.Module, inputs: Inputs, target: Tensor) -> Tensor:
    """Mean squared error of the prediction for ``inputs``."""
    return squared_error(denoiser, inputs, target).mean()


def picture_loss(model: DiffusionModel, inputs: Inputs, target: Tensor) -> Tensor:
    """The same error with each timestep weighted by what it changes in the picture (this project).

    Which picture is drawn is decided at the noisiest timesteps, of which the plain error takes little note: with it a trigger
    draws the secret picture from some noise, and from other noise another.
    """
    weights = model.schedule.image_weights()[inputs.timesteps]
    error = squared_error(model.denoiser, inputs, target)
    return (weights.to(error.device) * error).mean()


def squared_error(denoiser: nn.Module, inputs: Inputs, target: Tensor) -> Tensor:
    """Of each prediction for ``inputs``, (B,)."""
    prediction = predict(denoiser, inputs)
    return (prediction - target.to(prediction.device)).square().mean((1, 2, 3))
