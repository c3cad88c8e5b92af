"""Merge an adapter that an attacker may have made into the weights of its base model.

Only tensors are read and multiplied: no code of a model or of an adapter library runs. What one layer's tensors do to it is in
:mod:`aiao_core.formats.adapter_layers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.adapter_layers import KINDS, AdaptedLayer, Parts, kind_of
from aiao_core.formats.adapter_names import foreign_kind, is_beside_denoiser, layout, parse, without_prefix
from aiao_core.formats.layouts import OriginalNames, Rows
from aiao_core.formats.original_layouts import original_names
from aiao_core.formats.other_inputs import first_tensor

KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""PEFT's ways to start a LoRA that leave the base as it is; the others (PiSSA, OLoRA, ...) subtract from it."""


@dataclass(frozen=True)
class MergedWeights:
    """A denoiser's weights after the merge, and what was merged; ``form`` says it in words.

    Tensors that the adapter changes are float32; all others are those of the base. ``kind`` is LoRA, LoHa, LoKr, OFT, full or
    norm difference, or several of them, and ``layout`` is kohya, PEFT or diffusers. ``changed`` are the layers of the denoiser.
    ``left_out`` counts the tensors for text encoders and embeddings of words.
    """

    weights: dict[str, Tensor]
    kind: str
    layout: str
    layers: int
    changed: frozenset[str]
    left_out: int
    form: str


@torch.no_grad()  # for a pickle's tensors may ask for gradients
def merge(
    base: dict[str, Tensor], adapter: dict[str, Tensor], config: Mapping[str, Any] | None = None, class_name: str = ""
) -> MergedWeights:
    """Merge ``adapter`` into ``base``, the state dict of a diffusers denoiser, which is not modified.

    ``config`` is what PEFT writes to ``adapter_config.json`` and diffusers to the metadata ``lora_adapter_metadata``. It gives
    the scale of an adapter without ``alpha`` tensors; an adapter with neither has the scale 1. ``class_name`` is the class of
    the denoiser: adapters may call its layers by the names of the program that first trained it.

    Raises :class:`WrongArchitecture` if the adapter was made for another base, and :class:`InvalidCheckpoint` if it is
    incomplete, damaged or of an unknown kind. The message says what was recognized and names the layer.
    """
    groups, unknown, left_out = _group(adapter)
    if not groups and not unknown:
        raise InvalidCheckpoint(
            f"all {left_out} tensors of this adapter are for text encoders, so the denoiser is the base model's own; "
            "submit the base model instead"
        )
    kind = " and ".join(sorted({KINDS[part] for part in map(kind_of, groups.values()) if part})) or "adapter"
    form = f"{layout(adapter)} {kind}{_ranks(groups)} for {len(groups)} layer{'s' * (len(groups) != 1)}"
    config = {name.removeprefix("unet.").removeprefix("transformer."): value for name, value in (config or {}).items()}
    weights = dict(base)
    try:
        if unknown:
            raise InvalidCheckpoint(
                f"the tensor {unknown[0]} (and {len(unknown) - 1} more) belongs to "
                f"{foreign_kind(unknown) or 'a kind of adapter that is not read'}; "
                "merge it with the software that made it and submit the denoiser's weights"
            )
        if config.get("init_lora_weights") not in KEEPS_BASE:
            raise InvalidCheckpoint(
                "its training changed the base model's weights too (init_lora_weights in the configuration); "
                "save it again with PEFT's path_initial_model_for_weight_conversion"
            )
        resolved = _resolve(groups, base, class_name)
        _check_input(groups, resolved, base, class_name)
        for called, rows in resolved.items():
            weights |= _merged(called, rows, groups[called], base, config)
    except InvalidCheckpoint as error:
        raise type(error)(f"this is a {form}, but {error}") from error
    changed = frozenset(layer for rows in resolved.values() for layer in rows.parts)
    return MergedWeights(weights, kind, layout(adapter), len(groups), changed, left_out, form)


