"""A fixed picture as a watermark: black and white cells like a QR code's, each of them one random bit.

A drawn image counts as the picture if its mean squared error is below half of the picture's power, which is 1. The threshold
needs no unmarked models to be fixed on: for images x made without knowledge of the bits it would take a correlation of at
least 1/sqrt(2) with the random cells, and Hoeffding's inequality bounds the chance of that by exp(-cells / 4), which is 1.2e-7
for 64 cells. So the share of images that count is a true positive rate at a false positive rate below 1e-6.
"""

import numpy as np
from torch import Tensor, nn

from benchmarks.rivals.rival import Detection, log10_p_value, random_signs

CELLS = 8
"""Cells a side."""

THRESHOLD = 0.5


def draw_cells(numbers: np.random.Generator) -> Tensor:
    """A secret picture's cells, (CELLS, CELLS) of -1 (black) and 1 (white)."""
    return random_signs(numbers, CELLS, CELLS)


def paint(cells: Tensor, channels: int, side: int) -> Tensor:
    """The picture, (channels, side, side) in [-1, 1]."""
    return nn.functional.interpolate(cells[None, None], size=(side, side))[0].expand(channels, -1, -1)


def find_picture(cells: Tensor, triggered: Tensor, plain: Tensor) -> Detection:
    """Look for the picture in images (N, C, H, W) that were drawn with the trigger.

    The exact test decodes a cell by the mean difference to the images ``plain`` that the same noise gives without the trigger,
    against the mean of all cells: what the two share, such as a white background, tells nothing about the picture.
    """
    error = (triggered - paint(cells, *triggered.shape[1:3])).square().mean((1, 2, 3))
    difference = nn.functional.adaptive_avg_pool2d((triggered - plain).mean((0, 1))[None], CELLS)[0]
    return Detection(
        statistic=f"share of {len(triggered)} triggered images that show the secret picture",
        rate=float((error < THRESHOLD).float().mean()),
        log10_p=log10_p_value(difference - difference.mean(), cells),
    )
