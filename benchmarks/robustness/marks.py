"""Watermarked models, made once and kept: every experiment on a mark starts from the same weights."""

import copy
import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from aiao_core.attacks.audit import split
from aiao_core.data.captions import encode_captions
from aiao_core.data.latents import encode_images, load_autoencoder
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.formats.pipelines import load_model
from aiao_core.key import OwnerKey
from aiao_core.method.acceleration import accelerator
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples
from aiao_core.protocol import TAU
from aiao_core.reports.parts import best_of, deciding
from aiao_core.verification.measurement import Source, know_source, measure
from benchmarks.quality import OWNERS, Categories
from benchmarks.rivals import RIVALS, Owner
from benchmarks.robustness.variants import VARIANTS
from demo_models.emoji.data import MODEL, THIEF_CATEGORY, load_images
from demo_models.emoji_text.parts import captions

TEXT = MODEL.parents[1] / "emoji_text"
FOLDERS = {"emoji": MODEL, "text-unet": TEXT / "unet", "text-transformer": TEXT / "transformer"}
KINDS = {"emoji": "unconditional", "text-unet": "text-to-image", "text-transformer": "text-to-image"}
THIEFS: Categories = {"only": (THIEF_CATEGORY,)}
AIAO = "AIAO"
REVISION = 7
"""Of AIAO's embedding and test. Raised when one changes: older runs and kept models are then made again.

The kept runs of revision 6 are of release 0.1.0's embedding and test.
"""

REVISION_OF_RIVALS = 2

TAUS = (0.6, 0.7, 0.8, 0.9)
"""Besides the default."""

TEST_SEED = 0
"""Of every test: runs are compared with each other, and accuse nobody."""

DECOYS = 8


@dataclass(frozen=True)
class Mark:
    """One watermark in one model."""

    model: str
    method: str
    seed: int
    variant: str = "default"
    """How the embedding of AIAO differs from what an owner gets."""

    @property
    def id(self) -> str:
        return "-".join(map(str, [*asdict(self).values(), self.revision])).replace(" ", "-")

    @property
    def revision(self) -> int:
        return REVISION if self.method == AIAO else REVISION_OF_RIVALS


@cache
def published_source(name: str) -> DiffusionModel:
    """The unmarked model. Nobody may change it: see :func:`owner_of`."""
    model = load_model(FOLDERS[name])
    model.denoiser.to(accelerator().device)
    return model


@cache
def examples_of(name: str, **categories: tuple[str, ...]) -> Examples:
    """The emoji of ``categories`` as the model ``name`` takes them."""
    folder, autoencoder = FOLDERS[name], load_autoencoder(FOLDERS[name])
    if not autoencoder:
        return Examples(load_images(**categories), {})
    clean = encode_images(autoencoder, load_images(size=32, **categories))
    return Examples(clean, encode_captions(folder, published_source(name), captions(**categories)))


@cache
def thiefs_examples(name: str) -> tuple[Examples, Examples]:
    """What a thief fine-tunes on, and images of the same kind on which the result is measured."""
    return split(examples_of(name, **THIEFS), seed=0)


def owner_of(name: str) -> Owner:
    """An owner with a copy of the unmarked model."""
    source = published_source(name)
    model = replace(source, denoiser=copy.deepcopy(source.denoiser))
    texts = captions(**OWNERS) if KINDS[name] == "text-to-image" else ()
    return Owner(FOLDERS[name], model, examples_of(name, **OWNERS), texts)


class Marked:
    """A watermarked model with its secret."""

    def __init__(self, mark: Mark, cache_folder: Path) -> None:
        """Embed ``mark``, or read it if an earlier run has embedded it: on a CPU the same seed gives the same weights."""
        self.mark, self.variant = mark, VARIANTS[mark.variant]
        self.owner = owner_of(mark.model)
        self.rival = next((rival for rival in RIVALS[KINDS[mark.model]] if rival.name == mark.method), None)
        weights, key = (cache_folder / f"{mark.id}{suffix}" for suffix in (".safetensors", ".key.json"))
        with _locked(cache_folder / f"{mark.id}.lock"):
            if not weights.is_file():
                self._embed(weights, key)
        self.model.denoiser.load_state_dict(load_file(weights))
        self.model.denoiser.to(accelerator().device)
        if self.rival is None:
            with self.variant.applied():
                self.secret: Any = OwnerKey.from_json(key.read_text())
            self.source: Source = know_source(published_source(mark.model).denoiser, self.secret, TEST_SEED)
        else:
            self.secret = self.rival.draw_secret(self.owner, mark.seed)

    @property
    def model(self) -> DiffusionModel:
        return self.owner.model

    def _embed(self, weights: Path, key: Path) -> None:
        if self.rival is None:
            seed = hashlib.sha256(f"benchmarks.robustness/{self.mark.seed}".encode()).digest()
            with self.variant.applied():
                embedding = embed(self.model, seed, examples=self.owner.examples, options=self.variant.options)
                key.write_text(embedding.key.to_json())
        else:
            self.rival.embed(self.owner, seed=self.mark.seed)
        partial = weights.with_suffix(".partial")
        save_file(self.model.denoiser.state_dict(), partial)
        partial.replace(weights)

    def detect(self, denoiser: nn.Module, *, by_tau: bool = False) -> dict[str, Any]:
        """What the owner finds in ``denoiser``, by the method's own statistic and by its exact test.

        With ``by_tau`` AIAO's VS-rate also at each of :data:`TAUS`, from the same passes.
        """
        if self.rival is not None:
            found = self.rival.detect(replace(self.model, denoiser=denoiser), self.secret)
            return {"log10_p": found.log10_p, "rate": found.rate}
        with self.variant.applied():
            found = measure(denoiser, self.secret, TEST_SEED, source=self.source)
            ways = found.readings()
            best = deciding(ways)
            decoys = found.decoys(DECOYS, best)
        vs, rs = found.rates(best, TAU)
        return {
            "log10_p": best_of(ways).log10_p,
            "rate": vs.value,
            "interval": [vs.low, vs.high],
            "rs": rs.value,
            "rs_interval": [rs.low, rs.high],
            "untriggered_log10_p": found.without_trigger(best).log10_p,
            "decoys": [decoy.log10_p for decoy in decoys],
            "by_tau": {tau: found.rates(best, tau)[0].value for tau in (TAUS if by_tau else ())},
        }

    def drawn(self, draws: int, seed: int) -> tuple[float, float]:
        """log10 p and VS-rate of the published model by so many draws of a seed, in its channels' own places."""
        with self.variant.applied():
            source = know_source(published_source(self.mark.model).denoiser, self.secret, seed, draws=draws)
            found = measure(self.model.denoiser, self.secret, seed, draws=draws, source=source)
        ways = found.readings()
        return best_of(ways).log10_p, found.rates(ways[0], TAU)[0].value


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process embeds a mark; another that needs it waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
