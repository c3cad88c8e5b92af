"""Read a key of version 3: what a suspect's answers to the owner's triggers differ by from the source's (this project).

Each draw shows an input under the owner's trigger at one layer, to the suspect and to the source. For each subpath (i, j) the
difference of the channel means at j, averaged over the draws with the trigger at i, is the answer of each channel. Its sign is
a bit. It is read twice: as it is, and after the source's own answer to the trigger is regressed out of it, because a thief who
trains a model to answer triggers less scales that part. Without a source the suspect's answers to other keys' triggers stand in
for it: they are as noisy as any trigger's answer, so that a mark that is as quiet as that loses many of its bits.

*Why the number of right bits is exactly Binomial(n, 1/2), and its p-value valid.* Let D be the digest of everything in the key
but its seed: architecture, layers, subpaths, the source's digest, protocol and beacon. HKDF-SHA256 is taken for what it is made
to be, a random function of seed and label.

1. The response signs are its values at labels that hold D, and nothing else is: layer choice, triggers, other keys, draws and
   inputs follow from values at other labels, or from hashes of public digests. So the signs are uniform, and independent of all
   of these.
2. The suspect was made without knowledge of the seed and of the marked weights (the hypothesis that is tested), so the signs
   are independent of it too. The source is fixed in D: for any other source, layer or subpath the labels are others, and so are
   the signs. So they are independent of the source as well, even of one that the claimant made.
3. The answers of this module are a function of suspect, source, triggers and inputs alone. The same holds for which answers are
   exactly zero, and therefore not a bit; let n be the number of the others.
4. Given all answers, each bit compares a fixed sign with an independent uniform one. So it is right with probability 1/2,
   independently of the others, and the number of right ones is Binomial(n, 1/2), exactly, however the answers depend on each
   other. Each reading has such a number; that of the best of k readings has a p-value of at most k times its own (Bonferroni).

A claimant who tries m sources, layers or seeds tosses m times: p is then at most m times as large. That is what the limit of
2^-64 is for. A beacon that appeared after the commitment was dated leaves no seeds to try.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from aiao_core.key import OwnerKey, Subpath
from aiao_core.method.coordinates import Alignment, Coordinates
from aiao_core.method.inputs import plain_noise
from aiao_core.method.watermark import Watermark
from aiao_core.verification.alignment import Reference
from aiao_core.verification.decoding import Draws, Means, observe
from aiao_core.verification.features import Features

OTHERS = 16
"""Keys that nobody owns, whose triggers take turns to stand in for the source where there is none."""

BESIDE = 2
"""How many of these each draw is shown under. With 8 draws each of the keys comes once at each trigger layer."""


@dataclass(frozen=True)
class Answer:
    """What a suspect answers at one subpath, in the places and units of the source."""

    of_draws: Tensor
    """Difference of each draw, (draws, C)."""
    plain: Tensor
    """Its mean over the draws, (C,) float64."""
    remainder: Tensor
    """The mean after the source's own answer is regressed out of it, (C,) float64."""


Answers = Mapping[Subpath, Answer]
"""By the key's subpaths."""


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


def observe_triggered(denoiser: nn.Module, key: OwnerKey, draws: Draws, alignment: Alignment | None = None) -> Means:
    """Measure the channel means of ``draws`` under the owner's triggers. Raises as :func:`observe` does."""
    watermark = Watermark(key, denoiser, alignment)
    return observe(denoiser, watermark, draws, [(watermark, i) for i, _ in draws.subpaths])


def observe_others(denoiser: nn.Module, key: OwnerKey, draws: Draws, seed: int) -> Means:
    """Average the channel means of ``draws`` under the triggers of :data:`BESIDE` of :data:`OTHERS` keys that nobody owns.

    The keys follow from ``seed``, the report's. Raises as :func:`observe` does.
    """
    seeds = [key.stranger_seed("other", seed, number) for number in range(OTHERS)]
    others = [Watermark(replace(key, seed=each), denoiser) for each in seeds]
    found: list[Means] = []
    for first in range(0, OTHERS, OTHERS // BESIDE):
        triggers = [(others[(first + draw) % OTHERS], i) for draw, (i, _) in enumerate(draws.subpaths)]
        found.append(observe(denoiser, others[0], draws, triggers))
    return {j: torch.stack([each[j] for each in found]).mean(0) for j in found[0]}


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


def compare(key: OwnerKey, draws: Draws, triggered: Means, beside: Means, clean: Reference) -> Answers:
    """Compare the suspect's means of ``draws`` with those ``beside`` them: the source's, or under other keys' triggers.

    ``clean`` are the features without a trigger of the model that ``beside`` is of: what ``beside`` adds to them is its own
    answer to a trigger.
    """
    answers = {}
    for i, j in key.subpaths:
        of_trigger, features = draws.triggers == i, clean[key.layers[j].name]
        of_draws = (triggered[j] - beside[j])[of_trigger].double()
        plain = of_draws.mean(0)
        own = beside[j][of_trigger].double().mean(0) - features.mean.double()
        answers[i, j] = Answer(of_draws, plain, _remainder(plain, own, features.deviation.double()))
    return answers


def _remainder(answer: Tensor, own: Tensor, deviation: Tensor) -> Tensor:
    """Subtract the multiple of ``own`` that leaves the least, over the channels (C,) in units of ``deviation``."""
    weight = torch.where(deviation > 0, deviation.square().reciprocal(), 0).nan_to_num(0, 0, 0)
    norm = (weight * own.square()).sum()
    return answer if norm == 0 else answer - (weight * own * answer).sum() / norm * own
