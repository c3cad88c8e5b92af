"""Noise schedules and their targets: diffusion (Ho et al. 2020) and rectified flow (Liu et al. 2022)."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

IMAGE_WEIGHT_RANGE = (0.2, 10.0)
"""Least and greatest weight of a timestep in ``image_weights``, before they are divided by their mean."""

TOKENS = 4096
"""Patches of an image of 1024 pixels, for which most flows are made."""

SHIFT_RANGE = (0.01, 100.0)
"""Least and greatest shift of a flow: those of published models are between 1 and 12."""


class NoiseSchedule(Protocol):
    """A noise schedule; timesteps are whole numbers from 0, nearly clean, to ``num_train_timesteps`` - 1, nearly noise."""

    num_train_timesteps: int

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t of ``clean`` and ``noise``, (B, C, *positions) each, at ``timesteps`` (B,)."""

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the denoiser learns to predict, (B, C, *positions): noise, velocity or the clean image."""

    def image_weights(self) -> Tensor:
        """Return each timestep's weight of a squared error of the prediction for the image: (num_train_timesteps,), mean 1.

        It is the squared error of the clean image that the prediction implies. Clipped, so that no timestep is forgotten and
        none counts alone (this project).
        """

    def sampler(self, steps: int, tokens: int = TOKENS) -> Any:
        """Make diffusers' deterministic scheduler with its timesteps set, for one batch: it may count its steps.

        It takes ``steps`` steps, or, where the training timesteps are few, all of these or an even part of them. ``tokens`` are
        the patches of x_t: some flows shift the noise by them.
        """


class Diffusion:
    """Variance-preserving diffusion under any of diffusers' ``prediction_type``."""

    def __init__(self, scheduler: DDPMScheduler) -> None:
        self.scheduler = scheduler
        self.num_train_timesteps = int(scheduler.config.num_train_timesteps)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        noisy: Tensor = self.scheduler.add_noise(clean, noise, timesteps)
        return noisy

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return noise
            case "v_prediction":
                velocity: Tensor = self.scheduler.get_velocity(clean, noise, timesteps)
                return velocity
            case _:
                return clean

    def image_weights(self) -> Tensor:
        signal: Tensor = self.scheduler.alphas_cumprod
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return _weights((1 - signal) / signal)  # the inverse of the signal-to-noise ratio
            case "v_prediction":
                return _weights(1 - signal)
            case _:
                return _weights(torch.ones_like(signal))

    def sampler(self, steps: int, tokens: int = TOKENS) -> Any:
        """Make DDIM (Song et al. 2021). Its steps are equally many training timesteps each, so that they span all of them."""
        stride = max(1, self.num_train_timesteps // steps)
        sampler = DDIMScheduler.from_config(
            self.scheduler.config,
            # The betas themselves, already rescaled: DDIM does not know every beta_schedule of DDPM.
            trained_betas=self.scheduler.betas.tolist(),
            rescale_betas_zero_snr=False,
            # An offset as long as a stride would lead past the last timestep.
            steps_offset=min(self.scheduler.config.steps_offset, stride - 1),
        )
        count = self.num_train_timesteps // stride
        sampler.set_timesteps(count)
        sampler.timesteps = sampler.timesteps[:count]  # "trailing", in fractions of a timestep, may round to one more: -1
        return sampler


@dataclass(frozen=True)
class DynamicShift:
    """A shift that grows with the number of patches (Esser et al. 2024), as diffusers' pipelines compute it."""

    base_tokens: float
    max_tokens: float
    base: float
    max: float
    exponential: bool

    def at(self, tokens: int) -> float:
        """Return the shift of an image of so many patches."""
        mu = self.base + (self.max - self.base) * (tokens - self.base_tokens) / (self.max_tokens - self.base_tokens)
        least, greatest = SHIFT_RANGE
        return min(greatest, max(least, math.exp(min(mu, greatest)) if self.exponential else mu))


class RectifiedFlow:
    """x_t = (1 - s) clean + s noise with s = t / num_train_timesteps; the prediction is the velocity, noise - clean.

    The shift and ``last``, the noise of the last step if that is not almost none, are the sampler's alone.
    """

    def __init__(self, num_train_timesteps: int, shift: float | DynamicShift = 1.0, *, last: float | None = None) -> None:
        self.num_train_timesteps, self.shift, self.last = num_train_timesteps, shift, last

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        share = (timesteps / self.num_train_timesteps).view(-1, *[1] * (clean.dim() - 1))
        return (1 - share) * clean + share * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - clean

    def image_weights(self) -> Tensor:
        return _weights((torch.arange(self.num_train_timesteps) / self.num_train_timesteps).square())

    def sampler(self, steps: int, tokens: int = TOKENS) -> Any:
        """Make Euler steps along the flow (Esser et al. 2024)."""
        sampler = FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=self.num_train_timesteps,
            shift=self.shift.at(tokens) if isinstance(self.shift, DynamicShift) else self.shift,
            shift_terminal=self.last,
        )
        sampler.set_timesteps(min(steps, self.num_train_timesteps))
        return sampler


def _weights(squared_error: Tensor) -> Tensor:
    clipped = squared_error.clip(*IMAGE_WEIGHT_RANGE)
    return clipped / clipped.mean()
