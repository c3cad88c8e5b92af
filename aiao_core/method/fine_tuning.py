"""Noise batches and plain fine-tuning, as every diffusion model is trained (Ho et al. 2020).

The probe for lazy layers, the benchmarks and the thief in the demo fine-tune with this one loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aiao_core.denoisers import Conditions, Inputs, family_of, predict
from aiao_core.denoisers.family import select
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.schedules import NoiseSchedule
from aiao_core.progress import Progress, ProgressCallback, silent


@dataclass(frozen=True)
class Examples:
    """Training data: clean images, or latents if the model works on these, with the conditions of each."""

    clean: Tensor
    """(N, C, *positions)"""
    conditions: Conditions
    """Each (N, ...)."""

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: slice | Tensor) -> "Examples":
        return Examples(self.clean[rows], select(self.conditions, rows))

    def draw(self, count: int, generator: torch.Generator) -> "Examples":
        """Draw ``count`` examples with replacement."""
        return self[torch.randint(len(self), (count,), generator=generator)]


def randomly_conditioned(denoiser: Any, images: Tensor, seed: int = 0) -> Examples:
    """Give ``images`` (N, C, *positions), which have no captions, random conditions if the denoiser takes any."""
    generator = torch.Generator().manual_seed(seed)
    return Examples(images, family_of(denoiser).random_conditions(denoiser.config, len(images), generator))


def draw_timesteps(count: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` uniform timesteps, (count,) int64."""
    return torch.randint(num_train_timesteps, (count,), generator=generator)


def draw_noise(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    """Draw standard normal noise of ``shape``."""
    return torch.randn(shape, generator=generator)


def noised(schedule: NoiseSchedule, batch: Examples, generator: torch.Generator) -> tuple[Inputs, Tensor]:
    """Add noise to ``batch`` at uniform timesteps; return it and the target of the prediction, shaped like ``batch.clean``."""
    noise = draw_noise(batch.clean.shape, generator)
    timesteps = draw_timesteps(len(batch), schedule.num_train_timesteps, generator)
    noisy = schedule.add_noise(batch.clean, noise, timesteps)
    return Inputs(noisy, timesteps, batch.conditions), schedule.target(batch.clean, noise, timesteps)


def fine_tune(
    model: DiffusionModel,
    examples: Examples,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 32,
    seed: int = 0,
    parameters: Sequence[nn.Parameter] | None = None,
    stage: str = "fine-tuning",
    progress: ProgressCallback = silent,
) -> None:
    """Train ``model.denoiser`` in place on ``examples`` with AdamW at a constant rate: ``parameters``, or every weight."""
    denoiser = model.denoiser
    generator = torch.Generator().manual_seed(seed)
    trained = list(denoiser.parameters()) if parameters is None else parameters
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, fused=True)
    denoiser.train()
    for step in range(steps):
        inputs, target = noised(model.schedule, examples.draw(batch_size, generator), generator)
        prediction = predict(denoiser, inputs)
        loss = nn.functional.mse_loss(prediction, target.to(prediction.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress(Progress(stage, step + 1, steps, {"loss": loss.item()}))
    denoiser.requires_grad_(False).eval()
