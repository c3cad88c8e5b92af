"""Webhooks as the API takes and shows them."""

from datetime import datetime
from typing import Literal

from pydantic import Field, HttpUrl

from service.kit.schemas import Schema

DeliveryState = Literal["pending", "delivered", "failed"]


class WebhookIn(Schema):
    """An address that shall hear of every job that ends."""

    url: HttpUrl = Field(max_length=2000, examples=["https://example.com/aiao"], description="https, and a public address.")


class WebhookOut(Schema):
    """A webhook without its secret."""

    id: str = Field(examples=["whk_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    url: str
    disabled_at: datetime | None = Field(description="When the address answered 410 Gone; it hears nothing since.")
    created_at: datetime


class WebhookCreated(Schema):
    """A new webhook."""

    webhook: WebhookOut
    secret: str | None = Field(
        description="Verify each message with it by the Standard Webhooks scheme. **Shown this once**; null when the call is "
        "repeated."
    )


class DeliveryOut(Schema):
    """One message to one webhook."""

    id: str = Field(examples=["dlv_01kaw3v0h9m6f0x2e7d8c9b1a5"], description="The header `webhook-id` of each attempt.")
    event: str = Field(examples=["job.succeeded"])
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None
    status_code: int | None = Field(description="What the address answered last.")
    error: str | None = Field(description="Why there was no answer.")
    created_at: datetime
    finished_at: datetime | None
