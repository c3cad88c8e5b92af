"""The Monte Carlo verification that a suspect was made with knowledge of the owner's key, its exact test and its controls.

The decision rests on one number: how many of the decoded bits (:mod:`aiao_core.verification.decoding`) have the key's sign. The
response signs of the key are uniform and independent of everything that the decoding uses, so for a suspect made without
knowledge of the key the number of matches among n bits is exactly Binomial(n, 1/2), however its activations look. Of the
readings that count the best one decides, and its p-value is multiplied by their number.

No caller can choose anything that would break that independence: seed, draws and limit (:mod:`aiao_core.protocol`), layers and
subpaths (:mod:`aiao_core.method.key_check`), and the source, unless it was fixed before the key was drawn. Controls of the same
kind void a test that finds what is not there (:mod:`aiao_core.reports.verdicts`; all of this is this project's).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from torch import nn

from aiao_core.denoisers.weights import digest
from aiao_core.key import OwnerKey
from aiao_core.options import VerificationOptions
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.protocol import VERSION, bound, verification_seed
from aiao_core.reports.parts import BitTest, Input, LayerResult, Reading, Registration, best_of, deciding, software
from aiao_core.reports.verdicts import Controls, Tested, decide, finds
from aiao_core.reports.verification import Counts, Report
from aiao_core.verification.alignment import Reference, reference
from aiao_core.verification.measurement import Measurement, bit_test, measure

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

    weights: str
    seed: int
    features: Reference
    test: BitTest


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

    ``source`` is the model before the watermark: a control, and with it channels that have changed places or signs are found
    (:mod:`aiao_core.verification.alignment`). ``base`` is the model that an adapter, merged into ``suspect``, was made for. It
    is tested first, and if it carries the mark the report is of the base alone. ``registration`` is "service" only where the
    caller itself fixed source, layers and subpaths before the key's signs were known. With ``options`` that are not a verdict's
    the report is exploratory. Raises as :func:`aiao_core.verification.measurement.measure` does.
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
    return verification_seed(key.commitment, source, suspect) if options.seed is None else options.seed


def _read_source(
    source: nn.Module | Load, key: OwnerKey, suspect: str, options: VerificationOptions, progress: ProgressCallback
) -> _Source:
    denoiser = _loader(source)()
    weights = digest(denoiser.state_dict())
    seed = _seed(key, weights, suspect, options)
    found = measure(denoiser, key, seed, draws=options.draws, progress=_stage("source", progress))
    return _Source(weights, seed, reference(denoiser, key, seed), best_of(found.readings()))


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
        features = self.source.features if self.source else None
        found = measure(denoiser, self.key, seed, draws=self.options.draws, source=features, progress=progress)
        ways = found.readings(self.registration)
        test = best_of(ways, found.key.log10_choices if self.registration == "key-file" else 0)
        best = deciding(ways)
        view = found.view(best)
        decoys = found.decoys(self.options.decoys, view, progress)
        source_test = self.source.test if self.source else None
        verdict, reason = decide(test, self.options.max_log10_p, tested, Controls(decoys, source_test, base_test))
        departures = self._departures(seed)
        vs_rate, rs_rate = found.rates(view, self.options.tau)
        return Report(
            created_at=datetime.now(UTC),
            software=software(),
            verdict="exploratory" if departures else verdict,
            reason="; ".join(departures) if departures else reason,
            tested=tested,
            base_name=None if tested == "checkpoint" else self.subject.base_name or "base",
            registration=self.registration,
            protocol=VERSION,
            max_log10_p=self.options.max_log10_p,
            bound_log10_p=bound(test.log10_p),
            tests=self.subject.counts,
            model_name=self.subject.model_name,
            suspect_name=self.subject.suspect_name,
            suspect_form=self.subject.suspect_form,
            suspect_weights=self.weights,
            source_weights=self.source.weights if self.source else None,
            commitment=self.key.commitment,
            architecture=self.key.architecture.fingerprint,
            layers=_layers(found, best),
            trigger_layers=len(found.key.key.trigger_layers),
            strayed_channels=found.strayed,
            test=test,
            ways=ways,
            triggered_alone=bit_test(view.decoded[best.subpaths].triggered),
            untriggered=bit_test(view.decoded[best.subpaths].untriggered),
            vs_rate=vs_rate,
            rs_rate=rs_rate,
            tau=self.options.tau,
            decoys=decoys,
            source_test=source_test,
            base_test=base_test,
            panel=self.subject.panel,
            subpaths=found.subpaths(view, self.options.tau),
            inputs=self.subject.inputs,
            seed=seed,
            draws=self.options.draws,
        )

    def _departures(self, seed: int) -> list[str]:
        """List why the test with ``seed`` is not a verdict. Choosing the seed that follows anyway is not a departure."""
        derived = verification_seed(self.key.commitment, self.source.weights if self.source else None, self.weights)
        return self.options.model_copy(update={"seed": None} if seed == derived else {}).departures()


def _layers(found: Measurement, best: Reading) -> tuple[LayerResult, ...]:
    """List the bits of the deciding reading, layer by layer."""
    decoded = found.view(best).decoded[best.subpaths]
    bits = decoded.without_interference if best.without_interference else decoded.plain
    return tuple(
        LayerResult(name=found.registered.layers[j].name, matches=int(each.sum()), bits=len(each)) for j, each in bits.items()
    )


def _stage(name: str, progress: ProgressCallback) -> ProgressCallback:
    """Report the stages of a part under the part's name."""
    return lambda inner: progress(Progress(f"{name}: {inner.stage}", inner.step, inner.total, inner.metrics))
