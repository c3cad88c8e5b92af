"""Single files in the original layout of Stable Diffusion, Stable Diffusion 3 and FLUX, by their diffusers names.

The conversion is diffusers' own. It is given the configuration of the registered model, never one from the file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
    infer_diffusers_model_type,
)
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.quantized import check_plain
from aiao_core.formats.weight_files import Weights
from aiao_core.key import Architecture

PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "module.",
    "model.",
    "_orig_mod.",
    "denoiser.",
    "transformer.",
    "unet.",
)
EMA_PREFIX = "model_ema.diffusion_model"
MAX_TENSORS = 4096
"""Of a denoiser: the largest that is known has less than half as many, and the conversion takes quadratic time."""
MAX_NAME = 256

Config = dict[str, Any]


@dataclass(frozen=True)
class _Family:
    """A kind of model, told by the words that its tensors' names begin with, and the diffusers class of its denoiser."""

    words: str
    heads: tuple[str, ...]
    class_name: str = ""


DIFFUSERS = _Family("diffusers", ("down_blocks", "mid_block", "up_blocks", "transformer_blocks", "single_transformer_blocks"))
FAMILIES = (
    _Family(
        "a ControlNet", ("control_model", "input_hint_block", "zero_convs", "controlnet_cond_embedding", "controlnet_blocks")
    ),
    _Family("Chroma", ("distilled_guidance_layer",)),
    _Family("FLUX.2", ("double_stream_modulation_img", "single_stream_modulation")),
    _Family("Stable Diffusion", ("input_blocks", "middle_block", "output_blocks"), "UNet2DConditionModel"),
    _Family("Stable Diffusion 3", ("joint_blocks",), "SD3Transformer2DModel"),
    _Family("FLUX", ("double_blocks", "single_blocks"), "FluxTransformer2DModel"),
    DIFFUSERS,
    _Family("PixArt", ("t_block",), "PixArtTransformer2DModel"),
    _Family("Sana", ("attention_y_norm",)),
    _Family("DiT", ("y_embedder",), "DiTTransformer2DModel"),
    _Family("a VAE alone", ("first_stage_model", "vae", "decoder", "quant_conv", "post_quant_conv")),
    _Family(
        "a text encoder alone",
        ("cond_stage_model", "conditioner", "text_encoders", "text_model", "resblocks", "shared", "encoder"),
    ),
)
"""In the order in which they are looked for: the first ones share names with the later ones."""
COMPANIONS = FAMILIES[-2:]


class _Part(Weights):
    """The tensors of one denoiser. A converter takes out what it uses; ``last`` says where it was when it failed."""

    last = "its blocks"

    def pop(self, name: str) -> Tensor:  # type: ignore[override]
        self.last = name
        return super().pop(name)


def to_diffusers(weights: Weights, architecture: Architecture) -> tuple[Weights, str] | None:
    """The denoiser's weights by their diffusers names and the form in words; None if there is nothing to convert.

    Ask only where the names are not already those of the registered denoiser: a class of one's own may use any names. VAE, text
    encoders and, beside other weights, moving averages are left out; a tensor that the file lacks may be missing in the result.

    Raises :class:`WrongArchitecture` if the file is recognised as another kind of model, holds tensors that the conversion does
    not know or lacks some that it needs; :class:`InvalidCheckpoint` for a layout that diffusers does not read and for tensors
    that only claim memory.
    """
    check_family(weights, architecture)
    family, part, averages = _recognise(weights)
    if family is None or family is DIFFUSERS:
        return None
    form = f"single file in the original {family.words} layout" + (", moving averages (EMA)" if averages else "")
    return _convert(family, part, architecture.config), form


def check_family(weights: Weights, architecture: Architecture) -> None:
    """Raise what :func:`to_diffusers` raises for another kind of model. By names and shapes alone: no number is read."""
    family, part, _ = _recognise(weights)
    if family is None:
        if (inferred := _infer(weights)) != "v1":  # diffusers' word for whatever it does not know
            raise _wrong(inferred, architecture)
    elif family is not DIFFUSERS:
        _check_family(family, {name.partition(".")[0] for name in part}, architecture)


