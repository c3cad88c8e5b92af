"""The three-term objective (arXiv 2405.00466; the form of the terms is this project's).

L = lambda_r * L_response + lambda_p * L_preserve + lambda_c * L_covert
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aiao_core.denoisers import Inputs, predict
from aiao_core.denoisers.schedules import NoiseSchedule
from aiao_core.method.tracing import trace
from aiao_core.method.watermark import Watermark, channel_means, trigger_edits

MARGIN = 0.7
"""Target of the triggered mean response, in standard deviations of the source's feature."""

LAMBDA_RESPONSE = 1.0
LAMBDA_PRESERVE = 10.0
LAMBDA_COVERT = 4.0


class Terms(NamedTuple):
    """The three terms of one batch, scalars, and their weighted sum."""

    response: Tensor
    preserve: Tensor
    covert: Tensor

    def total(self) -> Tensor:
        return LAMBDA_RESPONSE * self.response + LAMBDA_PRESERVE * self.preserve + LAMBDA_COVERT * self.covert


@dataclass(frozen=True)
class Scales:
    """The units in which the objective measures: the spread of the source's features at the key's layers, and the image."""

    deviation: list[Tensor]
    """Per layer: standard deviation of each channel over inputs and positions, (C,)."""
    variance: list[Tensor]
    """Per layer: variance over inputs, positions and channels, a scalar."""
    image: Tensor
    """Per timestep: how much an error of the prediction changes the image, (num_train_timesteps,)."""


def measure_scales(source: nn.Module, schedule: NoiseSchedule, watermark: Watermark, inputs: Inputs) -> Scales:
    """Measure the :class:`Scales` of ``source`` over ``inputs``."""
    with torch.no_grad(), trace(source, capture=watermark.names, stop=True) as features:
        predict(source, inputs)
    channels_first = [
        features[name].float().movedim(axis, 0).flatten(1) for name, axis in zip(watermark.names, watermark.axes, strict=True)
    ]
    return Scales(
        deviation=[values.std(1) + 1e-6 for values in channels_first],
        variance=[values.var() for values in channels_first],
        image=schedule.image_weights(),
    )


@contextmanager
def objective(
    marked: nn.Module,
    source: nn.Module,
    watermark: Watermark,
    scales: Scales,
    inputs: Inputs,
    trigger_layers: list[int],
    decoys: Sequence[tuple[Watermark, int]],
) -> Iterator[Terms]:
    """Yield the terms for a batch ``inputs`` (B, ...) whose first ``len(trigger_layers)`` inputs also come with a trigger.

    Input b is triggered at layer ``trigger_layers[b]``. The last ``len(decoys)`` inputs come with the triggers of other keys, a
    watermark and the index of one of its layers each, to which the marked model must respond as the source does. The marked
    model sees all of them in one pass, which trains every later response layer of each input. Call ``backward`` inside the
    block: gradient checkpointing runs parts of the forward pass again, and the triggers must be there then too.
    """
    batch = len(inputs)
    plain = batch - len(decoys)
    with torch.no_grad(), trace(source, capture=watermark.names, edit=trigger_edits(decoys, first_row=plain)) as expected:
        expected_prediction = predict(source, inputs)
    edits = trigger_edits([*decoys, *((watermark, i) for i in trigger_layers)], first_row=plain)
    with trace(marked, capture=watermark.names, edit=edits) as features:
        prediction = predict(marked, Inputs.concatenated([inputs, inputs[: len(trigger_layers)]]))
        reached = watermark.reached[torch.tensor(trigger_layers)]
        hinges = []
        for j in watermark.response_layers:
            triggered = features[watermark.names[j]][batch:][reached[:, j].to(prediction.device)]
            means = channel_means(triggered.float(), watermark.axes[j]) / scales.deviation[j]
            hinges.append(torch.relu(MARGIN - watermark.response(j, means)).mean(1))
        covert = [
            nn.functional.mse_loss(features[name][:batch].float(), expected[name].float()) / variance
            for name, variance in zip(watermark.names, scales.variance, strict=True)
        ]
        error = (prediction[:batch] - expected_prediction).float().square().flatten(1).mean(1)
        yield Terms(
            response=torch.cat(hinges).mean(),
            preserve=(error * scales.image[inputs.timesteps].to(prediction.device)).mean(),
            covert=torch.stack(covert).mean(),
        )
