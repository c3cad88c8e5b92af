"""Take out of an answer what the suspect answers to any trigger at all.

Whoever writes another watermark over the owner's leaves a model in which any trigger, the owner's among them, sets off the
other watermark: more or less strongly, but always along the same few directions. What the suspect answers to the triggers of
keys that nobody owns shows these directions. Radar calls such an answer interference and takes it out with an adaptive matched
filter whose covariance is loaded on the diagonal (Carlson 1988, "Covariance matrix estimation errors and diagonal loading in
adaptive arrays").
"""

import torch
from torch import Tensor

LOADING = 30.0
"""Of the diagonal, in mean squares of the answer. The less it is, the more of the owner's own answer goes too, as other keys'
triggers look a little like the owner's. Chosen for what overwriting and averaging left of two keys (this project)."""

ROWS = 1000
"""So many answers to other triggers show the directions; more of them would only take longer."""


def without_interference(answer: Tensor, interference: Tensor) -> Tensor:
    """``answer`` (bits,) without what lies along the directions in which ``interference`` (rows, bits) is strong: (bits,).

    L (C + L I)^-1 ``answer``, where C is the second moment of the rows and L the loading; float64. To turn the sign of a bit in
    both arguments turns that bit of the result and changes nothing else: bits are mixed, but never their signs.
    """
    rows = interference[:ROWS]
    loading = LOADING * answer.square().mean() * len(rows)
    if loading == 0:
        return answer
    gram = rows @ rows.T + loading * torch.eye(len(rows), dtype=rows.dtype)
    return answer - rows.T @ torch.linalg.solve(gram, rows @ answer)