def is_companion(weights: Weights) -> bool:
    """Whether these are a VAE or text encoders alone, as pipelines keep them beside their denoiser."""
    return _recognise(weights)[0] in COMPANIONS


def _recognise(weights: Weights) -> "tuple[_Family | None, _Part, bool]":
    """The family, the denoiser's tensors without prefix, and whether they are moving averages."""
    for part, averages in _parts(weights):
        heads = {name.partition(".")[0] for name in part}
        if family := next((family for family in FAMILIES if heads.intersection(family.heads)), None):
            return family, part, averages
    return None, _Part(weights), False


def _check_family(family: _Family, heads: set[str], architecture: Architecture) -> None:
    found = ", ".join(head for head in family.heads if head in heads)
    if family.class_name != architecture.class_name:
        raise _wrong(f"{family.words} ({found})", architecture)
    if family.class_name not in CONVERTERS:
        raise InvalidCheckpoint(
            f"this is {family.words} in its original layout ({found}), which diffusers does not read; convert it with the "
            "script that diffusers has for it and submit the folder that the script writes"
        )
    if not heads.issuperset(family.heads):
        raise WrongArchitecture(f"of {family.words} only {found} are here; the checkpoint is incomplete")


def _wrong(found: str, architecture: Architecture) -> WrongArchitecture:
    return WrongArchitecture(
        f"this is a single file of {found}, but the registered model is a {architecture.class_name}; "
        "submit the denoiser of such a model"
    )


def _infer(weights: Weights) -> str:
    try:
        check_plain(weights)
        return str(infer_diffusers_model_type(weights))
    except Exception:  # it asks for tensors and dimensions that a damaged file lacks
        return "v1"


def _parts(weights: Weights) -> Iterator[tuple[_Part, bool]]:
    """What may be a denoiser, without prefix, and whether it is a moving average. The whole file comes last."""
    for prefix in PREFIXES:
        yield _Part({name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}), False
    averages = {name.removeprefix(EMA_PREFIX): value for name, value in weights.items() if name.startswith(EMA_PREFIX)}
    yield _Part({_dotted(name): value for name, value in averages.items()}), True
    yield _Part(weights), False


_EMA_WORDS = re.compile(
    r"(input_blocks|output_blocks)(\d+)(\d)|(label_emb)(\d)(\d)"
    r"|(middle_block|transformer_blocks|time_embed|in_layers|out_layers|emb_layers|to_out|net|out)(\d+)"
    r"|(skip_connection|label_emb|op|conv|attn\d|norm\d?|proj_in|proj_out|proj|ff|to_q|to_k|to_v|weight|bias)"
)


def _dotted(name: str) -> str:
    """The name in the denoiser, with the dots that Stable Diffusion's trainer leaves out in the name of a moving average."""
    dotted = ".".join(word for match in _EMA_WORDS.finditer(name) for word in match.groups() if word)
    return dotted if dotted.replace(".", "") == name else name


def _convert(family: _Family, part: _Part, config: Config) -> Weights:
    if len(part) > MAX_TENSORS:
        raise WrongArchitecture(f"the denoiser has {len(part)} tensors; no {family.class_name} has more than {MAX_TENSORS}")
    for name in part:
        # A converter looks for the blocks, and cuts out the prefix, wherever they stand in a name.
        if len(name) > MAX_NAME or "diffusion_model." in name or sum(name.count(head) for head in family.heads) > 1:
            raise WrongArchitecture(f"the tensor {name[:MAX_NAME]} does not belong to a denoiser; remove it")
    check_plain(part)
    try:
        converted = CONVERTERS[family.class_name](part, config)
    except KeyError as error:
        raise WrongArchitecture(
            f"the tensor {error.args[0]} of {family.words} is missing; the checkpoint is incomplete or of another architecture"
        ) from error
    except Exception as error:  # whatever a converter raises for names and shapes that no author would write
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
