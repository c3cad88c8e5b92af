"""Artifacts as the API shows them."""

from datetime import datetime

from pydantic import Field

from aiao_core.formats.identify import Kind
from service.kit.schemas import Schema


class ArtifactOut(Schema):
    """An uploaded file."""

    id: str = Field(examples=["art_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    filename: str = Field(examples=["emoji.zip"])
    sha256: str = Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
    size: int = Field(examples=[3491034], description="Bytes.")
    kind: Kind = Field(examples=["archive"], description="By the file's content, not by its name.")
    created_at: datetime
