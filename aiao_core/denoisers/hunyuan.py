"""HunyuanVideo (Kong et al. 2024) and HunyuanImage 2.1 (Tencent Hunyuan 2025), rectified flows."""

from typing import Any

import torch
from diffusers import HunyuanImageTransformer2DModel, HunyuanVideoTransformer3DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs, normal, random_text, text_mask
from aiao_core.denoisers.video import Video
from aiao_core.errors import WrongArchitecture

GUIDANCE_UNIT = 1000
VIDEO_GUIDANCE, IMAGE_GUIDANCE = 6.0, 3.25
"""The guidance scales at which guidance-distilled models are used (the pipelines' defaults)."""


class HunyuanVideo(Video):
    """Conditions: ``encoder_hidden_states`` (B, L, D) and ``pooled_projections`` (B, P)."""

    denoiser = HunyuanVideoTransformer3DModel
    activation_bytes = 70

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        if config.get("image_condition_type") is not None:
            raise WrongArchitecture("HunyuanVideo from images is not supported; register the model that it was made from")
        pooled = normal(count, config["pooled_projection_dim"], generator=generator)
        return random_text(config["text_embed_dim"], count, generator) | {"pooled_projections": pooled}

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        noisy, text = inputs.noisy, inputs.conditions["encoder_hidden_states"]
        prediction: Tensor = denoiser(
            noisy,
            inputs.timesteps,
            encoder_attention_mask=text_mask(text),
            guidance=noisy.new_full((len(noisy),), VIDEO_GUIDANCE * GUIDANCE_UNIT),
            return_dict=False,
            **inputs.conditions,
        )[0]
        return prediction


class HunyuanImage(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D); ``encoder_hidden_states_2`` (B, L, D2) of ByT5 if the model has it."""

    denoiser = HunyuanImageTransformer2DModel
    side = 64  # at 2048 pixels; the configuration names no size
    activation_bytes = 300
    positions = 4096

    def side_multiple(self, config: Config) -> int:
        return int(config["patch_size"][-1])

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        if config.get("use_meanflow"):
            raise WrongArchitecture(
                "a HunyuanImageTransformer2DModel with use_meanflow predicts a mean over two timesteps, which is not "
                "supported; register the model that it was distilled from"
            )
        conditions = random_text(config["text_embed_dim"], count, generator)
        if width := config.get("text_embed_2_dim"):
            conditions["encoder_hidden_states_2"] = random_text(width, count, generator)["encoder_hidden_states"]
        return conditions

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        if denoiser.gradient_checkpointing:
            denoiser._gradient_checkpointing_func = _checkpointed
        noisy, second = inputs.noisy, inputs.conditions.get("encoder_hidden_states_2")
        conditions = dict(inputs.conditions)
        if second is not None:  # a norm reads it first, in the type of its own weights
            conditions["encoder_hidden_states_2"] = second.to(denoiser.dtype)
        prediction: Tensor = denoiser(
            noisy,
            inputs.timesteps.to(noisy.dtype),
            encoder_attention_mask=text_mask(inputs.conditions["encoder_hidden_states"]),
            encoder_attention_mask_2=None if second is None else text_mask(second),
            guidance=noisy.new_full((len(noisy),), IMAGE_GUIDANCE * GUIDANCE_UNIT) if denoiser.config.guidance_embeds else None,
            return_dict=False,
            **conditions,
        )[0]
        return prediction


def _checkpointed(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    """Run a block again in the backward pass. diffusers' own function takes no names, which this denoiser gives."""
    return checkpoint(block.__call__, *inputs, use_reentrant=False, **named)
