"""What a thief has: the stolen model, images of their own, and patience."""

import copy
from dataclasses import dataclass, replace

from aiao_core.checkpoints import DiffusionModel
from aiao_core.progress import ProgressCallback, silent
from aiao_core.training import Examples


@dataclass(frozen=True)
class Thief:
    """Everything an attack starts from."""

    model: DiffusionModel
    """The watermarked model. Attacks work on a :meth:`copy` of it."""
    examples: Examples
    """The thief's own data."""
    seed: int = 0
    progress: ProgressCallback = silent

    def copy(self) -> DiffusionModel:
        """The stolen model with weights of its own."""
        return replace(self.model, denoiser=copy.deepcopy(self.model.denoiser))
