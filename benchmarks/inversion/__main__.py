"""Attack a mark as an opponent would: what do published weights give away, and what is it worth?

    python -m benchmarks.inversion                       # one key, a minute for each method; goes on where it was interrupted
    python -m benchmarks.inversion --keys 3 --minutes 10
    python -m benchmarks.inversion --only coupling tuned # the runs that have all these words
    python -m benchmarks.inversion --grid                # margin, near neighbors, steps, layers: stealth against strength
    python -m benchmarks.inversion --table               # only print what is there

Results are JSON lines in the results folder, keyed by configuration. A minute is of CPU time on one thread. The attacker ranks
by figures of their own; the key enters at the end alone, to say how much is right.
"""

import argparse
import os
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from aiao_core.attacks.inversion.methods import METHODS
from aiao_core.errors import AiaoError
from benchmarks.inversion import experiments
from benchmarks.inversion.marks import FOLDER, Setting, as_configuration
from benchmarks.robustness.runs import Configuration, Run, Store, this_machine

RESULTS = FOLDER.parents[1] / "results" / "inversion" / "runs.jsonl"

COMPARED = ("first-component", "flattest-component", "coupling", "gradient-moved")
"""Methods that are also tried beside another model."""

BESIDE = ("tuned", "noised", "twin")

MARGINS, NEAR, STEPS, LAYERS = (0.1, 0.15, 0.2, 0.3, 0.5), (0.5, 0.75, 0.9), (400, 800, 1600), (24, 48)


def reads(keys: int, minutes: float, plant_steps: int) -> Iterator[Configuration]:
    """List the runs of the table of methods."""
    pairs = [(method, "") for method in METHODS] + list(product(COMPARED, BESIDE))
    for key, (method, beside) in product(range(1, keys + 1), pairs):
        yield {
            "experiment": "read",
            **as_configuration(Setting(), key),
            "method": method,
            "beside": beside,
            "minutes": minutes,
            "plant_steps": plant_steps,
        }


def grid(keys: int, minutes: float) -> Iterator[Configuration]:
    """List the runs of the table of settings: each setting alone is changed, then margin and near neighbors together."""
    changed = [Setting(steps=steps) for steps in STEPS] + [Setting(layers=layers) for layers in LAYERS]
    settings = [Setting(), *changed, *(Setting(margin=margin, near=near) for margin, near in product(MARGINS, NEAR))]
    for key, setting in product(range(1, keys + 1), dict.fromkeys(settings)):
        yield {"experiment": "compare", **as_configuration(setting, key), "minutes": minutes}


def perform(configuration: Configuration) -> Run:
    """Run one experiment."""
    parameters: dict[str, Any] = {name: value for name, value in configuration.items() if name != "revision"}
    experiment = getattr(experiments, parameters.pop("experiment"))
    setting = Setting(**{name: parameters.pop(name) for name in ("margin", "near", "steps", "layers")})
    start = time.monotonic()
    try:
        result = experiment(setting, parameters.pop("key"), **parameters)
    except AiaoError as error:
        result = {"reason": str(error)}
    return Run(configuration, result, round(time.monotonic() - start, 1), this_machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1, help="keys to attack, one after the other")
    parser.add_argument("--minutes", type=float, default=1.0, help="of CPU time for each method")
    parser.add_argument("--plant", type=int, default=300, metavar="STEPS", help="of forging and of removing; 0: neither")
    parser.add_argument("--grid", action="store_true", help="compare settings of the embedding instead of methods")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only runs that have all these words")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan = list(
        grid(arguments.keys, arguments.minutes) if arguments.grid else reads(arguments.keys, arguments.minutes, arguments.plant)
    )
    store = Store(RESULTS)
    for configuration in plan:
        if not arguments.table and configuration not in store and {*arguments.only} <= {*map(str, configuration.values())}:
            run = perform(configuration)
            store.add(run)
            print(f"{run.seconds:6.0f} s  {' '.join(map(str, configuration.values()))}  {run.result}", flush=True)
    store.keep(plan)
    print(settings_table(store) if arguments.grid else methods_table(store))


def methods_table(store: Store) -> str:
    """Write a row for each method and key."""
    rows = [
        "| method | beside | key | CPU s | signs right | as read | forged: source | forged: tuned | removed | quality loss |",
        "|" + " --- |" * 10,
    ]
    for run in store.done(experiment="read"):
        configuration, result = run.configuration, run.result
        worth = ["", "", "", ""]
        if "removed_log10_p" in result:
            worth = [_outcome(result, what) for what in ("forged_source", "forged_tuned", "removed")]
            worth.append(f"{result['removed_quality_loss']:.1%}")
        rows.append(
            f"| {configuration['method']} | {configuration['beside']} | {configuration['key']} | {result['seconds']:.0f} "
            f"| {result['share']:.3f} | {result['read_log10_p']:.1f} | {' | '.join(worth)} |"
        )
    return "\n".join(rows) + "\nforged, removed: log10 p (share of the bits) verdict; as read: log10 p"


def _outcome(result: dict[str, Any], what: str) -> str:
    return f"{result[f'{what}_log10_p']:.1f} ({result[f'{what}_share']:.1%}) {result[f'{what}_verdict']}"


def settings_table(store: Store) -> str:
    """Write a row for each setting and key."""
    rows = [
        "| margin | near | steps | layers | key | best method | share | as read | published | thief | change |",
        "|" + " --- |" * 11,
    ]
    for run in store.done(experiment="compare"):
        configuration, result = run.configuration, run.result
        rows.append(
            f"| {configuration['margin']:g} | {configuration['near']:g} | {configuration['steps']} | {configuration['layers']} "
            f"| {configuration['key']} | {result['method']} | {result['share']:.3f} | {result['read_log10_p']:.1f} "
            f"| {result['published_log10_p']:.0f} | {result['thief_log10_p']:.0f} | {result['change']:.4f} |"
        )
    return "\n".join(rows) + "\nas read, published, thief: log10 p"


if __name__ == "__main__":
    main()
