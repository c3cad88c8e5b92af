"""The receiver of the examples, as a user runs it, and what our courier sends."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from standardwebhooks import Webhook as Signer

from service.kit.database import utc_now
from service.kit.ids import new_id
from service.processes.courier import http_client, post
from service.tables.webhooks import Delivery, Webhook
from service.webhooks.addresses import Address
from tests.support.places import EXAMPLES

pytestmark = pytest.mark.process

SECRET = "whsec_" + "c2VjcmV0" * 4
JOB = {"id": "job_1", "kind": "verify", "verification": {"sentence": "A match."}}
BODY = json.dumps({"type": "job.succeeded", "data": JOB})
COMMAND = [sys.executable, EXAMPLES / "webhook_receiver.py", "--port", "0"]


class Listening:
    """The receiver in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = process.stdout.readline().split()[-1]

    def printed(self) -> list[str]:
        self.process.terminate()
        return self.process.communicate()[0].splitlines()


@pytest.fixture
def listening(monkeypatch) -> Iterator[Listening]:
    monkeypatch.setenv("AIAO_WEBHOOK_SECRET", SECRET)
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Listening(process)
        finally:
            process.kill()


def test_a_message_of_our_courier_is_believed_and_printed_once(listening):
    delivery, webhook = Delivery(id=new_id("dlv"), body=BODY), Webhook(url=f"{listening.url}/aiao")
    place = Address.of(webhook.url, private=True).resolved()

    async def deliver(secrets: list[str]) -> list[int]:
        async with http_client() as client:
            return [await post(client, webhook, secret, delivery, place) for secret in secrets]

    assert asyncio.run(deliver([SECRET, SECRET, "whsec_" + "b3RoZXIh" * 4])) == [204, 204, 400]
    assert listening.printed() == ["job.succeeded verify job_1 A match."]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, 204),
        ({"webhook-signature": ""}, 400),
        ({"webhook-signature": "v1,none,at,all"}, 400),
        ({"webhook-signature": "v1,é"}, 400),
        ({"webhook-timestamp": str(int((utc_now() - timedelta(days=1)).timestamp()))}, 400),
        ({"webhook-timestamp": "1e400"}, 400),
        ({"webhook-id": "another"}, 400),
        ({"content-length": str(1 << 40)}, 413),
        ({"content-length": "-1"}, 413),
    ],
)
def test_what_is_not_signed_is_refused(listening, changed, status):
    now = utc_now()
    headers = {
        "webhook-id": "dlv_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(SECRET).sign("dlv_1", now, BODY),
        "content-length": str(len(BODY)),
    }
    connection = HTTPConnection(urlsplit(listening.url).netloc, timeout=30)  # which sends any header
    connection.request("POST", "/", BODY, headers | changed)
    assert connection.getresponse().status == status
    connection.close()
    assert len(listening.printed()) == (status == 204)


def test_a_secret_that_cannot_be_used_ends_the_start_in_a_sentence(monkeypatch):
    for secret in ("", "whsec_", "whsec_é"):
        monkeypatch.setenv("AIAO_WEBHOOK_SECRET", secret)
        done = subprocess.run(COMMAND, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("AIAO_WEBHOOK_SECRET must be")
