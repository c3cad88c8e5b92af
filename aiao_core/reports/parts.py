"""The parts of reports: documents that are checked against their own numbers, tests, rates and inputs."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aiao_core import __version__
from aiao_core.errors import InvalidReport
from aiao_core.key import BINDING_VERSION
from aiao_core.statistics import FORMER_READINGS, MAX_READINGS, log10_binomial_tail


class Frozen(BaseModel):
    """An immutable part of a report that refuses unknown fields."""

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


class BitTest(Frozen):
    """Bits decoded with one key, how many match it, and log10 of the chance that at least so many do by accident."""

    matches: int = Field(ge=0)
    bits: int = Field(ge=0, le=10_000_000)
    best_of: int = Field(
        1,
        ge=1,
        le=MAX_READINGS,
        description="of so many tests this one has the least chance, which is multiplied by their number; absent if alone",
        exclude_if=lambda value: value == 1,
    )
    log10_choices: float = Field(
        0,
        ge=0,
        description="log10 of how many keys the claimant may have chosen this one from: the chance is multiplied by their "
        "number; absent if there was nothing to choose",
        exclude_if=lambda value: value == 0,
    )
    log10_p: float = Field(le=0)

    @classmethod
    def of(cls, matches: int, bits: int, best_of: int = 1, log10_choices: float = 0) -> "BitTest":
        log10_p = min(0.0, log10_binomial_tail(matches, bits, best_of) + log10_choices)
        return cls(matches=matches, bits=bits, best_of=best_of, log10_choices=log10_choices, log10_p=log10_p)

    @model_validator(mode="after")
    def _probability_follows(self) -> "BitTest":
        if self.matches > self.bits:
            raise ValueError("there are more matches than bits")
        expected = min(0.0, log10_binomial_tail(self.matches, self.bits, self.best_of) + self.log10_choices)
        if abs(expected - self.log10_p) > 1e-6:
            raise ValueError("log10_p does not follow from matches and bits")
        return self


class Readings(Frozen):
    """The response to the key's trigger minus that to other keys', read twice: the clearest half of the signs of each."""

    plain: BitTest = Field(description="as it is")
    without_interference: BitTest = Field(description="less what the suspect answers to any trigger")

    @property
    def best(self) -> BitTest:
        """Return the reading with the lesser p, which decides; its p is doubled, because there are two (Bonferroni)."""
        better = min(self.plain, self.without_interference, key=lambda reading: reading.log10_p)
        return BitTest.of(better.matches, better.bits, best_of=FORMER_READINGS)


Registration = Literal["service", "key-file"]
"""Evidence that source and subpaths were fixed before the key's signs were drawn: the service fixed them, or none."""

SubpathSet = Literal["all", "registered"]
"""All subpaths between the key's layers, or those that the watermark is in."""


def counts(
    registration: Registration, key_version: int, *, aligned: bool, subpaths: SubpathSet, without_interference: bool
) -> bool:
    """Return whether a reading counts.

    With an older key file's own source or subpaths a claimant could make any model match. Since version 3 the response signs
    follow from both; but a forger who has read signs can plant them in the answers to any trigger, so that those readings count
    alone that leave these out.
    """
    if key_version >= BINDING_VERSION:
        return without_interference
    return registration == "service" or (subpaths == "all" and not aligned)


class Reading(Frozen):
    """The response to the key's trigger, less the source's or, without a source, less that to other keys', in one of four ways.

    Two of these count. Of keys before version 3 it is less that to other keys', the clearest half of the signs, in one of eight
    ways.
    """

    aligned: bool = Field(
        description="channels in the source's coordinates, in which they were found, instead of in their own places; since "
        "version 3 of keys all with its scales and offsets"
    )
    subpaths: SubpathSet = Field(
        description="all between the key's layers, or those that the watermark is in: always these since version 3 of keys"
    )
    without_interference: bool = Field(
        description="less what the suspect answers to any trigger; since version 3 of keys also less a multiple of what the "
        "source answers to the owner's"
    )
    counts: bool = Field(description="whether the verdict may rest on it")
    test: BitTest


def best_of(readings: Sequence[Reading], log10_choices: float = 0) -> BitTest:
    """Return the test of the reading with the least p of those that count, multiplied by their number (Bonferroni).

    ``log10_choices`` is log10 of the number of keys from which this one may have been picked.
    """
    best = deciding(readings).test
    return BitTest.of(best.matches, best.bits, sum(reading.counts for reading in readings), log10_choices)


def deciding(readings: Sequence[Reading]) -> Reading:
    """Return the reading with the least p of those that count, the first of several."""
    return min((reading for reading in readings if reading.counts), key=lambda reading: reading.test.log10_p)


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
    log10_p: float | None = Field(
        None,
        le=0,
        description="of the exact test of its own bits, since version 3 of keys; by chance one in a thousand has -3 or less",
        exclude_if=lambda value: value is None,
    )


def software() -> dict[str, str]:
    """Return the versions that a report's numbers depend on. A plain checkout, which is not installed, has one too."""
    return {"aiao": __version__} | {name: version(name) for name in ("torch", "diffusers", "numpy")}
