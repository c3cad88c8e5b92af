"""``FluxTransformer2DModel``: FLUX.1, a rectified flow over packed latents (Black Forest Labs 2024)."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from aiao_core.denoisers.family import CAPTION_TOKENS, Conditions, Config, DenoiserFamily, Inputs, joint_text

PACKED = 4
"""FLUX puts 2x2 positions of a latent into the channels of one token."""

TIMESTEP_UNIT = 1000
GUIDANCE = 3.5
"""The guidance scale at which a guidance-distilled model is used (the pipeline's default)."""


class Flux(DenoiserFamily):
    """x_t is the unpacked latent. Conditions: ``encoder_hidden_states`` (B, L, D) and ``pooled_projections`` (B, P)."""

    denoiser = FluxTransformer2DModel
    side = 128  # at 1024 pixels; the configuration names no size

    def shape(self, config: Config) -> tuple[int, int, int]:
        return config["in_channels"] // PACKED, self.side, self.side

    def side_multiple(self, config: Config) -> int:
        return 2

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

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        noisy, text = inputs.noisy, inputs.conditions["encoder_hidden_states"]
        packed = pixel_unshuffle(noisy, 2)
        rows, columns = (torch.arange(side, device=noisy.device, dtype=noisy.dtype) for side in packed.shape[-2:])
        positions = torch.cartesian_prod(rows[:1] * 0, rows, columns)
        guided = denoiser.config.guidance_embeds
        prediction: Tensor = denoiser(
            packed.flatten(2).mT,
            timestep=inputs.timesteps / TIMESTEP_UNIT,
            guidance=noisy.new_full((len(noisy),), GUIDANCE) if guided else None,
            img_ids=positions,
            txt_ids=noisy.new_zeros(text.shape[1], 3),
            return_dict=False,
            **inputs.conditions,
        )[0]
        return pixel_shuffle(prediction.mT.reshape(packed.shape), 2)
