"""Denoisers in the layout of the programs that first trained them: the inverse of what ``aiao_core.formats.original_layouts``
reads.

Written out by hand from the original programs' layouts, so that it shares no code with diffusers' conversion.
"""

import functools
import json
import re

import torch
from diffusers import (
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from aiao_core.formats import original_layouts
from aiao_core.formats.pipelines import build
from aiao_core.formats.recognize import recognize
from aiao_core.key import Architecture

Weights = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
SD3 = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
SD3_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
SD3_FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
FLUX_DOUBLE_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2",
}
FLUX_SINGLE_FUSED = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}


def tiny_unet(**config) -> nn.Module:
    """Stable Diffusion 1's shape in small: attention in the first blocks, none in the deepest."""
    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "cross_attention_dim": 8,
        }
        | config
    )


def tiny_sdxl() -> nn.Module:
    """SDXL's shape in small: no attention in the first block, deeper transformers below, and the added condition."""
    return tiny_unet(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 3),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    )


def tiny_sd3(**config) -> nn.Module:
    return SD3Transformer2DModel(
        **{
            "sample_size": 8,
            "num_layers": 3,
            "attention_head_dim": 4,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "caption_projection_dim": 8,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 4,
        }
        | config
    )


def tiny_flux(**config) -> nn.Module:
    return FluxTransformer2DModel(
        **{
            "in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 3,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "pooled_projection_dim": 8,
            "axes_dims_rope": (2, 2, 4),
        }
        | config
    )


def tiny_wan(**config) -> nn.Module:
    return WanTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 16,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 2,
            "rope_max_seq_len": 32,
            "cross_attn_norm": True,
        }
        | config
    )


def architecture_of(denoiser: nn.Module) -> Architecture:
    config = {name: value for name, value in denoiser.config.items() if not name.startswith("_")}
    return Architecture(class_name=type(denoiser).__name__, config=config)


def to_original(denoiser: nn.Module) -> Weights:
    """The weights of a denoiser by their original names, without a prefix."""
    weights = denoiser.state_dict()
    match denoiser:
        case UNet2DConditionModel():
            return {_unet_name(name, denoiser): value for name, value in weights.items()}
        case SD3Transformer2DModel():
            blocks = {"transformer_blocks": ("joint_blocks", SD3_BLOCK, SD3_FUSED)}
            last = f"transformer_blocks.{denoiser.config.num_layers - 1}.norm1_context.linear"
            original = _transformer({name: value for name, value in weights.items() if name != POSITIONS}, SD3, blocks, last)
            return original | {"pos_embed": weights[POSITIONS]}
        case FluxTransformer2DModel():
            blocks = {
                "transformer_blocks": ("double_blocks", FLUX_DOUBLE, FLUX_DOUBLE_FUSED),
                "single_transformer_blocks": ("single_blocks", FLUX_SINGLE, FLUX_SINGLE_FUSED),
            }
            original = _transformer(weights, FLUX, blocks)
            return {re.sub(r"(query|key)_norm\.weight", r"\1_norm.scale", name): value for name, value in original.items()}
    raise AssertionError(type(denoiser))


POSITIONS = "pos_embed.pos_embed"


def _unet_name(name: str, denoiser: nn.Module) -> str:
    per_block = denoiser.config.layers_per_block + 1
    layer, kind = name.rsplit(".", 1)
    if layer in UNET:
        return f"{UNET[layer]}.{kind}"
    side, *rest = name.split(".")
    if side == "mid_block":
        part, index, *inner = rest
        return ".".join(["middle_block", "1" if part == "attentions" else str(2 * int(index)), *_inside(inner)])
    block, part, index, *inner = rest
    first = int(block) * per_block
    match side, part:
        case "down_blocks", "downsamplers":
            return f"input_blocks.{first + per_block}.0.op.{kind}"
        case "up_blocks", "upsamplers":
            place = 2 if "CrossAttn" in denoiser.config.up_block_types[int(block)] else 1
            return f"output_blocks.{first + per_block - 1}.{place}.conv.{kind}"
    number = f"input_blocks.{1 + first + int(index)}" if side == "down_blocks" else f"output_blocks.{first + int(index)}"
    return ".".join([number, "1" if part == "attentions" else "0", *_inside(inner)])


def _inside(names: list[str]) -> list[str]:
    return [RESNET.get(names[0], names[0]), *names[1:]] if len(names) == 2 else names


def _transformer(weights: Weights, names: dict, blocks: dict, *swapped: str) -> Weights:
    """``swapped`` layers, and the last one, put the shift before the scale."""
    original: Weights = {}
    done = set()
    for name, value in weights.items():
        layer, kind = name.rsplit(".", 1)
        if layer in ("norm_out.linear", *swapped):
            value = torch.cat(value.chunk(2)[::-1])
        if layer in names:
            original[f"{names[layer]}.{kind}"] = value
            continue
        stack, number, inner = layer.split(".", 2)
        target, plain, fused = blocks[stack]
        if inner in plain:
            original[f"{target}.{number}.{plain[inner]}.{kind}"] = value
            continue
        whole = next(whole for whole, pieces in fused.items() if inner in pieces)
        if (number, whole, kind) not in done:
            done.add((number, whole, kind))
            pieces = [weights[f"{stack}.{number}.{piece}.{kind}"] for piece in fused[whole]]
            original[f"{target}.{number}.{whole}.{kind}"] = torch.cat(pieces)
    return original


def to_diffusers(weights: Weights, architecture: Architecture) -> tuple[Weights, str] | None:
    """What the library makes of weights whose names are not the registered denoiser's; None if it converts nothing."""
    recognized = recognize(weights, registered=())
    original_layouts.check_layout(recognized, architecture.class_name)
    registered = _tensors(architecture.class_name, json.dumps(architecture.config))
    converted, layout = original_layouts.to_diffusers(weights, recognized, architecture.class_name, registered)
    return (converted, layout) if layout else None


@functools.cache
def _tensors(class_name: str, config: str) -> Weights:
    return build(Architecture(class_name=class_name, config=json.loads(config))).state_dict() if json.loads(config) else {}
