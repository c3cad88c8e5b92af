"""A small convolutional classifier of the emoji categories, whose features stand in for Inception's on such small images."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "classifier.safetensors"

CATEGORIES = (
    "activities",
    "animals & nature",
    "flags",
    "food & drink",
    "objects",
    "people & body",
    "smileys & emotion",
    "symbols",
    "travel & places",
)
"""The classes, in the order of the logits; named as the captions name them."""

WIDTHS = (24, 48, 80)
"""Channels of the stages; each stage after the first halves the side."""

NUM_FEATURES = 64


class Classifier(nn.Module):
    """Images of any side from 16 pixels on to logits, by global average pooling."""

    num_features = NUM_FEATURES
    """Of :meth:`features`; torchmetrics reads it under this name."""

    def __init__(self) -> None:
        super().__init__()
        before = (3, *WIDTHS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.MaxPool2d(2) if number else nn.Identity(),
                *_convolution(channels, width),
                *_convolution(width, width),
            )
            for number, (channels, width) in enumerate(zip(before, WIDTHS, strict=True))
        )
        self.penultimate = nn.Sequential(*_convolution(WIDTHS[-1], NUM_FEATURES))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(NUM_FEATURES, len(CATEGORIES)))

    def intermediate(self, images: Tensor) -> list[Tensor]:
        """The output of each stage, (N, C, H, W), for ``images`` (N, 3, H, W) in [-1, 1]."""
        outputs, current = [], images
        for stage in self.stages:
            current = stage(current)
            outputs.append(current)
        return outputs

    def features(self, images: Tensor) -> Tensor:
        """The penultimate features (N, 64) of ``images`` (N, 3, H, W) in [-1, 1]."""
        pooled: Tensor = self.penultimate(self.intermediate(images)[-1]).mean((2, 3))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 9) of ``images`` (N, 3, H, W) in [-1, 1]."""
        logits: Tensor = self.head(self.features(images))
        return logits


def load_classifier(weights: Path = WEIGHTS) -> Classifier:
    """The trained classifier, in float32."""
    classifier = Classifier()
    classifier.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    return classifier.requires_grad_(False).eval()


def predicted(classifier: Classifier, images: Tensor) -> Tensor:
    """The class (N,) that ``classifier`` gives to each of ``images`` (N, 3, H, W) in [-1, 1]."""
    with torch.no_grad():
        return torch.cat([classifier(part).argmax(1) for part in images.split(128)])


def _convolution(channels: int, width: int) -> list[nn.Module]:
    # Not batch normalisation: its statistics would be those of one image size.
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.SiLU()]
