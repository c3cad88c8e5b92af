import json

import pytest

from service.webhooks.service import MAX_WEBHOOKS
from tests.support.calls import make_ready, post, problem
from tests.support.processes import system, wait_for
from tests.support.receiver import receiver

pytestmark = pytest.mark.dialect


def test_a_webhook_is_added_listed_and_removed_and_its_secret_shown_once(caller):
    http = caller()
    created = [
        post(http, "/v1/webhooks", {"url": "https://example.com/a"}, **{"Idempotency-Key": "once"}).json() for _ in range(2)
    ]
    assert created[0]["webhook"] == created[1]["webhook"]
    assert created[0]["secret"].startswith("whsec_")
    assert created[1]["secret"] is None
    listed = http.get("/v1/webhooks")
    assert listed.json()["items"] == [created[0]["webhook"]]
    assert created[0]["secret"] not in listed.text
    assert http.delete(f"/v1/webhooks/{created[0]['webhook']['id']}").status_code == 204
    assert http.get("/v1/webhooks").json()["items"] == []
    acts = [act["action"] for act in http.get("/v1/activity").json()["items"]]
    assert acts == ["webhook.delete", "webhook.create"]


@pytest.mark.parametrize(
    "url", ["http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest", "https://a:b@c.d/"]
)
def test_an_address_inside_is_refused(http, url):
    problem(post(http, "/v1/webhooks", {"url": url}), 422, "invalid-webhook")


@pytest.mark.parametrize("url", ["", "example.com", "https://", "javascript:alert(1)", "https://example.com/" + "a" * 2000])
def test_what_is_no_address_is_refused(http, url):
    answer = post(http, "/v1/webhooks", {"url": url})
    assert answer.json()["type"] in ("invalid-request", "invalid-webhook")
    problem(answer, 422, answer.json()["type"])


def test_a_webhook_is_removed_with_its_deliveries(caller, backstage, tmp_path):
    http = caller()
    webhook = post(http, "/v1/webhooks", {"url": "https://example.com/a"}).json()["webhook"]["id"]
    make_ready(http, backstage, tmp_path)
    (delivery,) = http.get(f"/v1/webhooks/{webhook}/deliveries").json()["items"]
    assert (delivery["event"], delivery["state"]) == ("job.succeeded", "pending")
    assert http.delete(f"/v1/webhooks/{webhook}").status_code == 204
    problem(http.post(f"/v1/webhooks/deliveries/{delivery['id']}/retry"), 404, "not-found")


@pytest.mark.process
def test_the_courier_delivers_what_happens_in_the_service(tmp_path, redis_url):
    with (
        receiver() as listener,
        system(tmp_path, broker_url=redis_url, AIAO_QUEUE="nobody", AIAO_PRIVATE_WEBHOOKS="true") as running,
        running.client() as client,
    ):
        running.start("courier", "service.processes.courier")
        client.transport.post("/v1/webhooks", json={"url": listener.url})
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "model_index.json").write_text("{}")
        registration = client.models.register(tmp_path / "model", name="mine")
        client.jobs.cancel(registration.job.id)
        wait_for(lambda: listener.heard, "nothing was delivered")
        message = json.loads(listener.heard[0][1])
        assert (message["type"], message["data"]["id"]) == ("job.canceled", registration.job.id)
        assert registration.secret_key not in listener.heard[0][1].decode()


def test_a_tenant_has_as_many_webhooks_as_one_may_have(caller):
    http = caller()
    created = [post(http, "/v1/webhooks", {"url": f"https://example.com/{number}"}) for number in range(MAX_WEBHOOKS)]
    assert {answer.status_code for answer in created} == {201}
    assert "remove one" in problem(post(http, "/v1/webhooks", {"url": "https://example.com/more"}), 409, "conflict")
    http.delete(f"/v1/webhooks/{created[0].json()['webhook']['id']}").raise_for_status()
    assert post(http, "/v1/webhooks", {"url": "https://example.com/more"}).status_code == 201
