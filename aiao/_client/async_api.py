"""The client for asyncio: the calls of :class:`aiao.Client`, each in a thread, so that nothing is written twice."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from aiao._client.api import Client
from aiao._client.artifacts import Artifacts
from aiao._client.audits import Audits
from aiao._client.jobs import Jobs
from aiao._client.models import Models
from aiao._client.stopping import stopped_by
from aiao._client.tokens import Tokens
from aiao._client.verifications import Verifications
from aiao._client.webhooks import Webhooks

AT_ONCE = 100
"""Calls of one client that run at a time, one thread each: as many as it has connections. Others wait."""

P = ParamSpec("P")
T = TypeVar("T")
Calls = TypeVar("Calls")


class _Threads:
    """Runs calls in threads. They are daemons: a program may end while one still waits for an answer."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)

    async def run(self, call: Callable[[], T]) -> T:
        """Run ``call`` in a thread. If the awaiting task is canceled, it stops at its next step, which is not waited for."""
        async with self._free:
            future: Future[T] = Future()
            stop = threading.Event()
            arguments = (_settle, future, stop, call)
            threading.Thread(target=copy_context().run, args=arguments, name="aiao-call", daemon=True).start()
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                stop.set()
                raise


def _settle(future: Future[T], stop: threading.Event, call: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        with stopped_by(stop):
            result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


class _Async(Generic[Calls]):
    """The calls of a resource, awaitable."""

    def __init__(self, calls: Calls, threads: _Threads) -> None:
        self._calls, self._threads = calls, threads


def _awaitable(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """``method`` of a resource as a coroutine function of its :class:`_Async`."""

    @wraps(method)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._threads.run(partial(method, self._calls, *args, **kwargs))
        return result

    return call


def _iterated(method: Callable[Concatenate[Any, P], Iterator[T]]) -> Callable[Concatenate[Any, P], AsyncGenerator[T, None]]:
    """``method`` of a resource, which yields, as an asynchronous generator function of its :class:`_Async`."""

    @wraps(method)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        iterator: Any = method(self._calls, *args, **kwargs)
        try:
            while (item := await self._threads.run(partial(next, iterator, _END))) is not _END:
                yield item
        finally:
            with suppress(ValueError):  # a canceled thread still runs it, and ends it at its next step
                iterator.close()

    return call


_END: Any = object()


class AsyncArtifacts(_Async[Artifacts]):
    """Uploaded files."""

    upload = _awaitable(Artifacts.upload)
    list = _iterated(Artifacts.list)
    get = _awaitable(Artifacts.get)
    delete = _awaitable(Artifacts.delete)


class AsyncModels(_Async[Models]):
    """Registered models."""

    register = _awaitable(Models.register)
    renew = _awaitable(Models.renew)
    list = _iterated(Models.list)
    get = _awaitable(Models.get)
    retire = _awaitable(Models.retire)
    public_key = _awaitable(Models.public_key)
    key_opened = _awaitable(Models.key_opened)
    download = _awaitable(Models.download)


class AsyncVerifications(_Async[Verifications]):
    """Tests of suspects."""

    create = _awaitable(Verifications.create)
    list = _iterated(Verifications.list)
    get = _awaitable(Verifications.get)
    report = _awaitable(Verifications.report)
    report_html = _awaitable(Verifications.report_html)


class AsyncAudits(_Async[Audits]):
    """Attacks on registered models, and what their watermarks withstand."""

    create = _awaitable(Audits.create)
    list = _iterated(Audits.list)
    get = _awaitable(Audits.get)
    report = _awaitable(Audits.report)
    report_html = _awaitable(Audits.report_html)


class AsyncJobs(_Async[Jobs]):
    """Jobs of the service: every registration, verification and audit starts one."""

    list = _iterated(Jobs.list)
    get = _awaitable(Jobs.get)
    cancel = _awaitable(Jobs.cancel)
    wait = _awaitable(Jobs.wait)
    follow = _iterated(Jobs.follow)


class AsyncTokens(_Async[Tokens]):
    """Bearer tokens."""

    issue = _awaitable(Tokens.issue)
    list = _iterated(Tokens.list)
    revoke = _awaitable(Tokens.revoke)


class AsyncWebhooks(_Async[Webhooks]):
    """Addresses that hear of every job that ends."""

    create = _awaitable(Webhooks.create)
    list = _iterated(Webhooks.list)
    delete = _awaitable(Webhooks.delete)
    deliveries = _iterated(Webhooks.deliveries)
    retry = _awaitable(Webhooks.retry)


class AsyncClient:
    """A client of the service for asyncio. Close it, or use it in an ``async with`` block.

    It has the resources and calls of :class:`aiao.Client`, with the same arguments and errors: await a call, and go over a list
    or a job's changes with ``async for``. Callbacks are called in the thread of their call, not in the event loop.

    Canceling a task ends its await at once. Its thread sends nothing new after that: it stops at its next request, piece of a
    file or change of a job. What the service had already been asked to do, it does: a job that was started goes on until
    ``jobs.cancel``.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 60) -> None:
        """Take the arguments of :class:`aiao.Client`. Raises :class:`aiao.ClientError` as it does."""
        self._client = client = Client(url, token, timeout=timeout)
        self._threads = threads = _Threads()
        self.url = client.url
        """Address of the service."""
        self.artifacts = AsyncArtifacts(client.artifacts, threads)
        self.models = AsyncModels(client.models, threads)
        self.verifications = AsyncVerifications(client.verifications, threads)
        self.audits = AsyncAudits(client.audits, threads)
        self.jobs = AsyncJobs(client.jobs, threads)
        self.tokens = AsyncTokens(client.tokens, threads)
        self.webhooks = AsyncWebhooks(client.webhooks, threads)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._threads.run(self._client.close)
