"""Remove from an answer the part with which the suspect answers any trigger at all.

Overwriting the owner's watermark with another leaves a model in which any trigger, the owner's included, sets off the other
watermark: more or less strongly, but always along the same few directions. The suspect's answers to the triggers of keys that
nobody owns show these directions. Radar calls such an answer interference and removes it with an adaptive matched
filter whose covariance is loaded on the diagonal (Carlson 1988, "Covariance matrix estimation errors and diagonal loading in
adaptive arrays").
"""

import torch
from torch import Tensor

LOADING = 0.05
"""Loading of the diagonal, as a fraction of the remaining answer, in sums of squares. A smaller value removes more of the
owner's own answer too, because other keys' triggers look a little like the owner's and set off a little of it: if that is too
much, the plain reading decides (:mod:`aiao_core.verification.decoding`). Chosen, with the passes, on the results of four
attacks on two keys (this project), where half or twice the value finds nearly as many bits."""

PASSES = 5
"""Passes that find the loading: the strength of the owner's own answer shows only once the interference is removed."""

ROWS = 1000
"""Answers to other triggers that show the directions; more would only take longer."""


def without_interference(answer: Tensor, interference: Tensor) -> Tensor:
    """Remove from ``answer`` (bits,) what lies along the directions in which ``interference`` (rows, bits) is strong: (bits,).

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
