"""What is done to a mark, and what is noted. Each experiment returns the JSON of its result."""

import copy
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from aiao_core.attacks import Thief
from aiao_core.attacks.catalogue import CATALOGUE
from aiao_core.attacks.fine_tuning import full_fine_tuning
from aiao_core.attacks.overwriting import overwriting
from aiao_core.attacks.weights import weight_averaging
from aiao_core.method.fine_tuning import fine_tune
from aiao_core.progress import Progress
from benchmarks.lazy_layers import fine_tuned_layers
from benchmarks.quality import OWNERS, Data, Quality, Yardstick, shipped_data
from benchmarks.robustness.marks import AIAO, FOLDERS, THIEFS, Mark, Marked, published_source, thiefs_examples
from benchmarks.robustness.variants import VARIANTS

ERASURE_STEPS = (0, 25, 50, 100, 200, 400, 800)
ERASURE_RATE = 2e-4
"""Twice what is usual for fine-tuning."""

ERASURE_BATCH = 32
SPREAD_DRAWS = (10, 25, 50, 100, 200, 400)
SPREAD_RUNS = 20
KEPT_MODELS = 2
"""In the memory of one process: yardsticks and marks are dear to make."""

Result = dict[str, Any]


class Laboratory:
    """Runs experiments on marks; ``folder`` holds the marked models and, for one page, the images."""

    def __init__(self, folder: Path, grids: Path) -> None:
        self.grids = grids
        self.marked = lru_cache(KEPT_MODELS)(lambda mark: Marked(mark, folder))
        self.yardstick = lru_cache(2 * KEPT_MODELS)(self._yardstick)

    def published(self, mark: Mark) -> Result:
        """What the owner finds in the published model, and what the mark costs in quality."""
        marked = self.marked(mark)
        quality = self.yardstick(None, mark.model).measure(marked.model.denoiser, grid=self._grid(mark, "published"))
        return {
            "found": marked.detect(marked.model.denoiser),
            "quality": _quality(quality),
            "bits": marked.secret.bits if mark.method == AIAO else None,
        }

    def erasure(self, mark: Mark) -> Result:
        """What the owner finds while a thief fine-tunes every weight, step by step (Fig. 1), and in the unmarked source."""
        marked = self.marked(mark)
        tuned = copy.deepcopy(marked.model.denoiser)
        found = [marked.detect(tuned, by_tau=True)]

        def look(progress: Progress) -> None:
            if progress.step in ERASURE_STEPS:
                last = progress.step == ERASURE_STEPS[-1]
                found.append(marked.detect(copy.deepcopy(tuned).requires_grad_(False).eval(), by_tau=last))

        fine_tune(
            replace(marked.model, denoiser=tuned),
            thiefs_examples(mark.model)[0],
            steps=ERASURE_STEPS[-1],
            learning_rate=ERASURE_RATE,
            batch_size=ERASURE_BATCH,
            progress=look,
        )
        in_source = marked.detect(published_source(mark.model).denoiser, by_tau=True)
        return {"steps": ERASURE_STEPS, "found": found, "in_source": in_source}

    def attacked(self, mark: Mark, attack: str) -> Result:
        """What an attack leaves of the watermark, and of the model: against the owner's images or the thief's."""
        marked = self.marked(mark)
        thief = Thief(marked.model, thiefs_examples(mark.model)[0], seed=mark.seed)
        denoiser = ATTACKS[attack](thief, mark)
        measured = {
            name: self.yardstick(mark, mark.model, thiefs).measure(denoiser, grid=None if thiefs else self._grid(mark, attack))
            for name, thiefs in (("owners", False), ("thiefs", True))
        }
        return {
            "found": marked.detect(denoiser),
            "quality": {name: _quality(quality) for name, quality in measured.items()},
            "quality_loss": min(quality.quality_loss for quality in measured.values()),
        }

    def spread(self, mark: Mark) -> Result:
        """How VS-rate and log10 p vary with the draws: several verifications with as many draws each."""
        marked = self.marked(mark)
        rows = []
        for draws in SPREAD_DRAWS:
            strengths, rates = zip(*(marked.drawn(draws, seed) for seed in range(SPREAD_RUNS)), strict=True)
            rows.append(
                {
                    "draws": draws,
                    "vs": statistics.mean(rates),
                    "vs_deviation": statistics.stdev(rates),
                    "log10_p": statistics.mean(strengths),
                    "log10_p_deviation": statistics.stdev(strengths),
                }
            )
        return {"runs": SPREAD_RUNS, "rows": rows}

    def lazy_layers(self, mark: Mark) -> Result:
        """How a thief's fine-tuning of the published model changes each layer, and which layers carry it (Fig. 2, Fig. 3)."""
        marked = self.marked(mark)
        measured = fine_tuned_layers(
            marked.model, thiefs_examples(mark.model)[0], steps=ERASURE_STEPS[-1], rate=ERASURE_RATE, seed=mark.seed
        )
        return {
            "changes": measured.changes,
            "densities": {name: np.round(density, 4).tolist() for name, density in measured.densities.items()},
            "swaps": [asdict(swap) for swap in measured.swaps],
        }

    def _yardstick(self, published: Mark | None, name: str, thiefs: bool = False) -> Yardstick:
        """Against the published model of a mark, or the unmarked source; by the owner's images or the thief's."""
        model = self.marked(published).model if published else published_source(name)
        data = shipped_data(FOLDERS[name], real=THIEFS if thiefs else OWNERS)
        if thiefs:
            data = Data(data.real, data.conditions, thiefs_examples(name)[1], data.autoencoder)
        return Yardstick(model, data)

    def _grid(self, mark: Mark, what: str) -> Path | None:
        """Images of the first key alone are kept, and of attacks on the emoji model alone."""
        if mark != Mark(mark.model, AIAO, 1) or (what != "published" and mark.model != "emoji"):
            return None
        self.grids.mkdir(parents=True, exist_ok=True)
        return self.grids / f"{mark.model}-{what}.png"


def _quality(quality: Quality) -> Result:
    return {**asdict(quality), "quality_loss": quality.quality_loss}


def _averaged_with_sibling(thief: Thief, mark: Mark, share: float) -> nn.Module:
    """With a fine-tune of the unmarked source, which only a thief who has that can make."""
    unmarked = replace(thief, model=published_source(mark.model))
    sibling = full_fine_tuning(unmarked, steps=ERASURE_STEPS[-1], learning_rate=ERASURE_RATE)
    return weight_averaging(thief, other=sibling, share=share)


ATTACKS: dict[str, Callable[[Thief, Mark], nn.Module]] = {
    **{trial.id: lambda thief, _, attack=trial.attack: attack(thief) for trial in CATALOGUE.values()},
    **{
        f"overwriting-{times}": lambda thief, mark, times=times: overwriting(
            thief, times=times, options=VARIANTS[mark.variant].options
        )
        for times in (1, 3)
    },
    "averaging-with-sibling-30": lambda thief, mark: _averaged_with_sibling(thief, mark, 0.3),
    "averaging-with-sibling-50": lambda thief, mark: _averaged_with_sibling(thief, mark, 0.5),
}
"""The library's, with a thief's keys like the owner's, and averaging with a model that has no mark."""
