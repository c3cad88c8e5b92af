"""Tokens of the caller's tenant; every call needs one with the scope ``admin``."""

from collections.abc import Iterator, Sequence
from typing import Any

from aiao._client.documents import Token, TokenIssued, read
from aiao._client.transport import Transport


class Tokens:
    """Bearer tokens."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def issue(self, name: str, scopes: Sequence[str], *, expires_in_days: int | None = None) -> TokenIssued:
        """Issue a token with ``scopes``: ``read``, ``models:write``, ``verifications:write`` or ``admin``.

        Without ``expires_in_days`` it holds until it is revoked. The secret of the answer is never shown again.
        """
        body: dict[str, Any] = {"name": name, "scopes": list(scopes), "expires_in_days": expires_in_days}
        return read(TokenIssued, self._transport.post("/v1/tokens", json=body).content)

    def list(self) -> Iterator[Token]:
        """Yield all tokens, newest first; revoked and expired ones included."""
        return self._transport.list("/v1/tokens", Token)

    def revoke(self, token_id: str) -> None:
        """Refuse a token from now on."""
        self._transport.delete(f"/v1/tokens/{token_id}")
