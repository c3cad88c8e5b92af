"""The Kubernetes manifests: valid by the published schemas, and as strict as the restricted pod standard."""

import importlib.util
import ipaddress
import warnings
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import ByteSize, TypeAdapter

from service.kit.queues import Fleet
from service.settings import SECRET_NAMES, Settings
from tests.support.places import PROJECT

FOLDER = PROJECT / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
DOCUMENTS: list[dict[str, Any]] = [
    document
    for file in [*KUSTOMIZATION["resources"], "secret.example.yaml"]
    for document in yaml.safe_load_all((FOLDER / file).read_text())
]
SETTINGS = next(document["data"] for document in DOCUMENTS if document["kind"] == "ConfigMap")
PODS = {
    f"{document['kind']} {document['metadata']['name']}": document["spec"]["template"]["spec"]
    for document in DOCUMENTS
    if document["kind"] in ("Deployment", "Job")
}
PROXY = "Deployment proxy"


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
        more = {"add": ["NET_BIND_SERVICE"]} if name == PROXY else {}
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]} | more
        }  # fmt: skip
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/data", "/tmp"}
        assert "memory" in container["resources"]["limits"]
        assert container["image"] in {image["name"] for image in KUSTOMIZATION["images"]}


@pytest.mark.parametrize("name", sorted(PODS.keys() - {PROXY}))
def test_a_pod_has_its_secrets_as_files_and_no_other(name):
    """Nothing that it starts inherits them, and none is the cluster's own."""
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["envFrom"] == [{"configMapRef": {"name": "settings"}}]
        assert not SECRET_NAMES & {each["name"] for each in container.get("env", [])}
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert places["secrets"] == SETTINGS["AIAO_SECRETS_DIR"]
    volume = next(volume for volume in pod["volumes"] if volume["name"] == "secrets")
    assert volume["secret"]["secretName"] == next(each for each in DOCUMENTS if each["kind"] == "Secret")["metadata"]["name"]
    assert volume["secret"]["defaultMode"] & 0o007 == 0


def test_the_proxy_has_no_secret_but_its_certificate():
    pod = PODS[PROXY]
    assert pod["automountServiceAccountToken"] is False
    assert [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume] == ["tls"]
    assert "envFrom" not in pod["containers"][0]


def test_every_secret_is_in_the_secret_alone():
    assert not SECRET_NAMES & SETTINGS.keys()
    assert {name for each in DOCUMENTS if each["kind"] == "Secret" for name in each["stringData"]} <= SECRET_NAMES


POLICIES = [document for document in DOCUMENTS if document["kind"] == "NetworkPolicy"]
LABELS = {
    document["spec"]["template"]["metadata"]["labels"]["app"]
    for document in DOCUMENTS
    if document["kind"] in ("Deployment", "Job")
}


def chosen(policy: dict[str, Any]) -> set[str]:
    """The labels of the pods that a policy is for."""
    selector = policy["spec"]["podSelector"]
    by_rule = {value for rule in selector.get("matchExpressions", ()) for value in rule["values"]}
    return by_rule | set(selector.get("matchLabels", {}).values()) if selector else LABELS


def reaches(app: str, address: str, port: int) -> bool:
    """Whether a pod may open a connection to an address outside the cluster."""
    to = ipaddress.ip_address(address)
    for policy in POLICIES:
        for rule in policy["spec"].get("egress", ()) if app in chosen(policy) else ():
            ports = {each["port"] for each in rule.get("ports", ())}
            blocks = [block["ipBlock"] for block in rule["to"] if "ipBlock" in block]
            if (not ports or port in ports) and any(
                to in ipaddress.ip_network(block["cidr"])
                and not any(to in ipaddress.ip_network(hole) for hole in block.get("except", ()))
                for block in blocks
            ):
                return True
    return False


def test_nothing_goes_in_or_out_that_no_policy_names():
    deny = next(policy for policy in POLICIES if policy["metadata"]["name"] == "default-deny")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert {label for policy in POLICIES for label in chosen(policy)} == LABELS
    assert {label for policy in POLICIES if "ingress" in policy["spec"] for label in chosen(policy)} == {
        label for label in LABELS if label in ("api", "proxy") or label.startswith("worker")
    }


@pytest.mark.parametrize("app", sorted(LABELS - {"proxy"}))
def test_every_pod_reaches_database_and_broker(app):
    assert reaches(app, "10.1.2.3", 5432)
    assert reaches(app, "10.1.2.3", 6379)


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.20.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.100.100.200",
        "127.0.0.1",
        "fc00::1",
        "fe80::1",
        "fec0::1",
    ],
)
@pytest.mark.parametrize("app", sorted(LABELS))
def test_no_pod_reaches_another_service_inside(app, address):
    assert not reaches(app, address, 443)
    assert not reaches(app, address, 80)


def test_the_proxy_reaches_the_api_alone():
    (policy,) = [policy for policy in POLICIES if chosen(policy) == {"proxy"}]
    assert policy["spec"]["egress"][0]["to"] == [{"podSelector": {"matchLabels": {"app": "api"}}}]
    assert not any(reaches("proxy", address, 443) for address in ("10.1.2.3", "93.184.215.14"))


@pytest.mark.parametrize("app", sorted(LABELS - {"proxy"}))
def test_only_the_courier_reaches_any_port_outside(app):
    assert reaches(app, "93.184.215.14", 443)
    assert reaches(app, "93.184.215.14", 8443) == (app == "courier")


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
