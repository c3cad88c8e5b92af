"""Images as the latents that a model works on, by the autoencoder of the owner's own pipeline folder."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.pipelines import build_class, fill
from aiao_core.formats.weight_files import read_json, read_weights, weights_file

BATCH = 16


def load_autoencoder(folder: Path) -> Any | None:
    """The ``vae`` of a pipeline folder, or None if the model works on pixels. Raises :class:`InvalidCheckpoint`."""
    part = folder / "vae"
    if not part.is_dir():
        return None
    config = read_json(part / "config.json")
    if config.get("_class_name") != "AutoencoderKL":
        raise InvalidCheckpoint(f"vae is a {config.get('_class_name')!s:.100}; supported: AutoencoderKL")
    autoencoder = build_class(AutoencoderKL, {name: value for name, value in config.items() if not name.startswith("_")})
    fill(autoencoder, read_weights(weights_file(part))[0])
    return autoencoder


def downsampling(autoencoder: Any) -> int:
    """Pixels a side for one position of the latent."""
    return int(2 ** (len(autoencoder.config.block_out_channels) - 1))


def encode_images(autoencoder: Any, images: Tensor) -> Tensor:
    """The latents (N, c, h, w), scaled as the denoiser sees them, of ``images`` (N, 3, H, W) in [-1, 1]."""
    shift, scale = autoencoder.config.shift_factor or 0.0, autoencoder.config.scaling_factor
    with torch.no_grad():
        latents = torch.cat([autoencoder.encode(part).latent_dist.mode() for part in torch.split(images, BATCH)])
    scaled: Tensor = (latents - shift) * scale
    return scaled


def decode_latents(autoencoder: Any, latents: Tensor) -> Tensor:
    """The images (N, 3, H, W), about [-1, 1], of ``latents`` (N, c, h, w) as the denoiser sees them."""
    shift, scale = autoencoder.config.shift_factor or 0.0, autoencoder.config.scaling_factor
    with torch.no_grad():
        return torch.cat([autoencoder.decode(part / scale + shift).sample for part in torch.split(latents, BATCH)])
