"""Bits in the weights of one layer.

Uchida et al., "Embedding Watermarks into Deep Neural Networks" (ICMR 2017). A secret matrix X projects the weights w of one
convolution, averaged over its filters, to one number for each bit; the cross-entropy between sigmoid(X w) and the bits is
added to the usual loss. Whoever detects needs the weights themselves, and no sampling.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from aiao_core.denoisers.model import DiffusionModel
from benchmarks.rivals.rival import (
    OPTIONS,
    Detection,
    Owner,
    Rival,
    denoising_loss,
    log10_p_value,
    random_signs,
    secret_numbers,
)

BITS = 256
WEIGHT = 0.01
"""Of the cross-entropy in the objective, the paper's lambda."""


@dataclass(frozen=True)
class ProjectedBits:
    layer: str
    projection: Tensor
    """X, (BITS, M) of standard normal numbers."""
    signs: Tensor
    """(BITS,) of -1 and 1."""


class Uchida(Rival[ProjectedBits]):
    """The regulariser of Uchida et al. 2017 on the convolution with the most weights a filter."""

    name = "Uchida"

    def draw_secret(self, owner: Owner, seed: int) -> ProjectedBits:
        numbers = secret_numbers(seed)
        sizes = {
            name: module.weight[0].numel()
            for name, module in owner.model.denoiser.named_modules()
            if isinstance(module, nn.Conv2d)
        }
        layer = max(sizes, key=lambda name: sizes[name])
        projection = torch.from_numpy(numbers.standard_normal((BITS, sizes[layer])).astype(np.float32))
        return ProjectedBits(layer, projection, random_signs(numbers, BITS))

    def loss(self, owner: Owner, source: nn.Module, secret: ProjectedBits, generator: torch.Generator) -> Tensor:
        usual = denoising_loss(owner.model, owner.examples.draw(OPTIONS.batch_size, generator), generator)
        decoded = decode(owner.model.denoiser, secret)
        bits = (secret.signs > 0).float().to(decoded.device)
        return usual + WEIGHT * nn.functional.binary_cross_entropy_with_logits(decoded, bits)

    def detect(self, suspect: DiffusionModel, secret: ProjectedBits, *, seed: int = 0) -> Detection:
        decoded = decode(suspect.denoiser, secret).detach().cpu()
        return Detection(
            statistic=f"share of {BITS} bits that are right",
            rate=float(((decoded > 0) == (secret.signs > 0)).float().mean()),
            log10_p=log10_p_value(decoded, secret.signs),
        )


def decode(denoiser: nn.Module, secret: ProjectedBits) -> Tensor:
    """X w, (BITS,): the signs are the bits."""
    weight = denoiser.get_parameter(f"{secret.layer}.weight")
    return secret.projection.to(weight.device) @ weight.mean(0).flatten()
