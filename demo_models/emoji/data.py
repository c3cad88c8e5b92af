"""The emoji images: 1,906 Twemoji graphics with their category and Unicode name (see ATTRIBUTION.md)."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from PIL import Image

DATA = Path(__file__).parent / "twemoji32.npz"
MODEL = Path(__file__).parent / "model"
THIEF_CATEGORY = "Animals & Nature"


def load_images(*, only: Collection[str] = (), without: Collection[str] = (), size: int = 16) -> torch.Tensor:
    """Images of the chosen categories, (N, 3, size, size) float32 in [-1, 1]; ``size`` divides 32.

    ``only`` names the categories to keep (empty: all of them), ``without`` those to leave out.
    """
    with np.load(DATA) as archive:
        pixels, category = archive["x"], archive["c"]
    chosen = ~np.isin(category, list(without))
    if only:
        chosen &= np.isin(category, list(only))
    images = torch.from_numpy(pixels[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.nn.functional.avg_pool2d(images, 32 // size)


def save_grid(samples: np.ndarray, path: Path, *, columns: int, zoom: int = 4) -> None:
    """Write ``samples`` (N, H, W, 3) in [0, 1] as one PNG, row by row; N is a multiple of ``columns``."""
    count, height, width, channels = samples.shape
    rows = samples.reshape(count // columns, columns, height, width, channels)
    sheet = rows.transpose(0, 2, 1, 3, 4).reshape(count // columns * height, columns * width, channels)
    picture = Image.fromarray((sheet * 255).round().astype(np.uint8))
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(path)
