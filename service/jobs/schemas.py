"""Jobs as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.kit.schemas import Failure, Schema

JobKind = Literal["embed", "verify", "audit"]
JobState = Literal["queued", "running", "succeeded", "failed", "canceled"]


class ProgressOut(Schema):
    """Where a running job stands."""

    stage: str = Field(examples=["embedding"])
    step: int = Field(examples=[340])
    total: int = Field(examples=[2000])
    metrics: dict[str, float] = Field(examples=[{"response": 0.12, "preserve": 0.004, "covert": 0.03}])
    seconds_left: float | None = Field(examples=[181.0], description="Of this stage, at the pace so far.")


class JobOut(Schema):
    """An embedding, a verification or an audit under way."""

    id: str = Field(examples=["job_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    kind: JobKind
    state: JobState
    attempt: int = Field(examples=[1], description="How often a worker has started it.")
    subject_id: str = Field(
        examples=["mdl_01kaw3v0h9m6f0x2e7d8c9b1a5"], description="The model, verification or audit it works on."
    )
    memory_bytes: int | None = Field(
        examples=[2415919104],
        description="How much memory it needs at most, by an estimate: it waits for a worker that has so much. Null: unknown.",
    )
    progress: ProgressOut | None
    result: str | None = Field(examples=["/v1/models/mdl_01kaw3v0h9m6f0x2e7d8c9b1a5"], description="Where the result is.")
    error: Failure | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