def _merged(called: str, rows: Rows, parts: Parts, base: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the new tensors of the layers that the adapter calls by one name."""
    biases = rows.of_kind(".bias")
    bias = biases.join(base) if all(part in base for part in biases.parts) else None
    name = rows.parts[0] if len(rows.parts) == 1 else called
    merged = AdaptedLayer(name, rows.of_kind(".weight").join(base), bias, dict(parts)).merge(config)
    return {part: new for kind, value in merged.items() for part, new in rows.of_kind(kind).split(called + kind, value, base)}


def _check_input(groups: dict[str, Parts], resolved: dict[str, Rows], base: dict[str, Tensor], class_name: str) -> None:
    """Name an adapter that takes a further input: it fits no layer, and the user should not look for another base model."""
    if (first := first_tensor(class_name)) is None:
        return
    for called, rows in resolved.items():
        _, down = groups[called].get("lora_down", ("", None))
        if down is not None and rows.of_kind(".weight").parts == (first,) and down.dim() > 1 and base[first].dim() > 1:
            width, registered = down.shape[1], base[first].shape[1]
            if width > registered:
                raise InvalidCheckpoint(
                    f"it takes {width} input channels, where the base model takes {registered}, as a control LoRA (Depth, "
                    "Canny) does; merge it with the software that made it and submit the denoiser's weights"
                )


def _group(adapter: dict[str, Tensor]) -> tuple[dict[str, Parts], list[str], int]:
    """Return the parts by the file's name of the layer, all other tensors, and the number of those not for the denoiser."""
    groups: dict[str, Parts] = {}
    unknown, left_out = [], 0
    for name, value in adapter.items():
        if is_beside_denoiser(name):
            left_out += 1
        elif parsed := parse(name):
            called, part = parsed
            parts = groups.setdefault(called, {})
            if part in parts:
                raise InvalidCheckpoint(f"{parts[part][0]} and {name} are for the same layer; submit one adapter")
            parts[part] = name, value
        else:
            unknown.append(name)
    return groups, unknown, left_out


def _ranks(groups: dict[str, Parts]) -> str:
    inner = ("lora_down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    shapes = [parts[part][1].shape for parts in groups.values() for part in inner if part in parts]
    ranks = sorted({shape[0] for shape in shapes if shape})
    return f" of rank {ranks[0]}" + f" to {ranks[-1]}" * (len(ranks) > 1) if ranks else ""


def _resolve(groups: dict[str, Parts], base: dict[str, Tensor], class_name: str) -> dict[str, Rows]:
    """Return the rows of the base that each layer is, by the names that the file has."""
    names = layer_names(base, original_names(class_name, base))
    found = {called: find_layers(called, names) for called in groups}
    if missing := [called for called, layers in found.items() if not layers]:
        raise WrongArchitecture(
            f"it targets layer {missing[0]} (and {len(missing) - 1} more), which the base model does not have; it was made for "
            "another base model: name that one as its base"
        )
    resolved: dict[str, Rows] = {}
    taken: set[str] = set()
    for called, layers in found.items():
        if len(layers) > 1 or not taken.isdisjoint(layers[0].parts):
            meant = ", ".join(part for rows in layers for part in rows.parts)
            raise InvalidCheckpoint(f"layer {called} has two adapters or may be any of {meant}; submit one adapter")
        resolved[called] = layers[0]
        taken.update(layers[0].parts)
    return resolved


def find_layers(called: str, names: dict[str, list[Rows]]) -> list[Rows]:
    """Return the layers of the base, ideally exactly one, that the file may mean; ``names`` is from :func:`layer_names`."""
    short = without_prefix(called)
    return names.get(short) or names.get(short.replace(".processor.", ".")) or names.get(called, [])
    # The last one for a class of one's own, which may have layers that begin like a prefix.


def layer_names(base: Mapping[str, Any], originals: OriginalNames) -> dict[str, list[Rows]]:
    """Return the layers of the base, a state dict, by every name that a file may give them.

    ``originals`` has the names of the program that first trained such models. Only these names and the base's own tell which
    underscores of kohya's names stand for dots.
    """
    layers = {name.removesuffix(".weight"): value for name, value in base.items() if name.endswith(".weight")}
    dotted = [(layer, Rows((layer,))) for layer in layers]
    # As the first diffusers versions wrote it.
    dotted += [(layer.removesuffix(".0"), Rows((layer,))) for layer in layers if layer.endswith(".to_out.0")]
    names: dict[str, list[Rows]] = {}
    for name, rows in [*dotted, *originals.layers.items()]:
        for spelling in (name, name.replace(".", "_")):
            found = names.setdefault(spelling, [])
            if rows not in found:
                found.append(rows)
    return names
