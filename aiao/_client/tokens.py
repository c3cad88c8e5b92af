"""Tokens of the caller's tenant; all of this needs one with the scope ``admin``."""

from collections.abc import Iterator, Sequence
from typing import Any

from aiao._client.documents import Token, TokenIssued
from aiao._client.http import read
from aiao._client.resource import Resource


class Tokens(Resource):
    """Bearer tokens."""

    def issue(self, name: str, scopes: Sequence[str], *, expires_in_days: int | None = None) -> TokenIssued:
        """A new token with ``scopes``: ``read``, ``models:write``, ``verifications:write`` or ``admin``.

        The secret of the answer is never shown again.
        """
        body: dict[str, Any] = {"name": name, "scopes": list(scopes), "expires_in_days": expires_in_days}
        return read(TokenIssued, self._client.post("/v1/tokens", json=body).content)

    def list(self) -> Iterator[Token]:
        """All tokens, newest first; revoked and expired ones included."""
        return self._list("/v1/tokens", Token)

    def revoke(self, token_id: str) -> None:
        self._client.delete(f"/v1/tokens/{token_id}")
