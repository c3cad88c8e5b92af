"""``SD3Transformer2DModel``: Stable Diffusion 3 and 3.5, a rectified flow (Esser et al. 2024)."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from aiao_core.denoisers.family import CAPTION_TOKENS, Conditions, Config, DenoiserFamily, Inputs, joint_text

WITHOUT_T5_TOKENS = 1
"""Tokens of zeros that stand for T5 in a folder without it, as the pipeline has them: few, for speed."""


class SD3(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D) and ``pooled_projections`` (B, P)."""

    denoiser = SD3Transformer2DModel
    side = 128
    activation_bytes = 30

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return joint_text(config, count, generator)

    def encode_captions(self, denoiser: Any, text: Mapping[str, Any], captions: list[str]) -> Conditions | None:
        from diffusers import StableDiffusion3Pipeline  # it brings transformers along, which only captions need

        if not {"text_encoder", "text_encoder_2"} <= text.keys():
            return None
        names = [f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")]
        pipeline = StableDiffusion3Pipeline(
            transformer=denoiser, vae=None, scheduler=None, **{name: text.get(name) for name in names}
        )
        length = CAPTION_TOKENS if "text_encoder_3" in text else WITHOUT_T5_TOKENS
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            captions, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=length
        )
        return {"encoder_hidden_states": embeddings, "pooled_projections": pooled}

    def predict(self, denoiser: nn.Module, inputs: Inputs) -> Tensor:
        prediction: Tensor = denoiser(inputs.noisy, timestep=inputs.timesteps, return_dict=False, **inputs.conditions)[0]
        return prediction
