"""Copies of a registered model that take other inputs: for inpainting or editing, distilled guidance, or without it.

Such a copy keeps the layers that carry the mark. It is tested as the registered model sees it: on the shared input channels,
and without an input that only one of the two has. Nothing here depends on a key.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aiao_core.formats.weight_files import Weights

EMBEDDER = ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")


@dataclass(frozen=True)
class Inputs:
    """What is known of the inputs of a class of denoisers."""

    first: str
    """The tensor whose columns are the input channels: those of x_t come first."""
    guidance: str = ""
    """The layer of the input for guidance, which some models of this class have: what it computes is added to the others."""
    parts: tuple[str, ...] = EMBEDDER
    """The tensors of that layer."""

    @property
    def optional(self) -> tuple[str, ...]:
        """The names of tensors that some models of this class have and others do not."""
        return tuple(f"{self.guidance}.{part}" for part in self.parts) if self.guidance else ()


INPUTS = {
    "UNet2DConditionModel": Inputs("conv_in.weight", "time_embedding.cond_proj", ("weight",)),
    "SD3Transformer2DModel": Inputs("pos_embed.proj.weight"),
    "PixArtTransformer2DModel": Inputs("pos_embed.proj.weight"),
    "FluxTransformer2DModel": Inputs("x_embedder.weight", "time_text_embed.guidance_embedder"),
    "Flux2Transformer2DModel": Inputs("x_embedder.weight", "time_guidance_embed.guidance_embedder"),
    "ChromaTransformer2DModel": Inputs("x_embedder.weight"),
    "QwenImageTransformer2DModel": Inputs("img_in.weight"),
    "WanTransformer3DModel": Inputs("patch_embedding.weight"),
    "HunyuanVideoTransformer3DModel": Inputs("x_embedder.proj.weight", "time_text_embed.guidance_embedder"),
}


def optional_tensors(class_name: str) -> tuple[str, ...]:
    """Return the names of tensors that some models of a class have and others do not."""
    return INPUTS[class_name].optional if class_name in INPUTS else ()


def first_tensor(class_name: str) -> str | None:
    """Return the name of the tensor whose columns are the input channels, if it is known for this class."""
    return INPUTS[class_name].first if class_name in INPUTS else None


def with_registered_inputs(weights: Weights, registered: Mapping[str, Tensor], class_name: str) -> tuple[Weights, list[str]]:
    """Return the weights with the inputs of the ``registered`` model, and in words what was left out or is missing.

    Every other difference stays for :func:`aiao_core.formats.pipelines.check_fit`.
    """
    weights, words = dict(weights), list[str]()
    inputs = INPUTS.get(class_name)
    if inputs is None:
        return weights, words
    value, expected = weights.get(inputs.first), registered.get(inputs.first)
    if value is not None and expected is not None and _is_wider(value, expected):
        weights[inputs.first] = value[:, : expected.shape[1]]
        further = value.shape[1] - expected.shape[1]
        words.append(f"its {further} further input channels, as models for inpainting or editing have them, left out")
    extra = [name for name in inputs.optional if name in weights and name not in registered]
    for name in extra:
        del weights[name]
    if extra:
        words.append(f"{inputs.guidance}, an input for guidance that the registered model does not have, left out")
    lost = [name for name in inputs.optional if name in registered]
    if lost and not any(name in weights for name in lost):
        weights |= {name: torch.zeros(registered[name].shape) for name in lost}
        words.append(f"without {inputs.guidance}, the registered model's input for guidance: nothing is added in its place")
    return weights, words


def _is_wider(value: Tensor, expected: Tensor) -> bool:
    """Return whether a tensor has more columns than expected, and is of the same size otherwise."""
    return (
        value.dim() == expected.dim() >= 2
        and value.shape[1] > expected.shape[1]
        and (value.shape[0], *value.shape[2:]) == (expected.shape[0], *expected.shape[2:])
    )
