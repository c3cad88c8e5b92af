"""Training data of an embedding: the owner's images and captions, or else the model's own samples."""

from pathlib import Path

import torch

from aiao_core.data.captions import encode, encode_captions, load_text
from aiao_core.data.images import check_expansion, open_images
from aiao_core.data.latents import downsampling, encode_images, load_autoencoder
from aiao_core.denoisers import Conditions, family_of
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.errors import InvalidImages
from aiao_core.formats.archives import Limits
from aiao_core.method.embedding import own_examples
from aiao_core.method.fine_tuning import Examples
from aiao_core.options import EmbeddingOptions
from aiao_core.progress import ProgressCallback, silent

FLOAT_BYTES = 4


def load_examples(folder: Path, model: DiffusionModel, images: Path, limits: Limits | None = None) -> Examples:
    """Load an owner's image set in the form that ``model``, of the pipeline ``folder``, is trained on.

    ``images`` and ``limits`` are those of :func:`aiao_core.data.images.open_images`. Images become latents where the folder has
    an autoencoder, and captions conditions; without captions the conditions are those of an empty one. Raises
    :class:`aiao_core.errors.InvalidImages`, :class:`aiao_core.errors.UnsafeArchive` or
    :class:`aiao_core.errors.InvalidCheckpoint`.
    """
    channels, height, width = _size_of_images(model)
    autoencoder = load_autoencoder(folder)
    size = height * downsampling(autoencoder) if autoencoder else height
    with open_images(images, size=size, channels=3 if autoencoder else channels, limits=limits) as given:
        check_expansion(given, FLOAT_BYTES * len(given) * channels * height * width, limits)
        captions = given.captions
        if autoencoder:
            clean = encode_images(autoencoder, given)
        else:
            clean = torch.empty(len(given), channels, size, size)
            for row, image in zip(clean, given, strict=True):
                row.copy_(image)
    conditions = encode_captions(folder, model, captions) if captions else uncaptioned(folder, model, len(clean))
    return Examples(clean, conditions)


def _size_of_images(model: DiffusionModel) -> tuple[int, int, int]:
    shape = family_of(model.denoiser).shape(model.architecture.config)
    if len(shape) != 3:
        raise InvalidImages(
            f"a {type(model.denoiser).__name__} takes no images here: it works on frames or sounds. Register it without "
            "images, and it draws its own examples"
        )
    channels, height, width = shape
    return channels, height, width


def draw_examples(
    folder: Path, model: DiffusionModel, options: EmbeddingOptions, progress: ProgressCallback = silent
) -> Examples:
    """Draw the model's own samples under an empty caption."""
    return own_examples(model, options, uncaptioned(folder, model, options.samples), progress)


def uncaptioned(folder: Path, model: DiffusionModel, count: int) -> Conditions:
    """Return the conditions of an empty caption if the family reads the folder's text encoders, else random ones."""
    family = family_of(model.denoiser)
    text = load_text(folder) if family.takes_captions else {}
    with torch.no_grad():
        empty = encode(model, text, [""]) if "text_encoder" in text else None
    if empty is None:
        return family.random_conditions(model.architecture.config, count, torch.Generator().manual_seed(0))
    return {name: value.expand(count, *value.shape[1:]) for name, value in empty.items()}
