"""``Idempotency-Key``: a POST that is repeated does nothing twice and gets the same answer."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.auth.dependencies import AnyCaller
from service.kit.database import utc_now
from service.kit.errors import Conflict, IdempotencyKeyReused
from service.kit.id_patterns import IDEMPOTENCY_KEY
from service.tables.idempotency import IdempotencyRecord

REMEMBERED_FOR = timedelta(days=7)
"""How long an answer is kept: longer than any client repeats a call."""

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=IDEMPOTENCY_KEY,
        description="Any text of your choice. Repeating a call with the same key and body does nothing twice, for at least "
        f"{REMEMBERED_FOR.days} days.",
    ),
]


@dataclass(frozen=True)
class Idempotency:
    """The identity of a call. Use it in the transaction that does the work."""

    tenant_id: str
    key: str | None
    request: bytes
    """Method, path and query of the call, and its body if it is JSON."""

    def replay(self, session: Session, content: str = "") -> JSONResponse | None:
        """Return the first answer if this is a repetition. ``content`` is the digest of an uploaded body.

        Raise :class:`IdempotencyKeyReused` if the key came with another request.
        """
        record = session.get(IdempotencyRecord, (self.tenant_id, self.key)) if self.key else None
        if record is None:
            return None
        if record.request_sha256 != self._digest(content):
            raise IdempotencyKeyReused("this Idempotency-Key was used for another request; choose a new one for a new request")
        return JSONResponse(record.body, record.status, record.headers | {"Idempotent-Replayed": "true"})

    def remember(self, session: Session, status: int, body: dict[str, Any], headers: dict[str, str], content: str = "") -> None:
        """Keep the answer. ``body`` must hold no secret."""
        if self.key:
            session.add(
                IdempotencyRecord(
                    tenant_id=self.tenant_id,
                    key=self.key,
                    request_sha256=self._digest(content),
                    status=status,
                    headers=headers,
                    body=body,
                    created_at=utc_now(),
                )
            )
            try:
                session.flush()
            except IntegrityError as error:
                raise Conflict("another request with this Idempotency-Key is under way; repeat it in a second") from error

    def _digest(self, content: str) -> str:
        return hashlib.sha256(self.request + b"\0" + content.encode()).hexdigest()


def _call(request: Request) -> bytes:
    return f"{request.method} {request.url.path}?{request.url.query}".encode()


async def idempotent_json(request: Request, caller: AnyCaller, key: KeyHeader = None) -> Idempotency:
    return Idempotency(caller.tenant_id, key, _call(request) + b"\0" + await request.body())


async def idempotent_upload(request: Request, caller: AnyCaller, key: KeyHeader = None) -> Idempotency:
    return Idempotency(caller.tenant_id, key, _call(request))


IdempotentJson = Annotated[Idempotency, Depends(idempotent_json)]
IdempotentUpload = Annotated[Idempotency, Depends(idempotent_upload)]
