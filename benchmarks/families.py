"""Every family of denoisers in small: the layers that a key may use, its bits, and what embedding and verification cost.

    python -m benchmarks.families                 # goes on where it was interrupted
    python -m benchmarks.families --only Wan LTX
    python -m benchmarks.families --table         # only print what is there

The models are the tiny ones of the tests, with random weights. So the figures show that the method runs on a family and what it
costs there, not how well a mark is read. A ratio compares an embedding step with a plain training step of the same batch, at
verification's size; memory is the growth of the process's peak over the loaded model. A verification has 2 decoys. Times are of
the processor, on one thread, so that other work of the machine does not count.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.key import OwnerKey
from aiao_core.method.embedding import Training
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.method.inputs import plain_noise
from aiao_core.method.key_selection import select_key
from aiao_core.method.tracing import eligible_layers
from aiao_core.options import EmbeddingOptions, VerificationOptions
from aiao_core.verification.verify import Subject, verify
from benchmarks.robustness.runs import Configuration, Run, Store, this_machine
from benchmarks.steps import RATE, Cost, growth
from tests.support import families, more_families

RESULTS = Path(__file__).parent / "results" / "families.jsonl"
SEED = bytes(range(32))
OPTIONS = EmbeddingOptions(batch_size=8)
NAMES = [*families.CONFIGURATIONS, *more_families.CONFIGURATIONS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="FAMILY")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each kind")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    arguments = parser.parse_args()
    store, plan = Store(RESULTS), [configuration(name, arguments.steps) for name in arguments.only]
    for each in plan:
        if not arguments.table and each not in store:
            store.add(perform(each))
            print(row(store.of(**each)[0]), flush=True)
    store.keep(plan)
    print(table(store))


def configuration(name: str, steps: int) -> Configuration:
    return {"family": name, "steps": steps, "batch": OPTIONS.batch_size}


def perform(wanted: Configuration) -> Run:
    name, steps = wanted["family"], wanted["steps"]
    start = time.monotonic()
    key, eligible = alone(chosen_key, name)
    plain, ours = alone(plain_steps, name, steps), alone(embedding_steps, name, key, steps)
    result = {
        "denoiser": key.architecture.class_name,
        "eligible": eligible,
        "layers": len(key.layers),
        "bits": key.bits,
        "step_ratio": round(ours.seconds / plain.seconds, 2),
        "memory_ratio": round(ours.memory / plain.memory, 2),
        "verification_seconds": round(alone(verification, name, key), 2),
    }
    return Run(wanted, result, round(time.monotonic() - start, 1), this_machine())


def alone(task: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a task in a process that does nothing else: a fork, for this one imports much and computes nothing."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(task, *arguments).result()


def model_named(name: str) -> DiffusionModel:
    return families.make(name) if name in families.CONFIGURATIONS else more_families.make(name)


def examples_for(model: DiffusionModel) -> Examples:
    """Noise of verification's size, which a step costs as much on as on anything."""
    inputs = plain_noise(model.architecture, 1000, OPTIONS.batch_size, torch.Generator().manual_seed(0))
    return Examples(inputs.noisy, inputs.conditions)


def chosen_key(name: str) -> tuple[OwnerKey, int]:
    """The key, and the number of layers that it chose among."""
    model = model_named(name)
    inputs = plain_noise(model.architecture, 1000, 2, torch.Generator().manual_seed(0))
    return select_key(model, SEED, examples_for(model), OPTIONS), len(eligible_layers(model.denoiser, inputs))


def plain_steps(name: str, steps: int) -> Cost:
    model = model_named(name)
    examples = examples_for(model)
    times: list[float] = []
    with growth() as memory:
        fine_tune(
            model,
            examples,
            steps=steps + 1,
            learning_rate=RATE,
            batch_size=len(examples),
            progress=lambda _: times.append(time.process_time()),
        )
        return Cost((times[-1] - times[0]) / steps, memory())


def embedding_steps(name: str, key: OwnerKey, steps: int) -> Cost:
    model = model_named(name)
    examples = examples_for(model)
    with growth() as memory:
        training = Training(model, key, examples, OPTIONS)
        training.advance()
        start = time.process_time()
        for _ in range(steps):
            training.advance()
        return Cost((time.process_time() - start) / steps, memory())


def verification(name: str, key: OwnerKey) -> float:
    """Seconds of a verification of the source against itself."""
    model = model_named(name)
    start = time.process_time()
    verify(model.denoiser, key, source=model.denoiser, options=VerificationOptions(decoys=2), subject=Subject(name, "model"))
    return time.process_time() - start


def table(store: Store) -> str:
    rows = ["| family | layers | bits | step, of a plain one | memory, of a plain step | verification |", "|" + " --- |" * 6]
    return "\n".join([*rows, *map(row, store.done())])


def row(run: Run) -> str:
    result = run.result
    return (
        f"| {run.configuration['family']} | {result['layers']} of {result['eligible']} | {result['bits']} "
        f"| {result['step_ratio']:.2f} | {result['memory_ratio']:.2f} | {result['verification_seconds']:.1f} s |"
    )


if __name__ == "__main__":
    main()
