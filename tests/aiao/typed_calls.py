"""What a type checker tells a user of the package: `make lint` reads this file, and nothing runs it.

A comment that ignores an error where there is none is an error itself.
"""

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


async def wrong(client: aiao.AsyncClient, model: aiao.Model) -> None:
    await client.models.register("folder")  # type: ignore[call-arg]
    await client.models.register("folder", name="mine", custodian="owner")  # type: ignore[call-arg]
    aiao.embed(model, steps="many")  # type: ignore[arg-type]
    aiao.embed(model, stepps=1)  # type: ignore[call-arg]
    client.jobs.wait("job_1")  # type: ignore[unused-coroutine]
