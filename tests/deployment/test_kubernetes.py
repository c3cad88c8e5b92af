"""The Kubernetes manifests: valid by the published schemas, and as strict as the restricted pod standard."""

import importlib.util
import warnings
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import ByteSize, TypeAdapter

from service.kit.queues import Fleet
from service.settings import Settings
from tests.support.places import PROJECT

FOLDER = PROJECT / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
DOCUMENTS: list[dict[str, Any]] = [
    document
    for file in [*KUSTOMIZATION["resources"], "secret.example.yaml"]
    for document in yaml.safe_load_all((FOLDER / file).read_text())
]
PODS = {
    f"{document['kind']} {document['metadata']['name']}": document["spec"]["template"]["spec"]
    for document in DOCUMENTS
    if document["kind"] in ("Deployment", "Job")
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: f"{document['kind']} {document['metadata']['name']}")
def test_it_is_valid(document):
    if document["apiVersion"].startswith("keda.sh/"):
        pytest.skip("of an extension, whose schema is not published with Kubernetes'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kubernetes_validate.validate(document, "1.33", strict=True)


def test_the_schema_would_notice_a_mistake():
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Service", "spec": {"prots": []}}, "1.33", strict=True)


@pytest.mark.parametrize("name", PODS)
def test_every_pod_has_no_rights_and_a_read_only_root(name):
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}
        }  # fmt: skip
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}
        assert "memory" in container["resources"]["limits"]
        assert container["image"] in {image["name"] for image in KUSTOMIZATION["images"]}


@pytest.mark.parametrize("name", PODS)
def test_its_commands_exist(name):
    command = PODS[name]["containers"][0].get("command", ["python", "-m", "service.app"])
    if command[0] == "celery":
        assert command[:4] == ["celery", "--app", "worker.app", "worker"]
    else:
        assert command == ["aiao", "admin", "migrate"] or importlib.util.find_spec(command[2])


def test_it_names_settings_that_exist():
    names = {
        name
        for each in DOCUMENTS
        if each["kind"] in ("ConfigMap", "Secret")
        for name in each.get("data", each.get("stringData"))
    }
    assert {name for name in names if name.startswith("AIAO_")} <= {f"AIAO_{field.upper()}" for field in Settings.model_fields}


def queue_of(name: str) -> str:
    command = PODS[name]["containers"][0]["command"]
    return command[command.index("--queues") + 1]


SETTINGS = next(document["data"] for document in DOCUMENTS if document["kind"] == "ConfigMap")
FLEET = Fleet.parse("aiao", SETTINGS["AIAO_QUEUES"])
WORKERS = {queue_of(name): PODS[name]["containers"][0] for name in PODS if "worker" in name}


def test_every_queue_has_workers_of_its_own():
    assert sorted(WORKERS) == sorted(FLEET.names)


@pytest.mark.parametrize("queue", FLEET.queues, ids=lambda queue: queue.name)
def test_a_worker_has_the_memory_that_its_queue_promises_and_one_process_for_one_gpu(queue):
    worker = WORKERS[queue.name]
    limits, variables = worker["resources"]["limits"], {each["name"]: each["value"] for each in worker["env"]}
    assert TypeAdapter(ByteSize).validate_python(limits["memory"] + "B") > queue.memory_bytes
    assert worker["command"][worker["command"].index("--concurrency") + 1] == "1"
    assert (limits.get("nvidia.com/gpu"), variables.get("AIAO_GPU")) == ((1, "true") if "gpu" in queue.name else (None, None))
    assert ("cuda" in worker["image"]) == ("gpu" in queue.name)


def test_workers_are_scaled_by_the_jobs_of_their_own_queue():
    scaled = {
        document["spec"]["scaleTargetRef"]["name"]: document["spec"]["triggers"][0]["metadata"]["query"]
        for document in DOCUMENTS
        if document["kind"] == "ScaledObject"
    }
    assert scaled == {
        name.removeprefix("Deployment "): f'max(sum by (instance) (aiao_jobs{{queue="{queue_of(name)}"}}))'
        for name in PODS
        if "worker" in name
    }
