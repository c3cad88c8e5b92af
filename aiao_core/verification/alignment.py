"""Undo a re-parametrization of a suspect: channels that change places or signs while the function stays (this project).

A thief can permute the hidden channels of a block, or flip their signs, and undo it in the next layer's weights. The key then
addresses the wrong channels. The owner has the source, the model before the watermark: linear assignment finds each channel of
the key's layers where the suspect's features resemble the source's most.

The exact test stays exact, because nothing here depends on the response signs: the key is drawn after the source is made, so
source, suspect and places are independent of them. That is why the reference is the source and never the watermarked model,
whose weights have learned the response signs. It must have been fixed before the key was drawn: with the key at hand, a
claimant could make a source that turns an innocent model's channels into any signs. The scale of a channel can stay: signs have
none.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from aiao_core.denoisers import predict
from aiao_core.key import OwnerKey
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import channel_axis, trace
from aiao_core.method.watermark import Alignment, Places

INPUTS = 16
"""Inputs whose features are compared."""

SAMPLES = 1024
"""Most values of a channel that are compared, over inputs and positions."""

AT_HOME = 0.5
"""Correlation with the source's features of the same place at which a channel stays there."""


class Features(NamedTuple):
    """Clean features of one layer, standardized, and what standardized them."""

    standardized: Tensor
    """(C, samples): each channel with mean 0 and variance 1, or 0 where it is constant or not finite."""
    mean: Tensor
    """(C,)"""
    deviation: Tensor
    """(C,)"""


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
    return {name: _standardized(features[name], channel_axis(source.get_submodule(name))) for name in names}


def align(suspect: nn.Module, key: OwnerKey, seed: int, source: Reference) -> Alignment:
    """Find each channel of ``key``'s layers in ``suspect``; ``source`` is a :func:`reference` of the same ``seed``."""
    return find_alignment(source, reference(suspect, key, seed))


def find_alignment(source: Reference, suspect: Reference) -> Alignment:
    """Find each channel of the source in the suspect, by features of the same inputs."""
    return {name: find_places(source[name].standardized, suspect[name].standardized) for name in source}


def find_places(source: Tensor, suspect: Tensor) -> Places:
    """Match standardized features (C, samples): channels that are not in their own place, among the places that are left."""
    place, sign = torch.arange(len(source)), torch.ones(len(source))
    stray = ((source * suspect).mean(1) < AT_HOME).nonzero()[:, 0]
    correlation = source[stray] @ suspect[stray].T / source.shape[1]
    rows, columns = linear_sum_assignment(correlation.abs().numpy(), maximize=True)
    place[stray[rows]] = stray[columns]
    sign[stray[rows]] = torch.where(correlation[rows, columns] < 0, -1.0, 1.0)
    return Places(place, sign)


def _standardized(features: Tensor, axis: int) -> Features:
    """Standardize the output of a layer over inputs and positions."""
    values = features.float().movedim(axis, 0).flatten(1).cpu()
    values = values[:, :: -(-values.shape[1] // SAMPLES)]
    mean = values.mean(1, keepdim=True)
    centered = values - mean
    deviation = centered.square().mean(1, keepdim=True).sqrt()
    return Features((centered / deviation).nan_to_num(0, 0, 0), mean[:, 0], deviation[:, 0])
