"""Every figure the README claims about the shipped model, from the registration to the thief.

    python -m benchmarks.embedding [--keys 1] [--steps N] [--train key-layers] [--wrong-keys 1000]

It embeds a fresh random key with the default options, measures what it costs and what it changes, lets a thief fine-tune, and
tests the marked, the stolen and the unmarked model with the owner's key and with wrong keys. About 6 minutes on 2 CPU cores,
and 4 more for each further key.
"""

import argparse
import copy
import time
from dataclasses import replace

import numpy as np
import torch
from diffusers import DDIMPipeline
from scipy.stats import binom, kstest
from torch import nn

from aiao_core.attacks.reparametrization import reparametrization
from aiao_core.attacks.thief import Thief
from aiao_core.formats.pipelines import load_model
from aiao_core.key import OwnerKey, generate_seed
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.method.inputs import own_samples
from aiao_core.options import EmbeddingOptions
from aiao_core.reports.parts import best_of
from aiao_core.reports.verification import Report
from aiao_core.verification.verify import Subject, verify
from aiao_core.verification.whisper import measure_whisper, observe_source
from benchmarks.steps import EMOJI, compared
from demo_models.emoji.data import MODEL, THIEF_CATEGORY, load_images
from tests.support.wrong_keys import read_signs

THIEF_STEPS, THIEF_RATE = 800, 2e-4
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="embedding steps instead of the default")
    parser.add_argument("--train", choices=["all", "key-layers"], default="all", help="which weights the embedding trains")
    parser.add_argument("--keys", type=int, default=1, help="fresh keys to embed, one after the other")
    parser.add_argument("--wrong-keys", type=int, default=1000)
    arguments = parser.parse_args()
    options = EmbeddingOptions(train=arguments.train)
    if arguments.steps:
        options = options.model_copy(update={"steps": arguments.steps})
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options!r}\n")

    source = load_model(MODEL).denoiser
    for number in range(arguments.keys):
        marked, key = one_key(source, options)
        if number == 0:
            permuted = reparametrization(
                Thief(replace(load_model(MODEL), denoiser=source), Examples(torch.zeros(0, 3, 16, 16), {}))
            )
            for name, denoiser in (("marked", marked), ("permuted source", permuted)):
                wrong_keys(name, denoiser, source, key, arguments.wrong_keys)
            verification_cost(marked, key, source)
            step_cost(options)


def one_key(source: nn.Module, options: EmbeddingOptions) -> tuple[nn.Module, OwnerKey]:
    """Embed a fresh key, let the thief work, and print what the key finds in the marked, the stolen and the unmarked model."""
    model = load_model(MODEL)
    start = time.perf_counter()
    embedding = embed(model, generate_seed(), options=options, progress=_every(100))
    key = embedding.key
    print(f"embedding                      {time.perf_counter() - start:.0f} s")
    print(f"key                            {len(key.layers)} layers, {len(key.subpaths)} subpaths, {key.bits} bits")
    change = (samples(model.denoiser) - samples(source)).square().mean()
    print(f"same-seed samples, mean squared change ([-1, 1])  {float(change):.4f}")

    stolen = copy.deepcopy(model.denoiser)
    images = Examples(load_images(only=[THIEF_CATEGORY]), {})
    fine_tune(replace(model, denoiser=stolen), images, steps=THIEF_STEPS, learning_rate=THIEF_RATE, progress=_every(200))
    for name, denoiser in (("marked", model.denoiser), ("stolen", stolen), ("unmarked source", source)):
        for beside in (source, None):
            report = verify(denoiser, key, subject=Subject(name, "model"), source=beside, registration="service")
            print(_line(name if beside else f"{name}, no source", report), flush=True)
    return model.denoiser, key


def _every(steps: int):
    def progress(report) -> None:
        if report.step % steps == 0:
            figures = "  ".join(f"{name} {value:.4f}" for name, value in report.metrics.items())
            print(f"  {report.stage} {report.step} of {report.total}  {figures}", flush=True)

    return progress


