"""``CosmosTransformer3DModel``: Cosmos-Predict2 and Anima, rectified flows over images (NVIDIA 2025)."""

from typing import Any

import torch
from diffusers import CosmosTransformer3DModel
from diffusers.utils import is_torchvision_available
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, Inputs, noise_share, random_text
from aiao_core.denoisers.video import Video
from aiao_core.errors import WrongArchitecture


class Cosmos(Video):
    """x_t is a video of one frame. Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = CosmosTransformer3DModel
    side = 128
    activation_bytes = 70
    frames = 1
    positions = 16384

    def shape(self, config: Config) -> tuple[int, ...]:
        channels, frames, *sides = super().shape(config)
        return channels, frames, *(min(side, most) for side, most in zip(sides, config["max_size"][1:], strict=True))

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        if config.get("concat_padding_mask", True) and not is_torchvision_available():
            raise WrongArchitecture(
                "diffusers computes a CosmosTransformer3DModel with torchvision, which is not installed here; install it"
            )
        if config.get("img_context_dim_in"):
            raise WrongArchitecture("a CosmosTransformer3DModel that takes images is not supported")
        crossed = config["crossattn_proj_in_channels"] if config.get("use_crossattn_projection") else config["text_embed_dim"]
        return random_text(crossed, count, generator)

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        noisy = inputs.noisy
        prediction: Tensor = denoiser(
            noisy,
            timestep=noise_share(inputs),
            padding_mask=noisy.new_zeros(1, 1, *noisy.shape[-2:]),
            return_dict=False,
            **inputs.conditions,
        )[0]
        return prediction
