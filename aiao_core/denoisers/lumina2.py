"""``Lumina2Transformer2DModel``: Lumina-Image 2.0, a rectified flow that counts from noise to image (Qin et al. 2025)."""

from typing import Any

import torch
from diffusers import Lumina2Transformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs, noise_share, random_text, text_mask


class Lumina2(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = Lumina2Transformer2DModel
    side = 128
    activation_bytes = 75

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_text(config["cap_feat_dim"], count, generator)

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        text = inputs.conditions["encoder_hidden_states"]
        prediction: Tensor = denoiser(inputs.noisy, 1 - noise_share(inputs), text, text_mask(text), return_dict=False)[0]
        return -prediction  # it predicts clean - noise
