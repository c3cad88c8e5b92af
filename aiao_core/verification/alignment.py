"""Undo a re-parametrisation of a suspect: channels that change places or signs while the function stays (this project).

A thief can permute the hidden channels of a block, or flip their signs, and undo it in the next layer's weights. The key then
addresses the wrong channels. The owner has the source, the model before the watermark: each channel of the key's layers is
looked for where the suspect's features resemble the source's most, by linear assignment.

The exact test stays exact, because nothing here depends on the response signs: the key is drawn after the source is made, so
source, suspect and places are independent of them. That is why the reference is the source and never the watermarked model,
whose weights have learnt the response signs. It must have been fixed before the key was drawn: with the key at hand, a source
can be made that turns an innocent's channels into any signs. The scale of a channel needs no undoing: signs have none.
"""

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from aiao_core.denoisers import predict
from aiao_core.key import OwnerKey
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import channel_axis, trace
from aiao_core.method.watermark import Alignment, Places

INPUTS = 16
SAMPLES = 1024
"""Values of a channel that are compared, at most: over inputs and positions."""

AT_HOME = 0.5
"""A channel whose features correlate so well with the source's of the same place stays there."""

Reference = Mapping[str, Tensor]
"""Standardised clean features of the source, (C, samples) by the names of the key's layers."""


def reference(source: nn.Module, key: OwnerKey, seed: int) -> Reference:
    """What the channels of ``key``'s layers are recognised by: ``source`` is the registered model before the watermark.

    The inputs follow from ``seed``, the verification's: inputs that everybody knew could be trained for.
    """
    names = [layer.name for layer in key.layers]
    generator = torch.Generator().manual_seed(int.from_bytes(key.stranger_seed("places", seed, 0)[:6], "big"))
    inputs = plain_noise(key.architecture, key.num_train_timesteps, INPUTS, generator)
    with torch.no_grad(), trace(source, capture=names, stop=True) as features:
        predict(source, inputs)
    return {name: _standardised(features[name], channel_axis(source.get_submodule(name))) for name in names}


def align(suspect: nn.Module, key: OwnerKey, seed: int, source: Reference) -> Alignment:
    """Find each channel of ``key``'s layers in ``suspect``; ``source`` is a :func:`reference` of the same ``seed``."""
    found = reference(suspect, key, seed)
    return {name: find_places(source[name], found[name]) for name in source}


def find_places(source: Tensor, suspect: Tensor) -> Places:
    """Match standardised features (C, samples): channels that are not at home, among the places that are left."""
    place, sign = torch.arange(len(source)), torch.ones(len(source))
    stray = ((source * suspect).mean(1) < AT_HOME).nonzero()[:, 0]
    correlation = source[stray] @ suspect[stray].T / source.shape[1]
    rows, columns = linear_sum_assignment(correlation.abs().numpy(), maximize=True)
    place[stray[rows]] = stray[columns]
    sign[stray[rows]] = torch.where(correlation[rows, columns] < 0, -1.0, 1.0)
    return Places(place, sign)


def _standardised(features: Tensor, axis: int) -> Tensor:
    """(C, samples) of mean 0 and variance 1, from the output of a layer; what is constant or not finite becomes 0."""
    values = features.float().movedim(axis, 0).flatten(1).cpu()
    values = values[:, :: -(-values.shape[1] // SAMPLES)]
    centred = values - values.mean(1, keepdim=True)
    return (centred / centred.square().mean(1, keepdim=True).sqrt()).nan_to_num(0, 0, 0)
