"""Re-parametrization: other weights, the same function.

The channels inside a block, which nothing outside it sees, change places, signs and scales, and the weights that read them
undo it (channel permutation as in Lukas et al. 2022; the symmetries of diffusers' blocks are this project's). No quality is
lost and no data is needed, yet every key then addresses the wrong channels of these layers. The channels between the blocks,
which residual connections share, stay in place.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from diffusers.models.activations import GEGLU, GELU, ApproximateGELU, LinearActivation, SwiGLU
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import RMSNorm
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock
from torch import Tensor, nn

from aiao_core.attacks.attention_parts import AttentionParts, attention_parts
from aiao_core.attacks.thief import Thief
from aiao_core.errors import AttackNotPossible

GREATEST_SCALE = 4.0
"""Channels are scaled by up to this factor or its inverse."""


def channel_permutation(thief: Thief) -> nn.Module:
    """Move hidden channels and attention heads to other places: the feature permutation of Lukas et al. (2022), undone.

    The output stays the same to float precision. Raises :class:`AttackNotPossible` if no block of the denoiser is known.
    """
    return _reparametrized(thief, permute=True, rescale=False)


def sign_flips_and_scales(thief: Thief) -> nn.Module:
    """Give hidden channels other signs and scales (this project). Output and errors as in :func:`channel_permutation`."""
    return _reparametrized(thief, permute=False, rescale=True)


def reparametrization(thief: Thief) -> nn.Module:
    """Change places, signs and scales at once. Output and errors as in :func:`channel_permutation`."""
    return _reparametrized(thief, permute=True, rescale=True)


def _reparametrized(thief: Thief, *, permute: bool, rescale: bool) -> nn.Module:
    denoiser = thief.copy().denoiser
    with thief.seeded() as generator:
        changes = _Changes(permute, rescale, generator)
        known = 0
        for module in denoiser.modules():
            for channels, order, factor in _hidden_channels(module, changes):
                channels.change(order, factor)
                known += 1
    if not known:
        raise AttackNotPossible(
            f"none of the blocks of {type(denoiser).__name__} is known to this attack; it knows the residual, attention and "
            "feed-forward blocks of diffusers"
        )
    return denoiser


@dataclass
class _Channels:
    """Hidden channels: views of the weights that belong to them, channels first."""

    times: list[Tensor]
    """Weights that write the channels: scaled with them."""
    over: list[Tensor] = field(default_factory=list)
    """Weights that read the channels: scaled inversely."""
    moved: list[Tensor] = field(default_factory=list)
    """Weights that only change places with the channels."""

    def change(self, order: Tensor, factor: Tensor) -> None:
        """Make channel k ``factor[k]`` times the old channel ``order[k]``; ``order`` and ``factor`` are (C,)."""
        for view in self.times:
            view.copy_(view[order] * _channels_first(factor, view))
        for view in self.over:
            view.copy_(view[order] / _channels_first(factor, view))
        for view in self.moved:
            view.copy_(view[order])


class _Changes:
    """Random orders and factors, within what a block allows."""

    def __init__(self, permute: bool, rescale: bool, generator: torch.Generator) -> None:
        self.permute, self.rescale, self.generator = permute, rescale, generator

    def order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator) if self.permute else torch.arange(count)

    def order_within(self, groups: Tensor, size: int) -> Tensor:
        """Put the groups of ``size`` channels in the order ``groups``, and the channels of each group in a random order."""
        return torch.cat([group * size + self.order(size) for group in groups])

    def signs(self, count: int) -> Tensor:
        if not self.rescale:
            return torch.ones(count)
        return torch.randint(2, (count,), generator=self.generator) * 2.0 - 1

    def factors(self, count: int) -> Tensor:
        """Draw signs and log-uniform scales."""
        if not self.rescale:
            return torch.ones(count)
        exponents = torch.rand(count, generator=self.generator) * 2 - 1
        return self.signs(count) * (exponents * math.log(GREATEST_SCALE)).exp()


_Change = tuple[_Channels, Tensor, Tensor]
"""Hidden channels with their new order and their factors."""


def _hidden_channels(module: nn.Module, changes: _Changes) -> Iterator[_Change]:
    """Yield the changes of one block; none for a module that is not a known block."""
    if isinstance(module, ResnetBlock2D):
        yield _residual(module, changes)
    elif isinstance(module, FeedForward):
        yield from _feed_forward(module, changes)
    elif attention := attention_parts(module):
        yield from _attention(attention, changes)
    if isinstance(module, FluxSingleTransformerBlock):
        columns = module.proj_out.weight.data.T[module.attn.inner_dim :]
        order = changes.order(module.mlp_hidden_dim)
        yield _Channels([], [], [*_rows(module.proj_mlp), columns]), order, torch.ones(len(order))


def _residual(block: ResnetBlock2D, changes: _Changes) -> _Change:
    """Change the channels between the convolutions.

    Group norm allows permutations within groups and of whole groups, and whole groups' signs.
    """
    norm = block.norm2
    channels = _Channels(
        times=[*_rows(block.conv1), norm.weight.data],
        moved=[norm.bias.data, block.conv2.weight.data.transpose(0, 1)],
    )
    if block.time_emb_proj is not None and block.time_embedding_norm == "scale_shift":
        channels.moved += [half for rows in _rows(block.time_emb_proj) for half in rows.chunk(2)]  # it acts after the norm
    elif block.time_emb_proj is not None:
        channels.times += _rows(block.time_emb_proj)
    size = norm.num_channels // norm.num_groups
    order = changes.order_within(changes.order(norm.num_groups), size)
    return channels, order, changes.signs(norm.num_groups).repeat_interleave(size)


def _attention(attention: AttentionParts, changes: _Changes) -> Iterator[_Change]:
    """Change whole heads, and within a head the channels that queries share with keys, and values with their readers.

    With a norm of the queries and keys, which has weights for the places in a head and may be followed by rotary embeddings,
    these only change with their whole head.
    """
    heads, size, width = attention.heads, attention.size, attention.width
    norms = attention.norms
    if not all(isinstance(norm, RMSNorm | nn.RMSNorm) and _width(norm) in (None, size) for norm in norms):
        return
    places = changes.order(heads)
    queries_and_keys = _Channels(times=_rows(*attention.queries), over=_rows(*attention.keys))
    if norms:
        whole = (places[:, None] * size + torch.arange(size)).flatten()
        yield queries_and_keys, whole, changes.signs(heads).repeat_interleave(size)
    else:
        yield queries_and_keys, changes.order_within(places, size), changes.factors(width)
    values = _Channels(times=_rows(*attention.values), over=[reader.weight for reader in attention.readers])
    yield values, changes.order_within(places, size), changes.factors(width)


def _feed_forward(block: FeedForward, changes: _Changes) -> Iterator[_Change]:
    """Change the channels between the linear layers. A gate or plain activation is not linear: they only move."""
    activation, readers = block.net[0], [block.net[2].weight.data.T]
    order = changes.order(block.net[2].in_features)
    if isinstance(activation, GEGLU | SwiGLU):
        hidden, gate = zip(*(rows.chunk(2) for rows in _rows(activation.proj)), strict=True)
        yield _Channels(list(hidden), readers, list(gate)), order, changes.factors(len(order))
    elif isinstance(activation, GELU | ApproximateGELU | LinearActivation):
        yield _Channels([], [], [*_rows(activation.proj), *readers]), order, torch.ones(len(order))


def _rows(*layers: nn.Linear | nn.Conv2d | None) -> list[Tensor]:
    """List the weights and biases of the layers that exist: (C_out, ...)."""
    return [parameter.data for layer in layers if layer is not None for parameter in layer.parameters()]


def _width(norm: RMSNorm | nn.RMSNorm) -> int | None:
    """Return the number of channels of a norm with weights; None without weights."""
    return None if norm.weight is None else len(norm.weight)


def _channels_first(factor: Tensor, view: Tensor) -> Tensor:
    return factor.to(view).view(-1, *[1] * (view.dim() - 1))
