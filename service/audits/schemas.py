"""Audits as the API shows them."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from aiao_core.audit_options import Attacks, AuditOptions, Preset
from aiao_core.protocol import DRAWS
from aiao_core.reports.audit import Summary
from service.jobs.schemas import JobOut, JobState
from service.kit.ids import pattern
from service.kit.schemas import Failure, Schema, SecretKey, one_of


def _as_tested(options: AuditOptions) -> AuditOptions:
    """Refuse another number of draws: an audit says what a verification finds, and that has always as many."""
    if options.draws not in (None, DRAWS):
        raise ValueError(f"draws is {DRAWS} in every test, not {options.draws}: leave it out")
    return options


class AuditIn(BaseModel):
    """Which attacks to try, and with which data."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"preset": "quick"},
                {"attacks": ["magnitude-pruning-30", "full-fine-tuning-200"], "options": {"seed": 1}},
            ]
        }
        | one_of("preset", "attacks"),
    )

    preset: Preset | None = Field(None, description="A set of attacks: `quick` for minutes, `full` for all of them.")
    attacks: Attacks | None = Field(None, description="The attacks themselves, in place of `preset`.")
    images_artifact_id: str | None = Field(
        None, pattern=pattern("art"), description="Images that the attacks train on; without them the model draws its own."
    )
    secret_key: SecretKey = None
    options: Annotated[AuditOptions, AfterValidator(_as_tested)] = AuditOptions()

    @model_validator(mode="after")
    def _one_choice(self) -> "AuditIn":
        if (self.preset is None) == (self.attacks is None):
            raise ValueError("choose the attacks by either preset or attacks")
        return self


class AuditOut(Schema):
    """One audit of a model."""

    id: str = Field(examples=["aud_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    model_id: str
    preset: Preset | None
    attacks: list[str] | None = Field(description="Null for a preset.")
    images_artifact_id: str | None
    options: AuditOptions
    status: JobState
    summary: Summary | None = Field(description="The attacks by their outcome; null until the job is done.")
    job_id: str
    error: Failure | None
    created_at: datetime


class AuditStarted(BaseModel):
    """An audit and its job."""

    audit: AuditOut
    job: JobOut
