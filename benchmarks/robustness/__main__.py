"""The robustness laboratory: how long does a watermark last, ours and the rivals', and what does each attack cost?

    python -m benchmarks.robustness --quick     # a few figures of each kind
    python -m benchmarks.robustness             # everything; can be interrupted and goes on where it was
    python -m benchmarks.robustness --only AIAO 1 overwriting-1     # the runs that have all these words

Results are JSON lines in the results folder, keyed by configuration; the page is written from them at the end and by `--page`.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core is faster than one of many threads, and repeatable

from aiao_core.errors import AiaoError
from benchmarks.robustness import comparison, limits
from benchmarks.robustness.experiments import Laboratory
from benchmarks.robustness.marks import Mark
from benchmarks.robustness.page import write
from benchmarks.robustness.plan import full, quick
from benchmarks.robustness.runs import Configuration, Run, Store

RESULTS = Path(__file__).parents[1] / "results"
RUNS = "runs.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 15 minutes on two cores")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only runs that have all these words")
    parser.add_argument("--page", action="store_true", help="only write the page from the results that are there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes, one thread each")
    arguments = parser.parse_args()
    folder = RESULTS / ("robustness-quick" if arguments.quick else "robustness")
    plan = quick() if arguments.quick else full()
    store = Store(folder / RUNS)
    store.keep(plan)
    missing = [each for each in plan if each not in store and {*arguments.only} <= {*map(str, each.values())}]
    to_do = [] if arguments.page else missing
    print(f"{len(store.runs)} of {len(plan)} runs are done, {len(to_do)} to do", flush=True)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for done in as_completed([pool.submit(perform, configuration, folder) for configuration in to_do]):
            run = done.result()
            store.add(run)
            print(f"{run.seconds:6.0f} s  {' '.join(map(str, run.configuration.values()))}", flush=True)
    write_page(store, len(plan))


def write_page(store: Store, planned: int) -> None:
    folder = store.path.parent
    hours = sum(run.seconds for run in store.runs.values()) / 3600
    meta = (
        f"{len(store.runs)} of {planned} planned runs, {hours:.1f} hours on CPU cores, one thread each; torch "
        f"{version('torch')}. Figures are means over runs, with intervals of 95 % in brackets: Student's over runs; for a "
        "single run the one of its own draws, where it has one; Clopper and Pearson's for shares of models. Nothing was "
        "measured on a GPU."
    )
    sections = [
        comparison.erasure(store),
        comparison.before_and_after(store),
        comparison.detection(store),
        limits.attacks(store, "emoji"),
        limits.attacks(store, "text-unet"),
        comparison.quality(store),
        limits.lazy_layers(store),
        limits.ablations(store),
        limits.spread(store),
    ]
    write("What the watermark withstands", meta, [section for section in sections if section], folder)
    print(f"page: {folder / 'index.html'}")


_laboratory: dict[Path, Laboratory] = {}


def perform(configuration: Configuration, folder: Path) -> Run:
    """One run, in a process of the pool."""
    laboratory = _laboratory.setdefault(folder, Laboratory(RESULTS.parent / ".cache" / folder.name, folder / "grids"))
    parameters = {name: value for name, value in configuration.items() if name != "revision"}
    experiment = getattr(laboratory, parameters.pop("experiment"))
    mark = Mark(**{name: parameters.pop(name) for name in ("model", "method", "seed", "variant")})
    start = time.monotonic()
    try:
        result = experiment(mark, **parameters)
    except AiaoError as error:  # an attack that a model does not allow, an embedding that diverges: an outcome as any other
        result = {"reason": str(error)}
    return Run(configuration, result, round(time.monotonic() - start, 1))


if __name__ == "__main__":
    main()
