"""Merge a low-rank adapter that an attacker may have made into the weights of its base model.

Only tensors are read and multiplied: no code of a model or of an adapter library runs. Every tensor's shape is checked against
the layer of the base before anything is computed from it, so a small file cannot ask for much memory.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.adapter_names import find_layers, is_for_text_encoder, layer_names, layout, parse
from aiao_core.formats.weight_files import is_floating

KINDS = {"lora": "LoRA", "hada": "LoHa", "lokr": "LoKr"}
MAX_RANK = 2048

KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""PEFT's ways to start a LoRA that leave the base as it is; the others (PiSSA, OLoRA, ...) subtract from it."""

Parts = dict[str, tuple[str, Tensor]]
"""An adapter's tensors for one layer by part, such as ``lora_down``, each with its name in the file."""


@dataclass(frozen=True)
class MergedWeights:
    """A denoiser's weights after the merge, and what was merged; ``form`` says it in words.

    Tensors that the adapter changes are float32; all others are those of the base. ``kind`` is LoRA, LoHa or LoKr, or several
    of them, and ``layout`` is kohya, PEFT or diffusers. ``text_tensors`` counts what was left out: it is for text encoders.
    """

    weights: dict[str, Tensor]
    kind: str
    layout: str
    layers: int
    text_tensors: int
    form: str


@torch.no_grad()  # for a pickle's tensors may ask for gradients
def merge(base: dict[str, Tensor], adapter: dict[str, Tensor], config: Mapping[str, Any] | None = None) -> MergedWeights:
    """Merge ``adapter`` into ``base``, the state dict of a diffusers denoiser, which is not modified.

    ``config`` is what PEFT writes to ``adapter_config.json`` and diffusers to the metadata ``lora_adapter_metadata``. It gives
    the scale of an adapter without ``alpha`` tensors; an adapter with neither has the scale 1.

    Raises :class:`WrongArchitecture` if the adapter was made for another base, and :class:`InvalidCheckpoint` if it is
    incomplete, damaged or of an unknown kind. The message says what was recognized and names the layer.
    """
    groups, unknown, text_tensors = _group(adapter)
    if not groups and not unknown:
        raise InvalidCheckpoint(
            f"all {text_tensors} tensors of this adapter are for text encoders, so the denoiser is the base model's own; "
            "submit the base model instead"
        )
    kind = " and ".join(sorted({KINDS[part] for part in map(_kind, groups.values()) if part})) or "adapter"
    form = f"{layout(adapter)} {kind}{_ranks(groups)} for {len(groups)} layer{'s' * (len(groups) != 1)}"
    config = {name.removeprefix("unet.").removeprefix("transformer."): value for name, value in (config or {}).items()}
    weights = dict(base)
    try:
        if unknown:
            raise InvalidCheckpoint(
                f"the tensor {unknown[0]} (and {len(unknown) - 1} more) is no part of a LoRA, LoHa or LoKr; "
                "merge it with the software that made it and submit the denoiser's weights"
            )
        if config.get("init_lora_weights") not in KEEPS_BASE:
            raise InvalidCheckpoint(
                "its training changed the base model's weights too (init_lora_weights in the configuration); "
                "save it again with PEFT's path_initial_model_for_weight_conversion"
            )
        for name, parts in _resolve(groups, base).items():
            weights |= _merge_layer(_Layer(name, base[f"{name}.weight"], parts), base.get(f"{name}.bias"), config)
    except InvalidCheckpoint as error:
        raise type(error)(f"this is a {form}, but {error}") from error
    return MergedWeights(weights, kind, layout(adapter), len(groups), text_tensors, form)


def _group(adapter: dict[str, Tensor]) -> tuple[dict[str, Parts], list[str], int]:
    """Return the parts by the file's name of the layer, all other tensors, and the number of those for text encoders."""
    groups: dict[str, Parts] = {}
    unknown, text_tensors = [], 0
    for name, value in adapter.items():
        if is_for_text_encoder(name):
            text_tensors += 1
        elif parsed := parse(name):
            called, part = parsed
            parts = groups.setdefault(called, {})
            if part in parts:
                raise InvalidCheckpoint(f"{parts[part][0]} and {name} are for the same layer; submit one adapter")
            parts[part] = name, value
        else:
            unknown.append(name)
    return groups, unknown, text_tensors


def _kind(parts: Parts) -> str | None:
    return next((kind for kind in KINDS if any(part.startswith(kind) for part in parts)), None)


