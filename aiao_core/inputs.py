"""What the denoiser sees while it is watermarked: "arbitrary in" (arXiv 2405.00466), without any data if need be."""

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from aiao_core.checkpoints import DiffusionModel
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.training import draw_batch, draw_noise, draw_timesteps, predict

PLAIN_NOISE = 0.5
"""Share of the inputs that are plain noise instead of noised images."""

SAMPLING_STEPS = 20
SAMPLING_BATCH = 64


def arbitrary_inputs(images: Tensor, scheduler: Any, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` inputs x_t (count, C, H, W) with their timesteps (count,): noised ``images``, or plain noise for a share."""
    clean = draw_batch(images, count, generator)
    noise = draw_noise(clean.shape, generator)
    timesteps = draw_timesteps(count, scheduler.config.num_train_timesteps, generator)
    plain = torch.rand(count, generator=generator) < PLAIN_NOISE
    noised = scheduler.add_noise(clean, noise, timesteps)
    return torch.where(plain[:, None, None, None], noise, noised), timesteps


def own_samples(
    model: DiffusionModel, count: int, *, seed: int, steps: int = SAMPLING_STEPS, progress: ProgressCallback = silent
) -> Tensor:
    """``count`` images drawn from the model by DDIM (Song et al. 2021), (count, C, H, W) in [-1, 1]."""
    scheduler = DDIMScheduler.from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    shape = input_shape(model.architecture.config)
    total = -(-count // SAMPLING_BATCH) * steps
    finished: list[Tensor] = []
    for start in range(0, count, SAMPLING_BATCH):
        sample = draw_noise((min(SAMPLING_BATCH, count - start), *shape), generator)
        for number, timestep in enumerate(scheduler.timesteps):
            with torch.no_grad():
                noise = predict(model.denoiser, sample, timestep)
            sample = scheduler.step(noise, timestep, sample).prev_sample
            progress(Progress("samples", len(finished) * steps + number + 1, total))
        finished.append(sample.clamp(-1, 1))
    return torch.cat(finished)


def input_shape(config: dict[str, Any]) -> tuple[int, int, int]:
    """(channels, height, width) of x_t from a denoiser's configuration; 32 pixels where it names no size."""
    size = config.get("sample_size") or 32
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    return config["in_channels"], height, width
