"""Verifications as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aiao_core.hub import MAX_REFERENCE, REFERENCE
from aiao_core.options import VerificationOptions
from service.ids import pattern
from service.jobs.schemas import JobOut, JobState
from service.schemas import Failure, Schema, SecretKey, one_of

Verdict = Literal["match", "no-match"]


class VerificationIn(BaseModel):
    """Which suspect to test against which model."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"model_id": "mdl_01kaw3v0h9m6f0x2e7d8c9b1a5", "artifact_id": "art_01kaw4r7c2n8p5q0s6t1v3w9x4"},
                {"model_id": "mdl_01kaw3v0h9m6f0x2e7d8c9b1a5", "hub": "hf://owner/name@main"},
            ]
        }
        | one_of("artifact_id", "hub"),
    )

    model_id: str = Field(pattern=pattern("mdl"))
    artifact_id: str | None = Field(
        None, pattern=pattern("art"), description="The suspect: a pipeline folder, .safetensors, .ckpt, GGUF file or adapter."
    )
    hub: str | None = Field(
        None,
        pattern=REFERENCE,
        max_length=MAX_REFERENCE,
        description="The suspect in place of `artifact_id`: a public repository of the Hugging Face hub.",
    )
    base_artifact_id: str | None = Field(
        None,
        pattern=pattern("art"),
        description="The model that a LoRA adapter was made for; without it the registered watermarked model.",
    )
    secret_key: SecretKey = None
    options: VerificationOptions = VerificationOptions()

    @model_validator(mode="after")
    def _one_suspect(self) -> "VerificationIn":
        if (self.artifact_id is None) == (self.hub is None):
            raise ValueError("name the suspect by either artifact_id or hub")
        return self


class VerificationOut(Schema):
    """One test of a suspect."""

    id: str = Field(examples=["ver_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    model_id: str
    artifact_id: str | None = Field(description="Null for a suspect on the hub.")
    hub: str | None = Field(examples=["hf://owner/name@main"], description="The hub's repository, as it was submitted.")
    base_artifact_id: str | None
    suspect_name: str = Field(description="Of a repository, once it has been tested: with the commit.")
    suspect_sha256: str | None = Field(description="Of a repository: of what was fetched; null until then.")
    options: VerificationOptions
    status: JobState
    verdict: Verdict | None = Field(description="Null until the job is done.")
    log10_p: float | None = Field(examples=[-153.2], description="log10 of the p-value of the exact test.")
    vs_rate: float | None
    rs_rate: float | None
    job_id: str
    error: Failure | None
    created_at: datetime


class Submitted(BaseModel):
    """A verification and its job."""

    verification: VerificationOut
    job: JobOut
