"""The verification report: a versioned JSON document that holds every number a verdict rests on."""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aiao_core.errors import InvalidReport
from aiao_core.statistics import log10_binomial_tail


class Frozen(BaseModel):
    """A part of a report, unchangeable, that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Document(Frozen):
    """A report as versioned JSON, checked against its own numbers when it is read."""

    noun: ClassVar[str]

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a document and check what it says against its numbers. Raises :class:`InvalidReport`."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the report"
            raise InvalidReport(
                f"this {cls.noun} is damaged, altered or of an unknown version: {where}: {first['msg']}"
            ) from error


class Interval(Frozen):
    """A rate over independent draws with its 95 % Clopper-Pearson interval."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    draws: int = Field(ge=1)


READINGS = 2
"""Of the response to the owner's trigger (:class:`Readings`)."""


class BitTest(Frozen):
    """Bits decoded with one key, how many match it, and log10 of the chance that at least so many do by accident."""

    matches: int = Field(ge=0)
    bits: int = Field(ge=0, le=10_000_000)
    best_of: int = Field(
        1,
        ge=1,
        le=READINGS,
        description="of so many tests this one has the least chance, which is multiplied by their number; absent if alone",
        exclude_if=lambda value: value == 1,
    )
    log10_p: float = Field(le=0)

    @classmethod
    def of(cls, matches: int, bits: int, best_of: int = 1) -> "BitTest":
        return cls(matches=matches, bits=bits, best_of=best_of, log10_p=log10_binomial_tail(matches, bits, best_of))

    @model_validator(mode="after")
    def _probability_follows(self) -> "BitTest":
        if self.matches > self.bits or abs(log10_binomial_tail(self.matches, self.bits, self.best_of) - self.log10_p) > 1e-6:
            raise ValueError("log10_p does not follow from matches and bits")
        return self


class Readings(Frozen):
    """The response to the key's trigger minus that to other keys', read twice: the clearest half of the signs of each."""

    plain: BitTest = Field(description="as it is")
    without_interference: BitTest = Field(description="less what the suspect answers to any trigger")

    @property
    def plain_decides(self) -> bool:
        """Whether the plain reading has the less or the same p."""
        return self.plain.log10_p <= self.without_interference.log10_p

    @property
    def best(self) -> BitTest:
        """The reading that decides, its p doubled, as there are two (Bonferroni)."""
        better = self.plain if self.plain_decides else self.without_interference
        return BitTest.of(better.matches, better.bits, best_of=READINGS)


class Input(Frozen):
    """Something that went into the verification, by its SHA-256."""

    role: Literal["source", "watermarked", "suspect", "base", "key"]
    name: str
    sha256: str


class LayerResult(Frozen):
    """The decoded bits of one response layer."""

    name: str
    matches: int = Field(ge=0)
    bits: int = Field(ge=0, description="its bits that the test counts")


class SubpathResult(Frozen):
    """RS and VS of one subpath, from trigger to response layer (indices into the key's layers), over its passes."""

    trigger: int = Field(ge=0)
    response: int = Field(ge=1)
    draws: int = Field(ge=1)
    rs: float = Field(ge=0, le=1)
    vs: float = Field(ge=0, le=1)


class Report(Document):
    """Everything about one verification; :mod:`aiao_core.report_html` makes it a page."""

    noun = "report"

    format: Literal["aiao.report"] = "aiao.report"
    version: Literal[1, 2, 3, 4, 5] = 5
    """Version 2 adds ``strayed_channels``. Until version 2 the test read every bit, of the triggered minus the untriggered
    response; in version 3 the plain reading decided, in version 4 the one without interference. Version 5 adds ``readings``."""
    created_at: datetime
    software: dict[str, str]
    verdict: Literal["match", "no-match"]
    max_log10_p: float = Field(lt=0, description="log10 of the p-value at or below which it is a match")
    model_name: str | None
    suspect_name: str
    suspect_form: str
    commitment: str
    architecture: str
    layers: tuple[LayerResult, ...]
    trigger_layers: int = Field(ge=1)
    strayed_channels: int | None = Field(
        None,
        ge=0,
        description="channels of the key's layers found in another place or of another sign; absent if not looked for",
        exclude_if=lambda value: value is None,
    )
    test: BitTest = Field(description="decides: the better of the readings")
    readings: Readings | None = Field(
        None, description="absent before version 5, where there was one", exclude_if=lambda value: value is None
    )
    triggered_alone: BitTest = Field(description="signs of the triggered response")
    untriggered: BitTest = Field(description="control: the same bits without the trigger")
    vs_rate: Interval
    rs_rate: Interval
    tau: float
    decoys: tuple[BitTest, ...] = Field(description="control: keys that nobody embedded, on the same suspect")
    subpaths: tuple[SubpathResult, ...]
    inputs: tuple[Input, ...]
    seed: int = Field(ge=0)
    draws: int = Field(ge=1)

    @model_validator(mode="after")
    def _verdict_follows(self) -> "Report":
        if (self.test.log10_p <= self.max_log10_p) != (self.verdict == "match"):
            raise ValueError("the verdict does not follow from log10_p and its threshold")
        if (self.version >= 5) != (self.readings is not None) or (self.readings and self.readings.best != self.test):
            raise ValueError("the test is not the better of the readings")
        if _total(self.layers) != (self.test.matches, self.test.bits):
            raise ValueError("the layers' bits do not add up to the test's")
        return self


def _total(layers: Sequence[LayerResult]) -> tuple[int, int]:
    return sum(layer.matches for layer in layers), sum(layer.bits for layer in layers)
