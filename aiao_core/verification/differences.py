"""Read a key of version 3: what a suspect's answers to the owner's triggers differ by from the source's (this project).

Each draw shows an input under the owner's trigger at one layer, to the suspect and to the source. For each subpath (i, j) the
difference of the channel means at j, averaged over the draws with the trigger at i, is the answer of each channel. Its sign is
a bit. Two things are taken out of the answer before:

- what the source answers to the trigger, by regression: a thief who trains a model to answer triggers less scales that part;
- what the suspect answers to *any* trigger at that layer (:mod:`aiao_core.verification.interference`), as the same inputs show
  under triggers of keys that nobody owns. A forger who has read the signs out of published weights, but not the trigger, can
  plant them only in the answers to all triggers; and what a mark leaks to other triggers can be read by anybody, and is not
  evidence of the key.

Without a source the suspect's answers to two other keys' triggers stand in for it: they are as noisy as any trigger's answer,
so that a mark that is as quiet as that loses many of its bits.

*Why the number of right bits is exactly Binomial(n, 1/2), and its p-value valid.* Let D be the digest of everything in the key
but its seed: architecture, layers, subpaths, the source's digest, protocol and beacon. HKDF-SHA256 is taken for what it is made
to be, a random function of seed and label.

1. The response signs are its values at labels that hold D, and nothing else is: layer choice, triggers, other keys, draws and
   inputs follow from values at other labels, or from hashes of public digests. So the signs are uniform, and independent of all
   of these.
2. The suspect was made without knowledge of the seed and of the marked weights (the hypothesis that is tested), so the signs
   are independent of it too. The source is fixed in D: for any other source, layer or subpath the labels are others, and so are
   the signs. So they are independent of the source as well, even of one that the claimant made.
3. The answers of this module are a function of suspect, source, triggers, other keys' triggers and inputs alone. The same holds
   for which answers are exactly zero, and therefore not a bit; let n be the number of the others.
4. Given all answers, each bit compares a fixed sign with an independent uniform one. So it is right with probability 1/2,
   independently of the others, and the number of right ones is Binomial(n, 1/2), exactly, however the answers depend on each
   other. Each reading has such a number; that of the best of k readings has a p-value of at most k times its own (Bonferroni).

A claimant who tries m sources, layers or seeds tosses m times: p is then at most m times as large. That is what the limit of
2^-64 is for. A beacon that appeared after the commitment was dated leaves no seeds to try.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aiao_core.key import OwnerKey, Subpath
from aiao_core.method.coordinates import Alignment, Coordinates
from aiao_core.method.inputs import plain_noise
from aiao_core.method.watermark import Watermark
from aiao_core.protocol import DRAWS
from aiao_core.verification.alignment import Reference
from aiao_core.verification.decoding import Draws, Means, observe, observe_others
from aiao_core.verification.features import Features
from aiao_core.verification.interference import without_interference

OTHERS = 2 * DRAWS
"""Keys that nobody owns, whose triggers take turns. No draw of a trigger layer is shown under the same as another."""


@dataclass(frozen=True)
class Answer:
    """What a suspect answers at one subpath, in the places and units of the source."""

    of_draws: Tensor
    """Difference of each draw, (draws, C)."""
    plain: Tensor
    """Its mean over the draws, (C,) float64."""
    specific: Tensor
    """The mean less what the source answers and less what the suspect answers to any trigger, in deviations, (C,) float64."""


Answers = Mapping[Subpath, Answer]
"""By the key's subpaths."""


@dataclass(frozen=True)
class Shown:
    """What one model shows in the draws of a test."""

    triggered: Means
    """Under the owner's triggers."""
    others: Means
    """Under triggers of keys that nobody owns, at the same layers."""


