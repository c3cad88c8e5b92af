"""Models as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from aiao_core.options import EmbeddingOptions
from service.jobs.schemas import JobOut
from service.kit.ids import pattern
from service.kit.schemas import Failure, Name, Schema

Custody = Literal["service", "owner"]
Status = Literal["embedding", "ready", "failed", "retired"]


class ModelIn(BaseModel):
    """What to protect."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "emoji-v1", "artifact_id": "art_01kaw3v0h9m6f0x2e7d8c9b1a5"}]},
    )

    name: Name
    artifact_id: str = Field(
        pattern=pattern("art"), description="A diffusers pipeline folder, packed as .zip or .tar, or a single file."
    )
    images_artifact_id: str | None = Field(
        None, pattern=pattern("art"), description="Images to embed with; without them the model draws its own."
    )
    options: EmbeddingOptions = EmbeddingOptions()
    custody: Custody = Field(
        "service",
        description="`owner`: the service forgets the secret once the watermark is embedded, and each verification and audit "
        "must bring it. Whoever loses it then can prove nothing any more.",
    )


class RenewalIn(BaseModel):
    """How to mark a registered model's source again. What is left out is as in that model."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}, {"name": "emoji-v2", "custody": "owner"}]})

    name: Name | None = None
    options: EmbeddingOptions | None = Field(
        None, description="In place of all options of that model: single ones that you leave out have their defaults."
    )
    custody: Custody | None = Field(None, description="Who keeps the new key, as at a registration.")


class CheckpointOut(BaseModel):
    """The watermarked checkpoint."""

    sha256: str
    size: int = Field(description="Bytes.")


class ModelOut(Schema):
    """A registered model."""

    id: str = Field(examples=["mdl_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    name: Name
    status: Status
    custody: Custody
    artifact_id: str
    images_artifact_id: str | None
    options: EmbeddingOptions
    renews: str | None = Field(description="The model from whose source and images this one was made by a renewal.")
    checkpoint: CheckpointOut | None = Field(description="Null until the embedding is done.")
    commitment: str = Field(description="Binds the owner to the secret key without revealing it; publish it, or have it dated.")
    key_version: int | None = Field(
        examples=[3],
        description="Of the key; null until the embedding is done. The signs of keys before version 3 can be read out of "
        "published weights, and the mark removed or planted: renew such a model.",
    )
    job_id: str
    error: Failure | None
    created_at: datetime


class Registered(BaseModel):
    """A model under embedding, its job, and its secret key."""

    model: ModelOut
    job: JobOut
    secret_key: str | None = Field(
        examples=["aiao1ifbegrcfizducqkcin2giylbmmwtqojqgiydamrqgezdgmzugm2tmnzy"],
        description="Shown this once. Keep it: with it you prove ownership without this service. Null in a repeated answer.",
    )
