"""Distillation: a new network that never had the watermark learns what the stolen one predicts."""

from typing import Any

import torch
from torch import Tensor, nn

from aiao_core.attacks.minimizing import minimize
from aiao_core.attacks.thief import Thief
from aiao_core.denoisers import family_named, predict
from aiao_core.method.fine_tuning import noised


def distillation(thief: Thief, *, steps: int, learning_rate: float, batch_size: int) -> nn.Module:
    """Train a freshly initialized denoiser of the same architecture to predict what the stolen one does (Hinton et al. 2015).

    The inputs are the thief's examples with noise; none of the stolen weights is used.
    """
    teacher, architecture = thief.model.denoiser, thief.model.architecture
    with thief.seeded() as generator:
        denoiser_class: Any = family_named(architecture.class_name).denoiser
        student: nn.Module = denoiser_class.from_config(architecture.config)
        student.to(next(teacher.parameters()).device).eval()

        def loss() -> Tensor:
            inputs, _ = noised(thief.model.schedule, thief.examples.draw(batch_size, generator), generator)
            with torch.no_grad():
                expected = predict(teacher, inputs)
            return nn.functional.mse_loss(predict(student, inputs), expected)

        minimize(student, loss, steps=steps, learning_rate=learning_rate, stage="distillation", progress=thief.progress)
    return student
