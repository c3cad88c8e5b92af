"""A small untrained model of every family, from its real diffusers class."""

import json
from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.schedules import Diffusion, NoiseSchedule, RectifiedFlow
from aiao_core.key import Architecture

UNET: dict[str, Any] = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
CONDITIONED = UNET | {
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
TRANSFORMER: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3}
TEXT = {"joint_attention_dim": 12, "pooled_projection_dim": 10}

CONFIGURATIONS: dict[str, tuple[type, dict[str, Any]]] = {
    "unconditional": (
        UNet2DModel,
        UNET
        | {
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 8,
        },
    ),
    "class-conditional": (
        UNet2DModel,
        UNET
        | {
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "num_class_embeds": 5,
        },
    ),
    "SD": (UNet2DConditionModel, CONDITIONED),
    "SD 2": (UNet2DConditionModel, CONDITIONED | {"use_linear_projection": True}),
    "SDXL": (
        UNet2DConditionModel,
        CONDITIONED
        | {
            "use_linear_projection": True,
            "transformer_layers_per_block": (2, 1),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 10,
        },
    ),
    "DiT": (
        DiTTransformer2DModel,
        TRANSFORMER | {"in_channels": 4, "out_channels": 8, "sample_size": 8, "num_embeds_ada_norm": 7, "norm_num_groups": 4},
    ),
    "PixArt": (
        PixArtTransformer2DModel,
        TRANSFORMER | {"sample_size": 8, "cross_attention_dim": 16, "caption_channels": 12, "norm_num_groups": 4},
    ),
    "PixArt with sizes": (
        PixArtTransformer2DModel,
        TRANSFORMER
        | {
            "sample_size": 32,
            "cross_attention_dim": 24,
            "num_attention_heads": 3,
            "use_additional_conditions": True,
            "norm_num_groups": 4,
        },
    ),
    "SD3": (
        SD3Transformer2DModel,
        TRANSFORMER | TEXT | {"sample_size": 8, "in_channels": 4, "out_channels": 4, "caption_projection_dim": 16},
    ),
    "SD3.5": (
        SD3Transformer2DModel,
        TRANSFORMER
        | TEXT
        | {
            "sample_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "caption_projection_dim": 16,
            "dual_attention_layers": (0, 1),
            "qk_norm": "rms_norm",
            "pos_embed_max_size": 64,
        },
    ),
    "FLUX": (
        FluxTransformer2DModel,
        TRANSFORMER | TEXT | {"in_channels": 16, "num_single_layers": 3, "guidance_embeds": True, "axes_dims_rope": (2, 2, 4)},
    ),
    "FLUX schnell": (
        FluxTransformer2DModel,
        TRANSFORMER | TEXT | {"in_channels": 16, "num_single_layers": 3, "axes_dims_rope": (2, 2, 4)},
    ),
}


def make(name: str, seed: int = 0) -> DiffusionModel:
    """The model of a name in :data:`CONFIGURATIONS`; layers that start at zero get random weights, as training would do."""
    denoiser_class, options = CONFIGURATIONS[name]
    return make_from(denoiser_class, options, _schedule(name), seed)


def make_from(denoiser_class: type, options: dict[str, Any], schedule: NoiseSchedule, seed: int = 0) -> DiffusionModel:
    torch.manual_seed(seed)
    denoiser = denoiser_class(**options).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    config = json.loads(json.dumps({key: value for key, value in denoiser.config.items() if not key.startswith("_")}))
    architecture = Architecture(class_name=denoiser_class.__name__, config=config)
    return DiffusionModel(denoiser, schedule, architecture)


def _schedule(name: str) -> NoiseSchedule:
    if name.startswith(("SD3", "FLUX")):
        return RectifiedFlow(1000, shift=3.0)
    return Diffusion(DDPMScheduler(prediction_type="v_prediction" if name == "SD 2" else "epsilon"))
