"""Webhooks of the caller's tenant; all of this needs a token with the scope ``admin``."""

from collections.abc import Iterator

from aiao._client.documents import Delivery, Webhook, WebhookCreated
from aiao._client.http import read
from aiao._client.resource import Resource


class Webhooks(Resource):
    """Addresses that hear of every job that ends."""

    def create(self, url: str) -> WebhookCreated:
        """The secret of the answer, which verifies each message, is never shown again."""
        return read(WebhookCreated, self._client.post("/v1/webhooks", json={"url": url}).content)

    def list(self) -> Iterator[Webhook]:
        """All webhooks, newest first."""
        return self._list("/v1/webhooks", Webhook)

    def delete(self, webhook_id: str) -> None:
        self._client.delete(f"/v1/webhooks/{webhook_id}")

    def deliveries(self, webhook_id: str) -> Iterator[Delivery]:
        """What was or will be delivered, newest first."""
        return self._list(f"/v1/webhooks/{webhook_id}/deliveries", Delivery)

    def retry(self, delivery_id: str) -> Delivery:
        """Deliver a message once more, now."""
        return read(Delivery, self._client.post(f"/v1/webhooks/deliveries/{delivery_id}/retry").content)
