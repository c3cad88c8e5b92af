"""A diffusion model, as the method marks, trains and tests it."""

from dataclasses import dataclass

from torch import nn

from aiao_core.denoisers.schedules import NoiseSchedule
from aiao_core.key import Architecture


@dataclass(frozen=True)
class DiffusionModel:
    """A denoiser in float32 with the noise schedule it was trained on."""

    denoiser: nn.Module
    schedule: NoiseSchedule
    architecture: Architecture
