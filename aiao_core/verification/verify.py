"""The Monte Carlo verification that a suspect was made with knowledge of the owner's key, its exact test and its controls.

The decision rests on one number: how many of the decoded bits have the key's sign (:mod:`aiao_core.verification.differences`,
of keys before version 3 :mod:`aiao_core.verification.decoding`). The response signs of the key are uniform and independent of
everything that the decoding uses, so for a suspect made without knowledge of the key the number of matches among n bits is
exactly Binomial(n, 1/2), however its activations look. Of the readings that count the best one decides, and its p-value is
multiplied by their number.

No caller can choose anything that would break that independence: seed, draws and limit (:mod:`aiao_core.protocol`), layers,
subpaths and source. The signs of a key of version 3 follow from the latter; of an older key a test takes what a claimant cannot
choose (:mod:`aiao_core.method.key_check`), and the source only if it was fixed before the key was drawn. Controls of the same
kind void a test that finds what is not there (:mod:`aiao_core.reports.verdicts`; all of this is this project's).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from torch import nn

from aiao_core.denoisers.weights import digest
from aiao_core.key import BINDING_VERSION, OwnerKey
from aiao_core.options import VerificationOptions
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.protocol import bound, draws_for, verification_seed, version_for
from aiao_core.reports.parts import BitTest, Input, Registration, best_of, deciding, software
from aiao_core.reports.verdicts import Controls, Tested, decide, finds
from aiao_core.reports.verification import Counts, Report, verified
from aiao_core.verification.measurement import Source, know_source, measure

Load = Callable[[], nn.Module]
"""Loads a model when the test needs it, so that only one at a time takes memory."""


@dataclass(frozen=True)
class Subject:
    """The subject of a report: names and digests, and what the service knows of earlier tests."""

    suspect_name: str
    suspect_form: str
    inputs: tuple[Input, ...] = ()
    model_name: str | None = None
    base_name: str | None = None
    """Of an adapter's base."""
    weights: str | None = None
    """Digest of the file's weights, as in :class:`aiao_core.formats.suspects.Suspect`; None: of the tested weights."""
    counts: Counts | None = None
    panel: tuple[BitTest, ...] | None = None


@dataclass(frozen=True)
class _Source:
    """Results of the source that a test uses."""

    known: Source
    seed: int
    test: BitTest | None
    """Control: the key on the source. A key of version 3 follows from the source, which therefore cannot carry it."""


def verify(
    suspect: nn.Module | Load,
    key: OwnerKey,
    *,
    subject: Subject,
    source: nn.Module | Load | None = None,
    base: nn.Module | Load | None = None,
    registration: Registration = "key-file",
    options: VerificationOptions | None = None,
    progress: ProgressCallback = silent,
) -> Report:
    """Test ``suspect`` against ``key`` and report. The same key and weights give the same numbers.

    ``source`` is the model before the watermark. With it channels that have changed places or signs are found
    (:mod:`aiao_core.verification.alignment`). A key of version 3 is read against it, and without it loses bits; for an older
    key it is a control. ``base`` is the model that an adapter, merged into ``suspect``, was made for. It
    is tested first, and if it carries the mark the report is of the base alone. ``registration`` is "service" only where the
    caller itself fixed source, layers and subpaths before the key's signs were known. With ``options`` that are not a verdict's
    the report is exploratory. Raises as :func:`aiao_core.verification.measurement.measure` does, and
    :class:`aiao_core.errors.WrongSource` for a source that a key of version 3 is not bound to.
    """
    options = options or VerificationOptions()
    load = _loader(suspect)
    weights = subject.weights or digest(load().state_dict())
    known = _read_source(source, key, weights, options, progress) if source is not None else None
    test = _Test(key, subject, weights, known, registration, options, progress)
    if base is None:
        return test.report(load(), "checkpoint")
    base_report = test.report(_loader(base)(), "base")
    if finds(base_report.test):
        return base_report
    return test.report(load(), "adapter", base_report.test)


def _loader(model: nn.Module | Load) -> Load:
    return (lambda: model) if isinstance(model, nn.Module) else model


def _seed(key: OwnerKey, source: str | None, suspect: str, options: VerificationOptions) -> int:
    derived = verification_seed(key.commitment, source, suspect, version_for(key.version))
    return derived if options.seed is None else options.seed


