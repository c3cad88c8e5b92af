"""``DiTTransformer2DModel``: class-conditional diffusion transformers (Peebles and Xie 2023)."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs
from aiao_core.denoisers.unet import named_classes, random_classes


class DiT(DenoiserFamily):
    """Conditions: ``class_labels`` (B,)."""

    denoiser = DiTTransformer2DModel
    side = 32
    activation_bytes = 30

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_classes(config["num_embeds_ada_norm"], count, generator)

    def encode_captions(self, denoiser: Any, text: Mapping[str, Any], captions: list[str]) -> Conditions | None:
        return named_classes(denoiser.config.num_embeds_ada_norm, text["id2label"], captions)

    def predict(self, denoiser: nn.Module, inputs: Inputs) -> Tensor:
        prediction: Tensor = denoiser(
            inputs.noisy, timestep=inputs.timesteps, class_labels=inputs.conditions["class_labels"], return_dict=False
        )[0]
        return prediction[:, : inputs.noisy.shape[1]]  # the other half, if there is one, is a learned variance
