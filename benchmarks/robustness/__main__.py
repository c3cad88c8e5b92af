"""The robustness laboratory: how long does a watermark last, ours and the rivals', and what does each attack cost?

    python -m benchmarks.robustness --quick     # a few figures of each kind
    python -m benchmarks.robustness             # everything; can be interrupted and goes on where it was
    python -m benchmarks.robustness --only AIAO 1 overwriting-1     # the runs that have all these words

Results are JSON lines in the results folder, keyed by configuration; the page is written from them at the end and by `--page`.
"""

import argparse
import multiprocessing
import os
import traceback
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core is faster than one of many threads, and repeatable

from benchmarks.robustness import comparison, limits
from benchmarks.robustness.page import write
from benchmarks.robustness.performing import RESULTS, perform
from benchmarks.robustness.plan import full, quick
from benchmarks.robustness.runs import Store

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
    failed = 0
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:  # CUDA survives no fork
        for done in as_completed([pool.submit(perform, configuration, folder) for configuration in to_do]):
            try:
                run = done.result()
            except BrokenProcessPool:  # no run can follow, as when memory runs out; those that are done are kept
                raise
            except Exception:  # an error of ours in one run is no reason to lose hours of the others
                traceback.print_exc()
                failed += 1
                continue
            store.add(run)
            print(f"{run.seconds:6.0f} s  {' '.join(map(str, run.configuration.values()))}", flush=True)
    write_page(store, len(plan))
    if failed:
        raise SystemExit(f"{failed} runs failed, see above; the others are kept")


def write_page(store: Store, planned: int) -> None:
    folder = store.path.parent
    machines: dict[str, list[float]] = defaultdict(list)
    for run in store.runs.values():
        machines[run.machine].append(run.seconds)
    computed = "; ".join(f"{len(times)} on {name}, {sum(times) / 3600:.1f} hours" for name, times in machines.items())
    meta = (
        f"{len(store.runs)} of {planned} planned runs, several at a time, each a process of one thread: {computed}. Figures "
        "are means over runs, with intervals of 95 % in brackets: Student's over runs; for a single run the one of its own "
        "draws, where it has one; Clopper and Pearson's for shares of models. Machines round differently, a GPU's convolutions "
        "in TF32: a key that ran on two of them had two marks of the same secret."
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


if __name__ == "__main__":
    main()
