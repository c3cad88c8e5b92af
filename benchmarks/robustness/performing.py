"""One run of the plan, in a process of its own: a module that such a process can import, as it cannot ``__main__``."""

import time
from pathlib import Path

from aiao_core.errors import AiaoError
from benchmarks.robustness.experiments import Laboratory
from benchmarks.robustness.marks import Mark
from benchmarks.robustness.runs import Configuration, Run, this_machine

RESULTS = Path(__file__).parents[1] / "results"

_laboratory: dict[Path, Laboratory] = {}


def perform(configuration: Configuration, folder: Path) -> Run:
    """What comes of ``configuration``; images go to ``folder``."""
    laboratory = _laboratory.setdefault(folder, Laboratory(RESULTS.parent / ".cache" / folder.name, folder / "grids"))
    parameters = {name: value for name, value in configuration.items() if name != "revision"}
    experiment = getattr(laboratory, parameters.pop("experiment"))
    mark = Mark(**{name: parameters.pop(name) for name in ("model", "method", "seed", "variant")})
    start = time.monotonic()
    try:
        result = experiment(mark, **parameters)
    except AiaoError as error:  # an attack that a model does not allow, an embedding that diverges: an outcome as any other
        result = {"reason": str(error)}
    return Run(configuration, result, round(time.monotonic() - start, 1), this_machine())
