"""``SanaTransformer2DModel``: Sana, linear attention over strongly compressed latents (Xie et al. 2024)."""

from typing import Any

import torch
from diffusers import SanaTransformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs, random_text
from aiao_core.errors import WrongArchitecture


class Sana(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = SanaTransformer2DModel
    side = 32
    activation_bytes = 290

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        if config.get("guidance_embeds"):
            raise WrongArchitecture("SANA-Sprint is not supported; register the Sana that it was distilled from")
        return random_text(config["caption_channels"], count, generator)

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        prediction: Tensor = denoiser(
            inputs.noisy,
            timestep=inputs.timesteps * denoiser.config.timestep_scale,
            return_dict=False,
            **inputs.conditions,
        )[0]
        return prediction[:, : inputs.noisy.shape[1]]  # the other half, if there is one, is a learned variance
