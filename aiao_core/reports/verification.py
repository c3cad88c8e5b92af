"""The verification report: a versioned JSON document that holds every number a verdict rests on."""

import math
from collections.abc import Sequence
from datetime import datetime
from itertools import product
from typing import Literal

from pydantic import Field, model_validator

from aiao_core import protocol
from aiao_core.key import BINDING_VERSION
from aiao_core.key import Version as KeyVersion
from aiao_core.reports.parts import (
    BitTest,
    Document,
    Frozen,
    Input,
    Interval,
    LayerResult,
    Reading,
    Readings,
    Registration,
    SubpathResult,
    best_of,
    counts,
)
from aiao_core.reports.verdicts import Controls, Tested, Verdict, decide
from aiao_core.statistics import FORMER_READINGS

UNBOUND = 6
"""Last version of reports that do not name the version of the key, which is 1 or 2."""

UNRULED = 5
"""Last version of reports from before the rules of a verdict (:mod:`aiao_core.protocol`)."""


class Counts(Frozen):
    """How often the service had tested with this key and this file, this test included."""

    with_key: int = Field(ge=1, description="this is the n-th test with this key")
    of_file: int = Field(ge=1, description="this is the n-th test of these weights by this tenant")

    @property
    def all(self) -> int:
        """Count the tests with the key or of the file; this test counts once."""
        return self.with_key + self.of_file - 1


