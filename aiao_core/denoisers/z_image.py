"""``ZImageTransformer2DModel``: Z-Image, a rectified flow that counts from noise to image (Tongyi Lab 2025)."""

from typing import Any

import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs, noise_share, random_text


class ZImage(DenoiserFamily):
    """Conditions: ``encoder_hidden_states`` (B, L, D)."""

    denoiser = ZImageTransformer2DModel
    side = 128
    activation_bytes = 85

    def side_multiple(self, config: Config) -> int:
        return 2

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_text(config["cap_feat_dim"], count, generator)

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        videos = list(inputs.noisy[:, :, None])  # of one frame: the denoiser takes a list of images of any size
        predictions = denoiser(
            videos, 1 - noise_share(inputs), list(inputs.conditions["encoder_hidden_states"]), return_dict=False
        )[0]
        return -torch.stack(predictions)[:, :, 0]  # it predicts clean - noise
