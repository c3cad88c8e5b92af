"""``Krea2Transformer2DModel``: Krea 2, a rectified flow over packed latents with text of many layers (Krea 2026)."""

from typing import Any

import torch
from diffusers import Krea2Transformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import RANDOM_TOKENS, Conditions, Config, Inputs, noise_share, normal, places
from aiao_core.denoisers.packed import Packed


class Krea2(Packed):
    """Conditions: ``encoder_hidden_states`` (B, L, layers of the text encoder, D)."""

    denoiser = Krea2Transformer2DModel
    activation_bytes = 75

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        layers, width = config["num_text_layers"], config["text_hidden_dim"]
        return {"encoder_hidden_states": normal(count, RANDOM_TOKENS, layers, width, generator=generator)}

    def predict_tokens(self, denoiser: Any, tokens: Tensor, rows: int, columns: int, inputs: Inputs) -> Tensor:
        text = inputs.conditions["encoder_hidden_states"]
        ids = torch.cat([tokens.new_zeros(text.shape[1], 3), places(tokens, 1, rows, columns)])
        prediction: Tensor = denoiser(tokens, text, noise_share(inputs), ids, return_dict=False)[0]
        return prediction
