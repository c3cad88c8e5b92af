"""Hear of each job that ends, and believe only what the service signed.

    AIAO_WEBHOOK_SECRET=whsec_… python examples/webhook_receiver.py --port 8000

`aiao webhooks add https://your-host.example/aiao` shows the secret once. Put a proxy with TLS in front: the service calls https
addresses alone, unless the operator sets AIAO_PRIVATE_WEBHOOKS.
"""

import argparse
import os
import sys
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from standardwebhooks import Webhook, WebhookVerificationError
from standardwebhooks.webhooks import EmptyWebhookSecretError

MAX_BYTES = 1 << 20
"""Most bytes of a message. Those of the service have a few thousand."""

REMEMBERED = 10_000
"""Identifiers of messages to remember: the service delivers each at least once."""


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to a signed message, and 400 to anything else."""

    timeout = 10  # seconds for a client that sends nothing
    webhook: Webhook
    seen: ClassVar[OrderedDict[str, None]] = OrderedDict()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and int(length) <= MAX_BYTES):
            self.send_error(413)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            message = self.webhook.verify(self.rfile.read(int(length)), headers)  # refuses one older than 5 minutes too
        except (WebhookVerificationError, ValueError):  # the latter for a signature or a body that cannot even be read
            self.send_error(400, "not signed by the service")
            return
        if headers["webhook-id"] not in self.seen:
            self.remember(headers["webhook-id"])
            handle(message["type"], message["data"])
        self.send_response(204)
        self.end_headers()

    def remember(self, message_id: str) -> None:
        self.seen[message_id] = None
        if len(self.seen) > REMEMBERED:
            self.seen.popitem(last=False)


def handle(event: str, job: dict) -> None:
    """Do what you need. Answer within 10 seconds, or the service delivers the message again: hand long work to a queue."""
    tested = job.get("verification") or {}
    print(event, job["kind"], job["id"], tested.get("sentence") or "", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print each job that ends.")
    parser.add_argument("--port", type=int, default=8000, help="0: any free port")
    arguments = parser.parse_args()
    try:
        Receiver.webhook = Webhook(os.environ["AIAO_WEBHOOK_SECRET"])
    except (KeyError, ValueError, EmptyWebhookSecretError):
        sys.exit("AIAO_WEBHOOK_SECRET must be the secret, whsec_…, that the service showed when the webhook was added")
    with ThreadingHTTPServer(("127.0.0.1", arguments.port), Receiver) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
