"""What FLUX and its kin share: 2x2 positions of a latent in the channels of one token (Black Forest Labs 2024)."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from aiao_core.denoisers.family import Conditions, Config, DenoiserFamily, Inputs, on_grid, random_text

PACKED = 4
"""Positions of a latent in one token."""


class Packed(DenoiserFamily):
    """A family whose x_t is the unpacked latent. Conditions: ``encoder_hidden_states`` (B, L, D)."""

    side = 128  # at 1024 pixels; the configuration names no size

    def shape(self, config: Config) -> tuple[int, ...]:
        return config["in_channels"] // PACKED, self.side, self.side

    def side_multiple(self, config: Config) -> int:
        return 2

    def random_conditions(self, config: Config, count: int, generator: torch.Generator) -> Conditions:
        return random_text(config["joint_attention_dim"], count, generator)

    @abstractmethod
    def predict_tokens(self, denoiser: Any, tokens: Tensor, rows: int, columns: int, inputs: Inputs) -> Tensor:
        """Predict for ``tokens`` (B, rows * columns, channels), which are x_t: shaped like them."""

    def predict(self, denoiser: Any, inputs: Inputs) -> Tensor:
        packed = pixel_unshuffle(inputs.noisy, 2)
        rows, columns = packed.shape[-2:]
        prediction = self.predict_tokens(denoiser, packed.flatten(2).mT, rows, columns, inputs)
        return pixel_shuffle(on_grid(prediction, rows, columns), 2)
