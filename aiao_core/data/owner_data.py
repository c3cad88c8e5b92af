"""What an owner's model is watermarked with: the owner's images and captions, or else the model's own samples."""

from pathlib import Path

import torch

from aiao_core.data.captions import encode_captions, load_text
from aiao_core.data.images import load_images
from aiao_core.data.latents import downsampling, encode_images, load_autoencoder
from aiao_core.denoisers import Conditions, family_of
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.method.embedding import own_examples
from aiao_core.method.fine_tuning import Examples
from aiao_core.options import EmbeddingOptions
from aiao_core.progress import ProgressCallback, silent


def load_examples(folder: Path, model: DiffusionModel, images: Path) -> Examples:
    """An owner's image set as ``model``, of the pipeline ``folder``, is trained on it.

    ``images`` is what :func:`aiao_core.data.images.load_images` takes. Images become latents where the folder has an
    autoencoder, and captions conditions; without captions the conditions are those of an empty one. Raises
    :class:`aiao_core.errors.InvalidImages` or :class:`aiao_core.errors.InvalidCheckpoint`.
    """
    channels, height, _ = family_of(model.denoiser).shape(model.architecture.config)
    autoencoder = load_autoencoder(folder)
    size = height * downsampling(autoencoder) if autoencoder else height
    given = load_images(images, size=size, channels=3 if autoencoder else channels)
    clean = encode_images(autoencoder, given.pixels) if autoencoder else given.pixels
    conditions = encode_captions(folder, model, given.captions) if given.captions else _uncaptioned(folder, model, len(clean))
    return Examples(clean, conditions)


def draw_examples(
    folder: Path, model: DiffusionModel, options: EmbeddingOptions, progress: ProgressCallback = silent
) -> Examples:
    """The model's own samples under an empty caption."""
    return own_examples(model, options, _uncaptioned(folder, model, options.samples), progress)


def _uncaptioned(folder: Path, model: DiffusionModel, count: int) -> Conditions:
    """The conditions of an empty caption where the folder can read one, else random ones."""
    family = family_of(model.denoiser)
    text = load_text(folder)
    with torch.no_grad():
        empty = family.encode_captions(model.denoiser, text, [""]) if "text_encoder" in text else None
    if empty is None:
        return family.random_conditions(model.architecture.config, count, torch.Generator().manual_seed(0))
    return {name: value.expand(count, *value.shape[1:]) for name, value in empty.items()}
