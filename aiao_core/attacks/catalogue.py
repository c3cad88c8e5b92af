"""The attacks with the strengths at which an audit and the benchmarks try them.

Ids, names and families are stored in audit reports, so their spelling is fixed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from aiao_core.attacks.adaptive import trigger_unlearning
from aiao_core.attacks.distillation import distillation
from aiao_core.attacks.fine_tuning import (
    dreambooth,
    full_fine_tuning,
    last_layers_fine_tuning,
    laziest_layers_fine_tuning,
    lora,
)
from aiao_core.attacks.inversion.attacks import read_and_forged, read_and_removed
from aiao_core.attacks.offsets import head_rotation_and_offsets, offsets
from aiao_core.attacks.overwriting import overwriting
from aiao_core.attacks.pruning import fine_pruning, magnitude_pruning, structured_pruning
from aiao_core.attacks.reparametrization import channel_permutation, reparametrization, sign_flips_and_scales
from aiao_core.attacks.rotation import head_rotation
from aiao_core.attacks.thief import Thief
from aiao_core.attacks.weights import (
    averaging_with_own_fine_tune,
    re_initialization,
    weight_clipping,
    weight_noise,
    weight_quantization,
    weight_shifting,
)
from aiao_core.options import EmbeddingOptions
from aiao_core.reports.audit import FORGING

USUAL_RATE = 2e-4
"""Learning rate: twice the usual one for fine-tuning."""

HIGH_RATE = 1e-3
"""Learning rate of the pre-training of a small model."""

READ_ROWS = 20_000
"""Triggered inputs from which a thief reads the signs: about a minute for a small model."""


@dataclass(frozen=True)
class Trial:
    """One attack at one strength."""

    id: str
    """Stable and short, of letters, digits and hyphens: ``magnitude-pruning-30``."""
    name: str
    """For people: ``magnitude pruning, 30 % of the weights``."""
    family: str
    """Kind of attack: ``fine-tuning``, ``pruning``, ``quantisation`` …"""
    attack: Callable[[Thief], nn.Module]


_TRIALS = (
    *(
        Trial(
            f"full-fine-tuning-{steps}{suffix}",
            f"full fine-tuning, {steps} steps at {rate:.0e}".replace("e-0", "e-"),
            "fine-tuning",
            partial(full_fine_tuning, steps=steps, learning_rate=rate),
        )
        for rate, suffix in ((USUAL_RATE, ""), (HIGH_RATE, "-high-rate"))
        for steps in (200, 800)
    ),
    Trial(
        "last-layers",
        "fine-tuning of the last quarter of the layers, 800 steps at 1e-3",
        "fine-tuning",
        partial(last_layers_fine_tuning, steps=800, learning_rate=HIGH_RATE, share=0.25),
    ),
    Trial(
        "laziest-layers",
        "fine-tuning of the laziest half of the layers, 400 steps at 1e-3",
        "fine-tuning",
        partial(laziest_layers_fine_tuning, steps=400, learning_rate=HIGH_RATE, share=0.5, probe_steps=60),
    ),
    *(
        Trial(
            f"lora-{rank}-{steps}",
            f"LoRA of rank {rank}, {steps} steps",
            "fine-tuning",
            partial(lora, steps=steps, learning_rate=USUAL_RATE, rank=rank),
        )
        for rank, steps in ((4, 100), (4, 800), (64, 800))
    ),
    Trial(
        "dreambooth",
        "DreamBooth on 5 images, 400 steps",
        "fine-tuning",
        partial(dreambooth, steps=400, learning_rate=USUAL_RATE, images=5),
    ),
    Trial(
        "averaging-with-own-fine-tune",
        "average with its own fine-tune of 800 steps at 1e-3",
        "averaging",
        partial(averaging_with_own_fine_tune, steps=800, learning_rate=HIGH_RATE, share=0.5),
    ),
    *(
        Trial(
            f"magnitude-pruning-{percent}",
            f"magnitude pruning, {percent} % of the weights",
            "pruning",
            partial(magnitude_pruning, share=percent / 100),
        )
        for percent in (10, 30, 50, 70)
    ),
    *(
        Trial(
            f"structured-pruning-{percent}",
            f"structured pruning, {percent} % of the channels",
            "pruning",
            partial(structured_pruning, share=percent / 100),
        )
        for percent in (5, 10, 20)
    ),
    Trial(
        "fine-pruning-20",
        "fine-pruning, 20 % of the channels, then 400 steps",
        "pruning",
        partial(fine_pruning, share=0.2, steps=400, learning_rate=USUAL_RATE),
    ),
    *(
        Trial(f"quantisation-{bits}", f"quantisation to {bits} bits", "quantisation", partial(weight_quantization, bits=bits))
        for bits in (8, 6, 4)
    ),
    *(
        Trial(
            f"weight-noise-{percent}",
            f"weight noise, {percent / 100:g} of the standard deviation",
            "weights",
            partial(weight_noise, strength=percent / 100),
        )
        for percent in (5, 10, 20, 40)
    ),
    Trial(
        "weight-clipping",
        "weight clipping at 3 standard deviations",
        "weights",
        partial(weight_clipping, deviations=3),
    ),
    Trial(
        "weight-shifting",
        "weight shifting, each filter by a quarter of their mean",
        "weights",
        partial(weight_shifting, strength=0.25),
    ),
    *(
        Trial(
            f"re-initialisation-{layers}",
            f"re-initialisation of {layers} layer{'s' * (layers > 1)}",
            "weights",
            partial(re_initialization, layers=layers),
        )
        for layers in (1, 4)
    ),
    Trial("channel-permutation", "channel permutation", "re-parametrisation", channel_permutation),
    Trial("sign-flips-and-scales", "sign flips and scales of channels", "re-parametrisation", sign_flips_and_scales),
    Trial("reparametrisation", "channel permutation, sign flips and scales", "re-parametrisation", reparametrization),
    Trial("head-rotation", "rotation of queries, keys and values in each head", "re-parametrisation", head_rotation),
    *(
        Trial(
            f"offsets-{size}",
            f"offsets of {size} that norms and sums take out",
            "re-parametrisation",
            partial(offsets, size=size),
        )
        for size in (3, 30)
    ),
    Trial(
        "head-rotation-and-offsets-30",
        "rotation of queries, keys and values in each head, and offsets of 30",
        "re-parametrisation",
        partial(head_rotation_and_offsets, size=30),
    ),
    *(
        Trial(
            f"overwriting-{times}",
            f"overwriting with {times} AIAO watermark{'s' * (times > 1)} of the thief's own",
            "overwriting",
            partial(overwriting, times=times, options=EmbeddingOptions()),
        )
        for times in (1, 3)
    ),
    Trial(
        "distillation",
        "distillation into a new network, 2000 steps",
        "distillation",
        partial(distillation, steps=2000, learning_rate=HIGH_RATE, batch_size=32),
    ),
    Trial(
        "trigger-unlearning",
        "training against random triggers at all layers, 800 steps",
        "adaptive",
        partial(trigger_unlearning, steps=800, learning_rate=HIGH_RATE, batch_size=16),
    ),
    Trial(
        "read-and-removed",
        f"reading of the signs from {READ_ROWS} triggered inputs, then 300 steps of training against them",
        "adaptive",
        partial(read_and_removed, method="gradient-flat", rows=READ_ROWS, steps=300),
    ),
    Trial(
        "read-and-forged",
        f"reading of the signs from {READ_ROWS} triggered inputs, then 300 steps that plant them in the unmarked model",
        FORGING,
        partial(read_and_forged, method="gradient-flat", rows=READ_ROWS, steps=300),
    ),
)

CATALOGUE: dict[str, Trial] = {trial.id: trial for trial in _TRIALS}
"""Every trial by its id, in the order of a report."""

PRESETS: dict[str, tuple[str, ...]] = {
    "quick": (
        "full-fine-tuning-200",
        "lora-4-100",
        "magnitude-pruning-30",
        "structured-pruning-10",
        "quantisation-8",
        "quantisation-4",
        "weight-noise-5",
        "weight-clipping",
        "weight-shifting",
        "re-initialisation-1",
        "channel-permutation",
        "reparametrisation",
    ),
    "full": tuple(CATALOGUE),
}
"""Ids of trials by the preset's name: ``quick``, minutes for a small model on two cores, and ``full``, hours."""
