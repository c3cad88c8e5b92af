"""``ErnieImageTransformer2DModel``: ERNIE-Image, a rectified flow over latents that its autoencoder packs (Baidu 2026)."""

from typing import Any

import torch
from diffusers import ErnieImageTransformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs, random_text, text_mask


class ErnieImage(DenoiserFamily):
    """x_t is the packed latent. Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = ErnieImageTransformer2DModel
    side = 64  # at 1024 pixels; the configuration names no size
    activation_bytes = 320
    positions = 4096

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_text(config["text_in_dim"], count, generator)

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        text = inputs.conditions["encoder_hidden_states"]
        prediction: Tensor = denoiser(inputs.noisy, inputs.timesteps, text, text_mask(text).sum(1), return_dict=False)[0]
        return prediction
