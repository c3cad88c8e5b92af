"""Offsets: add constants to channels that a later layer takes out again (this project).

A group or layer norm subtracts the mean of its channels, so one constant for all of them vanishes. A softmax ignores what is
added to all of its logits, and its weights sum to one. Two layers whose outputs are added can have opposite constants. A
constant moves the signs of a channel's values, and with them the signs that a trigger would have turned. No quality is lost and
no data is needed.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from aiao_core.attacks.attention_parts import AttentionParts, attention_parts
from aiao_core.attacks.rotation import head_rotation
from aiao_core.attacks.thief import Thief
from aiao_core.errors import AttackNotPossible


def offsets(thief: Thief, *, size: float) -> nn.Module:
    """Add ``size`` or its negative, in the units of the channels, wherever a later layer takes it out; sums are in float64.

    The output stays the same to float precision, which ends sooner with a larger ``size``. Raises :class:`AttackNotPossible` if
    no layer of the denoiser can have an offset.
    """
    denoiser = thief.copy().denoiser
    with thief.seeded() as generator:
        changes = _Changes(size, generator)
        done = [change for module in denoiser.modules() for change in _offsets_of(module, changes)]
        for bias, addition in done:
            bias.copy_(bias.double() + addition)
    if not done:
        raise AttackNotPossible(
            f"none of the blocks of {type(denoiser).__name__} takes a constant out again, as norms and the softmax of an "
            "attention do; try another attack"
        )
    return denoiser


def head_rotation_and_offsets(thief: Thief, *, size: float) -> nn.Module:
    """Rotate the heads, then add :func:`offsets`. Raises as both do."""
    return offsets(replace(thief, model=replace(thief.model, denoiser=head_rotation(thief))), size=size)


_Change = tuple[Tensor, Tensor]
"""A bias (C,), and what to add to it."""


class _Changes:
    """Random constants."""

    def __init__(self, size: float, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator

    def constants(self, count: int, groups: int | None = None) -> Tensor:
        """Draw ``count`` constants (count,) float64: independent ones, or the same within each of ``groups``."""
        signs = torch.randint(2, (groups or count,), generator=self.generator).double() * 2 - 1
        return self.size * signs.repeat_interleave(count // len(signs))


def _offsets_of(module: nn.Module, changes: _Changes) -> Iterator[_Change]:
    """Yield the changes inside one block, which undo each other; none for a module that is not a known block."""
    if isinstance(module, ResnetBlock2D):
        yield from _residual(module, changes)
    elif isinstance(module, BasicTransformerBlock):
        yield from _between_layer_norms(module, changes)
    elif isinstance(blocks := getattr(module, "resnets", None), nn.ModuleList):
        for block, follower in zip(blocks, getattr(module, "attentions", []), strict=False):
            yield from _between_blocks(block, follower, changes)
    if attention := attention_parts(module):
        yield from _attention(attention, changes)


def _residual(block: ResnetBlock2D, changes: _Changes) -> Iterator[_Change]:
    """Add one constant for each group that the second norm subtracts, and opposite ones to the two summands of the output."""
    yield block.conv1.bias.data, changes.constants(block.norm2.num_channels, block.norm2.num_groups)
    if block.conv_shortcut is not None and block.conv_shortcut.bias is not None:
        constants = changes.constants(block.conv2.out_channels)
        yield block.conv_shortcut.bias.data, constants
        yield block.conv2.bias.data, -constants


def _attention(attention: AttentionParts, changes: _Changes) -> Iterator[_Change]:
    """Add constants to keys, which the softmax ignores, and to values, which reach every output unchanged."""
    keys, values = ([layer.bias for layer in layers] for layers in (attention.keys, attention.values))
    if not attention.norms and all(bias is not None for bias in keys):
        constants = changes.constants(attention.width)
        yield from ((bias.data, constants) for bias in keys)
    if all(bias is not None for bias in (*values, *(reader.bias for reader in attention.readers))):
        constants = changes.constants(attention.width)
        yield from ((bias.data, constants) for bias in values)
        for reader in attention.readers:
            if reader.bias is not None:
                yield reader.bias, -(constants @ reader.weight.double())


def _between_blocks(block: nn.Module, follower: nn.Module | None, changes: _Changes) -> Iterator[_Change]:
    """Add constants to what a residual block hands to an attention or transformer whose group norm subtracts them."""
    norm: nn.GroupNorm | None
    if isinstance(follower, Attention) and follower.residual_connection:
        norm, writer = follower.group_norm, follower.to_out[0]
    elif isinstance(follower, Transformer2DModel) and follower.is_input_continuous:
        norm, writer = follower.norm, follower.proj_out
    else:
        return
    if isinstance(block, ResnetBlock2D) and norm is not None and writer.bias is not None:
        constants = changes.constants(norm.num_channels, norm.num_groups)
        yield block.conv2.bias.data, constants
        yield writer.bias.data, -constants / block.output_scale_factor


def _between_layer_norms(block: BasicTransformerBlock, changes: _Changes) -> Iterator[_Change]:
    """Add one constant to all channels of what each attention writes; the feed-forward takes their sum out again."""
    if block.norm_type != "layer_norm" or block.ff.net[2].bias is None:
        return
    for attention in (block.attn1, block.attn2):
        if attention is not None and attention.to_out[0].bias is not None:
            constants = changes.constants(attention.out_dim, 1)
            yield attention.to_out[0].bias.data, constants
            yield block.ff.net[2].bias.data, -constants
