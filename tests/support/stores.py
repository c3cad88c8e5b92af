"""Start the servers that tests store objects in: SeaweedFS for S3 and for GCS, Microsoft's Azurite for Azure."""

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import boto3
import httpx
import pytest

from service.kit.credentials import Credentials
from service.kit.ids import new_id
from service.kit.storage import Storage
from tests.support.google_cloud import cloud
from tests.support.processes import free_port, stop, wait_for

BUCKET = "aiao"


@dataclass(frozen=True)
class Store:
    """An empty bucket, as ``AIAO_STORAGE_URL``, and the environment variables with which obstore finds its server."""

    url: str
    environment: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def known(self) -> Iterator[None]:
        """What is opened in this block finds the server; it keeps what it found."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            yield

    def storage(self) -> Storage:
        """A place of its own in the bucket."""
        with self.known():
            return Storage(f"{self.url}/{new_id('tst')}", Credentials())


@contextmanager
def s3(folder: Path) -> Iterator[Store]:
    """SeaweedFS, which verifies signatures, as S3 does and moto does not."""
    key, secret = "aiao-access-key", "aiao-storage-secret"
    with _seaweed(folder, {"name": "aiao", "credentials": [{"accessKey": key, "secretKey": secret}]}) as url:
        client = boto3.client("s3", "us-east-1", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret)
        wait_for(lambda: client.create_bucket(Bucket=BUCKET), f"no bucket, see {folder}")
        yield Store(
            f"s3://{BUCKET}",
            {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
            | {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret},
        )


@contextmanager
def gcs(folder: Path) -> Iterator[Store]:
    with _seaweed(folder, {"name": "anonymous"}) as url, cloud(url) as environment:
        wait_for(lambda: httpx.put(f"{url}/{BUCKET}").status_code in (200, 409), f"no bucket, see {folder}")
        yield Store(f"gs://{BUCKET}", environment)


@contextmanager
def azure(folder: Path) -> Iterator[Store]:
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("no azurite-blob on the PATH; with Node.js: npm install --global azurite")
    account, key, port = "devstoreaccount1", base64.b64encode(os.urandom(64)).decode(), free_port()
    command = [azurite, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--disableTelemetry"]
    endpoint = f"http://127.0.0.1:{port}/{account}"

    def create() -> bool:
        """obstore creates no containers."""
        date, version = formatdate(usegmt=True), "2021-08-06"
        signed = f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/{BUCKET}\nrestype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(key), signed.encode(), hashlib.sha256)).decode()
        headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {account}:{signature}"}
        return httpx.put(f"{endpoint}/{BUCKET}", params={"restype": "container"}, headers=headers).is_success

    with _running(command, folder, create, AZURITE_ACCOUNTS=f"{account}:{key}"):
        yield Store(
            f"az://{BUCKET}",
            {"AZURE_STORAGE_ACCOUNT_NAME": account, "AZURE_STORAGE_ACCOUNT_KEY": key}
            | {"AZURE_STORAGE_ENDPOINT": endpoint, "AZURE_ALLOW_HTTP": "true"},
        )


@contextmanager
def _seaweed(folder: Path, identity: dict[str, object]) -> Iterator[str]:
    """The URL of an S3 server at which ``identity`` may do anything."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("no SeaweedFS: pip installs it on Linux alone")
    (folder / "s3.json").write_text(json.dumps({"identities": [identity | {"actions": ["Admin"]}]}))
    ports: dict[str, object] = {
        name: free_port() for part in ("master", "volume", "filer", "s3") for name in (f"{part}.port", f"{part}.port.grpc")
    }
    options = ports | {"s3.port.iceberg": 0, "s3.port.lance": 0, "ip": "127.0.0.1", "ip.bind": "127.0.0.1"}
    options |= {"dir": folder, "s3.config": folder / "s3.json"}
    command = [str(weed), "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]
    url = f"http://127.0.0.1:{ports['s3.port']}"
    with _running(command, folder, lambda: httpx.get(url)):
        yield url
    for port in ports.values():
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink()


@contextmanager
def _running(command: list[str], folder: Path, ready: Callable[[], object], **variables: str) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as file:
        environment = os.environ | variables
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)

    def lives_and_is_ready() -> object:
        if process.poll() is not None:
            pytest.fail(f"{command[0]} ended: {log.read_text()[-2000:]}")
        return ready()

    try:
        wait_for(lives_and_is_ready, f"a store is not ready, see {log}")
        yield
    finally:
        stop(process, signal.SIGKILL)
