"""``Flux2Transformer2DModel``: FLUX.2, a rectified flow over latents that its autoencoder packs (Black Forest Labs 2025)."""

from typing import Any

import torch
from diffusers import Flux2Transformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs, noise_share, on_grid, places, random_text

GUIDANCE = 4.0
"""The guidance scale at which a guidance-distilled model is used (the pipeline's default)."""


class Flux2(DenoiserFamily):
    """x_t is the packed latent. Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = Flux2Transformer2DModel
    side = 64  # at 1024 pixels; the configuration names no size
    activation_bytes = 330
    positions = 4096

    def side_multiple(self, config: Config) -> int:
        return 1

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_text(config["joint_attention_dim"], count, generator)

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        noisy, text = inputs.noisy, inputs.conditions["encoder_hidden_states"]
        prediction: Tensor = denoiser(
            noisy.flatten(2).mT,
            timestep=noise_share(inputs),
            guidance=noisy.new_full((len(noisy),), GUIDANCE) if denoiser.config.guidance_embeds else None,
            # Frame, row, column, and the place in the text:
            img_ids=places(noisy, 1, *noisy.shape[-2:], 1),
            txt_ids=places(noisy, 1, 1, 1, text.shape[1]),
            return_dict=False,
            **inputs.conditions,
        )[0]
        return on_grid(prediction, *noisy.shape[-2:])
