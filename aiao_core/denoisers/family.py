"""What the method must know about a family of denoisers, and the batch that a denoiser sees."""

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
"""What a prediction depends on besides x_t and t, batch first, by the names that the family uses."""

RANDOM_TOKENS = 16
"""Length of a random text embedding: enough for any attention to mix, and short, for speed."""

CAPTION_TOKENS = 128
"""Length of an owner's captions for T5."""

MONTE_CARLO_SIDE = 16
"""Verification draws x_t of so many positions a side where the model works at more: a key works at every resolution."""


@dataclass(frozen=True)
class Inputs:
    """A batch for a denoiser."""

    noisy: Tensor
    """x_t, (B, C, H, W)."""
    timesteps: Tensor
    """t, (B,), from 0 to the number of training timesteps."""
    conditions: Conditions
    """Each (B, ...)."""

    def __len__(self) -> int:
        return len(self.noisy)

    def __getitem__(self, rows: slice | Tensor) -> "Inputs":
        """The batch of some rows: a slice, or a mask or indices (n,)."""
        return Inputs(self.noisy[rows], self.timesteps[rows], select(self.conditions, rows))

    def to(self, device: torch.device) -> "Inputs":
        conditions = {name: value.to(device) for name, value in self.conditions.items()}
        return Inputs(self.noisy.to(device), self.timesteps.to(device), conditions)

    @staticmethod
    def concatenated(batches: Sequence["Inputs"]) -> "Inputs":
        """The rows of all ``batches``, one after the other."""
        return Inputs(
            torch.cat([batch.noisy for batch in batches]),
            torch.cat([batch.timesteps for batch in batches]),
            {name: torch.cat([batch.conditions[name] for batch in batches]) for name in batches[0].conditions},
        )


def select(conditions: Conditions, rows: slice | Tensor) -> Conditions:
    """Some rows of ``conditions``."""
    return {name: value[rows] for name, value in conditions.items()}


class DenoiserFamily(ABC):
    """One family of denoisers: how to make inputs for it and how to call it. It keeps no state.

    :func:`aiao_core.denoisers.register` makes a family known; ``docs/families.md`` shows how to write one.
    """

    denoiser: ClassVar[type[nn.Module]]
    """The class of the denoiser, of diffusers or your own: ``from_config`` and ``config`` as ``ModelMixin`` has them."""
    side: ClassVar[int]
    """Positions a side of x_t where the configuration has no ``sample_size``."""
    activation_bytes: ClassVar[int] = OTHER_ACTIVATION_BYTES
    """Memory of a training step, as :func:`aiao_core.sizing.activation_bytes` reads it from the source: a plain number."""

    def shape(self, config: Config) -> tuple[int, int, int]:
        """(channels, height, width) of x_t at the size the model is made for."""
        size = config.get("sample_size") or self.side
        height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
        return config["in_channels"], height, width

    def side_multiple(self, config: Config) -> int:
        """Heights and widths must be multiples of this: a transformer's patch, or what a UNet halves again and again."""
        return int(config.get("patch_size") or 2 ** (len(config["block_out_channels"]) - 1))

    @abstractmethod
    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        """Conditions for ``count`` Monte Carlo inputs: they need no text encoder."""

    @abstractmethod
    def predict(self, denoiser: nn.Module, inputs: Inputs) -> Tensor:
        """The prediction for ``inputs``, shaped like ``inputs.noisy``: noise, velocity or clean image, as it was trained."""

    def encode_captions(self, denoiser: Any, text: Mapping[str, Any], captions: list[str]) -> Conditions | None:
        """The conditions (N, ...) of N captions, or None if the family takes none or ``text`` lacks what reads them.

        ``text`` has what :func:`aiao_core.data.captions.load_text` found in the pipeline folder. Used in embedding only.
        """
        return None

    def monte_carlo_shape(self, config: Config) -> tuple[int, int, int]:
        """(channels, height, width) of x_t in verification: :data:`MONTE_CARLO_SIDE` a side, or the model's size, if less."""
        channels, height, width = self.shape(config)
        multiple = self.side_multiple(config)
        smallest = -(-MONTE_CARLO_SIDE // multiple) * multiple
        return channels, min(height, smallest), min(width, smallest)


def normal(count: int, *shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, (count, *shape)."""
    return torch.randn((count, *shape), generator=generator)


def joint_text(config: Config, count: int, generator: torch.Generator) -> Conditions:
    """Random ``encoder_hidden_states`` (count, L, D) and ``pooled_projections`` (count, P), as MMDiT transformers take them."""
    return {
        "encoder_hidden_states": normal(count, RANDOM_TOKENS, config["joint_attention_dim"], generator=generator),
        "pooled_projections": normal(count, config["pooled_projection_dim"], generator=generator),
    }