def _ranks(groups: dict[str, Parts]) -> str:
    inner = ("lora_down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    shapes = [parts[part][1].shape for parts in groups.values() for part in inner if part in parts]
    ranks = sorted({shape[0] for shape in shapes if shape})
    return f" of rank {ranks[0]}" + f" to {ranks[-1]}" * (len(ranks) > 1) if ranks else ""


def _resolve(groups: dict[str, Parts], base: dict[str, Tensor]) -> dict[str, Parts]:
    """Return the parts by the base's names of the layers."""
    names = layer_names(base)
    found = {called: find_layers(called, names) for called in groups}
    if missing := [called for called, layers in found.items() if not layers]:
        raise WrongArchitecture(
            f"it targets layer {missing[0]} (and {len(missing) - 1} more), which the base model does not have; it was made for "
            "another base model: name that one as its base"
        )
    resolved: dict[str, Parts] = {}
    for called, layers in found.items():
        if len(layers) > 1 or layers[0] in resolved:
            raise InvalidCheckpoint(f"layer {called} has two adapters or may be any of {', '.join(layers)}; submit one adapter")
        resolved[layers[0]] = groups[called]
    return resolved


@dataclass(frozen=True)
class _Layer:
    """A layer of the base with the parts of the adapter for it that have not been used yet."""

    name: str
    weight: Tensor
    parts: Parts

    def size(self, part: str) -> tuple[int, int]:
        """Return the rows and columns of a part; for a convolution the columns are spread over several dimensions."""
        if part not in self.parts:
            raise InvalidCheckpoint(f"layer {self.name} has no {part}; the file is incomplete: save the adapter again")
        shape = self.parts[part][1].shape or (1,)
        return shape[0], math.prod(shape[1:])

    def rank(self, part: str) -> int:
        rank, _ = self.size(part)
        if not 1 <= rank <= MAX_RANK:
            raise InvalidCheckpoint(f"layer {self.name} has the rank {rank}; supported: 1 to {MAX_RANK}")
        return rank

    def take(self, part: str, rows: int, columns: int) -> Tensor:
        """Use a part up: return a float32 matrix of this size, bounded by the base's shape and the rank."""
        if self.size(part) != (rows, columns):
            raise self.misfit(part)
        name, value = self.parts.pop(part)
        if not (is_floating(value) or part == "alpha") or value.layout != torch.strided or value.is_meta:
            raise InvalidCheckpoint(f"layer {self.name}: {name} is of type {value.dtype}, but weights are floating point")
        matrix = value.float().reshape(rows, columns)
        if not matrix.isfinite().all():
            raise InvalidCheckpoint(f"layer {self.name}: {name} holds NaN or infinite values; submit the adapter as published")
        return matrix

    def misfit(self, part: str) -> WrongArchitecture:
        name, value = self.parts[part]
        return WrongArchitecture(
            f"layer {self.name}: {name} has the shape {tuple(value.shape)}, which does not fit the shape "
            f"{tuple(self.weight.shape)} in the base model; it was made for another base model"
        )


def _merge_layer(layer: _Layer, bias: Tensor | None, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the new weight of a layer, and its new bias if the adapter changes it."""
    change, rank = _change(layer)
    scale = _scale(layer, rank, config)
    weight = layer.weight.float() + scale * change.reshape(layer.weight.shape)
    if magnitude := next((part for part in ("dora_scale", "lora_magnitude_vector") if part in layer.parts), None):
        weight = _with_magnitude(layer, magnitude, weight)
    merged = {f"{layer.name}.weight": weight}
    if "lora_bias" in layer.parts:
        if bias is None:
            raise WrongArchitecture(f"layer {layer.name} has no bias in the base model; it was made for another base model")
        merged[f"{layer.name}.bias"] = bias.float() + scale * layer.take("lora_bias", len(bias), 1).flatten()
    if layer.parts:
        name, _ = next(iter(layer.parts.values()))
        raise InvalidCheckpoint(f"layer {layer.name}: {name} does not go with its other tensors; save the adapter again")
    if not all(value.isfinite().all() for value in merged.values()):
        raise InvalidCheckpoint(f"layer {layer.name} has infinite weights after the merge; submit the adapter as published")
    return merged


def _change(layer: _Layer) -> tuple[Tensor, int]:
    """Return what is added to the weight, before scaling and in any shape of its size, and the rank, 0 for a full LoKr."""
    out, width, *kernel = layer.weight.shape
    shape = (out, width, math.prod(kernel))
    match _kind(layer.parts):
        case "lora":
            rank = layer.rank("lora_down")
            return _product(layer, shape, "lora_up", "lora_down", "lora_mid"), rank
        case "hada":
            rank = layer.rank("hada_w1_b")
            first = _product(layer, shape, "hada_w1_a", "hada_w1_b", "hada_t1")
            return first * _product(layer, shape, "hada_w2_a", "hada_w2_b", "hada_t2"), rank
        case "lokr":
            rank = next((layer.rank(part) for part in ("lokr_w2_b", "lokr_w1_b") if part in layer.parts), 0)
            return _kronecker(layer, shape), rank
        case _:
            raise InvalidCheckpoint(f"layer {layer.name} has an {' and '.join(layer.parts)} only; the file is incomplete")


def _product(layer: _Layer, shape: tuple[int, int, int], left: str, right: str, core: str = "") -> Tensor:
    """Return the matrix (out, width x pixels) of two factors, or of a Tucker decomposition, whose core has the pixels."""
    out, width, pixels = shape
    rank = layer.rank(right)
    if core not in layer.parts:
        return layer.take(left, out, rank) @ layer.take(right, rank, width * pixels)
    outputs = layer.take(left, out, rank).T if left == "lora_up" else layer.take(left, rank, out)
    cube = layer.take(core, rank, rank * pixels).reshape(rank, rank, pixels)
    return torch.einsum("mnk,mi,nj->ijk", cube, outputs, layer.take(right, rank, width)).flatten(1)


def _kronecker(layer: _Layer, shape: tuple[int, int, int]) -> Tensor:
    """Return the product (out, width, pixels) of a small matrix and a block, each whole or of low rank itself."""
    out, width, pixels = shape
    whole = "lokr_w1" in layer.parts
    rows, columns = layer.size("lokr_w1") if whole else (layer.size("lokr_w1_a")[0], layer.size("lokr_w1_b")[1])
    if not rows or not columns or out % rows or width % columns:
        raise layer.misfit("lokr_w1" if whole else "lokr_w1_a")
    small = layer.take("lokr_w1", rows, columns) if whole else _product(layer, (rows, columns, 1), "lokr_w1_a", "lokr_w1_b")
    block = (out // rows, width // columns, pixels)
    if "lokr_w2" in layer.parts:
        large = layer.take("lokr_w2", block[0], block[1] * pixels)
    else:
        large = _product(layer, block, "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    return torch.kron(small[:, :, None], large.reshape(block))


def _with_magnitude(layer: _Layer, part: str, weight: Tensor) -> Tensor:
    """Apply DoRA: give the weights of each output the length in the file; LyCORIS may have one for each input instead."""
    size = layer.size(part)
    axis = int(part == "dora_scale" and size == (1, weight.shape[1]))
    length = weight.shape[axis]
    magnitude = layer.take(part, *((length, 1) if size[1] == 1 else (1, length)))
    norm: Tensor = torch.linalg.vector_norm(weight, dim=[dim for dim in range(weight.dim()) if dim != axis], keepdim=True)
    return weight * (magnitude.reshape([-1 if dim == axis else 1 for dim in range(weight.dim())]) / (norm + torch.finfo().eps))


def _scale(layer: _Layer, rank: int, config: Mapping[str, Any]) -> float:
    if "alpha" in layer.parts:
        alpha = layer.take("alpha", 1, 1).item()
        return alpha / rank if rank else 1.0  # LyCORIS writes an alpha for a full LoKr too, and does not scale it
    setting = _setting(config, "lora_alpha" if "lora_alpha" in config else "alpha", "alpha_pattern", layer.name)
    if setting is None:
        return 1.0
    rank = rank or int(_setting(config, "r", "rank_pattern", layer.name) or 0)
    if rank < 1:
        raise InvalidCheckpoint("its configuration has an alpha, but no rank r of at least 1; save the adapter again")
    return setting / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _setting(config: Mapping[str, Any], name: str, pattern_name: str, layer: str) -> float | None:
    """Return a number for this layer as PEFT does, but without running an attacker's regular expressions."""
    patterns = config.get(pattern_name) or {}
    if not isinstance(patterns, Mapping) or not all(re.fullmatch(r"\^?[\w.-]+", pattern) for pattern in patterns):
        raise InvalidCheckpoint(
            f"its configuration has a {pattern_name} that is no table of layer names; write the names in full"
        )
    values = [own for key, own in patterns.items() if layer == key.removeprefix("^") or layer.endswith(f".{key}")]
    values += [config[name]] if name in config else []
    if not values:
        return None
    if isinstance(values[0], bool) or not isinstance(values[0], int | float) or not abs(values[0]) < 1e30:
        raise InvalidCheckpoint(f"its configuration has no usable number for {name} or {pattern_name}; save the adapter again")
    return values[0]