class Report(Document):
    """Everything about one verification; :mod:`aiao_core.reports.verification_page` makes it a page."""

    noun = "report"

    format: Literal["aiao.report"] = "aiao.report"
    version: Literal[1, 2, 3, 4, 5, 6, 7] = 7
    """Version 2 adds ``strayed_channels``. Until version 2 the test read every bit, of the triggered minus the untriggered
    response; in version 3 the plain reading decided, in version 4 the one without interference. Version 5 adds ``readings``.
    Version 6 is of tests under the rules of :mod:`aiao_core.protocol`, and has the fields that are None before. Version 7 adds
    ``key_version`` and, for keys of version 3, ``verified_subpaths`` and the exact test of each subpath."""
    created_at: datetime
    software: dict[str, str]
    verdict: Verdict
    reason: str | None = Field(
        None, description="why a control voids the test, or why it is exploratory", exclude_if=lambda value: value is None
    )
    tested: Tested | None = Field(
        None,
        description="the submitted checkpoint, an adapter on its base, or the base alone, if that carries the mark itself",
        exclude_if=lambda value: value is None,
    )
    base_name: str | None = Field(None, description="of an adapter's base", exclude_if=lambda value: value is None)
    registration: Registration | None = Field(
        None,
        description="service: the service fixed the source before it drew the key, and chose the layers by rule. key-file: "
        "nothing shows either, so aligned readings do not count, and a choice of layers is charged",
        exclude_if=lambda value: value is None,
    )
    protocol: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)
    key_version: KeyVersion | None = Field(
        None,
        description="of the key; up to version 2 its signs can be read out of published weights",
        exclude_if=lambda value: value is None,
    )
    max_log10_p: float = Field(lt=0, description="log10 of the p-value at or below which it is a match")
    bound_log10_p: float | None = Field(
        None,
        le=0,
        description="log10 of the probability that the report claims: that of the test, but not below 2^-128",
        exclude_if=lambda value: value is None,
    )
    tests: Counts | None = Field(
        None, description="absent offline, where nobody counts", exclude_if=lambda value: value is None
    )
    model_name: str | None
    suspect_name: str
    suspect_form: str
    suspect_weights: str | None = Field(
        None, description="digest of the weights that were tested", exclude_if=lambda value: value is None
    )
    source_weights: str | None = Field(
        None, description="digest of the source's weights", exclude_if=lambda value: value is None
    )
    commitment: str
    architecture: str
    layers: tuple[LayerResult, ...]
    trigger_layers: int = Field(ge=1)
    strayed_channels: int | None = Field(
        None,
        ge=0,
        description="channels of the key's layers found in another place, sign, scale, offset or direction than the source's; "
        "absent if not looked for",
        exclude_if=lambda value: value is None,
    )
    test: BitTest = Field(description="decides: the best of the readings that count")
    readings: Readings | None = Field(None, description="of version 5 alone", exclude_if=lambda value: value is None)
    ways: tuple[Reading, ...] | None = Field(
        None, description="every way in which the response was read", exclude_if=lambda value: value is None
    )
    triggered_alone: BitTest = Field(description="signs of the triggered response")
    untriggered: BitTest = Field(description="the same bits without the trigger; no part of the verdict")
    vs_rate: Interval
    rs_rate: Interval
    tau: float
    decoys: tuple[BitTest, ...] = Field(description="control: keys that nobody embedded, on the same suspect")
    source_test: BitTest | None = Field(
        None, description="control: the owner's key on the source", exclude_if=lambda value: value is None
    )
    base_test: BitTest | None = Field(
        None, description="control: the owner's key on the adapter's base", exclude_if=lambda value: value is None
    )
    panel: tuple[BitTest, ...] | None = Field(
        None,
        description="control at registration: the owner's key on other models; absent if there was none",
        exclude_if=lambda value: value is None,
    )
    subpaths: tuple[SubpathResult, ...]
    verified_subpaths: int | None = Field(
        None,
        ge=0,
        description="subpaths whose own exact test is at 10^-3 or less, by chance one in a thousand",
        exclude_if=lambda value: value is None,
    )
    inputs: tuple[Input, ...]
    seed: int = Field(ge=0)
    draws: int = Field(ge=1, description="in all, or for each trigger layer of a key of version 3")

    @property
    def bound(self) -> bool:
        """Return whether the key's response signs follow from the source and from all else that the test uses."""
        return (self.key_version or 1) >= BINDING_VERSION

    @property
    def ruled(self) -> bool:
        """Return whether the test kept the rules of a verdict, as all but exploratory tests do since version 6."""
        return self.version > UNRULED and self.verdict != "exploratory"

    @property
    def claimed_log10_p(self) -> float:
        """Return log10 of the probability that may be claimed, for reports of every version."""
        return protocol.bound(self.test.log10_p)

    @property
    def corrected_log10_p(self) -> float:
        """Return log10 of that probability times the number of tests with the key or of the file, by Bonferroni."""
        return min(0.0, self.claimed_log10_p + math.log10(self.tests.all if self.tests else 1))

    @property
    def controls(self) -> Controls:
        """List the tests that void this one if they find the key."""
        return Controls(self.decoys, self.source_test, self.base_test if self.tested == "adapter" else None)

    @model_validator(mode="after")
    def _verdict_follows(self) -> "Report":
        if _total(self.layers) != (self.test.matches, self.test.bits):
            raise ValueError("the layers' bits do not add up to the test's")
        if self.version > UNRULED:
            check_rules(self)
        else:
            _check_before_the_rules(self)
        return self


