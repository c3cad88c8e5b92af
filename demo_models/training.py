"""The training loop of the example models: AdamW, a warm-up and a cosine, and a moving average of the weights."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from aiao_core.denoisers import predict
from aiao_core.denoisers.schedules import NoiseSchedule
from aiao_core.method.fine_tuning import Examples, noised

WARM_UP_STEPS = 200


def fit(
    denoiser: nn.Module,
    schedule: NoiseSchedule,
    draw: Callable[[torch.Generator], Examples],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    seed: int,
    others: Sequence[nn.Module] = (),
) -> nn.Module:
    """Train ``denoiser``, and ``others`` with it, on the batches that ``draw`` gives; return the average of its weights."""
    generator = torch.Generator().manual_seed(seed)
    average = copy.deepcopy(denoiser).requires_grad_(False)
    parameters = [parameter for module in (denoiser, *others) for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for step in range(steps):
        inputs, target = noised(schedule, draw(generator), generator)
        loss = nn.functional.mse_loss(predict(denoiser, inputs), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        decay = min(0.999, (step + 1) / (step + 10))
        for kept, current in zip(average.parameters(), denoiser.parameters(), strict=True):
            kept.lerp_(current.detach(), 1 - decay)
        if step % 100 == 0:
            print(f"step {step:5d} of {steps}  loss {loss.item():.4f}", flush=True)
    return average.eval()
