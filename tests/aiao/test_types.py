"""What a type checker tells a user of the package."""

import subprocess
import sys

import pytest

from tests.support.places import PROJECT

GOOD = """
from collections.abc import AsyncGenerator, Iterator
from typing import assert_type
import aiao

def sync(client: aiao.Client) -> None:
    assert_type(client.models.register("folder", name="mine"), aiao.Registration)
    assert_type(client.jobs.wait("job_1", progress=lambda job: print(job.progress)), aiao.Job)
    assert_type(client.models.list(), Iterator[aiao.RegisteredModel])

async def asynchronous(client: aiao.AsyncClient) -> None:
    assert_type(await client.models.register("folder", name="mine"), aiao.Registration)
    assert_type(await client.jobs.wait("job_1", progress=lambda job: print(job.progress)), aiao.Job)
    assert_type(client.models.list(), AsyncGenerator[aiao.RegisteredModel, None])

def library() -> None:
    key = aiao.embed(aiao.load("folder"), images="photos", steps=100, train="key-layers")
    assert_type(key, aiao.Key)
    assert_type(aiao.verify("suspect", key, source="folder").log10_p, float)
"""

BAD = """
import aiao

async def wrong(client: aiao.AsyncClient, model: aiao.Model) -> None:
    await client.models.register("folder")
    await client.models.register("folder", name="mine", custodian="owner")
    aiao.embed(model, steps="many")
    aiao.embed(model, stepps=1)
    client.jobs.wait("job_1")
"""


@pytest.mark.process
@pytest.mark.process
def test_calls_are_typed(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    command = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "good.py"), str(tmp_path / "bad.py")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.partition("bad.py:")[2].partition(":")[0] for line in errors] == ["5", "6", "7", "8", "9"], done.stdout
