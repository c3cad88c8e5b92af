"""Rotation: turn the channels of each attention head, and undo it where they are read (this project).

A query and a key meet in their inner product alone, which stays if one rotation turns both. The values of a head are weighted
and added up, and the weights that read them can turn them back. So a head has a continuum of coordinates, and a permutation
of channels is only a corner of it. No quality is lost and no data is needed.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from aiao_core.attacks.attention_parts import AttentionParts, attention_parts
from aiao_core.attacks.thief import Thief
from aiao_core.errors import AttackNotPossible


def head_rotation(thief: Thief) -> nn.Module:
    """Turn queries and keys together, and values, by a random rotation of each head; the algebra is in float64.

    Queries and keys behind a norm of their own stay: its weights belong to places in a head. The output stays the same to float
    precision. Raises :class:`AttackNotPossible` if the denoiser has no attention that is known.
    """
    denoiser = thief.copy().denoiser
    found = [parts for module in denoiser.modules() if (parts := attention_parts(module))]
    if not found:
        raise AttackNotPossible(
            f"{type(denoiser).__name__} has none of diffusers' attentions, so there are no heads to rotate; try another attack"
        )
    with thief.seeded() as generator:
        for parts in found:
            if not parts.norms:
                _turn(_written([*parts.queries, *parts.keys]), _rotations(parts, generator))
            views = _written(parts.values) + [reader.weight for reader in parts.readers]
            _turn(views, _rotations(parts, generator))
    return denoiser


def _rotations(parts: AttentionParts, generator: torch.Generator) -> Tensor:
    """Draw a rotation, or a rotation with a reflection, for each head: (heads, size, size) float64."""
    normal = torch.randn(parts.heads, parts.size, parts.size, generator=generator, dtype=torch.float64)
    rotations: Tensor = torch.linalg.qr(normal)[0]
    return rotations


def _written(layers: Iterable[nn.Linear]) -> list[Tensor]:
    """List the weights and biases of ``layers``: views of (width, ...)."""
    return [parameter.data for layer in layers for parameter in layer.parameters()]


def _turn(views: Iterable[Tensor], rotations: Tensor) -> None:
    """Turn each head's rows of ``views``, (width, ...). Rows that read a head turn as those that write it: R^T is R^-1."""
    for view in views:
        heads = view.double().reshape(len(rotations), rotations.shape[1], -1)
        view.copy_((rotations @ heads).reshape(view.shape))
