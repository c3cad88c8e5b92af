"""Principal components of the answers to many random triggers: directions that answers have in common.

Random triggers are not the owner's, but a response that leaks a little to all of them is the strongest thing they share.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from aiao_core.attacks.inversion.objectives import flat, moved
from aiao_core.attacks.inversion.reader import Guess, Reader, Reading, Triggered
from aiao_core.attacks.inversion.searching import shares

COMPONENTS = 20
"""Components in whose span a flat direction is looked for."""

LOUDEST = 0.1
"""Fraction of the triggers under which everything moves farthest."""

TURNS = 20
"""Steps of the search for the flattest direction; it settles in fewer."""


def mean_answer(reader: Reader, rows: int) -> Reading:
    """Take the mean of all answers to a layer's triggers: what a response leaks to every trigger adds up there."""
    return {layer: _mean(reader, layer, share, 1.0) for layer, share in shares(reader, rows)}


def mean_of_loudest(reader: Reader, rows: int) -> Reading:
    """Take the mean of the answers to the :data:`LOUDEST` triggers: they are nearer to the owner's than the others."""
    return {layer: _mean(reader, layer, share, LOUDEST) for layer, share in shares(reader, rows)}


def first_component(reader: Reader, rows: int) -> Reading:
    """Take the first component of all answers to a layer's triggers."""
    return {layer: _guess(reader, layer, *_sampled(reader, layer, share), _first) for layer, share in shares(reader, rows)}


def component_of_pairs(reader: Reader, rows: int) -> Reading:
    """Take the first component of the answers of each pair of layers alone. Each is turned to where most answers point."""
    found = {}
    for layer, share in shares(reader, rows):
        triggered, answers = _sampled(reader, layer, share)
        whole = _guess(reader, layer, triggered, answers, _first)
        parts = reader.split(answers, reader.reached[layer])
        found[layer] = Guess(whole.triggered, {end: _turned(_first(part), part) for end, part in parts.items()}, whole.score)
    return found


def flattest_component(reader: Reader, rows: int) -> Reading:
    """Take the direction, among the :data:`COMPONENTS` first components, along which all channels move equally far."""
    return {layer: _guess(reader, layer, *_sampled(reader, layer, share), _flattest) for layer, share in shares(reader, rows)}


def coupling(reader: Reader, rows: int) -> Reading:
    """Take the first pair of directions, of triggers and of answers, that vary together (a singular value decomposition).

    A network that answers one trigger answers triggers a little by how much of it they have.
    """
    found = {}
    for layer, share in shares(reader, rows):
        triggered, answers = _sampled(reader, layer, share)
        u, singular, v = torch.linalg.svd(triggered.numbers().T @ _centered(answers) / len(triggered), full_matrices=False)
        direction, score = _turned(v[0], answers), float(singular[0])
        found[layer] = Guess(_written(u[:, 0] * (direction @ v[0])), reader.split(direction, reader.reached[layer]), score)
    return found


def _mean(reader: Reader, layer: str, share: int, fraction: float) -> Guess:
    triggered, answers = _sampled(reader, layer, share)
    loud = moved(answers)
    chosen = loud.argsort(descending=True)[: max(1, round(fraction * len(loud)))]
    toward = triggered[chosen].numbers().mean(0) - triggered.numbers().mean(0)
    direction = answers[chosen].mean(0)
    return Guess(_written(toward), reader.split(direction, reader.reached[layer]), float(loud[chosen].mean()))


def _sampled(reader: Reader, layer: str, share: int) -> tuple[Triggered, Tensor]:
    triggered = reader.random(layer, max(2, share))
    return triggered, reader.answers(layer, triggered, reader.reached[layer])


def _guess(reader: Reader, layer: str, triggered: Triggered, answers: Tensor, choose: Callable[[Tensor], Tensor]) -> Guess:
    direction = _turned(choose(answers), answers)
    along = _centered(answers) @ direction
    trigger = _written(triggered.numbers().T @ along)
    return Guess(trigger, reader.split(direction, reader.reached[layer]), float(flat(direction[None])[0]))


def _centered(answers: Tensor) -> Tensor:
    return answers - answers.mean(0)


def _components(answers: Tensor, count: int) -> Tensor:
    """Return the first components, (count, L), of unit length."""
    centered = _centered(answers)
    values, vectors = torch.linalg.eigh(centered @ centered.T)  # of the smaller side
    chosen = vectors[:, -min(count, len(values) - 1) :].flip(1)
    parts: Tensor = chosen.T @ centered
    return torch.nn.functional.normalize(parts, dim=1)


def _first(answers: Tensor) -> Tensor:
    return _components(answers, 1)[0]


def _flattest(answers: Tensor) -> Tensor:
    """Return the direction in the span of the first components with the largest sum of absolute values, of unit length."""
    basis = _components(answers, COMPONENTS)
    directions = basis  # the search starts at each component, and each step has a larger sum than the one before
    for _ in range(TURNS):
        directions = torch.nn.functional.normalize(torch.sign(directions) @ basis.T @ basis, dim=1)
    return directions[int(directions.abs().sum(1).argmax())]


def _turned(direction: Tensor, answers: Tensor) -> Tensor:
    """Point a direction to where the answers have the longer tail: a response has one sign, and is seldom."""
    along = _centered(answers) @ direction
    return direction if float(along.pow(3).sum()) >= 0 else -direction


def _written(numbers: Tensor) -> Triggered:
    """Make the trigger that numbers (2C,) as of :meth:`Triggered.numbers` lean to: half of its channels are written."""
    sign, mask = numbers.chunk(2)
    strength = sign.abs() + mask
    return Triggered((strength > strength.median())[None], torch.where(sign < 0, -1.0, 1.0)[None])
