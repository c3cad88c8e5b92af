"""How programs name the tensors of a model: prefixes, wrappers, and the words that tell one kind of model from another.

Torch-free. How adapters name theirs is in :mod:`aiao_core.formats.adapter_names`.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from aiao_core.errors import InvalidCheckpoint

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
"""What training frameworks and image programs put before the names of a denoiser's tensors. The first ones are looked for
first."""

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""What torch.compile, sharding, checkpointing and Lightning put into the names of layers that they wrap, anywhere in these."""

MARKERS = ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
"""Tensors by which merge programs note how a model was trained. No weight is among them."""

AVERAGE = re.compile(r"(?:^|[._])(?:ema|avg|averaged?|averages|shadow|swa)(?:$|[._\d])")
"""A word by which trainers call moving averages of weights."""

EMA_PREFIX = "model_ema.diffusion_model"
"""What Stable Diffusion's trainer puts before the names of moving averages, from which it also removes the dots."""

COMPANION_PREFIXES = ("first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "vae.")
"""What a whole single file holds beside its denoiser: VAE and text encoders."""

MAX_NAME_CHARACTERS = 256
"""Of a tensor's name: messages repeat it."""

MAX_PREFIXES = 16
"""Most prefixes of one file that are looked at: those before most tensors."""

OLD_WORDS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names that the first releases of diffusers gave to the layers of an attention in a UNet, and those that it gives them now."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Family:
    """A kind of model, told by the words that its tensors' names begin with, and the diffusers class of its denoiser."""

    words: str
    heads: tuple[str, ...]
    class_name: str = ""


DIFFUSERS = Family("diffusers", ("down_blocks", "mid_block", "up_blocks", "transformer_blocks", "single_transformer_blocks"))
FAMILIES = (
    Family(
        "a ControlNet", ("control_model", "input_hint_block", "zero_convs", "controlnet_cond_embedding", "controlnet_blocks")
    ),
    Family("Chroma", ("distilled_guidance_layer",), "ChromaTransformer2DModel"),
    Family("FLUX.2", ("double_stream_modulation_img", "single_stream_modulation"), "Flux2Transformer2DModel"),
    Family("Z-Image", ("x_pad_token", "cap_pad_token"), "ZImageTransformer2DModel"),
    Family("Lumina 2", ("cap_embedder",), "Lumina2Transformer2DModel"),
    Family("LTX-2", ("av_ca_a2v_gate_adaln_single",), "LTX2VideoTransformer3DModel"),
    Family("LTX-Video", ("patchify_proj",), "LTXVideoTransformer3DModel"),
    Family("AuraFlow", ("double_layers", "single_layers"), "AuraFlowTransformer2DModel"),
    Family("Wan", ("text_embedding", "time_projection"), "WanTransformer3DModel"),
    Family("Stable Diffusion", ("input_blocks", "middle_block", "output_blocks"), "UNet2DConditionModel"),
    Family("Stable Diffusion 3", ("joint_blocks",), "SD3Transformer2DModel"),
    Family("FLUX", ("double_blocks", "single_blocks"), "FluxTransformer2DModel"),
    DIFFUSERS,
    Family("Sana", ("attention_y_norm",), "SanaTransformer2DModel"),
    Family("PixArt", ("t_block",), "PixArtTransformer2DModel"),
    Family("DiT", ("y_embedder",), "DiTTransformer2DModel"),
    Family("a VAE alone", ("first_stage_model", "vae", "decoder", "quant_conv", "post_quant_conv")),
    Family(
        "a text encoder alone",
        ("cond_stage_model", "conditioner", "text_encoders", "text_model", "resblocks", "shared", "encoder"),
    ),
)
"""In the order in which they are looked for: the first ones share names with the later ones."""

COMPANIONS = FAMILIES[-2:]
"""What pipelines keep beside their denoiser."""

_HEADS = frozenset(head for family in FAMILIES for head in family.heads)
_DENOISER_HEADS = frozenset(head for family in FAMILIES if family.class_name or family is DIFFUSERS for head in family.heads)


def heads(names: Iterable[str]) -> set[str]:
    """Return the first words of the names."""
    return {name.partition(".")[0] for name in names}


def family_of(names: Iterable[str]) -> Family | None:
    """Return the first family that has one of the words with which the names begin."""
    found = heads(names)
    return next((family for family in FAMILIES if found.intersection(family.heads)), None)


def is_average(name: str) -> bool:
    """Return whether something of this name is a moving average of weights, as many trainers keep beside the weights."""
    return bool(AVERAGE.search(name))


def check_names(names: Iterable[str], file_name: str) -> None:
    """Raise :class:`InvalidCheckpoint` for a tensor's name that a message cannot repeat."""
    for name in names:
        if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
            raise InvalidCheckpoint(f"{file_name} holds a tensor of the name {name[:40]!r}…, which no model has; remove it")


def unwrapped(tensors: Mapping[str, _Value], file_name: str) -> dict[str, _Value]:
    """Return the tensors without the words of wrappers in their names. Raises :class:`InvalidCheckpoint` if two become one."""
    found: dict[str, _Value] = {}
    for name, value in tensors.items():
        plain = ".".join(word for word in name.split(".") if word not in WRAPPERS)
        if plain in found:
            raise InvalidCheckpoint(f"{file_name} holds {plain} twice, as wrapped for training and not; save one of them alone")
        found[plain] = value
    return found


def prefixes_in(names: Iterable[str]) -> list[str]:
    """Return what stands before the denoisers whose layers are among the names: the most frequent first, averages last.

    Any words may: a trainer's names for its own modules, and those of wrappers. Raises :class:`InvalidCheckpoint` if two
    denoisers are there, and nothing says which one is meant.
    """
    parts = _denoisers(names)
    common = sorted(parts, key=lambda prefix: -len(parts[prefix]))[:MAX_PREFIXES]
    averages = [prefix for prefix in common if is_average(prefix)]
    models = [prefix for prefix in common if prefix not in averages]
    for larger, smaller in combinations(models or averages, 2):
        if 2 * len(parts[larger] & parts[smaller]) > len(parts[larger]):
            raise _two_models(larger, smaller)
    return models + averages


def _two_models(*prefixes: str) -> InvalidCheckpoint:
    both = " and ".join(f"{prefix}…" if prefix else "bare names" for prefix in prefixes)
    return InvalidCheckpoint(f"this holds two models, under {both}; submit one of them alone")


def _denoisers(names: Iterable[str]) -> dict[str, set[str]]:
    """Return the names that are a denoiser's, without the prefix that they have, by that prefix."""
    parts: dict[str, set[str]] = {}
    for name in names:
        words = name.split(".")
        first = next((number for number, word in enumerate(words) if word in _HEADS), None)
        if first is not None and words[first] in _DENOISER_HEADS:
            parts.setdefault("".join(f"{word}." for word in words[:first]), set()).add(".".join(words[first:]))
    return parts


def without_averages(tensors: Mapping[str, _Value]) -> tuple[dict[str, _Value], list[str]]:
    """Return the tensors without moving averages of others of them, and the prefixes of these."""
    prefixes = _denoisers(tensors)
    averages = tuple(prefix for prefix in prefixes if is_average(prefix))
    if not averages or len(averages) == len(prefixes):
        return dict(tensors), []
    return {name: value for name, value in tensors.items() if not name.startswith(averages)}, sorted(averages)[:MAX_PREFIXES]


def common_prefix(names: Iterable[str], expected: Iterable[str]) -> str:
    """Return what stands before most of the ``expected`` names; nothing, if that is as good as anything else.

    Raises :class:`InvalidCheckpoint` if most of them are there twice.
    """
    names, expected = set(names), list(expected)
    found = dict.fromkeys(("", *PREFIXES, *sorted(_denoisers(names), key=is_average)[:MAX_PREFIXES]), 0)
    for prefix in found:
        found[prefix] = sum(prefix + name in names for name in expected)
    best = max(found, key=found.__getitem__)
    for prefix, count in found.items():
        if prefix != best and 2 * count > len(expected) and is_average(prefix) == is_average(best):
            raise _two_models(best, prefix)
    return best


def without_prefix(tensors: Mapping[str, _Value], prefix: str) -> dict[str, _Value]:
    """Return the tensors under ``prefix`` alone, by their names without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def with_today_words(tensors: Mapping[str, _Value], expected: Container[str]) -> dict[str, _Value]:
    """Return the tensors with the layers of attentions renamed as diffusers does when it loads an old checkpoint.

    Only where the new name is ``expected`` and not there yet: other models have layers named ``key`` too.
    """
    renamed = {}
    for name, value in tensors.items():
        layer, _, kind = name.rpartition(".")
        parent, _, word = layer.rpartition(".")
        today = f"{parent}.{OLD_WORDS[word]}.{kind}" if word in OLD_WORDS else name
        renamed[today if today in expected and today not in tensors else name] = value
    return renamed


def averages(tensors: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return the moving averages alone, by the names that the denoiser gives to the tensors that were averaged."""
    return {_dotted(name): value for name, value in without_prefix(tensors, EMA_PREFIX).items()}


_EMA_WORDS = re.compile(
    r"(input_blocks|output_blocks)(\d+)(\d)|(label_emb)(\d)(\d)"
    r"|(middle_block|transformer_blocks|time_embed|in_layers|out_layers|emb_layers|to_out|net|out)(\d+)"
    r"|(skip_connection|label_emb|op|conv|attn\d|norm\d?|proj_in|proj_out|proj|ff|to_q|to_k|to_v|weight|bias)"
)


def _dotted(name: str) -> str:
    """Put the dots back that Stable Diffusion's trainer removes from the name of a moving average."""
    dotted = ".".join(word for match in _EMA_WORDS.finditer(name) for word in match.groups() if word)
    return dotted if dotted.replace(".", "") == name else name
