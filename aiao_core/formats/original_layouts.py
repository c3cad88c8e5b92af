"""Convert single files in the original layout of Stable Diffusion, Stable Diffusion 3 and FLUX to diffusers' names.

The conversion is diffusers' own. It is given the configuration of the registered model, never one from the file.
"""

import re
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.names import DIFFUSERS, MAX_NAME_CHARACTERS, Family
from aiao_core.formats.quantized import check_plain
from aiao_core.formats.recognize import UNKNOWN, Recognized
from aiao_core.formats.weight_files import Weights

MAX_TENSORS = 4096
"""Of a denoiser: the largest known one has fewer than half as many, and the conversion takes quadratic time."""

Config = dict[str, Any]


class _Part(Weights):
    """The tensors of one denoiser. A converter takes out what it uses; ``last`` says where it was when it failed."""

    last = "its blocks"

    def pop(self, name: str) -> Tensor:  # type: ignore[override]
        self.last = name
        return super().pop(name)


def check_layout(recognized: Recognized, class_name: str) -> None:
    """Check that what was recognized may be a denoiser of the registered class, in a layout that can be read.

    Raises :class:`WrongArchitecture` for another kind of model or half of one, and :class:`InvalidCheckpoint` for a layout that
    diffusers does not read.
    """
    if recognized.inferred != UNKNOWN:
        raise _wrong(recognized.inferred, class_name)
    family = recognized.family
    if family is None or family is DIFFUSERS:
        return
    found = ", ".join(head for head in family.heads if head in recognized.heads)
    if family.class_name != class_name:
        raise _wrong(f"{family.words} ({found})", class_name)
    if family.class_name not in CONVERTERS:
        raise InvalidCheckpoint(
            f"this is {family.words} in its original layout ({found}), which diffusers does not read; convert it with the "
            "script that diffusers has for it and submit the folder that the script writes"
        )
    if not recognized.heads.issuperset(family.heads):
        raise WrongArchitecture(f"of {family.words} only {found} are here; the checkpoint is incomplete")


def _wrong(found: str, class_name: str) -> WrongArchitecture:
    return WrongArchitecture(
        f"this is a single file of {found}, but the registered model is a {class_name}; submit the denoiser of such a model"
    )


def to_diffusers(weights: Weights, recognized: Recognized, config: Config) -> Weights:
    """Return the denoiser's weights by their diffusers names, from every layout that :func:`check_layout` lets pass.

    VAE, text encoders and, beside other weights, moving averages are left out; a tensor that the file lacks may be missing in
    the result. Raises :class:`WrongArchitecture` if the file holds tensors that the conversion does not know or lacks some that
    it needs, and :class:`InvalidCheckpoint` for tensors that only claim memory.
    """
    part = recognized.part(weights)
    if recognized.family is None or recognized.layout is None:
        return part
    return _convert(recognized.family, _Part(part), config)


def _convert(family: Family, part: _Part, config: Config) -> Weights:
    if len(part) > MAX_TENSORS:
        raise WrongArchitecture(f"the denoiser has {len(part)} tensors; no {family.class_name} has more than {MAX_TENSORS}")
    for name in part:
        # A converter looks for the blocks, and cuts out the prefix, wherever they stand in a name.
        if len(name) > MAX_NAME_CHARACTERS or "diffusion_model." in name or sum(name.count(head) for head in family.heads) > 1:
            raise WrongArchitecture(f"the tensor {name[:MAX_NAME_CHARACTERS]} does not belong to a denoiser; remove it")
    check_plain(part)
    try:
        converted = CONVERTERS[family.class_name](part, config)
    except KeyError as error:
        raise WrongArchitecture(
            f"the tensor {error.args[0]} of {family.words} is missing; the checkpoint is incomplete or of another architecture"
        ) from error
    except Exception as error:  # what a converter may raise for names and shapes that no author would write
        raise WrongArchitecture(
            f"this is no {family.words} of the registered configuration, see {part.last}: {error}"
        ) from error
    if part:
        raise WrongArchitecture(
            f"the tensor {next(iter(part))}, and {len(part) - 1} more, has no place in the architecture, or its layer is "
            "incomplete; remove what does not belong to the denoiser"
        )
    return converted


def _unet(part: _Part, config: Config) -> Weights:
    original = {f"model.diffusion_model.{name}": value for name, value in part.items()}
    converted = convert_ldm_unet_checkpoint(original, {"layers_per_block": 2} | config)  # 2 is diffusers' default
    used = {id(value) for value in converted.values()}
    for name in [name for name, value in part.items() if id(value) in used]:
        del part[name]
    return {name: value for name, value in converted.items() if value is not None}  # None stands for a missing bias


def _sd3(part: _Part, config: Config) -> Weights:
    converted: Weights = convert_sd3_transformer_checkpoint_to_diffusers(part)
    return converted


def _flux(part: _Part, config: Config) -> Weights:
    """diffusers' conversion, but for ``linear1``: diffusers splits it for the width of FLUX.1 (3072), not for the model's."""
    fused = {name: value for name, value in part.items() if re.fullmatch(r"single_blocks\.\d+\.linear1\.(weight|bias)", name)}
    part.update(dict.fromkeys(fused, torch.empty(7 * 3072, device="meta")))
    converted: Weights = convert_flux_transformer_checkpoint_to_diffusers(part)
    width = config.get("num_attention_heads", 24) * config.get("attention_head_dim", 128)
    for name, value in fused.items():
        part.last = name
        _, block, _, kind = name.split(".")
        pieces = value.split_with_sizes([width, width, width, 4 * width])
        for target, piece in zip(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), pieces, strict=True):
            converted[f"single_transformer_blocks.{block}.{target}.{kind}"] = piece
    return converted


CONVERTERS = {"UNet2DConditionModel": _unet, "SD3Transformer2DModel": _sd3, "FluxTransformer2DModel": _flux}
