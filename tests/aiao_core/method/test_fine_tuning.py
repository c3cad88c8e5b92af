import copy
from dataclasses import replace

import pytest
import torch

from aiao_core.denoisers import Inputs, predict
from aiao_core.method.fine_tuning import fine_tune


@pytest.mark.long
def test_fine_tuning_lowers_the_loss_and_repeats(tiny_model, tiny_examples):
    first, second = copy.deepcopy(tiny_model.denoiser), copy.deepcopy(tiny_model.denoiser)
    losses = []
    for denoiser in (first, second):
        fine_tune(
            replace(tiny_model, denoiser=denoiser), tiny_examples, steps=30, learning_rate=5e-3, batch_size=16,
            progress=lambda report: losses.append(report.metrics["loss"]),
        )  # fmt: skip
    assert sum(losses[25:30]) < sum(losses[:5])
    assert losses[:30] == losses[30:]
    inputs = Inputs(torch.zeros(1, 3, 8, 8), torch.tensor([5]), {})
    assert torch.equal(predict(first, inputs), predict(second, inputs))
    assert not any(parameter.requires_grad for parameter in first.parameters())
