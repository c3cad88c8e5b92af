"""What a client may do to the server before a request reaches the application: no long heads, no slow bodies, so many at once.

    uvicorn --factory service.app:create_app --http service.kit.connections:Connection

uvicorn's own protocol bounds none of this: any client could fill the memory, or hold a connection for ever.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.kit.errors import problem

MAX_HEAD_BYTES, MAX_HEADERS = 32 << 10, 100
"""Most bytes of a request's first line, headers and trailers, and most of these: each takes 100 bytes more in memory."""

HEAD_SECONDS = 10
"""Time from a connection, or from the first byte of its next request, to the end of the head, in seconds."""

WINDOW_SECONDS, WINDOW_BYTES = 30, 16 << 10
"""A body must bring so many bytes in so many seconds, and a client must take as many of a long answer: 0.5 KiB/s."""

LINGER_SECONDS = 30
"""Time in which a body is still taken in, and dropped, after the answer: a client often reads only when all is sent."""

CHECK_SECONDS = 1

MAX_CONNECTIONS = 500
"""Most connections of a process, which often may open 1,024 files. Each may hold one read of its body, 256 KiB."""

MAX_PIPELINED = 10
"""Requests on a connection that wait for the answer to an earlier one. Clients hardly ever send any."""

HEAD, BODY, WHOLE = "head", "body", "whole"
"""How far a request has come in. A connection without one is in the head of its next."""


class Connection(HttpToolsProtocol):
    """A connection that is closed if it takes too long, or too much."""

    phase = HEAD
    since = 0.0
    """When the phase began, or its latest window."""

    _taken = 0
    """Bytes of the body in this window."""
    _unsent: tuple[int, float] | None = None
    """Bytes of the answer that the client has not taken, and since when they wait."""
    _head_bytes = 0
    _unparsed = 0
    """Bytes that came since the last part of the request that was understood: of a header, a trailer, or between chunks."""
    _too_long = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.loop.time()
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way: nothing is lost if the connection is closed."""
        return self.phase == HEAD and (self.cycle is None or self.cycle.response_complete)

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")  # which ends the connection
        super().on_message_begin()
        self._head_bytes = 0
        if self.phase != HEAD:
            self._enter(HEAD)

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._enter(BODY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._taken += len(body)
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._enter(HEAD if self.cycle.response_complete else WHOLE)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.phase == WHOLE and not self.pipeline:
            self._enter(HEAD)  # of the next request
        elif self.phase == BODY:
            self._enter(BODY)  # of which the rest is dropped

    def resume_writing(self) -> None:
        self._unsent = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        if self._too_long:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _enter(self, phase: str) -> None:
        self.phase, self.since, self._taken, self._unparsed = phase, self.loop.time(), 0, 0

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            self._too_long = True
            raise ValueError("too long a head")  # which ends the connection

    def _check(self) -> None:
        """Close the connection if it is late."""
        now = self.loop.time()
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)
        self._check_answer(now)
        if self.transport.is_closing():
            return
        if self.phase == BODY:
            self._check_body(now - self.since)
        elif self.phase == HEAD and now - self.since > HEAD_SECONDS and self.timeout_keep_alive_task is None:
            if self._unparsed:
                self._refuse(408, "request-timeout", f"the head of the request took more than {HEAD_SECONDS} s; send it again")
            self.transport.close()

    def _check_body(self, seconds: float) -> None:
        if self.cycle.response_complete:
            if seconds > LINGER_SECONDS:
                self.transport.close()
        elif self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._enter(BODY)  # it is we who take our time
        elif seconds > WINDOW_SECONDS:
            if self._taken < WINDOW_BYTES:
                detail = (
                    f"the body came by less than {WINDOW_BYTES} bytes in {WINDOW_SECONDS} s; send it again, or go on with it"
                )
                self._refuse(408, "request-timeout", detail)
            else:
                self._enter(BODY)

    def _check_answer(self, now: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            self._unsent = None
        elif self._unsent is None:
            self._unsent = unsent, now
        elif now - self._unsent[1] > WINDOW_SECONDS:
            if self._unsent[0] - unsent < WINDOW_BYTES:
                self.transport.abort()  # to close it would wait until the client has taken the rest
            self._unsent = unsent, now

    def _make_room(self) -> None:
        """Close the connection that has been without a request for longest: a slow one, in an attack."""
        others = (each for each in self.connections if isinstance(each, Connection) and each.is_idle and each is not self)
        oldest = min(others, key=lambda each: each.since, default=None)
        if oldest:
            self.connections.discard(oldest)
            oldest.transport.close()
        else:
            detail = f"this process serves {MAX_CONNECTIONS} requests at the moment; try again in a few seconds"
            self._refuse(503, "not-ready", detail, {"Retry-After": "5"})

    def _refuse_head(self) -> None:
        detail = f"the head of the request has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers; no call needs so many"
        self._refuse(431, "request-header-fields-too-large", detail)

    def _refuse(self, status: int, slug: str, detail: str, headers: dict[str, str] | None = None) -> None:
        """Answer, unless an answer is under way, and close the connection."""
        if not self.pipeline and (self.cycle is None or self.cycle.response_complete or not self.cycle.response_started):
            answer = problem(status, slug, detail, {"Connection": "close"} | (headers or {}))
            lines = [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
            self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", answer.body]))
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
