"""``UNet2DModel``: unconditional and class-conditional pixel models (Ho et al. 2020)."""

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from aiao_core.denoisers.adapter import Conditions, Config, DenoiserAdapter, Inputs, square


class UNet2D(DenoiserAdapter):
    """Conditions: ``class_labels`` (B,) where the model has classes, else none."""

    denoiser = UNet2DModel
    folder = "unet"

    def shape(self, config: Config) -> tuple[int, int, int]:
        return config["in_channels"], *square(config, default=32)

    def side_multiple(self, config: Config) -> int:
        return int(2 ** (len(config["block_out_channels"]) - 1))

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_classes(config.get("num_class_embeds"), count, generator)

    def predict(self, denoiser: nn.Module, inputs: Inputs) -> Tensor:
        prediction: Tensor = denoiser(inputs.noisy, inputs.timesteps, return_dict=False, **inputs.conditions)[0]
        return prediction


def random_classes(classes: int | None, count: int, generator: torch.Generator) -> Conditions:
    """``class_labels`` (count,) below ``classes``, or nothing for a model without classes."""
    return {"class_labels": torch.randint(classes, (count,), generator=generator)} if classes else {}
