"""Gradient ascent over triggers whose masks and signs are real numbers on the way."""

import torch

from aiao_core.attacks.inversion.objectives import OBJECTIVES
from aiao_core.attacks.inversion.reader import Guess, Reader, Reading, Triggered
from aiao_core.attacks.inversion.searching import guess_at, shares

RESTARTS = 4
"""Triggers that ascend together at one layer; the attacker keeps the best."""

GRADIENT_ROWS = 3 * 2 * RESTARTS
"""Price of a step: a pass with gradients costs about three, on two inputs for each restart."""

RATE = 0.15
"""Learning rate of Adam."""

MOST_STEPS = 200


def gradient_ascent(reader: Reader, rows: int, *, objective: str = "moved") -> Reading:
    """Let masks and signs follow the gradient of ``objective``, one of :data:`OBJECTIVES`, from random starts."""
    found = {}
    for layer, share in shares(reader, rows):
        found[layer] = _ascended(reader, layer, min(MOST_STEPS, max(1, share // GRADIENT_ROWS)), objective)
    return found


def _ascended(reader: Reader, layer: str, steps: int, objective: str) -> Guess:
    ends, score = reader.reached[layer], OBJECTIVES[objective]
    shape = (RESTARTS, reader.channels[layer])
    signs = (0.3 * torch.randn(shape, generator=reader.generator)).requires_grad_()
    masks = torch.zeros(shape).requires_grad_()
    optimizer = torch.optim.Adam([signs, masks], lr=RATE)
    for _ in range(steps):
        value = score(reader.soft_answers(layer, masks.sigmoid(), signs.tanh(), ends)).sum()
        optimizer.zero_grad()
        (-value).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    hard = Triggered(masks.detach() > 0, torch.where(signs.detach() < 0, -1.0, 1.0))
    scores = score(reader.averaged(layer, hard, ends, 2))
    best = int(scores.argmax())
    return guess_at(reader, layer, hard[best : best + 1], float(scores[best]))
