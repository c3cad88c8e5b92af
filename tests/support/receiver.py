"""Somebody who listens."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.http_server import Handler, serving


@dataclass
class Receiver:
    """Keeps what it hears, and answers with ``status``."""

    url: str = ""
    status: int = 204
    location: str = ""
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def receiver(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    known = Receiver()

    class Answers(Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(known.status)
            if known.location:
                self.send_header("Location", known.location)
            self.end_headers()

        do_GET = do_POST  # so the library names it

    with serving(Answers, tls) as port:
        known.url = f"{'https' if tls else 'http'}://localhost:{port}/aiao"
        yield known
