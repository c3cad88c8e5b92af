"""The client for asyncio: the same calls as the other's, against the real API."""

import asyncio
import inspect
import threading
from collections.abc import Iterator
from typing import get_origin

import pytest

import aiao
from aiao import AsyncClient, Client
from tests.support.processes import free_port, wait_for

URL = "http://127.0.0.1:1"


def resources(client: Client | AsyncClient) -> dict[str, object]:
    return {
        name: value for name, value in vars(client).items() if not name.startswith("_") and name not in ("url", "transport")
    }


def methods(value: object) -> dict[str, object]:
    return {name: getattr(type(value), name) for name in dir(type(value)) if not name.startswith("_")}


def test_both_clients_have_the_same_methods_with_the_same_signatures():
    client, other = Client(URL, "token"), AsyncClient(URL, "token")
    assert inspect.signature(Client.__init__) == inspect.signature(AsyncClient.__init__)
    assert methods(client).keys() == methods(other).keys()
    assert resources(client).keys() == resources(other).keys()
    compared = 0
    for name, calls in resources(client).items():
        awaitable = methods(resources(other)[name])
        assert methods(calls).keys() == awaitable.keys(), name
        for each, method in methods(calls).items():
            assert inspect.signature(awaitable[each]) == inspect.signature(method)
            assert awaitable[each].__doc__ == method.__doc__
            yields = get_origin(inspect.signature(method).return_annotation) is Iterator
            kind = inspect.isasyncgenfunction if yields else inspect.iscoroutinefunction
            assert kind(awaitable[each]), f"{name}.{each}"
            compared += 1
    assert compared == sum(len(methods(calls)) for calls in resources(client).values()) > 25


@pytest.fixture
def calls(api, token):
    """Runs a coroutine function with a client of the API."""

    def run(function):
        async def main():
            async with AsyncClient(api.url, token) as client:
                return await function(client)

        return asyncio.run(main())

    return run


def test_a_model_is_registered_listed_and_followed(calls, client, folder, change):
    async def story(other: AsyncClient):
        registration = await other.models.register(folder, name="mine", options={"steps": 7})
        assert await other.models.get(registration.model.id) == registration.model
        assert [model async for model in other.models.list()] == [registration.model]
        seen = []
        async for job in other.jobs.follow(registration):
            seen.append(job.state)
            if job.state == "queued":
                change(job.id, state="running", attempt=1)
            elif job.state == "running":
                change(job.id, state="succeeded", result="/v1/models/mdl_1")
        assert seen == ["queued", "running", "succeeded"]
        return await other.jobs.wait(registration)

    job = calls(story)
    assert job == client.jobs.get(job.id)
    assert job.result == "/v1/models/mdl_1"


def test_errors_are_the_same(calls, tmp_path):
    async def story(client: AsyncClient):
        with pytest.raises(aiao.ApiError) as refused:
            await client.models.get("mdl_0123456789abcdefghjkmnpqrs")
        with pytest.raises(aiao.ClientError, match="nowhere does not exist"):
            await client.artifacts.upload(tmp_path / "nowhere")
        return refused.value.status

    assert calls(story) in (404, 422)
    with pytest.raises(aiao.ClientError, match="nothing answers"):
        asyncio.run(AsyncClient(f"http://127.0.0.1:{free_port()}", "token").models.get("mdl_1"))


def test_calls_run_side_by_side_and_the_loop_meanwhile(calls, client, folder):
    """More follow a job than a pool of threads for a few cores would have."""
    job = client.models.register(folder, name="mine").job

    async def story(other: AsyncClient):
        started = asyncio.Semaphore(0)
        loop = asyncio.get_running_loop()
        waits = [
            asyncio.create_task(other.jobs.wait(job, progress=lambda _: loop.call_soon_threadsafe(started.release)))
            for _ in range(40)
        ]
        for _ in waits:
            await asyncio.wait_for(started.acquire(), 60)
        await other.jobs.cancel(job.id)
        return await asyncio.gather(*waits, return_exceptions=True)

    assert {type(error) for error in calls(story)} == {aiao.JobCanceled}


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "aiao-call"]


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    wait_for(lambda: not running(), "a call of an earlier test still runs")
    yield
    wait_for(lambda: not running(), "a call still runs")


@pytest.mark.usefixtures("no_thread_stays")
def test_a_canceled_wait_ends_at_once_and_its_thread_at_the_next_change(calls, client, folder, change):
    job = client.models.register(folder, name="mine").job

    async def story(other: AsyncClient):
        loop, first = asyncio.get_running_loop(), asyncio.Event()
        wait = asyncio.create_task(other.jobs.wait(job, progress=lambda _: loop.call_soon_threadsafe(first.set)))
        await asyncio.wait_for(first.wait(), 60)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert running()  # it waits for the service
        return (await other.jobs.get(job.id)).state

    assert calls(story) == "queued"  # the job does not end with the wait
    change(job.id, state="running", attempt=1)


@pytest.mark.usefixtures("no_thread_stays")
def test_a_canceled_upload_sends_no_more(calls, client, tmp_path):
    (tmp_path / "large.npz").write_bytes(bytes(7 << 20))
    moved: list[int] = []
    canceled = threading.Event()

    async def story(other: AsyncClient):
        loop = asyncio.get_running_loop()

        def progress(done: int, _total: int) -> None:
            moved.append(done)
            loop.call_soon_threadsafe(upload.cancel)
            assert canceled.wait(60)

        upload = asyncio.create_task(other.artifacts.upload(tmp_path / "large.npz", progress=progress))
        with pytest.raises(asyncio.CancelledError):
            await upload
        canceled.set()

    calls(story)
    wait_for(lambda: not running(), "the upload goes on")
    assert moved == [1 << 20]
    assert list(client.artifacts.list()) == []


@pytest.mark.usefixtures("no_thread_stays")
def test_a_canceled_call_tries_no_more(monkeypatch):
    """It would pause between its tries, for minutes in all."""

    async def story():
        async with AsyncClient(f"http://127.0.0.1:{free_port()}", "token") as client:
            following = asyncio.create_task(client.jobs.wait("job_1"))
            await asyncio.sleep(0.2)
            following.cancel()
            with pytest.raises(asyncio.CancelledError):
                await following

    monkeypatch.setattr("aiao._client.transport.RECONNECT_SECONDS", 60)
    asyncio.run(story())


def test_an_iteration_that_breaks_off_leaves_no_stream_open(calls, client, folder):
    job = client.models.register(folder, name="mine").job

    async def story(other: AsyncClient):
        changes = other.jobs.follow(job)
        async for latest in changes:
            assert latest.state == "queued"
            break
        await changes.aclose()
        pool = other._client.transport.http._transport._pool
        return [connection for connection in pool.connections if not connection.is_idle()]

    assert calls(story) == []
