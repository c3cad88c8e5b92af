"""The robustness laboratory: how long does a watermark last, ours and the rivals', and what does each attack cost?

    python -m benchmarks.robustness --quick     # a few figures of each kind
    python -m benchmarks.robustness             # everything; can be interrupted and goes on where it was

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
    parser.add_argument("--page", action="store_true", help="only write the page from the results that are there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes, one thread each")
    parser.add_argument("--until", type=float, help="start no run after so many minutes")
    arguments = parser.parse_args()
    folder = RESULTS / ("robustness-quick" if arguments.quick else "robustness")
    store = Store(folder / RUNS)
    start = time.monotonic()
    plan = [] if arguments.page else [each for each in (quick() if arguments.quick else full()) if each not in store]
    print(f"{len(plan)} runs to do", flush=True)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        pending = {}
        remaining = iter(plan)
        while True:
            while len(pending) < arguments.jobs:
                late = arguments.until and time.monotonic() - start > 60 * arguments.until
                configuration = None if late else next(remaining, None)
                if configuration is None:
                    break
                pending[pool.submit(perform, configuration, folder)] = configuration
            if not pending:
                break
            done = next(as_completed(pending))
            configuration = pending.pop(done)
            run = done.result()
            store.add(run)
            print(f"{run.seconds:6.0f} s  {' '.join(str(part) for part in configuration.values())}", flush=True)
    write_page(folder)


def write_page(folder: Path) -> None:
    store = Store(folder / RUNS)
    hours = sum(run.seconds for run in store.runs.values()) / 3600
    meta = (
        f"{len(store.runs)} runs, {hours:.1f} hours on CPU cores, one thread each; torch {version('torch')}. "
        "Figures are means over runs, with intervals of 95 % in brackets: Student's over runs; for a single run the one of its "
        "own draws, where it has one; Clopper and Pearson's for shares of models. Nothing was measured on a GPU."
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
    parameters = dict(configuration)
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
