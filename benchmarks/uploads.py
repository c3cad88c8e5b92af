"""What an upload costs: the memory of the API process, and its speed beside the disk's and sha256sum's.

    python -m benchmarks.uploads --gigabytes 10

A real API process on SQLite takes a file by each way, into a folder and into a bucket of SeaweedFS, an S3 server on the same
machine.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from aiao import Client
from aiao._client import artifacts
from tests.support import stores
from tests.support.processes import System, private_redis, system

CHUNK = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    size = int(parser.parse_args().gigabytes * 1e9) // CHUNK * CHUNK
    with tempfile.TemporaryDirectory() as scratch, private_redis() as redis:
        folder = Path(scratch)
        file = folder / "large.tar"
        write(file, size)
        sha256sum, copy = seconds("sha256sum", file), seconds("cp", file, folder / "copy")
        (folder / "copy").unlink()
        print(f"{size / 1e9:.1f} GB; sha256sum {sha256sum:.1f} s, cp {copy:.1f} s")
        for place, name, upload in (
            ("a folder", "plain POST", post), ("a folder", "resumable", resumable),
            ("a bucket", "plain POST", post), ("a bucket", "resumable", resumable), ("a bucket", "direct", direct),
        ):  # fmt: skip
            with (
                settings(place) as storage,
                system(folder / place / name, broker_url=redis, AIAO_QUEUE="nobody", **storage) as api,
                api.client() as client,
            ):
                rest, start = resident(api), time.monotonic()
                upload(client, file)
                took = time.monotonic() - start
                ratios = f"{took / sha256sum:.2f} x sha256sum, {took / (sha256sum + copy):.2f} x sha256sum and cp"
                memory = f"API {rest:.0f} MiB resident at rest, {resident(api):.0f} at its peak"
                print(f"{name} into {place}: {took:.1f} s, {ratios}; {memory}", flush=True)
            shutil.rmtree(folder / place)


@contextmanager
def settings(place: str) -> Iterator[dict[str, str]]:
    """With a new store for each upload: SeaweedFS keeps the room of what is deleted for a while."""
    if place == "a folder":
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder, stores.s3(Path(folder)) as store:
        yield {"AIAO_STORAGE_URL": store.url} | store.environment


def write(file: Path, size: int) -> None:
    """A TAR archive of noise: its first header is one, and nothing looks at the rest."""
    noise = os.urandom(CHUNK)
    with file.open("wb") as target:
        target.write(tarfile.TarInfo("weights").tobuf().ljust(CHUNK, b"\0"))
        for _ in range(size // CHUNK - 1):
            target.write(noise)


def post(client: Client, file: Path) -> None:
    def chunks():
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk

    timeout = httpx.Timeout(60, read=3600)
    client.transport.send("POST", "/v1/artifacts", params={"filename": file.name}, content=chunks(), timeout=timeout)


def resumable(client: Client, file: Path) -> None:
    artifacts.DIRECT_BYTES = sys.maxsize
    client.artifacts.upload(file)


def direct(client: Client, file: Path) -> None:
    artifacts.DIRECT_BYTES = 0
    client.artifacts.upload(file)


def seconds(*command: str | Path) -> float:
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def resident(running: System) -> float:
    """The largest resident size so far of the API process, in MiB."""
    status = Path(f"/proc/{running.processes['api'].pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
