"""The names that adapter files give to tensors and layers, and what a denoiser in diffusers calls them.

For the layer ``mid_block.attentions.0.to_q`` kohya's programs write ``lora_unet_mid_block_attentions_0_to_q.lora_down.weight``,
PEFT ``unet.mid_block.attentions.0.to_q.lora_A.weight``, and older diffusers versions ``....to_q.lora.down.weight`` or
``....processor.to_q_lora.down.weight``.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aiao_core.formats.names import PREFIXES

ADAPTER = r"(?:\.[^.]+)?"
"""The adapter's name, such as ``default``, which PEFT has in a model's state dict but leaves out of a saved file."""

TENSOR = re.compile(
    r"(?P<layer>.+?)(?:"
    rf"(?P<lora_down>\.lora_down\.weight|\.lora_A{ADAPTER}\.weight|[._]lora(?:_linear_layer)?\.down\.weight)|"
    rf"(?P<lora_up>\.lora_up\.weight|\.lora_B{ADAPTER}\.weight|[._]lora(?:_linear_layer)?\.up\.weight)|"
    rf"(?P<lora_bias>\.lora_B{ADAPTER}\.bias)|"
    r"(?P<lora_mid>\.lora_mid\.weight)|"
    rf"(?P<lora_magnitude_vector>\.lora_magnitude_vector{ADAPTER}(?:\.weight)?)|"
    rf"\.(?P<other>alpha|dora_scale|(?:hada|lokr)_(?:t[12]|w[12](?:_[ab])?)){ADAPTER})"
)
KOHYA = re.compile(r"lora_unet_|lora_transformer_|lycoris_|lora_te\d*_")
DIFFUSERS = re.compile(r".+[._]lora(?:_linear_layer)?\.(?:down|up)\.weight")
TEXT_ENCODER = re.compile(r"lora_te\d*_|lycoris_text_model_|(?:base_model\.model\.)?(?:text_encoder(?:_\d+)?|text_model)\.")
DENOISER = re.compile(rf"{KOHYA.pattern}|(?:base_model\.model\.)?(?:{'|'.join(map(re.escape, PREFIXES))})?")

SGM_BLOCK = re.compile(r"(down|mid|up)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.+)")
SGM_LAYERS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
SGM_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def is_adapter(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are an adapter, perhaps of a kind that cannot be merged, and not a checkpoint."""
    return any(KOHYA.match(name) or ((parsed := parse(name)) and parsed[1] != "alpha") for name in names)


def layout(names: Collection[str]) -> str:
    """Return whose names these are: kohya, diffusers or PEFT."""
    if any(map(KOHYA.match, names)):
        return "kohya"
    return "diffusers" if any(map(DIFFUSERS.match, names)) else "PEFT"


def is_for_text_encoder(name: str) -> bool:
    """Return whether a tensor of this name changes a text encoder."""
    return bool(TEXT_ENCODER.match(name))


def parse(name: str) -> tuple[str, str] | None:
    """Return the layer as the file calls it, and the part such as ``lora_down`` or ``alpha``, or None for another tensor."""
    match = TENSOR.fullmatch(name)
    return match and (match["layer"], match["other"] or str(match.lastgroup))


def find_layers(called: str, names: dict[str, list[str]]) -> list[str]:
    """Return the layers of the base, ideally exactly one, that the file may mean; ``names`` is from :func:`layer_names`."""
    # DENOISER matches at the start, if only the empty string: a prefix is removed, and nothing else.
    short = DENOISER.sub("", called, count=1).replace(".processor.", ".")
    return names.get(short) or names.get(called, [])  # a class of one's own may have layers that begin like a prefix


def layer_names(base: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the linear and convolution layers of the base, a state dict, by every name that a file may give them.

    Only the base's own names tell which underscores of kohya's names stand for dots.
    """
    layers = [name.removesuffix(".weight") for name, value in base.items() if name.endswith(".weight") and value.dim() > 1]
    resnets = len({match[1] for layer in layers if (match := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", layer))})
    names: dict[str, list[str]] = {}
    for layer in layers:
        short = layer.removesuffix(".0") if layer.endswith(".to_out.0") else layer  # as the first diffusers versions wrote it
        dotted = {layer, short, _sgm_name(layer, resnets)}
        for name in dotted | {name.replace(".", "_") for name in dotted}:
            names.setdefault(name, []).append(layer)
    return names


def _sgm_name(layer: str, resnets: int) -> str:
    """Return what SDXL's original code, and so kohya's, calls a layer of a UNet with ``resnets`` in each downward block."""
    if not (match := SGM_BLOCK.fullmatch(layer)):
        return SGM_LAYERS.get(layer, layer)
    side, block, module, index, rest = match.groups()
    if module == "resnets":
        rest = SGM_RESNET.get(rest, rest)
    if side == "mid":
        return f"middle_block.{2 * int(index) if module == 'resnets' else 1}.{rest}"
    first = int(block or 0) * (resnets + 1)
    match side, module:
        case "down", "downsamplers":
            return f"input_blocks.{first + resnets + 1}.0.op"
        case "down", _:
            return f"input_blocks.{first + int(index) + 1}.{int(module == 'attentions')}.{rest}"
        case _, "upsamplers":
            return f"output_blocks.{first + resnets}.2.{rest}"
        case _:
            return f"output_blocks.{first + int(index)}.{int(module == 'attentions')}.{rest}"
