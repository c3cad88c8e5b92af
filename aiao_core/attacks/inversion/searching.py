"""Random search and hill climbs over triggers."""

import torch

from aiao_core.attacks.inversion.objectives import moved
from aiao_core.attacks.inversion.reader import Guess, Reader, Reading, Triggered

CLIMB_INPUTS = 4
"""Inputs that each step of a climb averages over."""

DRAWN = 0.25
"""Fraction of the rows that a climb spends on random triggers, of which it takes the best."""


def random_search(reader: Reader, rows: int) -> Reading:
    """Take at each layer the random trigger under which everything moves farthest."""
    found = {}
    for layer, share in shares(reader, rows):
        found[layer] = _best(reader, layer, max(1, share // CLIMB_INPUTS))
    return found


def hill_climb(reader: Reader, rows: int) -> Reading:
    """Change one channel of the best random trigger after the other, as long as everything moves farther."""
    found = {}
    for layer, share in shares(reader, rows):
        guess = _best(reader, layer, max(1, round(DRAWN * share) // CLIMB_INPUTS))
        left = share - round(DRAWN * share)
        found[layer] = _climbed(reader, layer, guess, left // (3 * CLIMB_INPUTS))
    return found


def shares(reader: Reader, rows: int) -> list[tuple[str, int]]:
    """Share ``rows`` among the layers that start a subpath, by how many bits the attacker supposes there."""
    bits = {layer: sum(reader.channels[end] for end in ends) for layer, ends in reader.reached.items()}
    total = sum(bits.values())
    return [(layer, max(1, rows * count // total)) for layer, count in bits.items()]


def guess_at(reader: Reader, layer: str, triggered: Triggered, score: float) -> Guess:
    """Take the answers to one trigger as the guess."""
    ends = reader.reached[layer]
    return Guess(triggered, reader.split(reader.averaged(layer, triggered, ends)[0], ends), score)


def _best(reader: Reader, layer: str, count: int) -> Guess:
    ends, triggered = reader.reached[layer], reader.random(layer, count)
    scores = moved(reader.averaged(layer, triggered, ends, CLIMB_INPUTS))
    best = int(scores.argmax())
    return guess_at(reader, layer, triggered[best : best + 1], float(scores[best]))


def _climbed(reader: Reader, layer: str, guess: Guess, steps: int) -> Guess:
    ends, current, score = reader.reached[layer], guess.triggered, guess.score
    order = torch.cat([torch.randperm(reader.channels[layer], generator=reader.generator) for _ in range(1 + steps // 8)])
    for channel in order[:steps].tolist():
        options = Triggered(current.mask.repeat(3, 1), current.sign.repeat(3, 1))
        options.mask[:, channel] = torch.tensor([False, True, True])
        options.sign[:, channel] = torch.tensor([1.0, 1.0, -1.0])
        scores = moved(reader.averaged(layer, options, ends, CLIMB_INPUTS))
        best = int(scores.argmax())
        if float(scores[best]) > score:
            current, score = options[best : best + 1], float(scores[best])
    return guess_at(reader, layer, current, score)
