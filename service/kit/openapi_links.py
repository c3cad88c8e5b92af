"""OpenAPI links: which calls take what another one answers with, for programs that read the document."""

from typing import Any

JOB = {"job_id": "$response.body#/job/id"}
ARTIFACT = {"artifact_id": "$response.header.AIAO-Artifact"}
TUS = {"Upload-Offset": "$response.header.Upload-Offset", "Tus-Resumable": "$request.header.Tus-Resumable"}

GIVES = {
    "POST /v1/artifacts": {"artifact_id": "$response.body#/id"},
    "POST /v1/uploads": {"upload_id": "$response.header.AIAO-Upload"} | TUS,
    "HEAD /v1/uploads/{upload_id}": {"upload_id": "$request.path.upload_id"} | TUS | ARTIFACT,
    "PATCH /v1/uploads/{upload_id}": ARTIFACT,
    "POST /v1/direct-uploads": {"direct_upload_id": "$response.body#/id"},
    "POST /v1/models": {"model_id": "$response.body#/model/id"} | JOB,
    "POST /v1/verifications": {"verification_id": "$response.body#/verification/id"} | JOB,
    "POST /v1/models/{model_id}/audits": {"audit_id": "$response.body#/audit/id"} | JOB,
    "POST /v1/tokens": {"token_id": "$response.body#/token/id"},
    "POST /v1/webhooks": {"webhook_id": "$response.body#/webhook/id"},
    "GET /v1/webhooks/{webhook_id}/deliveries": {"delivery_id": "$response.body#/items/0/id"},
}
"""Where the answer of a call holds what other calls take, by the name of their parameter."""


def add(document: dict[str, Any]) -> None:
    """Link each of these calls to all those whose path names what it gives, and each page of a list to the next one."""
    calls = {f"{method.upper()} {path}": call for path, item in document["paths"].items() for method, call in item.items()}
    for name, gives in GIVES.items():
        for target in calls.values():
            taken = [each for each in target.get("parameters", []) if each["name"] in gives]
            if any(each["in"] == "path" for each in taken):
                _link(calls[name], target, {each["name"]: gives[each["name"]] for each in taken})
    for call in calls.values():
        same = {each["name"]: f"$request.{each['in']}.{each['name']}" for each in call.get("parameters", [])}
        if "cursor" in same:
            _link(call, call, same | {"cursor": "$response.body#/next_cursor"})


def _link(source: dict[str, Any], target: dict[str, Any], parameters: dict[str, str]) -> None:
    success = next(answer for status, answer in source["responses"].items() if status.startswith("2"))
    success.setdefault("links", {})[target["operationId"]] = {
        "operationId": target["operationId"], "parameters": parameters, "description": target["summary"]
    }  # fmt: skip
