"""A thief: the stolen model, images of their own, and patience."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.method.fine_tuning import Examples
from aiao_core.progress import ProgressCallback, silent


@dataclass(frozen=True)
class Thief:
    """Everything an attack starts from."""

    model: DiffusionModel
    """The watermarked model. Attacks work on a :meth:`copy` of it."""
    examples: Examples
    """The thief's own data."""
    seed: int = 0
    progress: ProgressCallback = silent
    innocent: DiffusionModel | None = None
    """A model of the same architecture that never had the watermark, in which a forger plants it."""

    def copy(self) -> DiffusionModel:
        """Return the stolen model with weights of its own."""
        return replace(self.model, denoiser=copy.deepcopy(self.model.denoiser))

    @contextmanager
    def seeded(self) -> Iterator[torch.Generator]:
        """Yield a generator of the thief's seed.

        Inside the block torch's global generator, from which dropout and new layers draw, has that seed too.
        """
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            yield torch.Generator().manual_seed(self.seed)