def _read_source(
    source: nn.Module | Load, key: OwnerKey, suspect: str, options: VerificationOptions, progress: ProgressCallback
) -> _Source:
    denoiser = _loader(source)()
    weights = digest(denoiser.state_dict())
    seed = _seed(key, weights, suspect, options)
    test = None
    if key.version < BINDING_VERSION:
        found = measure(denoiser, key, seed, draws=options.draws, progress=_stage("source", progress))
        test = best_of(found.readings())
    known = know_source(denoiser, key, seed, draws=options.draws, weights=weights)
    progress(Progress("source", 1, 1))
    return _Source(known, seed, test)


@dataclass(frozen=True)
class _Test:
    """One test of one key, on the suspect or on an adapter's base: both by the same draws."""

    key: OwnerKey
    subject: Subject
    weights: str
    source: _Source | None
    registration: Registration
    options: VerificationOptions
    progress: ProgressCallback

    def report(self, denoiser: nn.Module, tested: Tested, base_test: BitTest | None = None) -> Report:
        """Measure ``denoiser`` and its decoys, and decide."""
        progress = _stage("base", self.progress) if tested == "base" else self.progress
        seed = self.source.seed if self.source else _seed(self.key, None, self.weights, self.options)
        known = self.source.known if self.source else None
        found = measure(denoiser, self.key, seed, draws=self.options.draws, source=known, progress=progress)
        ways = found.readings(self.registration)
        test = best_of(ways, found.key.log10_choices if self.registration == "key-file" else 0)
        best = deciding(ways)
        decoys = found.decoys(self.options.decoys, best, progress)
        source_test = self.source.test if self.source else None
        version = version_for(self.key.version)
        controls = Controls(decoys, source_test, base_test)
        verdict, reason = decide(test, self.options.max_log10_p, tested, controls, version=version)
        departures = self._departures(seed)
        vs_rate, rs_rate = found.rates(best, self.options.tau)
        subpaths = found.subpaths(best, self.options.tau, test.best_of)
        return Report(
            created_at=datetime.now(UTC),
            software=software(),
            verdict="exploratory" if departures else verdict,
            reason="; ".join(departures) if departures else reason,
            tested=tested,
            base_name=None if tested == "checkpoint" else self.subject.base_name or "base",
            registration=self.registration,
            protocol=version,
            key_version=self.key.version,
            max_log10_p=self.options.max_log10_p,
            bound_log10_p=bound(test.log10_p),
            tests=self.subject.counts,
            model_name=self.subject.model_name,
            suspect_name=self.subject.suspect_name,
            suspect_form=self.subject.suspect_form,
            suspect_weights=self.weights,
            source_weights=known.weights if known else None,
            commitment=self.key.commitment,
            architecture=self.key.architecture.fingerprint,
            layers=found.layers(best),
            trigger_layers=len(found.key.key.trigger_layers),
            strayed_channels=found.strayed,
            test=test,
            ways=ways,
            triggered_alone=found.triggered_alone(best),
            untriggered=found.without_trigger(best),
            vs_rate=vs_rate,
            rs_rate=rs_rate,
            tau=self.options.tau,
            decoys=decoys,
            source_test=source_test,
            base_test=base_test,
            panel=self.subject.panel,
            subpaths=subpaths,
            verified_subpaths=verified(subpaths) if self.key.version >= BINDING_VERSION else None,
            inputs=self.subject.inputs,
            seed=seed,
            draws=self.options.draws or draws_for(version),
        )

    def _departures(self, seed: int) -> list[str]:
        """List why the test with ``seed`` is not a verdict. Choosing the seed that follows anyway is not a departure."""
        version = version_for(self.key.version)
        source = self.source.known.weights if self.source else None
        derived = verification_seed(self.key.commitment, source, self.weights, version)
        return self.options.model_copy(update={"seed": None} if seed == derived else {}).departures(version)


def _stage(name: str, progress: ProgressCallback) -> ProgressCallback:
    """Report the stages of a part under the part's name."""
    return lambda inner: progress(Progress(f"{name}: {inner.stage}", inner.step, inner.total, inner.metrics))
