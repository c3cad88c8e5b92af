"""Undo a re-parametrization of a suspect: other channels and other directions, while the function stays (this project).

A thief can permute the hidden channels of a block, flip their signs, scale them, add a constant that a norm takes out again, or
turn a whole attention head, and undo it in the next layer's weights. The key then addresses the wrong channels. The owner has
the source, the model before the watermark: compared with its features on the same inputs, those of the suspect show in which
coordinates (:mod:`aiao_core.method.coordinates`) it has the source's channels. Channels that are at home stay as they are.

- *Channels:* linear assignment finds each one where the suspect's features resemble the source's most; its mean and spread
  are then those of the source.
- *Heads:* whole heads are matched first and channels within them. Where that does not explain a head, the linear map is found
  that turns it back (:mod:`aiao_core.verification.turns`).

The exact test stays exact. Proof: the coordinates are a function of source, suspect and the inputs, which follow from the
verification's seed. The response signs are independent of these three. So given the coordinates, and with them the suspect's
answers in the source's channels, each sign is still the toss of a coin, whatever the coordinates are: right, wrong, or crafted
by the suspect's maker. That is why the reference is the source and never the watermarked model, whose weights have learned the
response signs. It must have been fixed before the key was drawn: with the key at hand, a claimant could make a source that
turns an innocent model's channels into any signs.
"""

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from aiao_core.denoisers import predict
from aiao_core.key import OwnerKey
from aiao_core.method.coordinates import Alignment, Coordinates, Turns
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import channel_axis, trace
from aiao_core.verification.features import Features, correlations
from aiao_core.verification.turns import find_turns, match_heads

INPUTS = 16
"""Inputs whose features are compared."""

SAMPLES = 1024
"""Most values of a channel that are compared, over inputs and positions."""

AT_HOME = 0.5
"""Correlation with the source's features of the same place at which a channel stays there."""

FARTHEST = 1.0
"""Distance of a channel's mean from the source's, in spreads of the source, at which the channel has an offset. The mark of the
emoji model moved the farthest of 3,328 channels by 0.44, and 200 steps of fine-tuning after it by 1.16."""

WIDEST = 2.0
"""Factor between a channel's spread and the source's at which the channel has another scale; the same fine-tuning: 1.35."""

HEADS = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
"""Last words of the names of layers whose channels belong to attention heads."""

SHARED = ("to_k", "to_v")
"""Those of which there may be fewer heads, where several queries share their keys and values."""

Reference = Mapping[str, Features]
"""Clean features of a model by the names of the key's layers."""


def reference(source: nn.Module, key: OwnerKey, seed: int) -> Reference:
    """Measure the features by which :func:`align` recognizes channels; ``source`` is the model before the watermark.

    The inputs follow from ``seed``, the verification's: a thief could train for inputs that are known in advance.
    """
    names = [layer.name for layer in key.layers]
    generator = torch.Generator().manual_seed(int.from_bytes(key.stranger_seed("places", seed, 0)[:6], "big"))
    inputs = plain_noise(key.architecture, key.num_train_timesteps, INPUTS, generator)
    with torch.no_grad(), trace(source, capture=names, stop=True) as features:
        predict(source, inputs)
    return {
        name: Features.of(_sampled(features[name], channel_axis(source.get_submodule(name))), heads_of(source, name))
        for name in names
    }


def heads_of(denoiser: nn.Module, name: str) -> int | None:
    """Return the number of attention heads that the channels of a layer belong to; None for a layer without heads."""
    parent, _, last = name.rpartition(".")
    attention = denoiser.get_submodule(parent)
    heads = getattr(attention, "heads", None) if last in HEADS else None
    if not isinstance(heads, int) or heads <= 0:
        return None
    query, layer = getattr(attention, "to_q", None), denoiser.get_submodule(name)
    if last not in SHARED or not isinstance(query, nn.Linear) or not isinstance(layer, nn.Linear):
        return heads
    return heads * layer.out_features // query.out_features


def align(suspect: nn.Module, key: OwnerKey, seed: int, source: Reference) -> Alignment:
    """Find the source's channels in each of ``key``'s layers in ``suspect``; ``source`` is a reference of the same ``seed``."""
    return find_alignment(source, reference(suspect, key, seed))


def find_alignment(source: Reference, suspect: Reference) -> Alignment:
    """Find the source's channels in the suspect, by features of the same inputs; layers with all at home have no entry."""
    pairs = ((name, find_coordinates(source[name], suspect[name])) for name in source)
    return {name: coordinates for name, coordinates in pairs if coordinates}


def find_coordinates(ours: Features, theirs: Features) -> Coordinates | None:
    """Compare the features of a layer of the source with the suspect's; None if every channel is at home."""
    channels, heads = len(ours.mean), ours.heads
    if heads is None:
        place, sign = _match_channels(ours, theirs, 1)
        turned, maps = torch.zeros(channels, dtype=torch.bool), None
    else:
        size = channels // heads
        fit = correlations(ours, theirs).view(heads, size).mean(1)
        order = match_heads(ours.of_heads, theirs.of_heads, fit)
        moved = (order[:, None] * size + torch.arange(size)).flatten()
        within, sign = _match_channels(ours, theirs[moved], heads)
        fit = (sign * correlations(ours, theirs[moved[within]])).view(heads, size).mean(1)
        of_head, maps = find_turns(ours.of_heads, theirs[moved].of_heads, fit)
        turned = of_head.repeat_interleave(size)
        place, sign = torch.where(turned, moved, moved[within]), torch.where(turned, 1, sign)
    found = theirs[place]
    strayed = turned | (place != torch.arange(channels)) | (sign < 0) | _rescaled(ours, found)
    if not strayed.any():
        return None
    return Coordinates(
        place=place,
        factor=torch.where(strayed & ~turned & ours.alive & found.alive, sign * ours.deviation / found.deviation, sign),
        suspect_offset=torch.where(strayed, found.mean, 0),
        source_offset=torch.where(strayed, ours.mean, 0),
        turns=Turns.of(maps) if maps is not None and turned.any() else None,
        moved=strayed,
    )


def _match_channels(source: Features, suspect: Features, groups: int) -> tuple[Tensor, Tensor]:
    """Find places and signs, (C,): channels that are not in their own place are matched among those left of their group."""
    place, sign = torch.arange(len(source.mean)), torch.ones(len(source.mean), dtype=torch.float64)
    stray = correlations(source, suspect) < AT_HOME
    for group in place.clone().view(groups, -1):
        lost = group[stray[group]]
        correlation = source[lost].standardized @ suspect[lost].standardized.T / source.centered.shape[1]
        rows, columns = linear_sum_assignment(correlation.abs().numpy(), maximize=True)
        place[lost[rows]] = lost[columns]
        sign[lost[rows]] = torch.where(correlation[rows, columns] < 0, -1.0, 1.0).double()
    return place, sign


def _rescaled(source: Features, suspect: Features) -> Tensor:
    """Mark the channels, (C,), that have another offset or scale; a dead channel has neither."""
    apart = (suspect.mean - source.mean).abs() > FARTHEST * source.deviation
    wider, narrower = suspect.deviation > WIDEST * source.deviation, source.deviation > WIDEST * suspect.deviation
    return source.alive & suspect.alive & (apart | wider | narrower)


def _sampled(features: Tensor, axis: int) -> Tensor:
    """Choose values of the output of a layer, evenly over inputs and positions: (C, samples)."""
    values = features.float().movedim(axis, 0).flatten(1).cpu()
    return values[:, :: -(-values.shape[1] // SAMPLES)]
