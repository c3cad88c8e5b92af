import os
import subprocess
import sys

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from service.kit import telemetry
from service.kit.database import utc_now
from service.tables.tokens import Tenant
from tests.support.places import PROJECT

API = """
from fastapi.testclient import TestClient
from service.app import create_app
with TestClient(create_app()) as client:
    assert client.get("/healthz").status_code == 200
"""
WORKER = """
from worker.app import listen
listen()
"""
STATE = """
import sys, threading
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))])
print([thread.name for thread in threading.enumerate() if not thread.name.startswith("AnyIO")])
"""
"""The threads that FastAPI runs its endpoints in may end a moment later, and send nothing."""
OFF = "[]\n['MainThread']\n"
NOT_INSTALLED = """
import sys
sys.modules["opentelemetry.sdk.trace"] = sys.modules["opentelemetry.exporter"] = None
"""
NAMED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def run(script: str, tmp_path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment = clean | {"AIAO_DATA_DIR": str(tmp_path)} | variables
    return subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.process
@pytest.mark.parametrize("process", [pytest.param(API, id="api"), pytest.param(WORKER, id="worker", marks=pytest.mark.slow)])
def test_off_nothing_is_imported_that_could_record_or_send(tmp_path, process):
    """FastAPI imports the interface, opentelemetry-api, and redis-py the part for figures, whatever is set."""
    assert run(process + STATE, tmp_path).stdout == OFF
    on = run(process + STATE, tmp_path, **NAMED).stdout
    assert "opentelemetry.exporter.otlp.proto.http.trace_exporter" in on


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_SERVICE_NAME": "aiao"},
        NAMED | {"OTEL_SDK_DISABLED": "true"},
        NAMED | {"OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["an empty endpoint", "disabled", "no exporter"],
)
def test_it_is_switched_off_by_the_standard_variables(tmp_path, variables):
    assert run(API + STATE, tmp_path, **variables).stdout == OFF


@pytest.mark.process
@pytest.mark.parametrize("process", [pytest.param(API, id="api"), pytest.param(WORKER, id="worker", marks=pytest.mark.slow)])
def test_where_the_extra_is_not_installed_a_warning_names_it_and_all_goes_on(tmp_path, process):
    assert "pip install 'aiao-server[telemetry]'" in run(NOT_INSTALLED + process, tmp_path, **NAMED).stderr


@pytest.mark.slow
@pytest.mark.process
def test_an_operator_may_name_the_service(tmp_path):
    script = API + "from service.kit import telemetry; print(telemetry._provider.resource.attributes['service.name'])"
    assert run(script, tmp_path, **NAMED).stdout == "aiao-api\n"
    assert run(script, tmp_path, **NAMED, OTEL_SERVICE_NAME="marks").stdout == "marks\n"
    assert run(script, tmp_path, **NAMED, OTEL_RESOURCE_ATTRIBUTES="service.name=marks").stdout == "marks\n"


def test_a_failed_query_is_named_and_its_parameters_are_not(sent, database):
    with database.session() as session:
        session.add(Tenant(id="hunter2", name="hunter2", created_at=utc_now()))
    with telemetry.span("test"):
        trace_id = telemetry.trace_id()
        with database.session() as session:
            session.execute(sa.select(Tenant).where(Tenant.name == "hunter2"))
        with pytest.raises(IntegrityError), database.session() as session:
            session.add(Tenant(id="hunter2", name="hunter2", created_at=utc_now()))
    spans = sent().spans(trace_id)
    assert [span.name for span in spans if span.failed] == ["INSERT"]
    assert spans[-1].attributes["error.type"] in ("IntegrityError", "UniqueViolation")
    assert "tenants.name = " in next(span.attributes["db.query.text"] for span in spans if span.name == "SELECT")
    assert "hunter2" not in sent().text


def test_many_rows_are_one_span(sent, database):
    with database.session() as session:
        session.add_all(Tenant(id=name, name=name, created_at=utc_now()) for name in "ab")
    with telemetry.span("test"), database.session() as session:
        trace_id = telemetry.trace_id()
        session.execute(sa.update(Tenant), [{"id": name, "name": name * 2} for name in "ab"])
    assert [span.name for span in sent().spans(trace_id) if span.name != "BEGIN"] == ["test", "UPDATE"]


def test_queries_outside_of_a_trace_are_no_traces(sent, database):
    before = len(sent().bodies)
    database.ping()
    with telemetry.span("test"), telemetry.untraced():
        database.ping()
    assert len(sent().bodies) == before + 1
    assert "SELECT 1" not in sent().bodies[-1].decode("latin-1")
