"""What a reading is worth: plant what was read in an innocent model, or take it out of the marked one."""

import copy

import torch
from torch import Tensor, nn

from aiao_core.attacks.inversion.reader import Reading
from aiao_core.attacks.minimizing import minimize
from aiao_core.denoisers import Inputs, predict
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.inputs import arbitrary_inputs, measuring_inputs
from aiao_core.method.objective import MARGIN
from aiao_core.method.tracing import channel_axis, eligible_layers, trace
from aiao_core.method.watermark import Neighbor, channel_means, trigger_edits
from aiao_core.progress import ProgressCallback, silent

RATE = 1e-3
"""Peak of the learning rate: that of an embedding."""

SCALE_INPUTS = 32
"""Inputs on which the spread of each channel is measured."""

BATCH = 10
"""Inputs in a step, each with and without a trigger."""

RANDOM = 0.5
"""Fraction of the triggers that are random where signs are removed. None are where they are planted: what a model answers to
any trigger does not count in a verdict."""

PLANTED_NEAR, REMOVED_NEAR = 0.2, 0.5
"""Largest fraction of the channels of the other triggers that are drawn again."""

KEEP_FEATURES, KEEP_PREDICTION = 4.0, 10.0
"""Weights of what must stay as it is without a trigger."""


def plant(
    model: DiffusionModel,
    reading: Reading,
    examples: Examples,
    *,
    steps: int,
    learning_rate: float = RATE,
    direction: float = 1.0,
    margin: float = MARGIN,
    seed: int = 0,
    stage: str = "planting",
    progress: ProgressCallback = silent,
) -> nn.Module:
    """Train a copy of ``model`` to differ from it, under triggers, by ``margin`` deviations in the signs of ``reading``.

    With ``direction`` 1 an innocent model gets the signs that were read; with -1 a marked model loses them.
    """
    teacher, student = model.denoiser, copy.deepcopy(model.denoiser)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        inputs = measuring_inputs(model, examples, SCALE_INPUTS, generator)
        names = [layer.name for layer in eligible_layers(teacher, inputs[:2])]
        axes = [channel_axis(teacher.get_submodule(name)) for name in names]
        with torch.no_grad(), trace(teacher, capture=names, stop=True) as features:
            predict(teacher, inputs)
        deviation = [
            features[name].float().movedim(axis, 0).flatten(1).std(1) + 1e-6 for name, axis in zip(names, axes, strict=True)
        ]
        variance = {name: features[name].float().var() + 1e-12 for name in names}
        layers = list(reading)
        weights = torch.tensor([float(sum(len(part) for part in reading[layer].answers.values())) for layer in layers])

        def loss() -> Tensor:
            batch = arbitrary_inputs(model, examples, BATCH, generator)
            both = Inputs.concatenated([batch, batch])
            picked = [layers[n] for n in torch.multinomial(weights, BATCH, replacement=True, generator=generator).tolist()]
            triggers = [
                (_trigger(reading, layer, names, axes, generator, direction < 0), names.index(layer)) for layer in picked
            ]
            edits = trigger_edits(triggers, first_row=BATCH)
            with torch.no_grad(), trace(teacher, capture=names, edit=edits) as expected:
                expected_prediction = predict(teacher, both)
            with trace(student, capture=names, edit=edits) as found:
                prediction = predict(student, both)
            kept = [(found[name][:BATCH] - expected[name][:BATCH]).float().square().mean() / variance[name] for name in names]
            hinges = []
            for j, name in enumerate(names):
                rows = [row for row, layer in enumerate(picked) if name in reading[layer].answers]
                if not rows:
                    continue
                own, other = (channel_means(each[name][BATCH:][rows].float(), axes[j]) for each in (found, expected))
                signs = torch.stack([torch.sign(reading[picked[row]].answers[name]) for row in rows]).to(own.device)
                hinges.append(torch.relu(margin - direction * signs * (own - other) / deviation[j]).mean(1) / margin)
            keep = KEEP_FEATURES * torch.stack(kept).mean()
            keep = keep + KEEP_PREDICTION * (prediction[:BATCH] - expected_prediction[:BATCH]).square().mean()
            return keep + torch.cat(hinges).mean()

        minimize(student, loss, steps=steps, learning_rate=learning_rate, stage=stage, progress=progress)
    return student


def _trigger(
    reading: Reading, layer: str, names: list[str], axes: list[int], generator: torch.Generator, removing: bool
) -> Neighbor:
    """Draw a trigger near the one that was read or, to remove signs, any."""
    triggered = reading[layer].triggered
    redrawn, random = torch.rand(2, generator=generator).tolist()
    near = (REMOVED_NEAR if removing else PLANTED_NEAR) * redrawn
    share = 1.0 if removing and random < RANDOM else near
    chosen = torch.rand(triggered.mask.shape[1], generator=generator) < share
    mask = torch.rand(len(chosen), generator=generator) < 0.5
    sign = torch.where(torch.rand(len(chosen), generator=generator) < 0.5, 1.0, -1.0)
    return Neighbor(names, axes, torch.where(chosen, mask, triggered.mask[0]), torch.where(chosen, sign, triggered.sign[0]))
