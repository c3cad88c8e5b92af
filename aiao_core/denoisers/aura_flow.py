"""``AuraFlowTransformer2DModel``: AuraFlow and Pony V7, a rectified flow (fal 2024)."""

from typing import Any

import torch
from diffusers import AuraFlowTransformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs, noise_share, random_text


class AuraFlow(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = AuraFlowTransformer2DModel
    side = 64
    activation_bytes = 60

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_text(config["joint_attention_dim"], count, generator)

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        prediction: Tensor = denoiser(inputs.noisy, timestep=noise_share(inputs), return_dict=False, **inputs.conditions)[0]
        return prediction
