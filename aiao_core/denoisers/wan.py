"""``WanTransformer3DModel``: Wan 2.1 and 2.2, a rectified flow over videos (Wan Team 2025)."""

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, Inputs, random_text
from aiao_core.denoisers.video import Video


class Wan(Video):
    """Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = WanTransformer3DModel
    activation_bytes = 80

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_text(config["text_dim"], count, generator)

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        prediction: Tensor = denoiser(inputs.noisy, inputs.timesteps, return_dict=False, **inputs.conditions)[0]
        return prediction
