"""Latents of images, by the autoencoder of the owner's own pipeline folder."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from aiao_core.data.images import ImageSet
from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.pipelines import build_class, by_names_of, fill
from aiao_core.formats.weight_files import read_json, read_weights, weights_file

BATCH = 16
"""Images for the autoencoder at once. Another size changes the last bits of the latents."""


def load_autoencoder(folder: Path) -> Any | None:
    """Load the ``vae`` of a pipeline folder; None if the model works on pixels. Raises :class:`InvalidCheckpoint`."""
    part = folder / "vae"
    if not part.is_dir():
        return None
    config = read_json(part / "config.json")
    if config.get("_class_name") != "AutoencoderKL":
        raise InvalidCheckpoint(f"vae is a {config.get('_class_name')!s:.100}; supported: AutoencoderKL")
    autoencoder = build_class(AutoencoderKL, {name: value for name, value in config.items() if not name.startswith("_")})
    fill(autoencoder, by_names_of(autoencoder, read_weights(weights_file(part))[0]))
    return autoencoder


def downsampling(autoencoder: Any) -> int:
    """Return the pixels a side of one position of the latent."""
    return int(2 ** (len(autoencoder.config.block_out_channels) - 1))


def encode_images(autoencoder: Any, images: ImageSet | Tensor) -> Tensor:
    """Return the latents (N, c, h, w), scaled as the denoiser sees them, of N ``images``, each (3, H, W) in [-1, 1].

    At most :data:`BATCH` images are taken at once, so that a set that is read from files never lies in memory as pixels.
    """
    shift, scale = autoencoder.config.shift_factor or 0.0, autoencoder.config.scaling_factor
    remaining, latents = iter(images), torch.empty(0)
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            pixels = torch.stack(list(islice(remaining, BATCH)))
            part = (autoencoder.encode(pixels).latent_dist.mode() - shift) * scale
            if start == 0:
                latents = part.new_empty(len(images), *part.shape[1:])
            latents[start : start + BATCH] = part
    return latents


def decode_latents(autoencoder: Any, latents: Tensor) -> Tensor:
    """Decode the images (N, 3, H, W), about [-1, 1], of ``latents`` (N, c, h, w) as the denoiser sees them."""
    shift, scale = autoencoder.config.shift_factor or 0.0, autoencoder.config.scaling_factor
    with torch.no_grad():
        return torch.cat([autoencoder.decode(part / scale + shift).sample for part in torch.split(latents, BATCH)])
