"""The training loop of the attacks that have a loss of their own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aiao_core.progress import Progress, ProgressCallback


def minimize(
    denoiser: nn.Module,
    loss: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    stage: str,
    progress: ProgressCallback,
) -> None:
    """Train every weight of ``denoiser`` in place with AdamW, so that ``loss``, a scalar of a fresh batch, falls.

    The learning rate follows one cycle (Smith and Topin 2018).
    """
    denoiser.requires_grad_(True)
    optimizer = torch.optim.AdamW(denoiser.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for step in range(steps):
        value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(Progress(stage, step + 1, steps, {"loss": value.item()}))
    denoiser.requires_grad_(False)
