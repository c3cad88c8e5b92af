"""What the attacker reads, and what it is worth. Each experiment returns the JSON of its result."""

import time
from statistics import fmean
from typing import Any

import torch
from torch import nn

from aiao_core.attacks.audit import LOSS_BATCH, LOSS_INPUTS, split
from aiao_core.attacks.inversion.methods import METHODS
from aiao_core.attacks.inversion.planting import plant
from aiao_core.attacks.inversion.reader import ROWS, Reader
from aiao_core.attacks.inversion.scoring import scored
from aiao_core.attacks.thief import Thief
from aiao_core.attacks.weights import weight_noise
from aiao_core.denoisers import predict
from aiao_core.method.fine_tuning import noised
from benchmarks.inversion.marks import Setting, marked, same_seed_change, source, thiefs_examples, tuned

TUNED_STEPS = 200
"""Steps of the attacker's own fine-tune that stands in for the source."""

NOISE = 0.03
"""Noise on the weights of the copy that stands in for the source, in standard deviations."""

TWIN = 100
"""Added to the number of a key: the key of another marked copy of the same source."""

SETTINGS_METHODS = ("first-component", "flattest-component", "gradient-moved", "hill-climb")
"""Methods of which the grid keeps the best."""


def read(setting: Setting, number: int, *, method: str, beside: str, minutes: float, plant_steps: int) -> dict[str, Any]:
    """Read a mark by one method for ``minutes`` of CPU time, then forge and remove it with what was read."""
    mark = marked(setting, number)
    other = _beside(beside, setting, number)
    start = time.process_time()
    reader = Reader(mark.model, beside=other)
    reading = METHODS[method](reader, rows_in(reader, minutes))
    seconds = time.process_time() - start
    score = scored(reading, mark.key)
    result: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "share": score.share,
        "folded_share": score.folded_share,
        "read_log10_p": score.log10_p,
        "nearness": fmean(score.nearness.values()),
    }
    if plant_steps:
        examples, held_out = split(thiefs_examples(), 0)
        innocents = {"source": source(), "tuned": tuned(source(), TUNED_STEPS)}
        for name, innocent in innocents.items():
            forged = plant(innocent, reading, examples, steps=plant_steps, margin=setting.margin)
            result |= {f"forged_{name}_{what}": value for what, value in mark.judged(forged).items()}
        removed = plant(mark.model, reading, examples, steps=plant_steps, margin=setting.margin, direction=-1.0)
        result["published_log10_p"] = mark.test(mark.model.denoiser).log10_p
        result |= {f"removed_{what}": value for what, value in mark.judged(removed).items()}
        result["removed_quality_loss"] = _loss(removed, held_out) / _loss(mark.model.denoiser, held_out) - 1
    return result


def compare(setting: Setting, number: int, *, minutes: float) -> dict[str, Any]:
    """Measure the strength of a setting, and its stealth by the best of :data:`SETTINGS_METHODS`, with ``minutes`` each."""
    mark = marked(setting, number)
    scores = {}
    for method in SETTINGS_METHODS:
        reader = Reader(mark.model)
        scores[method] = scored(METHODS[method](reader, rows_in(reader, minutes)), mark.key)
    best = min(scores, key=lambda method: scores[method].log10_p)
    return {
        "method": best,
        "share": scores[best].share,
        "read_log10_p": scores[best].log10_p,
        "published_log10_p": mark.test(mark.model.denoiser).log10_p,
        "thief_log10_p": mark.test(tuned(mark.model).denoiser).log10_p,
        "change": same_seed_change(mark.model.denoiser),
        "bits": mark.key.bits,
    }


def rows_in(reader: Reader, minutes: float) -> int:
    """Estimate how many triggered inputs the model sees in ``minutes`` of CPU time."""
    layer, ends = next(iter(reader.reached.items()))
    triggered = reader.random(layer, ROWS)
    reader.answers(layer, triggered, ends)
    start = time.process_time()
    reader.answers(layer, triggered, ends)
    return max(1, round(minutes * 60 * ROWS / (time.process_time() - start)))


def _beside(name: str, setting: Setting, number: int) -> nn.Module | None:
    mark = marked(setting, number)
    match name:
        case "tuned":
            return tuned(mark.model, TUNED_STEPS).denoiser
        case "noised":
            return weight_noise(Thief(mark.model, thiefs_examples()), strength=NOISE)
        case "twin":
            return marked(setting, number + TWIN).model.denoiser
        case _:
            return None


def _loss(denoiser: nn.Module, held_out: Any) -> float:
    generator = torch.Generator().manual_seed(0)
    inputs, target = noised(source().schedule, held_out.draw(LOSS_INPUTS, generator), generator)
    total = 0.0
    for start in range(0, LOSS_INPUTS, LOSS_BATCH):
        rows = slice(start, start + LOSS_BATCH)
        with torch.no_grad():
            total += float((predict(denoiser, inputs[rows]) - target[rows]).square().sum())
    return total / target.numel()
