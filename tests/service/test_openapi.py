"""What the OpenAPI document promises, tried by calls that fit it and by calls that do not."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks

from tests.processes import System

load_all_checks()
KEPT = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)


@pytest.fixture
def promised(api: System) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json")


# The events of a queued job never end; they have tests of their own.
calls = schemathesis.pytest.from_fixture("promised").exclude(path_regex="/events$")


@calls.parametrize()
@settings(max_examples=15, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_promises(case, http):
    case.call_and_validate(headers={"Authorization": http.headers["authorization"]}, checks=KEPT)
