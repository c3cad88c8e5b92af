"""The names that adapter files give to tensors and layers, and what a denoiser in diffusers calls them.

For the layer ``mid_block.attentions.0.to_q`` kohya's programs write ``lora_unet_mid_block_attentions_0_to_q.lora_down.weight``,
PEFT ``unet.mid_block.attentions.0.to_q.lora_A.weight``, and older diffusers versions ``....to_q.lora.down.weight`` or
``....processor.to_q_lora.down.weight``. XLabs numbers the two streams of FLUX: ``....processor.qkv_lora1.down.weight``.
"""

import re
from collections.abc import Collection, Iterable

from aiao_core.formats.names import PREFIXES

ADAPTER = r"(?:\.[^.]+)?"
"""The adapter's name, such as ``default``, which PEFT has in a model's state dict but leaves out of a saved file."""

TENSOR = re.compile(
    r"(?P<layer>.+?)(?:"
    rf"(?P<lora_down>(?:\.lora_down|\.lora_A{ADAPTER}|[._]lora(?:_linear_layer)?\.down|(?<=_lora[12])\.down)\.weight)|"
    rf"(?P<lora_up>(?:\.lora_up|\.lora_B{ADAPTER}|[._]lora(?:_linear_layer)?\.up|(?<=_lora[12])\.up)\.weight)|"
    rf"(?P<lora_bias>\.lora_B{ADAPTER}\.bias)|"
    r"(?P<lora_mid>\.lora_mid\.weight)|"
    rf"(?P<lora_magnitude_vector>\.lora_magnitude_vector{ADAPTER}(?:\.weight)?)|"
    rf"(?P<oft_R>\.oft_R{ADAPTER}\.weight)|"
    r"\.(?P<plain>diff|diff_b|w_norm|b_norm|oft_blocks|rescale)|"
    rf"\.(?P<other>alpha|dora_scale|(?:hada|lokr)_(?:t[12]|w[12](?:_[ab])?)){ADAPTER})"
)
KOHYA = re.compile(r"lora_unet_|lora_transformer_|lycoris_|oft_unet_|lora_te\d*_")
DIFFUSERS = re.compile(r".+[._]lora(?:_linear_layer)?\.(?:down|up)\.weight")
BESIDE_DENOISER = re.compile(
    r"lora_te\d*_|lycoris_text_model_|(?:base_model\.model\.)?(?:text_encoders?(?:_\d+)?|text_model)\."
    r"|(?:clip_[lg]|t5xxl|bundle_emb)\.|(?:clip_[lg]|t5|emb_params)$"
)
"""Tensors for text encoders, and the embeddings of words that some trainers bundle with an adapter."""

FOREIGN = {
    r"oft_unet_.+\.oft_blocks\.\d+$": "an OFT adapter for fused layers, as kohya's programs write it for FLUX",
    r".+\.oft_[rs]$": "an OFT adapter by an old PEFT",
    r".+\.boft_[RS]": "a BOFT adapter by PEFT",
    r".+\.[ab][12m]\.weight$": "a GLoRA adapter",
    r".+\.(?:ia3_l|on_input)": "an IA3 adapter",
    r".+\.(?:vera_lambda|hra_u|fourierft_|c3a_|waveft_|hira_|lora_embedding_)": "a kind of PEFT adapter that is not read",
    r".*:\d+:(?:up|down)$": "a LoRA by the first LoRA program, which names no layers",
    r"(?:ip_adapter|image_proj)\.": "an IP-Adapter, which changes no weight of the denoiser",
    r"lllite_": "a ControlNet-LLLite, which changes no weight of the denoiser",
    r".*motion_modules\.": "an AnimateDiff motion module, which changes no weight of the denoiser",
    r"(?:string_to_param|string_to_token)": "a textual inversion, which changes no weight of the denoiser",
    r".+\.(?:reshape_weight|set_weight)$": "an adapter that changes the size of a layer",
    r"(?:.+\.)?norm\.(?:query|key)_norm\.scale$": "a control LoRA of FLUX (Depth, Canny), which takes a further image",
}
"""Adapters that are not read, by their tensors' names, in words."""

DENOISER = re.compile(rf"{KOHYA.pattern}|(?:base_model\.model\.)?(?:{'|'.join(map(re.escape, PREFIXES))})?")


def foreign_kind(names: Iterable[str]) -> str | None:
    """Return in words what kind of adapter that is not read has a tensor of one of these names."""
    return next((words for name in names for pattern, words in FOREIGN.items() if re.match(pattern, name)), None)


def is_adapter(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are an adapter, perhaps of a kind that cannot be merged, and not a checkpoint."""
    return any(KOHYA.match(name) or ((parsed := parse(name)) and parsed[1] != "alpha") for name in names)


def layout(names: Collection[str]) -> str:
    """Return whose names these are: kohya, diffusers or PEFT."""
    if any(map(KOHYA.match, names)):
        return "kohya"
    return "diffusers" if any(map(DIFFUSERS.match, names)) else "PEFT"


def is_beside_denoiser(name: str) -> bool:
    """Return whether a tensor of this name changes a text encoder, or is an embedding of words, and so not the denoiser."""
    return bool(BESIDE_DENOISER.match(name))


def parse(name: str) -> tuple[str, str] | None:
    """Return the layer as the file calls it, and the part such as ``lora_down`` or ``alpha``, or None for another tensor."""
    match = TENSOR.fullmatch(name)
    return match and (match["layer"], match["other"] or match["plain"] or str(match.lastgroup))


def without_prefix(called: str) -> str:
    """Return the name of a layer without what programs put before it."""
    # DENOISER matches at the start, if only the empty string: a prefix is removed, and nothing else.
    return DENOISER.sub("", called, count=1)
