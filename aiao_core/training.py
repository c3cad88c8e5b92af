"""Noise batches and plain fine-tuning, as every diffusion model is trained (Ho et al. 2020).

The probe for lazy layers, the benchmarks and the thief in the demo fine-tune with this one loop.
"""

from typing import Any

import torch
from torch import Tensor, nn

from aiao_core.progress import Progress, ProgressCallback, silent

IMAGE_WEIGHT_RANGE = (0.2, 10.0)
"""Least and greatest weight of a timestep in :func:`image_weights`, before they are divided by their mean."""


def draw_batch(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` images drawn with replacement from ``images`` (N, C, H, W)."""
    return images[torch.randint(len(images), (count,), generator=generator)]


def draw_timesteps(count: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """``count`` uniform timesteps, (count,) int64."""
    return torch.randint(num_train_timesteps, (count,), generator=generator)


def draw_noise(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal noise of ``shape``."""
    return torch.randn(shape, generator=generator)


def predict(denoiser: nn.Module, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """The denoiser's prediction eps(x_t, t), shaped like ``noisy``."""
    prediction: Tensor = denoiser(noisy, timesteps, return_dict=False)[0]
    return prediction


def training_target(scheduler: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the denoiser learns to predict under its scheduler's ``prediction_type``, shaped like ``clean``."""
    match scheduler.config.prediction_type:
        case "epsilon":
            return noise
        case "v_prediction":
            velocity: Tensor = scheduler.get_velocity(clean, noise, timesteps)
            return velocity
        case _:
            return clean


def image_weights(scheduler: Any) -> Tensor:
    """How much a squared error of the prediction at each timestep changes the image: (num_train_timesteps,), mean 1.

    It is the squared error of the clean image that the prediction implies; under noise prediction the inverse signal-to-noise
    ratio. Clipped, so that no timestep is forgotten and none counts alone (this project).
    """
    signal: Tensor = scheduler.alphas_cumprod
    match scheduler.config.prediction_type:
        case "epsilon":
            weights = (1 - signal) / signal
        case "v_prediction":
            weights = 1 - signal
        case _:
            weights = torch.ones_like(signal)
    weights = weights.clip(*IMAGE_WEIGHT_RANGE)
    return weights / weights.mean()


def fine_tune(
    denoiser: nn.Module,
    scheduler: Any,
    images: Tensor,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 32,
    seed: int = 0,
    stage: str = "fine-tuning",
    progress: ProgressCallback = silent,
) -> None:
    """Train every weight of ``denoiser`` in place on ``images`` (N, C, H, W) in [-1, 1] with AdamW at a constant rate."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=learning_rate)
    denoiser.requires_grad_(True).train()
    for step in range(steps):
        clean = draw_batch(images, batch_size, generator)
        noise = draw_noise(clean.shape, generator)
        timesteps = draw_timesteps(batch_size, scheduler.config.num_train_timesteps, generator)
        prediction = predict(denoiser, scheduler.add_noise(clean, noise, timesteps), timesteps)
        loss = nn.functional.mse_loss(prediction, training_target(scheduler, clean, noise, timesteps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress(Progress(stage, step + 1, steps, {"loss": loss.item()}))
    denoiser.requires_grad_(False).eval()
