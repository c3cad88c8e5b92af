"""The subpaths that the trigger reaches (this project).

A subpath (i, j) is the part of the network between two of the key's layers. It can carry a watermark only if the trigger at i
changes the output of layer j of the *source* model. Neither the response signs nor the marked model influence the choice: the
exact test rests on that.
"""

from collections.abc import Sequence

import torch
from torch import nn

from aiao_core.denoisers import Inputs, predict
from aiao_core.key import OwnerKey
from aiao_core.method.tracing import trace
from aiao_core.method.watermark import Watermark, trigger_edits
from aiao_core.progress import Progress, ProgressCallback, silent

Subpaths = tuple[tuple[int, int], ...]

SPAN = 0.15
"""Least fraction of the layers that a subpath spans. On a shorter one, as from an attention's queries to its output or
to the end of its transformer block, there is too little to train that turns the trigger into a response."""


def all_subpaths(layers: int) -> Subpaths:
    """List every pair i < j of a key with ``layers`` layers."""
    return tuple((i, j) for i in range(layers) for j in range(i + 1, layers))


def spanning(key: OwnerKey, order: Sequence[str]) -> Subpaths:
    """List the subpaths of ``key`` that span :data:`SPAN` of ``order``, the names of layers in execution order.

    Subpaths with an empty trigger are left out: a narrow layer may have drawn an empty mask.
    """
    place = {name: number for number, name in enumerate(order)}
    places = [place[layer.name] for layer in key.layers]
    triggers = [bool(key.trigger_mask(i).any()) for i in range(len(key.layers))]
    return tuple((i, j) for i, j in key.subpaths if triggers[i] and places[j] - places[i] >= SPAN * len(order))


def reach(
    source: nn.Module, key: OwnerKey, inputs: Inputs, *, progress: ProgressCallback = silent
) -> dict[tuple[int, int], float]:
    """Measure ``||h_j(triggered) - h_j|| / ||h_j||`` of the source for every subpath of ``key``, over ``inputs``."""
    watermark = Watermark(key, source)
    found: dict[tuple[int, int], float] = {}
    with torch.no_grad():
        with trace(source, capture=watermark.names, stop=True) as clean:
            predict(source, inputs)
        for step, i in enumerate(watermark.trigger_layers):
            later = watermark.reached[i].nonzero()[:, 0].tolist()
            edits = trigger_edits([(watermark, i)] * len(inputs))
            with trace(source, capture=[watermark.names[j] for j in later], edit=edits, stop=True) as triggered:
                predict(source, inputs)
            for j in later:
                before, after = clean[watermark.names[j]], triggered[watermark.names[j]]
                found[i, j] = float((after - before).norm() / before.norm().clamp_min(1e-12))
            progress(Progress("reach", step + 1, len(watermark.trigger_layers)))
    return found


def widest(reached: dict[tuple[int, int], float], share: float) -> Subpaths:
    """List the ``share`` of the subpaths with the widest reach. Layers that no trigger reaches well are left without one."""
    by_reach = sorted((subpath for subpath in reached if reached[subpath] > 0), key=lambda subpath: -reached[subpath])
    return tuple(sorted(by_reach[: max(1, round(share * len(by_reach)))]))
