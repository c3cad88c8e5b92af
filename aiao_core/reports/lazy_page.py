"""The paper's two figures about lazy layers as one self-contained page (arXiv 2405.00466, Fig. 2 and Fig. 3)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from aiao_core.method.lazy import Swap
from aiao_core.reports.pages import render
from aiao_core.reports.plots import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Plot

CHANGE_EDGES = np.concatenate([[0], np.logspace(-5, 0, 31), [math.inf]])
"""Bins of :func:`aiao_core.method.lazy.change_density` for the page: changes from 1e-5 to 1 of the root mean square weight."""


def to_html(
    title: str, changes: Mapping[str, float], densities: Mapping[str, NDArray[np.float64]], swaps: Sequence[Swap]
) -> str:
    """Render the page, UTF-8; ``changes`` and ``densities`` (over ``CHANGE_EDGES``) are by layer, in execution order."""
    return render(
        "lazy.html",
        title=title,
        changes=sorted(changes.items(), key=lambda change: change[1]),
        density=density_figure(densities),
        swap=swap_figure(swaps),
    )


def density_figure(densities: Mapping[str, NDArray[np.float64]]) -> Markup:
    """Plot Fig. 2: one column for each layer, in execution order; the darker a cell, the more weights changed so far."""
    plot = Plot("Density of the weights' changes in each layer", (0, len(densities)), (-5, 0))
    plot.axes(range(0, len(densities) + 1, 10), (-5, -4, -3, -2, -1, 0), "layer, in execution order")
    edges = np.log10(CHANGE_EDGES[1:-1])
    for column, density in enumerate(densities.values()):
        for low, high, share in zip(edges[:-1], edges[1:], density[1:-1], strict=True):
            if share >= 0.002:
                plot.cell((column, column + 1), (float(low), float(high)), min(1.0, float(share) / 0.15))
    plot.text(LEFT + 6, HEIGHT - BOTTOM - 8, "log10 of a weight's change", "title", "start")
    return plot.svg()


def swap_figure(swaps: Sequence[Swap]) -> Markup:
    """Plot Fig. 3: the part of the fine-tuned behavior that k layers of the fine-tuned model carry, by choice of the layers."""
    counts = sorted({swap.count for swap in swaps})
    lowest = min(0.0, *(swap.reproduced for swap in swaps))
    plot = Plot("Fine-tuned behavior reproduced by k layers", (0, counts[-1]), (lowest, 1.04))
    plot.axes(
        counts[:: max(1, len(counts) // 8)], (0, 0.25, 0.5, 0.75, 1), "k layers copied from the fine-tuned model", percent=True
    )
    for row, choice in enumerate(("busiest", "random", "laziest")):
        points = [(swap.count, swap.reproduced) for swap in swaps if swap.choice == choice]
        plot.line(points, choice)
        for count, reproduced in points:
            plot.dot(count, reproduced, f"{choice}-dot", 3)
        plot.text(WIDTH - RIGHT - 8, 150 + 16 * row, f"k {choice}", f"{choice}-text", "end")
    return plot.svg()
