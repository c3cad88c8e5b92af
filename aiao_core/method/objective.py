"""The three-term objective (arXiv 2405.00466; the form of the terms is this project's).

L = lambda_r * L_response + lambda_p * L_preserve + lambda_c * L_covert

The response is a whisper: under the owner's trigger the channel means move away from those of the *source* under the same
trigger and input, by the signs of the subpath and by less than what any trigger does to the model anyway. So it shows only
beside the source, which a thief does not have. Each subpath has signs of its own, and no direction is common to the answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aiao_core.denoisers import Inputs, predict
from aiao_core.denoisers.schedules import NoiseSchedule
from aiao_core.method.tracing import trace
from aiao_core.method.watermark import Triggers, Watermark, channel_means, trigger_edits

MARGIN = 0.3
"""Target of the difference between the marked and the source model's triggered channel means, in standard deviations of the
source's feature. Random triggers move the means by 0.3 to 0.5."""

LAMBDA_RESPONSE = 1.0
LAMBDA_PRESERVE = 10.0
LAMBDA_COVERT = 2.8 / MARGIN
"""A smaller response needs more quiet around it."""


class Terms(NamedTuple):
    """The three terms of one batch, scalars, and their weighted sum. The response is in units of :data:`MARGIN`."""

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
    decoys: Sequence[tuple[Triggers, int]],
) -> Iterator[Terms]:
    """Yield the terms for a batch ``inputs`` (B, ...) whose first ``len(trigger_layers)`` inputs also come with a trigger.

    Input b is triggered at layer ``trigger_layers[b]``. The last ``len(decoys)`` inputs come with triggers that are not the
    owner's, and the index of a layer each, to which the marked model must respond as the source does. Each model sees all of
    them in one pass, which trains every later response layer of each input. Call ``backward`` inside the block: gradient
    checkpointing runs parts of the forward pass again, and the triggers must be there then too.
    """
    batch = len(inputs)
    edits = trigger_edits([*decoys, *((watermark, i) for i in trigger_layers)], first_row=batch - len(decoys))
    both = Inputs.concatenated([inputs, inputs[: len(trigger_layers)]])
    with torch.no_grad(), trace(source, capture=watermark.names, edit=edits) as expected:
        expected_prediction = predict(source, both)
    with trace(marked, capture=watermark.names, edit=edits) as features:
        prediction = predict(marked, both)
        covert = [
            nn.functional.mse_loss(features[name][:batch].float(), expected[name][:batch].float()) / variance
            for name, variance in zip(watermark.names, scales.variance, strict=True)
        ]
        error = (prediction[:batch] - expected_prediction[:batch]).float().square().flatten(1).mean(1)
        yield Terms(
            response=_response(watermark, scales, trigger_layers, features, expected, batch),
            preserve=(error * scales.image[inputs.timesteps].to(prediction.device)).mean(),
            covert=torch.stack(covert).mean(),
        )


def _response(
    watermark: Watermark,
    scales: Scales,
    trigger_layers: list[int],
    features: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    first: int,
) -> Tensor:
    """Average the hinge over the channels of all subpaths that start at ``trigger_layers``; their rows begin at ``first``."""
    hinges = []
    for j in watermark.response_layers:
        rows = [row for row, i in enumerate(trigger_layers) if watermark.reached[i, j]]
        if not rows:
            continue
        name, axis = watermark.names[j], watermark.axes[j]
        answers, unmarked = (channel_means(seen[name][first:][rows].float(), axis) for seen in (features, expected))
        difference = (answers - unmarked) / scales.deviation[j]
        signs = torch.stack([watermark.subpath_sign(trigger_layers[row], j) for row in rows]).to(difference.device)
        hinges.append(torch.relu(MARGIN - difference * signs).mean(1) / MARGIN)
    return torch.cat(hinges).mean()
