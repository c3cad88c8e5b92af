"""``FluxTransformer2DModel``: FLUX.1, a rectified flow over packed latents (Black Forest Labs 2024)."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import CAPTION_TOKENS, Conditions, Config, Inputs, joint_text, noise_share, places
from aiao_core.denoisers.packed import Packed

GUIDANCE = 3.5
"""The guidance scale at which a guidance-distilled model is used (the pipeline's default)."""


class Flux(Packed):
    """x_t is the unpacked latent. Conditions: ``encoder_hidden_states`` (B, L, D) and ``pooled_projections`` (B, P)."""

    denoiser = FluxTransformer2DModel

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return joint_text(config, count, generator)

    def encode_captions(self, denoiser: Any, text: Mapping[str, Any], captions: list[str]) -> Conditions | None:
        from diffusers import FluxPipeline  # it brings transformers along, which only captions need

        names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        if not set(names) <= text.keys():
            return None
        pipeline = FluxPipeline(transformer=denoiser, vae=None, scheduler=None, **{name: text[name] for name in names})
        embeddings, pooled, _ = pipeline.encode_prompt(captions, None, device="cpu", max_sequence_length=CAPTION_TOKENS)
        return {"encoder_hidden_states": embeddings, "pooled_projections": pooled}

    def predict_tokens(self, denoiser: Any, tokens: Tensor, rows: int, columns: int, inputs: Inputs) -> Tensor:
        text = inputs.conditions["encoder_hidden_states"]
        prediction: Tensor = denoiser(
            tokens,
            timestep=noise_share(inputs),
            guidance=tokens.new_full((len(tokens),), GUIDANCE) if denoiser.config.guidance_embeds else None,
            img_ids=places(tokens, 1, rows, columns),
            txt_ids=tokens.new_zeros(text.shape[1], 3),
            return_dict=False,
            **inputs.conditions,
        )[0]
        return prediction
