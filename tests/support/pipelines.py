"""A small untrained pipeline folder of every family that reads captions, saved by its real diffusers pipeline."""

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from demo_models.emoji_text.parts import make_tokenizer
from tests.support import more_families
from tests.support.families import CONDITIONED, TRANSFORMER

WIDTH = 12
LABELS = {0: "cat, house cat", 1: "dog", 2: "mat"}
WITHOUT_T5 = {"text_encoder_3": None, "tokenizer_3": None}


def save(name: str, folder: Path) -> Path:
    """Save the pipeline of a family: SD, SDXL, SD3, FLUX, Chroma, PixArt or DiT."""
    torch.manual_seed(0)
    _PIPELINES[name]().save_pretrained(folder)
    if name == "DiT":  # as the published model has them; diffusers reads them, and does not write them
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": LABELS}))
    return folder


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.7,
        shift_factor=0.1,
    )


def _clip(projecting: bool = False) -> dict[str, Any]:
    tokenizer = make_tokenizer(["a cat", "a dog on a mat"])
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=16,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
    )
    return {"text_encoder": (CLIPTextModelWithProjection if projecting else CLIPTextModel)(config), "tokenizer": tokenizer}


def _t5() -> dict[str, Any]:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(place)) for place, piece in enumerate(pieces)], extra_ids=0)
    config = T5Config(vocab_size=64, d_model=WIDTH, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    return {"text_encoder": T5EncoderModel(config), "tokenizer": tokenizer}


def _numbered(parts: dict[str, Any], number: int) -> dict[str, Any]:
    return {f"{name}_{number}": part for name, part in parts.items()}


def _sd() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_autoencoder(),
        unet=UNet2DConditionModel(**CONDITIONED),
        scheduler=DDPMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **_clip(),
    )


def _sdxl() -> StableDiffusionXLPipeline:
    unet = CONDITIONED | {
        "cross_attention_dim": 2 * WIDTH,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + WIDTH,
    }
    return StableDiffusionXLPipeline(
        vae=_autoencoder(),
        unet=UNet2DConditionModel(**unet),
        scheduler=DDPMScheduler(),
        **_clip(),
        **_numbered(_clip(projecting=True), 2),
    )


def _sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        **TRANSFORMER,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        caption_projection_dim=16,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
    )
    return StableDiffusion3Pipeline(
        vae=_autoencoder(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **_clip(projecting=True),
        **_numbered(_clip(projecting=True), 2),
        **WITHOUT_T5,
    )


def _flux() -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        **TRANSFORMER,
        in_channels=16,
        num_single_layers=2,
        axes_dims_rope=(2, 2, 4),
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
    )
    return FluxPipeline(
        vae=_autoencoder(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **_clip(),
        **_numbered(_t5(), 2),
    )


def _chroma() -> ChromaPipeline:
    _, chroma, scheduler = more_families.CONFIGURATIONS["Chroma"]
    return ChromaPipeline(
        vae=_autoencoder(),
        transformer=ChromaTransformer2DModel(**chroma | {"joint_attention_dim": WIDTH}),
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(scheduler),
        **_t5(),
    )


def _pixart() -> PixArtAlphaPipeline:
    transformer = PixArtTransformer2DModel(
        **TRANSFORMER, sample_size=8, cross_attention_dim=16, caption_channels=WIDTH, norm_num_groups=4
    )
    return PixArtAlphaPipeline(vae=_autoencoder(), transformer=transformer, scheduler=DDPMScheduler(), **_t5())


def _dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        **TRANSFORMER, in_channels=4, out_channels=8, sample_size=8, num_embeds_ada_norm=3, norm_num_groups=4
    )
    return DiTPipeline(vae=_autoencoder(), transformer=transformer, scheduler=DDPMScheduler())


_PIPELINES = {"SD": _sd, "SDXL": _sdxl, "SD3": _sd3, "FLUX": _flux, "Chroma": _chroma, "PixArt": _pixart, "DiT": _dit}
