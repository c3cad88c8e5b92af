"""The layers of an attention that an attack on weights changes together, found in diffusers' blocks."""

from dataclasses import dataclass
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxSingleTransformerBlock
from torch import Tensor, nn

OTHER_PROCESSORS = ("SanaLinearAttn", "StableAudioAttn")
"""Beginnings of the names of processors that do more with the channels of a head than to multiply them: the first takes their
positive parts, the second turns them by their place."""


@dataclass(frozen=True)
class Reader:
    """A layer that reads the output of an attention: views of its weights."""

    weight: Tensor
    """(width, C_out): the attention's channels first."""
    bias: Tensor | None
    """(C_out,)"""


@dataclass(frozen=True)
class AttentionParts:
    """The layers of one attention. Text and image tokens attend to each other, so their projections change alike."""

    heads: int
    queries: tuple[nn.Linear, ...]
    keys: tuple[nn.Linear, ...]
    values: tuple[nn.Linear, ...]
    readers: tuple[Reader, ...]
    norms: tuple[nn.Module, ...]
    """Of queries and keys."""

    @property
    def width(self) -> int:
        return self.queries[0].out_features

    @property
    def size(self) -> int:
        """Channels of one head."""
        return self.width // self.heads


def attention_parts(module: nn.Module) -> AttentionParts | None:
    """Return the parts of an attention, or of a single block of FLUX, which reads its attention itself.

    None for any other module, and for an attention whose heads share their keys, whose output nothing in ``module`` reads, or
    that is more than a softmax of products of its channels.
    """
    attention: Any
    if isinstance(module, FluxSingleTransformerBlock):
        attention, layer = module.attn, module.proj_out
        readers = [Reader(layer.weight.data.T[: attention.inner_dim], _bias(layer))]
    elif isinstance(module, Attention | FluxAttention) and not _is_another(module):
        attention = module
        layers = [module.to_out[0] if getattr(module, "to_out", None) else None, getattr(module, "to_add_out", None)]
        readers = [Reader(layer.weight.data.T, _bias(layer)) for layer in layers if layer is not None]
    else:
        return None
    if attention.to_k is None or attention.to_k.out_features != attention.to_q.out_features or not readers:
        return None
    return AttentionParts(
        heads=attention.heads,
        queries=_existing(attention, "to_q", "add_q_proj"),
        keys=_existing(attention, "to_k", "add_k_proj"),
        values=_existing(attention, "to_v", "add_v_proj"),
        readers=tuple(readers),
        norms=_existing(attention, "norm_q", "norm_k"),
    )


def _is_another(attention: Any) -> bool:
    """Whether this is one of diffusers' attentions by its class alone: HiDream's has layers of its own."""
    readers = getattr(attention, "to_out", None)
    return type(attention.processor).__name__.startswith(OTHER_PROCESSORS) or not isinstance(readers, nn.ModuleList | None)


def _existing(attention: Any, *names: str) -> tuple[Any, ...]:
    return tuple(part for name in names if (part := getattr(attention, name, None)) is not None)


def _bias(layer: nn.Linear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.data
