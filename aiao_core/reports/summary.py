"""The summary of a verification for callers who neither own nor hold the key: verdict and a coarse bound (this project).

The full report's counts, taken of many suspects that each differ in one channel, reveal the key's signs.
"""

from datetime import datetime
from typing import Literal

from pydantic import Field

from aiao_core.key import BINDING_VERSION
from aiao_core.key import Version as KeyVersion
from aiao_core.protocol import coarse_bound
from aiao_core.reports.parts import Document, Input
from aiao_core.reports.verdicts import Tested, Verdict
from aiao_core.reports.verification import Counts, Report


class Summary(Document):
    """A report without the figures that tell of the key."""

    noun = "summary of a report"

    format: Literal["aiao.report-summary"] = "aiao.report-summary"
    version: Literal[1, 2] = 2
    """Version 2 adds ``key_version``."""
    report_version: int = Field(ge=1, description="of the full report; up to 5 it is from before the rules of a verdict")
    created_at: datetime
    software: dict[str, str]
    verdict: Verdict
    reason: str | None
    tested: Tested | None
    base_name: str | None
    bound_log10_p: float | None = Field(le=0, description="log10 of 2^-128 or of 2^-64; null above both, and without a match")
    max_log10_p: float = Field(lt=0)
    tests: Counts | None
    model_name: str | None
    suspect_name: str
    suspect_form: str
    suspect_weights: str | None
    commitment: str
    key_version: KeyVersion | None = Field(
        None,
        description="of the key; up to version 2, and where it is absent, its signs can be read out of published weights",
        exclude_if=lambda value: value is None,
    )
    architecture: str
    inputs: tuple[Input, ...]

    @property
    def bound(self) -> bool:
        """Return whether the key's response signs follow from the source and from all else that the test uses."""
        return (self.key_version or 1) >= BINDING_VERSION

    @classmethod
    def of(cls, report: Report) -> "Summary":
        """Summarize a report of any version."""
        found = report.verdict in ("match", "base-marked")
        return cls(
            report_version=report.version,
            bound_log10_p=coarse_bound(report.test.log10_p) if found else None,
            **{
                name: getattr(report, name)
                for name in cls.model_fields
                if name not in ("format", "version", "report_version", "bound_log10_p")
            },
        )


def read_report(text: str | bytes) -> Report | Summary:
    """Read a full report or a summary, by its format. Raises :class:`aiao_core.errors.InvalidReport`."""
    kind = Summary if b'"aiao.report-summary"' in (text if isinstance(text, bytes) else text.encode())[:200] else Report
    return kind.from_json(text)