def _line(name: str, report: Report) -> str:
    vs, rs, test = report.vs_rate, report.rs_rate, report.test
    return (
        f"{name:26s} {report.verdict:8s} VS {vs.value:.3f} [{vs.low:.3f}, {vs.high:.3f}]  "
        f"RS {rs.value:.3f} [{rs.low:.3f}, {rs.high:.3f}]  bits {test.matches}/{test.bits} log10 p {test.log10_p:.1f}  "
        f"subpaths that verify {report.verified_subpaths}/{len(report.subpaths)}  "
        f"triggered alone {report.triggered_alone.log10_p:.1f}  without trigger {report.untriggered.log10_p:.2f}"
    )


def samples(denoiser: nn.Module, count: int = 64) -> torch.Tensor:
    """The same-seed samples that are compared, (count, 3, 16, 16) in [-1, 1]."""
    model = load_model(MODEL)
    return own_samples(replace(model, denoiser=denoiser), {}, count=count, seed=1, steps=50)


def wrong_keys(name: str, denoiser: nn.Module, source: nn.Module, key: OwnerKey, count: int) -> None:
    """Are the p-values of keys that nobody embedded uniform in every reading, and is none of them a match?

    Each wrong key is a decoy: with the key's triggers and signs of its own, on the same draws.
    """
    found = measure_whisper(denoiser, key, seed=1, source=observe_source(source, key, seed=1))
    random = np.random.default_rng(0)
    p_values: dict[str, list[float]] = {}
    best = 0.0
    for readings in read_signs(found, [random.bytes(32) for _ in range(count)]):
        best = min(best, best_of(readings).log10_p)
        for way in readings:
            label = f"{'aligned' if way.aligned else 'as it is'}{', to the triggers alone' if way.without_interference else ''}"
            above = binom.sf(way.test.matches, way.test.bits, 0.5)
            p_value = above + random.random() * binom.pmf(way.test.matches, way.test.bits, 0.5)
            p_values.setdefault(label, []).append(p_value)
    print(f"{count} wrong keys on the {name}: best log10 p {best:.2f}; Kolmogorov-Smirnov p ", end="")
    print(", ".join(f"{label} {kstest(each, 'uniform').pvalue:.3f}" for label, each in p_values.items()))


def verification_cost(denoiser: nn.Module, key: OwnerKey, source: nn.Module) -> None:
    pipeline = DDIMPipeline(denoiser, load_model(MODEL).schedule.sampler(50))
    pipeline.set_progress_bar_config(disable=True)
    times: dict[str, list[float]] = {"verification": [], "8 images, 50 DDIM steps": []}
    for _ in range(3):
        start = time.perf_counter()
        verify(denoiser, key, subject=Subject("marked", "model"), source=source, registration="service")
        times["verification"].append(time.perf_counter() - start)
        start = time.perf_counter()
        pipeline(batch_size=8, num_inference_steps=50)
        times["8 images, 50 DDIM steps"].append(time.perf_counter() - start)
    verification, generation = (min(values) for values in times.values())
    print(f"verification {verification:.2f} s; 8 images with 50 DDIM steps {generation:.2f} s; ", end="")
    print(f"ratio {verification / generation:.2f}")


def step_cost(options: EmbeddingOptions) -> None:
    """One embedding step against one plain fine-tuning step of the same batch, as benchmarks.steps measures them."""
    plain, ours = compared(EMOJI, options.batch_size, STEPS, options.train)
    print(
        f"one embedding step {ours.seconds * 1000:.0f} ms, one plain step {plain.seconds * 1000:.0f} ms: "
        f"ratio {ours.seconds / plain.seconds:.2f}\n"
        f"memory of an embedding step {ours.memory / 1e6:.0f} MB, of a plain step {plain.memory / 1e6:.0f} MB: "
        f"ratio {ours.memory / plain.memory:.2f}"
    )


if __name__ == "__main__":
    main()
