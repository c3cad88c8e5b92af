"""The methods by name, as the benchmark tries them."""

from collections.abc import Callable
from functools import partial

from aiao_core.attacks.inversion.ascent import gradient_ascent
from aiao_core.attacks.inversion.components import (
    component_of_pairs,
    coupling,
    first_component,
    flattest_component,
    mean_answer,
    mean_of_loudest,
)
from aiao_core.attacks.inversion.reader import Reader, Reading
from aiao_core.attacks.inversion.searching import hill_climb, random_search
from aiao_core.denoisers.model import DiffusionModel

Method = Callable[[Reader, int], Reading]
"""Takes a reader and the number of triggered inputs that the method may show to the model."""

METHODS: dict[str, Method] = {
    "random-search": random_search,
    "hill-climb": hill_climb,
    "gradient-moved": partial(gradient_ascent, objective="moved"),
    "gradient-flat": partial(gradient_ascent, objective="flat"),
    "mean-answer": mean_answer,
    "mean-of-loudest": mean_of_loudest,
    "first-component": first_component,
    "component-of-pairs": component_of_pairs,
    "flattest-component": flattest_component,
    "coupling": coupling,
}
"""Methods by their names."""

QUICK = ("first-component", "flattest-component")
"""The methods of a quick reading: the strongest for their time on marks of version 2 and on loud ones of version 3."""

QUICK_LAYERS = 3
"""Layers that a quick reading tries: those where the attacker supposes the most bits."""

QUICK_ROWS = 450
"""Triggered inputs for each method, about two seconds on one core for a model of two million parameters."""


def quick_readings(model: DiffusionModel) -> list[Reading]:
    """Read ``model`` for some seconds, by each of :data:`QUICK`, at :data:`QUICK_LAYERS` layers."""
    reader = Reader(model, layers=QUICK_LAYERS)
    return [METHODS[name](reader, QUICK_ROWS) for name in QUICK]
