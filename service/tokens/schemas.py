"""Tokens as the API takes and shows them."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from service.auth.callers import Scope
from service.kit.schemas import Name, Schema

Scopes = Annotated[set[Scope], Field(min_length=1, examples=[["verifications:write"]])]
Days = Annotated[int, Field(ge=1, le=3650, examples=[90])]


class TokenIn(Schema):
    """A token to issue."""

    name: Name
    scopes: Scopes = Field(description="Every token may read; `admin` may do everything.")
    expires_in_days: Days | None = Field(None, description="Without it the token holds until it is revoked.")


class TokenOut(Schema):
    """A token without its secret."""

    id: str = Field(examples=["tok_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute; null if it was never used.")


class TokenIssued(Schema):
    """A new token."""

    token: TokenOut
    secret: str | None = Field(description="The bearer token itself, **shown this once**; null when the call is repeated.")
