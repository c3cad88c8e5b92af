"""The methods by name, as the benchmark tries them."""

from collections.abc import Callable
from functools import partial

from aiao_core.attacks.inversion.ascent import gradient_ascent
from aiao_core.attacks.inversion.components import component_of_pairs, coupling, first_component, flattest_component
from aiao_core.attacks.inversion.reader import Reader, Reading
from aiao_core.attacks.inversion.searching import hill_climb, random_search

Method = Callable[[Reader, int], Reading]
"""Takes a reader and the number of triggered inputs that the method may show to the model."""

METHODS: dict[str, Method] = {
    "random-search": random_search,
    "hill-climb": hill_climb,
    "gradient-moved": partial(gradient_ascent, objective="moved"),
    "gradient-flat": partial(gradient_ascent, objective="flat"),
    "first-component": first_component,
    "component-of-pairs": component_of_pairs,
    "flattest-component": flattest_component,
    "coupling": coupling,
}
"""Methods by their names."""
