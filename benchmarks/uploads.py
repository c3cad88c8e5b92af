"""What an upload costs: the memory of the API process, and its speed beside the disk's and sha256sum's.

    python -m benchmarks.uploads --gigabytes 10

A real API process on SQLite and a folder takes one file by a plain POST and another by a resumable upload.
"""

import argparse
import os
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import httpx

from client.artifacts import Artifacts
from tests.processes import System, private_redis, system

CHUNK = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    size = int(parser.parse_args().gigabytes * 1e9) // CHUNK * CHUNK
    with tempfile.TemporaryDirectory() as folder, private_redis() as redis:
        file = Path(folder) / "large.tar"
        write(file, size)
        sha256sum, copy = seconds("sha256sum", file), seconds("cp", file, file.with_suffix(".copy"))
        file.with_suffix(".copy").unlink()
        print(f"{size / 1e9:.1f} GB; sha256sum {sha256sum:.1f} s, cp {copy:.1f} s")
        with system(Path(folder) / "system", broker_url=redis, AIAO_QUEUE="nobody") as running, running.client() as client:
            print(f"API at rest: {resident(running):.0f} MiB resident")
            for name, upload in (("plain POST", post), ("resumable", resumable)):
                start = time.monotonic()
                upload(client.artifacts, file)
                took = time.monotonic() - start
                ratios = f"{took / sha256sum:.2f} x sha256sum, {took / (sha256sum + copy):.2f} x sha256sum and cp"
                print(f"{name}: {took:.1f} s, {ratios}; API {resident(running):.0f} MiB resident at its peak", flush=True)
                for artifact in client.artifacts.list():
                    client.artifacts.delete(artifact.id)


def write(file: Path, size: int) -> None:
    """A TAR archive of noise: its first header is one, and nothing looks at the rest."""
    noise = os.urandom(CHUNK)
    with file.open("wb") as target:
        target.write(tarfile.TarInfo("weights").tobuf().ljust(CHUNK, b"\0"))
        for _ in range(size // CHUNK - 1):
            target.write(noise)


def post(artifacts: Artifacts, file: Path) -> None:
    def chunks():
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk

    timeout = httpx.Timeout(60, read=3600)
    artifacts._client.send("POST", "/v1/artifacts", params={"filename": file.name}, content=chunks(), timeout=timeout)


def resumable(artifacts: Artifacts, file: Path) -> None:
    artifacts.upload(file)


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
