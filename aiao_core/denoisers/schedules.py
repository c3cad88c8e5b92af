"""Noise schedules and their targets: diffusion (Ho et al. 2020) and rectified flow (Liu et al. 2022)."""

from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, in_words

IMAGE_WEIGHT_RANGE = (0.2, 10.0)
"""Least and greatest weight of a timestep in ``image_weights``, before they are divided by their mean."""

MAX_TIMESTEPS = 100_000


class NoiseSchedule(Protocol):
    """A noise schedule; timesteps are whole numbers from 0, nearly clean, to ``num_train_timesteps`` - 1, nearly noise."""

    num_train_timesteps: int

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t of ``clean`` (B, C, H, W) and ``noise`` (B, C, H, W) at ``timesteps`` (B,)."""

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the denoiser learns to predict, (B, C, H, W): noise, velocity or the clean image."""

    def image_weights(self) -> Tensor:
        """Return each timestep's weight of a squared error of the prediction for the image: (num_train_timesteps,), mean 1.

        It is the squared error of the clean image that the prediction implies. Clipped, so that no timestep is forgotten and
        none counts alone (this project).
        """

    def sampler(self, steps: int) -> Any:
        """Make diffusers' deterministic scheduler with its timesteps set, for one batch: it may count its steps.

        It takes ``steps`` steps, or, where the training timesteps are few, all of these or an even part of them.
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

    def sampler(self, steps: int) -> Any:
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


class RectifiedFlow:
    """x_t = (1 - s) clean + s noise with s = t / num_train_timesteps; the prediction is the velocity, noise - clean."""

    def __init__(self, num_train_timesteps: int, shift: float = 1.0) -> None:
        self.num_train_timesteps, self.shift = num_train_timesteps, shift

    def _noise_share(self, timesteps: Tensor) -> Tensor:
        return (timesteps / self.num_train_timesteps)[:, None, None, None]

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        share = self._noise_share(timesteps)
        return (1 - share) * clean + share * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - clean

    def image_weights(self) -> Tensor:
        return _weights((torch.arange(self.num_train_timesteps) / self.num_train_timesteps).square())

    def sampler(self, steps: int) -> Any:
        """Make Euler steps along the flow (Esser et al. 2024)."""
        sampler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.num_train_timesteps, shift=self.shift)
        sampler.set_timesteps(min(steps, self.num_train_timesteps))
        return sampler


def noise_schedule(config: dict[str, Any]) -> NoiseSchedule:
    """Read the schedule of a ``scheduler_config.json``, for any of diffusers' schedulers that sample with it.

    Raises :class:`InvalidCheckpoint` if it describes none.
    """
    timesteps = config.get("num_train_timesteps", 1000)
    if not isinstance(timesteps, int) or not 1 <= timesteps <= MAX_TIMESTEPS:
        raise InvalidCheckpoint(f"scheduler_config.json: num_train_timesteps must be between 1 and {MAX_TIMESTEPS}")
    if "FlowMatch" in str(config.get("_class_name")) or config.get("prediction_type") == "flow_prediction":
        shift = config.get("shift", 1.0)
        if not isinstance(shift, int | float) or not 0.01 <= shift <= 100:
            raise InvalidCheckpoint("scheduler_config.json: shift must be between 0.01 and 100")
        return RectifiedFlow(timesteps, shift)
    # diffusers' other samplers never clip, so their files do not say so; a latent would lose everything beyond 1.
    clips = {"clip_sample": str(config.get("_class_name", "DDPMScheduler")).startswith(("DDPM", "DDIM"))}
    try:
        return Diffusion(DDPMScheduler.from_config(clips | config))
    except Exception as error:  # diffusers raises anything for values that no author would write
        raise InvalidCheckpoint(f"scheduler_config.json describes no noise schedule: {in_words(error)}") from error


def _weights(squared_error: Tensor) -> Tensor:
    clipped = squared_error.clip(*IMAGE_WEIGHT_RANGE)
    return clipped / clipped.mean()
