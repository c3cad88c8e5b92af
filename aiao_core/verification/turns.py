"""Match attention heads, and find the linear maps by which a suspect has turned them (this project).

A query and a key meet in their inner product alone, and the values of a head are weighted and added up. So a head keeps its
function under every invertible map that the next layer undoes. Whitened features of a head and of the same head after such a
map differ by a rotation alone, and orthogonal Procrustes (Schönemann 1966) finds it. All of it is in float64.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from aiao_core.verification.features import standardized

GAIN = 0.05
"""Rise of the mean correlation of a head's channels with the source's above which the head counts as turned: a map of many
numbers always fits a little better than none. After 200 steps of fine-tuning of the marked emoji model they gained 0.01 to 0.02
at most."""

FLATTEST = 1e-8
"""Variance, of that of a head's widest direction, that every direction counts as having: the map must be invertible."""


def match_heads(source: Tensor, suspect: Tensor, fit: Tensor) -> Tensor:
    """Find the place of each head, (heads,) int64, by the sum of its squared canonical correlations.

    ``source`` and ``suspect`` are centered features (heads, size, samples), and ``fit`` (heads,) are the mean correlations of
    the channels at home. Heads that cannot gain :data:`GAIN` stay.
    """
    order = torch.arange(len(source))
    astray = (fit < 1 - GAIN).nonzero()[:, 0]
    whitened = _whiten(source[astray])[1], _whiten(suspect[astray])[1]
    canonical = torch.einsum("hin,kjn->hkij", *whitened) / source.shape[2]
    rows, columns = linear_sum_assignment(canonical.square().sum((2, 3)).numpy(), maximize=True)
    order[astray[rows]] = astray[columns]
    return order


def find_turns(source: Tensor, suspect: Tensor, fit: Tensor) -> tuple[Tensor, Tensor]:
    """Find which heads were turned, (heads,) bool, and the maps that turn them back, (heads, size, size).

    Arguments as of :func:`match_heads`, with the suspect's heads in the source's order; ``fit`` is what matching channels alone
    achieves. A head that was not turned has the unit matrix.
    """
    count, size, samples = source.shape
    maps = torch.eye(size, dtype=torch.float64).repeat(count, 1, 1)
    turned = torch.zeros(count, dtype=torch.bool)
    astray = (fit < 1 - GAIN).nonzero()[:, 0]
    (root, ours), (other_root, theirs) = _whiten(source[astray]), _whiten(suspect[astray])
    left, _, right = torch.linalg.svd(ours @ theirs.mT / samples)
    found = root @ left @ right @ torch.linalg.inv(other_root)
    gain = (standardized(source[astray]) * standardized(found @ suspect[astray])).mean((1, 2)) - fit[astray]
    better = gain > GAIN
    maps[astray[better]] = found[better]
    turned[astray[better]] = True
    return turned, maps


def _whiten(centered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the roots of the covariances, (heads, size, size), and the features without them, (heads, size, samples)."""
    variances, directions = torch.linalg.eigh(centered @ centered.mT / centered.shape[2])
    widest = variances[:, -1:]
    deviations = torch.where(widest > 0, variances.maximum(FLATTEST * widest), 1).sqrt()
    root = directions * deviations[:, None] @ directions.mT
    return root, directions / deviations[:, None] @ directions.mT @ centered
