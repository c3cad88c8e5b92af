"""Webhooks of the caller's tenant; every call needs a token with the scope ``admin``."""

from collections.abc import Iterator

from aiao._client.documents import Delivery, Webhook, WebhookCreated, read
from aiao._client.transport import Transport


class Webhooks:
    """Addresses that hear of every job that ends."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, url: str) -> WebhookCreated:
        """Add a webhook. The secret of the answer, which verifies each message, is never shown again."""
        return read(WebhookCreated, self._transport.post("/v1/webhooks", json={"url": url}).content)

    def list(self) -> Iterator[Webhook]:
        """Yield all webhooks, newest first."""
        return self._transport.list("/v1/webhooks", Webhook)

    def delete(self, webhook_id: str) -> None:
        """Remove a webhook with its deliveries."""
        self._transport.delete(f"/v1/webhooks/{webhook_id}")

    def deliveries(self, webhook_id: str) -> Iterator[Delivery]:
        """Yield the messages to a webhook, newest first: delivered, failed, or still to come."""
        return self._transport.list(f"/v1/webhooks/{webhook_id}/deliveries", Delivery)

    def retry(self, delivery_id: str) -> Delivery:
        """Deliver a message once more, now."""
        return read(Delivery, self._transport.post(f"/v1/webhooks/deliveries/{delivery_id}/retry").content)
