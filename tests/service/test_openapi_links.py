"""The links of the OpenAPI document: what they name is there, and calls that follow them in any order keep their promises."""

import hashlib
from itertools import cycle
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.transport import Response
from schemathesis.generation.stateful.state_machine import StepInput, StepOutput

from service.app import create_app
from service.models.service import Checkpoint
from tests.support import rows, uploads
from tests.support.calls import TUS, make_ready, upload

load_all_checks()
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
PROMISES = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
     "response_schema_conformance", "ensure_resource_availability"]
)  # fmt: skip
GONE = CHECKS.get_by_names(["use_after_free"])
HALF = len(uploads.MODEL_ZIP) // 2


def holds(document: dict[str, Any], schema: dict[str, Any], pointer: list[str]) -> bool:
    """Whether there is something at ``pointer`` in what ``schema`` describes."""
    if "$ref" in schema:
        return holds(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], pointer)
    if not pointer:
        return True
    inside = schema["items"] if schema.get("type") == "array" else schema.get("properties", {}).get(pointer[0])
    return inside is not None and holds(document, inside, pointer[1:])


def test_every_link_takes_what_is_there_to_where_it_is_taken():
    document = create_app().openapi()
    calls = {call["operationId"]: call for item in document["paths"].values() for call in item.values()}
    takes = {name: {each["name"]: each["in"] for each in call.get("parameters", [])} for name, call in calls.items()}
    in_path = {name: {each for each, place in taken.items() if place == "path"} for name, taken in takes.items()}
    followed = set()
    for name, call in calls.items():
        for answer in call["responses"].values():
            given = {f"$request.{place}.{each}" for each, place in takes[name].items()}
            given |= {f"$response.header.{each}" for each in answer.get("headers", {})}
            schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
            for target, link in answer.get("links", {}).items():
                assert link["operationId"] == target
                assert in_path[target] <= set(link["parameters"]) <= set(takes[target])
                for expression in set(link["parameters"].values()) - given:
                    body, _, pointer = expression.partition("#/")
                    assert body == "$response.body"
                    assert holds(document, schema, pointer.split("/")), expression
                followed.add(target)
    assert {name for name, needed in in_path.items() if needed} <= followed, "nothing leads to some calls"


@pytest.fixture(scope="module")
def document(api) -> schemathesis.BaseSchema:
    config = {
        "generation": {"with-security-parameters": False},  # the token is a good one
        "phases": {"stateful": {"inference": {"algorithms": []}}},  # the links are the document's own
    }
    document = schemathesis.openapi.from_url(f"{api.url}/openapi.json", config=schemathesis.Config.from_dict(config))
    document = document.exclude(path_regex="/events$")  # those of a queued job never end
    return document.exclude(method="GET", path_regex="^[^{]*$")  # lists have tests of their own


@pytest.mark.parametrize("flows", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_calls_that_follow_each_other_keep_their_promises(api, document, backstage, tmp_path, flows):
    succeeded = set()

    class Flow(document.as_state_machine()):
        """Calls of a tenant of its own, so that the same ones have the same answers. Every second job is done at once."""

        def setup(self) -> None:
            headers = {"Authorization": f"Bearer {rows.token(backstage.database)}"}
            self.http = httpx.Client(base_url=api.url, headers=headers, timeout=60)
            model_id, checkpoint = make_ready(self.http, backstage, tmp_path)
            self.checkpoint = Checkpoint(f"marked/{model_id}.zip", hashlib.sha256(checkpoint).hexdigest(), len(checkpoint))
            self.worked = cycle((True, False))
            self.known = {
                "model_id": model_id, "artifact_id": upload(self.http), "images_artifact_id": upload(self.http, uploads.npz()),
                "name": "a", "url": "https://example.com",
            }  # fmt: skip

        def teardown(self) -> None:
            self.http.close()

        def step(self, input: StepInput) -> StepOutput:
            if input.transition is None:
                input.case.path_parameters = self.with_known(input.case.path_parameters)
            return super().step(input)

        def with_known(self, part: Any) -> Any:
            return part | {name: self.known[name] for name in part if name in self.known} if isinstance(part, dict) else part

        def before_call(self, case: Case) -> None:
            """What the document cannot say: identifiers that exist, and bytes that are a model."""
            case.body = self.with_known(case.body)
            match case.method, case.path:
                case "POST", "/v1/artifacts":
                    case.query, case.body = {"filename": "model.zip"}, uploads.MODEL_ZIP
                case "POST", "/v1/uploads":
                    whole = {"Upload-Length": str(len(uploads.MODEL_ZIP)), "Upload-Metadata": "filename ZW1vamkuemlw"}
                    case.headers.update(TUS | whole)
                case "PATCH", _:
                    case.headers.pop("Upload-Checksum", None)
                    there = case.headers.get("Upload-Offset")
                    case.body = uploads.MODEL_ZIP[HALF:] if there == str(HALF) else uploads.MODEL_ZIP[:HALF]

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"headers": {"Authorization": self.http.headers["authorization"]}}

        def after_call(self, response: Response, case: Case) -> None:
            super().after_call(response, case)
            if not 200 <= response.status_code < 300:
                return
            succeeded.add((case.method, case.path))
            started = response.status_code == 202 and "job" in response.json()
            if started and "idempotent-replayed" not in response.headers and next(self.worked):
                self.work(response.json())

        def work(self, started: dict[str, Any]) -> None:
            """What a worker does."""
            job_id = started["job"]["id"]
            tenant_id = rows.job(backstage.database, job_id).tenant_id
            match started:
                case {"model": model}:
                    rows.finish_embedding(backstage, model["id"], started["secret_key"], self.checkpoint)
                    self.known["model_id"] = model["id"]
                case {"audit": audit}:
                    rows.finish_audit(backstage, tenant_id, audit["id"], job_id)
                case {"verification": {"id": verification_id, "hub": None}}:  # one on the hub waits
                    rows.finish_verification(backstage, tenant_id, verification_id, job_id)

        def validate_response(self, response: Response, case: Case, additional_checks: Any = None, **sent: Any) -> None:
            checks = PROMISES if case.path.startswith("/v1/models") else PROMISES + GONE  # a retired model is still shown
            case.validate_response(response, checks=checks, transport_kwargs=sent, recorder=self.recorder)

    Flow.run(
        settings=settings(
            max_examples=flows, stateful_step_count=40, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )
    )
    assert len(succeeded) > (10 if flows < 10 else 20)
