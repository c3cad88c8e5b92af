"""Take out of an answer what the suspect answers to any trigger at all.

Whoever writes another watermark over the owner's leaves a model in which any trigger, the owner's among them, sets off the
other watermark: more or less strongly, but always along the same few directions. What the suspect answers to the triggers of
keys that nobody owns shows these directions. Radar calls such an answer interference and takes it out with an adaptive matched
filter whose covariance is loaded on the diagonal (Carlson 1988, "Covariance matrix estimation errors and diagonal loading in
adaptive arrays").
"""

import torch
from torch import Tensor

LOADING = 0.05
"""Of the diagonal, as a share of what is left of the answer, in sums of squares. The less it is, the more of the owner's own
answer goes too, as other keys' triggers look a little like the owner's and set off a little of it: where that is too much, the
plain reading decides (:mod:`aiao_core.verification.decoding`). Chosen, with the passes, for what four attacks left of two keys
(this project), where half or twice as much finds nearly as many bits."""

PASSES = 5
"""How strong the owner's own answer is shows only once the interference is out, so the loading is found in a few passes."""

ROWS = 1000
"""So many answers to other triggers show the directions; more of them would only take longer."""


def without_interference(answer: Tensor, interference: Tensor) -> Tensor:
    """``answer`` (bits,) without what lies along the directions in which ``interference`` (rows, bits) is strong: (bits,).

    L (C + L I)^-1 ``answer``, where C is the second moment of the rows and L the loading; float64.
    """
    _, strengths, directions = torch.linalg.svd(interference, full_matrices=False)
    along = directions @ answer
    left = answer
    for _ in range(PASSES):
        loading = LOADING * left.square().sum() * len(interference)
        if loading == 0:
            break
        left = answer - directions.T @ (along * strengths.square() / (strengths.square() + loading))
    return left
