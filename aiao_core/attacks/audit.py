"""The limits of a watermark: attack the published model as a thief would, and test what is left.

An attack that removes the watermark proves nothing if it destroys the model too. So the audit also measures the quality loss of
each attacked model: the relative rise of the denoising loss on held-out images, loss(attacked) / loss(published) - 1, under the
same noise for all. Below :data:`MAX_QUALITY_LOSS` a model counts as useful (this project).
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch
from torch import nn

from aiao_core.attacks import Thief
from aiao_core.attacks.catalogue import Trial
from aiao_core.audit_options import AuditOptions
from aiao_core.denoisers import predict
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.errors import AiaoError, Canceled, InvalidCheckpoint, InvalidImages
from aiao_core.key import OwnerKey
from aiao_core.method.fine_tuning import Examples, noised
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.protocol import LIMIT_LOG10_P, TAU, draws_for, version_for
from aiao_core.reports.audit import AttackResult, AuditInput, AuditReport, Measured, Summary, outcome_of
from aiao_core.reports.parts import best_of, deciding, software
from aiao_core.reports.verdicts import forgeable
from aiao_core.verification.measurement import know_source, measure

MAX_QUALITY_LOSS = 0.2
"""Quality loss at which an attacked model no longer counts as useful."""

HELD_OUT = 0.25
"""Fraction of the data that no attack trains on."""

LOSS_INPUTS = 256
"""Held-out images, drawn with replacement, each with noise of its own."""

LOSS_BATCH = 32
"""Inputs in one forward pass."""

DECOYS = 1
"""Decoy keys for each model: one is enough because every attack adds another, and an audit accuses nobody."""


@dataclass(frozen=True)
class AuditSubject:
    """The audited model's name and digests, for the report; the test uses none of them."""

    model_name: str | None = None
    inputs: tuple[AuditInput, ...] = ()


def audit(
    model: DiffusionModel,
    key: OwnerKey,
    examples: Examples,
    trials: Sequence[Trial],
    *,
    options: AuditOptions | None = None,
    subject: AuditSubject | None = None,
    source: nn.Module | None = None,
    finished: Iterable[AttackResult] = (),
    keep: Callable[[AttackResult], None] | None = None,
    progress: ProgressCallback = silent,
) -> AuditReport:
    """Try every trial on the published ``model`` and test what it leaves with ``key``, with the readings of a verification.

    ``source`` is the model before the watermark, against which a key of version 3 is read and by which moved channels are
    found; in it forgers plant what they read. All attacked models have the same draws, by the audit's seed: an audit compares
    attacks on the owner's own model, and accuses nobody.

    ``examples`` are the thief's data; :data:`HELD_OUT` of them measure the quality. An attack that is not possible on
    this model gives a result with the reason. ``keep`` is called with each result; to resume an interrupted audit, pass them as
    ``finished``. Raises :class:`InvalidImages` for fewer than two examples.
    """
    options, subject = options or AuditOptions(), subject or AuditSubject()
    attack_examples, held_out = split(examples, options.seed)
    judge = Judge(model, key, held_out, options, source)
    published = judge.measure(model.denoiser, _within("published", progress))
    innocent = replace(model, denoiser=source) if source else None
    results = {result.id: result for result in finished}
    for number, trial in enumerate(trials):
        if trial.id not in results:
            inner = _within(f"{number + 1}/{len(trials)} {trial.id}", progress)
            thief = Thief(model, attack_examples, options.seed, inner, innocent)
            result = judge.attacked(trial, thief, published.loss, inner)
            results[trial.id] = result
            if keep:
                keep(result)
    attacks = tuple(results[trial.id] for trial in trials)
    return AuditReport(
        created_at=datetime.now(UTC),
        software=software(),
        model_name=subject.model_name,
        commitment=key.commitment,
        key_version=key.version,
        architecture=key.architecture.fingerprint,
        max_log10_p=LIMIT_LOG10_P,
        max_quality_loss=MAX_QUALITY_LOSS,
        data="images" if any(entry.role == "images" for entry in subject.inputs) else "own-samples",
        attack_examples=len(attack_examples),
        held_out_examples=len(held_out),
        published=published,
        attacks=attacks,
        summary=Summary.of(attacks),
        inputs=subject.inputs,
        tau=TAU,
        seed=options.seed,
        draws=options.draws or draws_for(version_for(key.version)),
    )


