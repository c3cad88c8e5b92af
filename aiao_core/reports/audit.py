"""The audit report: a versioned JSON document of the attacks that a watermark withstands, and of its limits."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, get_args

from pydantic import Field, model_validator

from aiao_core.key import BINDING_VERSION
from aiao_core.key import Version as KeyVersion
from aiao_core.protocol import LIMIT_LOG10_P, VERSION
from aiao_core.reports.parts import BitTest, Document, Frozen, Interval
from aiao_core.reports.verdicts import forgeable
from aiao_core.statistics import FORMER_READINGS, MAX_READINGS

Outcome = Literal["withstood", "ended", "ruined", "no-model"]
"""Outcome of an attack: the model is useful and matches; useful and does not match; not useful; not there to test."""

READINGS_OF = {4: (FORMER_READINGS,), 5: (MAX_READINGS // 2, MAX_READINGS), 6: (MAX_READINGS // 2, MAX_READINGS)}
"""Number of readings to choose from, by version of the report: one before; the most with a source."""

BOUND_READINGS = 1, 2
"""The same for keys since version 3."""

UNBOUND = 5
"""Last version of reports that do not name the version of the key, which is 1 or 2."""

TOLERANCE = 1e-3
"""Tolerance of a ratio of losses: an interrupted audit may resume on another machine, which rounds differently."""

FORGING = "forging"
"""Family of the attacks that make another model match. There the outcomes are the other way round: the watermark withstands the
attack if the forged model does not match."""


class Measured(Frozen):  # the name is part of the API: generated clients have a type of it
    """One model under the owner's key, and what it is still worth."""

    verdict: Literal["match", "no-match"]
    test: BitTest = Field(description="decides, as in a verification report")
    vs_rate: Interval
    rs_rate: Interval
    decoys: tuple[BitTest, ...] = Field(description="control: keys that nobody embedded, on the same model")
    loss: float = Field(gt=0, description="denoising loss on the held-out images")
    quality_loss: float = Field(ge=-1, description="relative rise of the loss: loss / loss of the published model - 1")


class AttackResult(Frozen):
    """What one attack at one strength left."""

    id: str
    name: str
    family: str
    outcome: Outcome
    measured: Measured | None = Field(description="null if there is no model to test")
    reason: str | None = Field(description="why there is no model to test; null if there is one")
    seconds: float = Field(ge=0, description="of the attack and its test")


class Summary(Frozen):
    """The attacks by their outcome."""

    withstood: tuple[str, ...] = Field(
        description="the model is useful and matches the owner's key; forged ones: and does not match"
    )
    ended_by: tuple[str, ...] = Field(
        description="the model is useful and does not match: here the watermark ends; forged ones: and matches"
    )
    ruined: tuple[str, ...] = Field(description="the model is no longer useful, whether it matches or not")
    no_model: tuple[str, ...] = Field(description="the attack is not possible on this model or left nothing to test")

    @classmethod
    def of(cls, attacks: Sequence[AttackResult]) -> "Summary":
        withstood, ended_by, ruined, no_model = (
            tuple(attack.id for attack in attacks if attack.outcome == outcome) for outcome in get_args(Outcome)
        )
        return cls(withstood=withstood, ended_by=ended_by, ruined=ruined, no_model=no_model)


class AuditInput(Frozen):
    """Something that went into the audit, by its SHA-256."""

    role: Literal["source", "watermarked", "images"]
    name: str
    sha256: str


class AuditReport(Document):
    """Everything about one audit; :mod:`aiao_core.reports.audit_page` makes it a page."""

    noun = "audit"

    format: Literal["aiao.audit"] = "aiao.audit"
    version: Literal[1, 2, 3, 4, 5, 6] = 6
    """Version 1 tested as verification reports did until their version 2, the versions 2 to 6 as those of 3 to 7.
    Forgeries are tried since version 6."""
    created_at: datetime
    software: dict[str, str]
    model_name: str | None
    commitment: str
    key_version: KeyVersion | None = Field(
        None, description="of the key; absent before version 6", exclude_if=lambda value: value is None
    )
    architecture: str
    max_log10_p: float = Field(lt=0, description="log10 of the p-value at or below which it is a match")
    max_quality_loss: float = Field(gt=0, description="below it a model counts as useful")
    data: Literal["images", "own-samples"] = Field(description="what the attacks trained on and the loss is measured on")
    attack_examples: int = Field(ge=1, description="of the data, for the attacks")
    held_out_examples: int = Field(ge=1, description="of the data, for the loss alone")
    published: Measured
    attacks: tuple[AttackResult, ...]
    summary: Summary
    inputs: tuple[AuditInput, ...]
    tau: float
    seed: int = Field(ge=0)
    draws: int = Field(ge=1, description="in all, or for each trigger layer of a key of version 3")

    @property
    def bound(self) -> bool:
        """Return whether the key's response signs follow from the source and from all else that a test uses."""
        return (self.key_version or 1) >= BINDING_VERSION

    @model_validator(mode="after")
    def _outcomes_follow(self) -> "AuditReport":
        if (self.key_version is None) != (self.version <= UNBOUND):
            raise ValueError("the version of the key is missing, or the report is from before it was named")
        readings = BOUND_READINGS if self.bound else READINGS_OF.get(self.version, (1,))
        for measured in (self.published, *(attack.measured for attack in self.attacks if attack.measured)):
            if measured.test.best_of not in readings:
                raise ValueError("a test is not the best of the readings, or there were none to choose from")
            weak = self.bound and forgeable(measured.test, VERSION)
            if (measured.test.log10_p <= self.max_log10_p and not weak) != (measured.verdict == "match"):
                raise ValueError("a verdict does not follow from log10_p and its threshold")
            ratio = measured.loss / self.published.loss
            if not math.isclose(measured.quality_loss + 1, ratio, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                raise ValueError("a quality loss does not follow from the losses")
        if self.version >= 5 and self.max_log10_p > LIMIT_LOG10_P:
            raise ValueError("the limit is laxer than that of a verdict")
        for attack in self.attacks:
            if attack.outcome != outcome_of(attack.measured, self.max_quality_loss, attack.family):
                raise ValueError(f"the outcome of {attack.id} does not follow from its numbers")
            if (attack.measured is None) != (attack.reason is not None):
                raise ValueError(f"{attack.id} has neither numbers nor a reason, or both")
        if self.summary != Summary.of(self.attacks):
            raise ValueError("the summary does not follow from the attacks")
        return self


def outcome_of(measured: Measured | None, max_quality_loss: float, family: str = "") -> Outcome:
    """Return the outcome of an attack of ``family``. A ruined model is useless, so its verdict does not count."""
    if measured is None:
        return "no-model"
    if measured.quality_loss >= max_quality_loss:
        return "ruined"
    return "withstood" if (measured.verdict == "match") == (family != FORGING) else "ended"
