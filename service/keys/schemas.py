"""Keys as the API shows them: their public part."""

from datetime import datetime

from pydantic import Field

from aiao_core.key import PublicKey
from service.kit.schemas import Schema


class PublicKeyOut(PublicKey):
    """What may be known about a key: its commitment, layers and subpaths, and how many bits the test compares."""

    model_id: str
    created_at: datetime
    opened_at: datetime | None = Field(description="When the key was shown to others; since then it takes no more tests.")


class KeyOpened(Schema):
    """A key that was shown to others."""

    model_id: str
    opened_at: datetime
