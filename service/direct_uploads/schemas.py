"""Direct uploads as the API shows them."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from service.kit.bucket import MAX_PARTS
from service.kit.id_patterns import SHA256
from service.kit.schemas import Name, Schema

PartNumber = Annotated[int, Field(ge=1, le=MAX_PARTS, examples=[1], description="The first is 1.")]


class DirectUploadIn(Schema):
    """What a file is that will be sent to the bucket."""

    filename: Name = Field(description="The file's name, kept for reports.", examples=["emoji.zip"])
    size: int = Field(ge=1, examples=[3491034], description="Bytes of the whole file.")
    sha256: str | None = Field(
        None, pattern=SHA256, description="If given, a file with another digest is refused. The service computes it either way."
    )


class DirectUploadOut(Schema):
    """A file on its way into the bucket."""

    id: str = Field(examples=["mpu_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    filename: str = Field(examples=["emoji.zip"])
    size: int = Field(examples=[3491034])
    sha256: str | None
    part_bytes: int = Field(examples=[16777216], description="Cut the file so; the last part is what is left.")
    parts: int = Field(examples=[1], description="How many these are.")
    artifact_id: str | None = Field(description="What came of it.")
    created_at: datetime
    expires_at: datetime = Field(description="A day after the last call for its parts.")


class PartOut(Schema):
    """A part, and where to send it."""

    number: PartNumber
    size: int = Field(examples=[3491034], description="The bucket takes no other length.")
    url: str = Field(description="Takes the part by PUT, without a token, for an hour. Whoever has it can send this part.")
    etag: str | None = Field(description="Of the part, if it is there already.")


class PartsOut(Schema):
    """Some parts of a direct upload, in order."""

    items: list[PartOut]
    next_after: int | None = Field(description="Send it as `after` for the next ones; null after the last.")


class PartIn(Schema):
    """A part that was sent."""

    number: PartNumber
    etag: str = Field(max_length=200, examples=['"9b2cf535f27731c974343645a3985328"'], description="As the bucket answered.")


class CompleteIn(Schema):
    """All parts of a direct upload."""

    parts: list[PartIn] = Field(min_length=1, max_length=MAX_PARTS)