def split(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """Split off the held-out examples, in a random order: image sets are often sorted by what they show."""
    if len(examples) < 2:
        raise InvalidImages("an audit needs at least two images: one for the attacks, and one to measure the quality on")
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    held_out = max(1, round(HELD_OUT * len(examples)))
    return examples[order[held_out:]], examples[order[:held_out]]


class Judge:
    """A test of models with the owner's key, and a measurement of their quality."""

    def __init__(
        self, model: DiffusionModel, key: OwnerKey, held_out: Examples, options: AuditOptions, source: nn.Module | None
    ) -> None:
        self.model, self.key, self.options = model, key, options
        self.source = know_source(source, key, options.seed, draws=options.draws) if source else None
        generator = torch.Generator().manual_seed(options.seed)
        self.inputs, self.target = noised(model.schedule, held_out.draw(LOSS_INPUTS, generator), generator)

    def attacked(self, trial: Trial, thief: Thief, published_loss: float, progress: ProgressCallback) -> AttackResult:
        """Run one attack and measure the model it leaves."""
        start = time.perf_counter()
        measured = reason = None
        try:
            measured = self.measure(trial.attack(thief), progress, published_loss)
        except Canceled:
            raise
        except AiaoError as error:
            reason = str(error)
        return AttackResult(
            id=trial.id,
            name=trial.name,
            family=trial.family,
            outcome=outcome_of(measured, MAX_QUALITY_LOSS, trial.family),
            measured=measured,
            reason=reason,
            seconds=round(time.perf_counter() - start, 1),
        )

    def measure(self, denoiser: nn.Module, progress: ProgressCallback, published_loss: float | None = None) -> Measured:
        """Test ``denoiser`` and measure its quality; without ``published_loss`` it is the published model itself."""
        loss = self.loss(denoiser)
        found = measure(denoiser, self.key, self.options.seed, draws=self.options.draws, source=self.source, progress=progress)
        ways = found.readings()
        test, best = best_of(ways), deciding(ways)
        vs_rate, rs_rate = found.rates(best, TAU)
        matches = test.log10_p <= LIMIT_LOG10_P and not forgeable(test, version_for(self.key.version))
        return Measured(
            verdict="match" if matches else "no-match",
            test=test,
            vs_rate=vs_rate,
            rs_rate=rs_rate,
            decoys=found.decoys(DECOYS, best, progress),
            loss=loss,
            quality_loss=loss / (published_loss or loss) - 1,
        )

    def loss(self, denoiser: nn.Module) -> float:
        """Return the mean squared error of the prediction on the held-out examples, under the same noise for every model.

        Raises :class:`InvalidCheckpoint` if the error is not finite.
        """
        total = 0.0
        for start in range(0, LOSS_INPUTS, LOSS_BATCH):
            rows = slice(start, start + LOSS_BATCH)
            with torch.no_grad():
                prediction = predict(denoiser, self.inputs[rows]).float().cpu()
            total += float(nn.functional.mse_loss(prediction, self.target[rows], reduction="sum"))
        loss = total / self.target.numel()
        if not math.isfinite(loss):
            raise InvalidCheckpoint("the attack leaves a model that predicts NaN or infinite values")
        return loss


def _within(stage: str, progress: ProgressCallback) -> ProgressCallback:
    """Report every stage of a part as one of the whole."""
    return lambda inner: progress(Progress(f"{stage}: {inner.stage}", inner.step, inner.total, inner.metrics))
