"""Marks of the emoji model by the settings of the embedding, made once and kept."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.formats.pipelines import load_model
from aiao_core.key import OwnerKey
from aiao_core.method import embedding, objective
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.method.inputs import own_samples
from aiao_core.options import EmbeddingOptions
from aiao_core.protocol import LIMIT_LOG10_P
from aiao_core.reports.parts import BitTest, Reading, best_of
from aiao_core.reports.verdicts import Controls, decide
from aiao_core.verification.measurement import know_source, measure
from benchmarks.robustness.variants import Variant
from demo_models.emoji.data import MODEL, THIEF_CATEGORY, load_images

REVISION = 3
"""Of the embedding, the test and the attacks. Raised when one changes: older runs and kept marks are then made again."""

FOLDER = Path(__file__).parents[1] / ".cache" / "inversion"
SEED = 0
"""Seed of every test: the marks of one table are compared with each other, and nobody is accused."""

THIEF_STEPS, THIEF_RATE = 800, 2e-4
SAMPLES, SAMPLING_STEPS = 64, 50
"""Same-seed samples, by which the change of the model is measured."""


@dataclass(frozen=True)
class Setting:
    """The settings of an embedding that decide between stealth and strength."""

    margin: float = objective.MARGIN
    near: float = embedding.NEAR
    steps: int = EmbeddingOptions().steps
    layers: int = EmbeddingOptions().layers

    @property
    def id(self) -> str:
        return f"margin-{self.margin:g}-near-{self.near:g}-steps-{self.steps}-layers-{self.layers}-{REVISION}"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace what is not an option of the library, because no owner may choose it."""
        replaced: tuple[tuple[str, Any], ...] = (
            ("aiao_core.method.objective.MARGIN", self.margin),
            ("aiao_core.method.objective.LAMBDA_COVERT", objective.LAMBDA_COVERT * objective.MARGIN / self.margin),
            ("aiao_core.method.embedding.NEAR", self.near),
        )
        with Variant("setting", replaced=replaced).applied():
            yield


@dataclass(frozen=True)
class Marked:
    """A marked model with its key."""

    model: DiffusionModel
    key: OwnerKey

    def test(self, denoiser: nn.Module) -> BitTest:
        """Test a model beside the source, by the draws of :data:`SEED`."""
        return best_of(self._readings(denoiser))

    def judged(self, denoiser: nn.Module) -> dict[str, Any]:
        """Test a model as :meth:`test` does: p, the share of right bits, and what a verdict would say.

        Also the share of the answers from which nothing was taken, which no verdict counts.
        """
        readings = self._readings(denoiser)
        test = best_of(readings)
        plain = max(reading.test.matches / reading.test.bits for reading in readings if not reading.counts)
        verdict, _ = decide(test, LIMIT_LOG10_P, "checkpoint", Controls((), None))
        return {"log10_p": test.log10_p, "share": test.matches / test.bits, "plain_share": plain, "verdict": verdict}

    def _readings(self, denoiser: nn.Module) -> list[Reading]:
        known = know_source(source().denoiser, self.key, SEED)
        return measure(denoiser, self.key, SEED, source=known).readings()


@cache
def source() -> DiffusionModel:
    """Load the unmarked model, which nobody may change."""
    return load_model(MODEL)


@cache
def thiefs_examples() -> Examples:
    return Examples(load_images(only=[THIEF_CATEGORY]), {})


@cache
def marked(setting: Setting, number: int) -> Marked:
    """Embed key ``number``, or read it if an earlier run has embedded it."""
    name = f"{setting.id}-key-{number}"
    weights, key_file = FOLDER / f"{name}.safetensors", FOLDER / f"{name}.key.json"
    model = load_model(MODEL)
    if not weights.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        seed = hashlib.sha256(f"benchmarks.inversion/{number}".encode()).digest()
        options = EmbeddingOptions(steps=setting.steps, layers=setting.layers)
        with setting.applied():
            key_file.write_text(embed(model, seed, options=options).key.to_json())
        partial = weights.with_suffix(".partial")
        save_file(model.denoiser.state_dict(), partial)
        partial.replace(weights)
    model.denoiser.load_state_dict(load_file(weights))
    return Marked(model, OwnerKey.from_json(key_file.read_text()))


def tuned(model: DiffusionModel, steps: int = THIEF_STEPS) -> DiffusionModel:
    """Fine-tune a copy of ``model`` on images of another kind."""
    copied = load_model(MODEL)
    copied.denoiser.load_state_dict(model.denoiser.state_dict())
    fine_tune(copied, thiefs_examples(), steps=steps, learning_rate=THIEF_RATE)
    return copied


def same_seed_change(denoiser: nn.Module) -> float:
    """Return the mean squared change of the source's same-seed samples in [-1, 1]."""
    first, second = (
        own_samples(replace(source(), denoiser=each), {}, count=SAMPLES, seed=1, steps=SAMPLING_STEPS)
        for each in (denoiser, source().denoiser)
    )
    return float((first - second).square().mean())


def as_configuration(setting: Setting, number: int) -> dict[str, Any]:
    return {**asdict(setting), "key": number, "revision": REVISION}
