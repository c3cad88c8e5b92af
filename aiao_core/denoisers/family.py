"""The interface of a family of denoisers, and the batch that a denoiser sees."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from aiao_core.sizing import OTHER_ACTIVATION_BYTES

Config = Mapping[str, Any]
"""A denoiser's configuration, as its ``config.json`` has it."""

Conditions = dict[str, Tensor]
"""The inputs of a prediction besides x_t and t, batch first, by the names that the family uses."""

RANDOM_TOKENS = 16
"""Length of a random text embedding: enough for any attention to mix, and short, for speed."""

CAPTION_TOKENS = 128
"""Length of an owner's captions for T5."""

MONTE_CARLO_SIDE = 16
"""Positions a side of x_t in verification if the model works at more: a key works at every resolution."""

TIMESTEP_UNIT = 1000
"""Timesteps from the image to the noise, for the families whose denoisers count from 0 to 1."""


@dataclass(frozen=True)
class Inputs:
    """A batch for a denoiser."""

    noisy: Tensor
    """x_t, (B, C, *positions): height and width of an image, the frames too of a video, the length of a sound."""
    timesteps: Tensor
    """t, (B,), from 0 to the number of training timesteps."""
    conditions: Conditions
    """Each (B, ...)."""

    def __len__(self) -> int:
        return len(self.noisy)

    def __getitem__(self, rows: slice | Tensor) -> "Inputs":
        """Return the batch of some rows: a slice, or a mask or indices (n,)."""
        return Inputs(self.noisy[rows], self.timesteps[rows], select(self.conditions, rows))

    def to(self, device: torch.device) -> "Inputs":
        conditions = {name: value.to(device) for name, value in self.conditions.items()}
        return Inputs(self.noisy.to(device), self.timesteps.to(device), conditions)

    @staticmethod
    def concatenated(batches: Sequence["Inputs"]) -> "Inputs":
        """Join the rows of all ``batches``."""
        return Inputs(
            torch.cat([batch.noisy for batch in batches]),
            torch.cat([batch.timesteps for batch in batches]),
            {name: torch.cat([batch.conditions[name] for batch in batches]) for name in batches[0].conditions},
        )


def select(conditions: Conditions, rows: slice | Tensor) -> Conditions:
    """Select some rows of ``conditions``."""
    return {name: value[rows] for name, value in conditions.items()}


class DenoiserFamily(ABC):
    """A family of denoisers: how to make inputs for it and how to call it. It keeps no state.

    :func:`aiao_core.denoisers.register` makes a family known; ``docs/families.md`` shows how to write one.
    """

    denoiser: ClassVar[type[nn.Module]]
    """The class of the denoiser, of diffusers or your own: ``from_config`` and ``config`` as ``ModelMixin`` has them."""
    side: ClassVar[int]
    """Positions a side of x_t where the configuration has no ``sample_size``."""
    activation_bytes: ClassVar[int] = OTHER_ACTIVATION_BYTES
    """Memory of a training step, as :func:`aiao_core.sizing.activation_bytes` reads it from the source: a plain number."""
    positions: ClassVar[int | None] = None
    """Positions of x_t in training, as :func:`aiao_core.sizing.positions` reads them from the source: a plain number. None if
    ``sample_size`` tells."""

    def shape(self, config: Config) -> tuple[int, ...]:
        """Return (channels, *positions) of x_t in training: at the size that the model is made for, or less of a video."""
        size = config.get("sample_size") or self.side
        height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
        return config["in_channels"], height, width

    def side_multiple(self, config: Config) -> int:
        """Return the divisor of every height and width: a transformer's patch, or the product of a UNet's halvings."""
        return int(config.get("patch_size") or 2 ** (len(config["block_out_channels"]) - 1))

    @abstractmethod
    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        """Make conditions for ``count`` Monte Carlo inputs; this needs no text encoder."""

    @abstractmethod
    def predict(self, denoiser: nn.Module, inputs: Inputs) -> Tensor:
        """Predict noise, velocity or clean image, as the denoiser was trained, for ``inputs``: shaped like ``inputs.noisy``."""

    def encode_captions(self, denoiser: Any, text: Mapping[str, Any], captions: list[str]) -> Conditions | None:
        """Encode N captions as conditions (N, ...); None if the family takes no captions or ``text`` lacks an encoder.

        ``text`` is the result of :func:`aiao_core.data.captions.load_text` for the pipeline folder. Only embedding calls this.
        """
        return None

    @property
    def takes_captions(self) -> bool:
        """Whether the family has its own :meth:`encode_captions`."""
        return type(self).encode_captions is not DenoiserFamily.encode_captions

    def tokens(self, config: Config) -> int:
        """Return how many patches x_t has at the model's size: schedulers shift the noise of larger images by it."""
        _, *positions = self.shape(config)
        return math.prod(positions) // self.side_multiple(config) ** 2

    def monte_carlo_shape(self, config: Config) -> tuple[int, ...]:
        """Return (channels, *positions) of x_t in verification: :data:`MONTE_CARLO_SIDE` a side, or the model's size."""
        channels, height, width = self.shape(config)
        multiple = self.side_multiple(config)
        smallest = -(-MONTE_CARLO_SIDE // multiple) * multiple
        return channels, min(height, smallest), min(width, smallest)


def normal(count: int, *shape: int, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers, (count, *shape)."""
    return torch.randn((count, *shape), generator=generator)


def random_text(width: int, count: int, generator: torch.Generator) -> Conditions:
    """Draw ``encoder_hidden_states`` (count, L, width)."""
    return {"encoder_hidden_states": normal(count, RANDOM_TOKENS, width, generator=generator)}


def noise_share(inputs: Inputs) -> Tensor:
    """Return t from 0, the image, to 1, noise: (B,)."""
    return inputs.timesteps / TIMESTEP_UNIT


def text_mask(text: Tensor) -> Tensor:
    """Return the mask (B, L) int64 of a text (B, L, ...) without padding."""
    return torch.ones(text.shape[:2], dtype=torch.int64, device=text.device)


def places(like: Tensor, *lengths: int) -> Tensor:
    """List the places of a grid, one coordinate for each of ``lengths``: (product, axes), in the type of ``like``."""
    return torch.cartesian_prod(*(torch.arange(length, device=like.device, dtype=like.dtype) for length in lengths))


def on_grid(tokens: Tensor, *lengths: int) -> Tensor:
    """Put ``tokens`` (B, product of lengths, C) back on their grid: (B, C, *lengths)."""
    return tokens.mT.reshape(len(tokens), -1, *lengths)


def joint_text(config: Config, count: int, generator: torch.Generator) -> Conditions:
    """Draw ``encoder_hidden_states`` (count, L, D) and ``pooled_projections`` (count, P), as MMDiT transformers take them."""
    return {
        "encoder_hidden_states": normal(count, RANDOM_TOKENS, config["joint_attention_dim"], generator=generator),
        "pooled_projections": normal(count, config["pooled_projection_dim"], generator=generator),
    }
