"""``UNet2DModel``: unconditional and class-conditional pixel models (Ho et al. 2020)."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs
from aiao_core.errors import InvalidImages


class UNet2D(DenoiserFamily):
    """Conditions: ``class_labels`` (B,) where the model has classes, else none."""

    denoiser = UNet2DModel
    side = 32
    activation_bytes = 30

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_classes(config.get("num_class_embeds"), count, generator)

    def encode_captions(self, denoiser: Any, text: Mapping[str, Any], captions: list[str]) -> Conditions | None:
        return named_classes(denoiser.config.num_class_embeds, text["id2label"], captions)

    def predict(self, denoiser: nn.Module, inputs: Inputs) -> Tensor:
        prediction: Tensor = denoiser(inputs.noisy, inputs.timesteps, return_dict=False, **inputs.conditions)[0]
        return prediction


def random_classes(classes: int | None, count: int, generator: torch.Generator) -> Conditions:
    """Draw ``class_labels`` (count,) below ``classes``; nothing for a model without classes."""
    return {"class_labels": torch.randint(classes, (count,), generator=generator)} if classes else {}


def named_classes(classes: int | None, id2label: Mapping[str, str], captions: list[str]) -> Conditions | None:
    """Find the ``class_labels`` (N,) of captions that are the names or numbers of classes; None for a model without classes.

    Raises :class:`InvalidImages` for a caption that names no class.
    """
    if not classes:
        return None
    # ImageNet's labels are lists of synonyms: each of them is a name.
    numbers = {
        name.strip(): int(number) for number, label in id2label.items() if number.isdecimal() for name in str(label).split(",")
    }
    numbers = {str(number): number for number in range(classes)} | numbers
    if unknown := [caption for caption in captions if not 0 <= numbers.get(caption, -1) < classes]:
        raise InvalidImages(
            f"the caption {unknown[0]!r} is not a class of this class-conditional model; give a number below {classes} or a "
            "name from id2label in model_index.json"
        )
    return {"class_labels": torch.tensor([numbers[caption] for caption in captions])}
