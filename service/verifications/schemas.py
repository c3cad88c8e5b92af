"""Verifications as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from aiao_core.options import VerificationOptions
from service.ids import pattern
from service.jobs.schemas import JobOut, JobState
from service.schemas import Failure, Schema


class VerificationIn(BaseModel):
    """Which suspect to test against which model."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"model_id": "mdl_01kaw3v0h9m6f0x2e7d8c9b1a5", "artifact_id": "art_01kaw4r7c2n8p5q0s6t1v3w9x4"},
            ]
        },
    )

    model_id: str = Field(pattern=pattern("mdl"))
    artifact_id: str = Field(pattern=pattern("art"), description="The suspect: a pipeline folder, .safetensors or pickle.")
    options: VerificationOptions = VerificationOptions()


class VerificationOut(Schema):
    """One test of a suspect."""

    id: str = Field(examples=["ver_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    model_id: str
    artifact_id: str
    suspect_name: str
    suspect_sha256: str
    options: VerificationOptions
    status: JobState
    verdict: Literal["match", "no-match"] | None = Field(description="Null until the job is done.")
    log10_p: float | None = Field(examples=[-153.2], description="log10 of the exact p-value.")
    vs_rate: float | None
    rs_rate: float | None
    job_id: str
    error: Failure | None
    created_at: datetime


class Submitted(BaseModel):
    """A verification and its job."""

    verification: VerificationOut
    job: JobOut