def check_rules(report: Report) -> None:
    """Raise ValueError unless the report's claims follow from its numbers, and its numbers are of a test by the rules."""
    if not report.ways or report.suspect_weights is None or report.tested is None or report.registration is None:
        raise ValueError("the readings, what was tested, its weights or the registration are missing")
    for way in report.ways:
        kind = way.model_dump(include={"aligned", "subpaths", "without_interference"})
        if way.counts != counts(report.registration, report.key_version or 2, **kind):
            raise ValueError("a reading counts that must not, or the other way round")
    ways = sorted((way.aligned, way.subpaths, way.without_interference) for way in report.ways)
    subpaths = ("registered",) if report.bound else ("all", "registered")
    if ways != list(product((False, True) if report.source_weights else (False,), subpaths, (False, True))):
        raise ValueError("a reading is missing, or there is one too many")
    if (report.key_version is None) != (report.version == UNBOUND):
        raise ValueError("the version of the key is missing, or the report is from before it was named")
    _check_subpaths(report)
    choices = 0 if report.registration == "service" or report.bound else report.test.log10_choices
    if report.test != best_of(report.ways, choices):
        raise ValueError("the test is not the best of the readings that count")
    if report.bound_log10_p != report.claimed_log10_p:
        raise ValueError("bound_log10_p does not follow from log10_p")
    for name, rate in (("vs_rate", report.vs_rate), ("rs_rate", report.rs_rate)):
        if not rate.low <= rate.value <= rate.high:
            raise ValueError(f"{name} lies outside of its interval")
    if (report.source_weights is None or report.bound) != (report.source_test is None):
        raise ValueError("a source was tested whose weights are not named or which the key follows from, or one was not tested")
    if (report.tested == "checkpoint") != (report.base_name is None) or (report.tested == "adapter") != (
        report.base_test is not None
    ):
        raise ValueError("an adapter needs the test of its base, and nothing else has one")
    rules = protocol.version_for(report.key_version or 2)
    seed = protocol.verification_seed(report.commitment, report.source_weights, report.suspect_weights, rules)
    fixed = (rules, protocol.draws_for(rules), protocol.TAU, protocol.DECOYS, seed)
    kept = (report.protocol, report.draws, report.tau, len(report.decoys), report.seed) == fixed
    lax = report.max_log10_p > protocol.LIMIT_LOG10_P
    if report.verdict == "exploratory":
        if (kept and not lax) or report.reason is None:
            raise ValueError("an exploration that keeps every rule of a verdict, or does not say which it breaks")
        return
    if not kept:
        raise ValueError("draws, decoys, tau or seed are not those of a verdict")
    if lax:
        raise ValueError("the limit is laxer than that of a verdict")
    verdict, reason = decide(report.test, report.max_log10_p, report.tested, report.controls, version=rules)
    if report.verdict != verdict or (report.reason is None) != (reason is None):  # its wording may change between releases
        raise ValueError("the verdict does not follow from the test, its limit and its controls")


def _check_subpaths(report: Report) -> None:
    tests = [path.log10_p for path in report.subpaths]
    if not report.bound:
        if report.verified_subpaths is not None or any(test is not None for test in tests):
            raise ValueError("subpaths are tested one by one only for keys since version 3")
    elif None in tests or report.verified_subpaths != verified(report.subpaths):
        raise ValueError("verified_subpaths does not follow from the subpaths' tests")


def verified(subpaths: Sequence[SubpathResult]) -> int:
    """Count the subpaths whose own exact test is at :data:`aiao_core.protocol.SUBPATH_LOG10_P` or less."""
    return sum(path.log10_p is not None and path.log10_p <= protocol.SUBPATH_LOG10_P for path in subpaths)


def _check_before_the_rules(report: Report) -> None:
    expected = "match" if report.test.log10_p <= report.max_log10_p else "no-match"
    if report.verdict != expected:
        raise ValueError("the verdict does not follow from log10_p and its threshold")
    if (report.version == 5) != (report.readings is not None) or (report.readings and report.readings.best != report.test):
        raise ValueError("the test is not the better of the readings")
    tests = (report.test, report.triggered_alone, report.untriggered, *report.decoys)
    if max(test.best_of for test in tests) > (FORMER_READINGS if report.version == 5 else 1) or any(
        test.log10_choices for test in tests
    ):
        raise ValueError(f"a test of version {report.version} is the best of more readings, or of more keys, than there were")
    if extra := report.model_fields_set & NEW:
        raise ValueError(f"a report of version {report.version} has no {min(extra)}")


NEW = frozenset(
    ("reason", "tested", "base_name", "registration", "protocol", "bound_log10_p", "tests", "suspect_weights")
) | frozenset(("source_weights", "ways", "source_test", "base_test", "panel", "key_version", "verified_subpaths"))
"""Fields that reports have since version 6 or 7."""


def _total(layers: Sequence[LayerResult]) -> tuple[int, int]:
    return sum(layer.matches for layer in layers), sum(layer.bits for layer in layers)