def make_draws(key: OwnerKey, count: int, generator: torch.Generator) -> Draws:
    """Make ``count`` independent draws for each trigger layer of ``key``: x_t of plain noise, uniform timestep, conditions.

    The second layer of each draw's subpath is uniform among those that its trigger leads to, for the rates alone: one pass
    serves all of them.
    """
    later = {i: [j for first, j in key.subpaths if first == i] for i in key.trigger_layers}
    layers = [i for i in key.trigger_layers for _ in range(count)]
    return Draws(
        inputs=plain_noise(key.architecture, key.num_train_timesteps, len(layers), generator),
        subpaths=tuple((i, later[i][int(torch.randint(len(later[i]), (), generator=generator))]) for i in layers),
    )


def observe_draws(denoiser: nn.Module, key: OwnerKey, draws: Draws, seed: int, alignment: Alignment | None = None) -> Shown:
    """Measure the channel means of ``draws`` under the owner's triggers, and under those of keys that follow from ``seed``.

    Raises as :func:`observe` does.
    """
    watermark = Watermark(key, denoiser, alignment)
    triggered = observe(denoiser, watermark, draws, [(watermark, i) for i, _ in draws.subpaths])
    return Shown(triggered, observe_others(denoiser, key, draws, seed, alignment, keys=OTHERS))


def observe_stand_in(denoiser: nn.Module, key: OwnerKey, draws: Draws, seed: int, shown: Shown) -> Shown:
    """Make what stands in for the source's answers from those of the suspect itself, which has ``shown`` some already.

    That is the mean answer to two other keys' triggers, with which what any trigger calls up is gone already.
    """
    second = observe_others(denoiser, key, draws, seed, keys=OTHERS, first=OTHERS // 2)
    return Shown({j: (first + second[j]) / 2 for j, first in shown.others.items()}, shown.others)


def in_units_of(source: Reference, suspect: Reference, alignment: Alignment, key: OwnerKey, means: Means) -> Means:
    """Bring a suspect's channel means, in the source's coordinates, to the scales and offsets that the source's channels have.

    Scales and offsets are those of clean features. Channels that have strayed have them already by the ``alignment``.
    """
    names = {j: key.layers[j].name for j in means}
    return {j: _in_units(source[names[j]], suspect[names[j]], alignment.get(names[j]), values) for j, values in means.items()}


def _in_units(source: Features, suspect: Features, coordinates: Coordinates | None, means: Tensor) -> Tensor:
    gain = torch.where(suspect.alive, source.deviation / suspect.deviation, 0)
    scaled = (means - suspect.mean) * gain + source.mean
    return scaled if coordinates is None else torch.where(coordinates.moved, means, scaled)


def compare(key: OwnerKey, draws: Draws, suspect: Shown, beside: Shown, clean: Reference) -> Answers:
    """Compare what a suspect shows with what is ``beside`` it: the source, or what stands in for it.

    ``clean`` are the features without a trigger of the model that ``beside`` is of: what ``beside`` adds to them is its own
    answer to a trigger.
    """
    answers = {}
    for i in key.trigger_layers:
        of_trigger, ends = draws.triggers == i, [j for first, j in key.subpaths if first == i]
        of_draws, owners, others = {}, [], []
        for j in ends:
            features = clean[key.layers[j].name]
            of_draws[j] = (suspect.triggered[j] - beside.triggered[j])[of_trigger].double()
            to_others = (suspect.others[j] - beside.others[j])[of_trigger].double()
            own = beside.triggered[j][of_trigger].double().mean(0) - features.mean.double()
            deviation = features.deviation.double()
            unit = torch.where(deviation > 0, deviation.reciprocal(), 0).nan_to_num(0, 0, 0)
            owners.append(_regressed(of_draws[j].mean(0) * unit, own * unit))
            others.append(_regressed(to_others * unit, own * unit))
        specific = without_interference(torch.cat(owners), torch.cat(others, 1))
        for j, part in zip(ends, torch.split(specific, [len(each) for each in owners]), strict=True):
            answers[i, j] = Answer(of_draws[j], of_draws[j].mean(0), part)
    return answers


def _regressed(answers: Tensor, own: Tensor) -> Tensor:
    """Subtract from answers (..., C) the multiple of ``own`` (C,) that leaves the least."""
    norm = own.square().sum()
    return answers if norm == 0 else answers - (answers @ own / norm)[..., None] * own
