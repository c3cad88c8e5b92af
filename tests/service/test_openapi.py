"""What the OpenAPI document promises, tried by calls that fit it and by calls that do not."""

from itertools import product
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from service.app import create_app
from service.audits.schemas import AuditIn
from service.kit.ids import new_id
from service.verifications.schemas import VerificationIn
from tests.support import uploads
from tests.support.calls import own, upload

load_all_checks()
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
PROMISES = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)
CALLS = [
    (method, path)
    for path, item in create_app().openapi()["paths"].items()
    for method in item
    if not path.endswith("/events")  # those of a queued job never end; they have a test of their own
]
# Until then the model is ready, and nobody has seen its key.
CALLS.sort(key=lambda call: call[0] == "delete" or call[1].endswith("/opened"))
CASES = 2_000
"""Calls that `make test` tries, on one database."""

CASES_OF_ALL = 50_000
"""Calls that `make test-all` tries on each of two."""

TESTS: dict[str, type[BaseModel]] = {"/v1/verifications": VerificationIn, "/v1/models/{model_id}/audits": AuditIn}
"""Calls whose options the document lets depart from the rules of a test, which it tells in words alone."""


@pytest.fixture(scope="module")
def document(api) -> schemathesis.BaseSchema:
    config = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})  # the token is a good one
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json", config=config)


@pytest.fixture(scope="module")
def known(http, backstage, tmp_path_factory) -> dict[str, str]:
    """Identifiers that exist and a printable name, by parameter; generated identifiers are unknown, few names printable."""
    things = own(http, backstage, tmp_path_factory.mktemp("things"))
    names = ("model_id", "job_id", "verification_id", "audit_id", "artifact_id", "upload_id", "direct_upload_id", "token_id",
             "webhook_id", "delivery_id")  # fmt: skip
    others = {
        "images_artifact_id": upload(http, uploads.npz()),
        "base_artifact_id": things.artifact_id,
        "name": "a",
        "url": "https://example.com",
    }
    return {name: getattr(things, name) for name in names} | others


def with_known(part: Any, known: dict[str, str]) -> Any:
    given = [name for name, value in part.items() if value is not None] if isinstance(part, dict) else []
    return part | {name: known[name] for name in given if name in known} if given else part


def departs(path: str, body: Any) -> bool:
    """Whether a body that else fits asks for a test by other rules than those of every verdict."""
    try:
        TESTS[path].model_validate(body)
    except (KeyError, ValidationError) as error:
        return isinstance(error, ValidationError) and [each["loc"] for each in error.errors()] == [("options",)]
    return False


@pytest.mark.slow
@pytest.mark.parametrize("path", TESTS)
def test_what_fits_the_document_is_refused_for_the_rules_of_a_test_alone(document, http, known, path):
    headers = {"Authorization": http.headers["authorization"]}
    seen, departed = set(), []

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(case=document[path]["post"].as_strategy(GenerationMode.POSITIVE))
    def try_it(case: Case) -> None:
        case.path_parameters, case.body = with_known(case.path_parameters, known), with_known(case.body, known)
        answer = case.call_and_validate(headers=headers, checks=PROMISES)
        if departs(path, case.body):
            departed.append(case.body.pop("options"))
            assert (answer.status_code, answer.json()["type"]) == (422, "invalid-request")
            assert answer.json()["detail"].startswith("body.options: Value error, ")
            answer = case.call_and_validate(headers=headers, checks=PROMISES)
        assert answer.json().get("type") != "invalid-request", answer.text
        seen.add(answer.status_code)

    try_it()
    assert departed
    assert 202 in seen


def of_all(number: int, call: tuple[str, str]) -> Any:
    """The long run of one call, which any process of `make test-all` may take."""
    marks = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.xdist_group(f"calls-{number % 4}")]
    return pytest.param(*call, CASES_OF_ALL, marks=marks)


@pytest.mark.parametrize(
    ("method", "path", "cases"),
    [*((*call, CASES) for call in CALLS), *(of_all(number, call) for number, call in enumerate(CALLS))],
    ids=str,
)
def test_every_answer_is_one_that_the_document_promises(document, http, known, method, path, cases):
    call = document[path][method]
    of_its_own = path in ("/v1/models", "/v1/artifacts/{artifact_id}")
    these = known | ({"artifact_id": upload(http)} if of_its_own else {})
    headers = {"Authorization": http.headers["authorization"]}
    seen = set()

    def try_calls(cases: st.SearchStrategy[Case], existing: st.SearchStrategy[bool], count: int) -> None:
        @settings(max_examples=count, suppress_health_check=list(HealthCheck))
        @given(case=cases, exists=existing)
        def try_it(case: Case, exists: bool) -> None:
            if exists:
                case.path_parameters, case.body = with_known(case.path_parameters, these), with_known(case.body, these)
                if departs(path, case.body):  # these have a test of their own
                    del case.body["options"]
            seen.add(case.call_and_validate(headers=headers, checks=PROMISES).status_code)

        try_it()

    count = -(-cases // len(CALLS))
    try_calls(call.as_strategy(GenerationMode.POSITIVE), st.just(True), count // 3)
    try_calls(st.one_of(map(call.as_strategy, GenerationMode)), st.booleans(), count - count // 3)
    # A generated file is none that the service knows, and its storage is a folder, so an upload never gets that far; it has
    # tests of its own.
    is_upload = method in ("post", "patch") and path.startswith(("/v1/artifacts", "/v1/uploads", "/v1/direct-uploads"))
    is_upload = is_upload or path.endswith("/parts")
    assert is_upload or seen & {200, 201, 202, 204}, "no call succeeded, so nothing was learned of such answers"


MISSING = object()


@pytest.mark.parametrize(
    ("kind", "choices", "others"),
    [
        (VerificationIn, {"artifact_id": new_id("art"), "hub": "hf://owner/name"}, {"model_id": new_id("mdl")}),
        (AuditIn, {"preset": "quick", "attacks": ["quantisation-8"]}, {}),
    ],
)
def test_the_document_tells_what_is_one_choice(kind: type[BaseModel], choices: dict[str, Any], others: dict[str, str]):
    described = jsonschema_rs.validator_for(kind.model_json_schema())
    for values in product(*((MISSING, None, value) for value in choices.values())):
        body = others | {name: value for name, value in zip(choices, values, strict=True) if value is not MISSING}
        try:
            kind.model_validate(body)
        except ValidationError:
            assert not described.is_valid(body), body
        else:
            assert described.is_valid(body), body
