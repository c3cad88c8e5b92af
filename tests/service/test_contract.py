"""The OpenAPI document that is checked in is what the service serves, and no change of it breaks a client."""

import copy
import json

import pytest

from service.app import create_app
from service.settings import Settings
from tests.support.breaking import breaking
from tests.support.places import PROJECT

CONTRACT = PROJECT / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def checked_in() -> dict:
    return json.loads(CONTRACT.read_text())


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> dict:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"))
    return json.loads(json.dumps(create_app(settings).openapi()))


def test_no_change_breaks_a_client(checked_in, served):
    assert breaking(checked_in, served) == []


def test_the_document_is_checked_in(checked_in, served):
    """After a change that breaks nothing: make openapi"""
    assert served == checked_in


def changed(document: dict, change: str) -> dict:
    new = copy.deepcopy(document)
    paths, schemas = new["paths"], new["components"]["schemas"]
    match change:
        case "a call goes":
            del paths["/v1/jobs/{job_id}"]["get"]
        case "a call has another name":
            paths["/v1/jobs/{job_id}"]["get"]["operationId"] = "job"
        case "a type has another name":
            schemas["Audit__Summary"] = schemas.pop("Summary")
            for answer in (schemas["AuditOut"], schemas["AuditReport"]):
                renamed = json.dumps(answer["properties"]["summary"]).replace("schemas/Summary", "schemas/Audit__Summary")
                answer["properties"]["summary"] = json.loads(renamed)
        case "a parameter goes":
            paths["/v1/jobs"]["get"]["parameters"] = [
                each for each in paths["/v1/jobs"]["get"]["parameters"] if each["name"] != "kind"
            ]
        case "a parameter is needed":
            paths["/v1/jobs"]["get"]["parameters"][0]["required"] = True
        case "a field of an answer goes":
            del schemas["JobOut"]["properties"]["state"]
        case "a field of an answer changes its kind":
            schemas["JobOut"]["properties"]["attempt"]["type"] = "string"
        case "an answer has a new value":
            schemas["JobOut"]["properties"]["state"]["enum"].append("paused")
        case "an answer that may be null has a new value":
            schemas["VerificationOut"]["properties"]["verdict"]["anyOf"][0]["enum"].append("perhaps")
        case "an answer may be null":
            shown = schemas["JobOut"]["properties"]
            shown["state"] = {"anyOf": [shown["state"], {"type": "null"}]}
        case "a field of a request is needed":
            schemas["ModelIn"]["required"].append("custody")
        case "a field of a request goes":
            del schemas["ModelIn"]["properties"]["images_artifact_id"]
        case "a value is not taken":
            schemas["ModelIn"]["properties"]["custody"]["enum"].remove("owner")
        case "a limit is lower":
            schemas["ModelIn"]["properties"]["name"]["maxLength"] = 10
        case "a success goes":
            del paths["/v1/models"]["post"]["responses"]["202"]
        case "a form of the answer goes":
            del paths["/v1/verifications/{verification_id}/report"]["get"]["responses"]["200"]["content"]["text/html"]
        case "a form of the body goes":
            paths["/v1/artifacts"]["post"]["requestBody"]["content"] = {}
    return new


@pytest.mark.parametrize(
    "change",
    [
        "a call goes", "a call has another name", "a type has another name", "a parameter goes", "a parameter is needed",
        "a field of an answer goes", "a field of an answer changes its kind", "an answer has a new value",
        "an answer that may be null has a new value", "an answer may be null",
        "a field of a request is needed", "a field of a request goes", "a value is not taken", "a limit is lower",
        "a success goes", "a form of the answer goes", "a form of the body goes",
    ],
)  # fmt: skip
def test_a_change_that_breaks_clients_is_told(checked_in, change):
    assert breaking(checked_in, changed(checked_in, change)), change
    assert breaking(checked_in, checked_in) == []


def test_more_than_there_was_breaks_nobody(checked_in):
    new = copy.deepcopy(checked_in)
    new["paths"]["/v1/new"] = {"get": {"responses": {"200": {}}}}
    new["components"]["schemas"]["JobOut"]["properties"]["later"] = {"type": "string"}
    new["components"]["schemas"]["ModelIn"]["properties"]["later"] = {"type": "string"}
    new["paths"]["/v1/jobs"]["get"]["parameters"].append({"in": "query", "name": "later", "required": False, "schema": {}})
    assert breaking(checked_in, new) == []
