"""Callers: the tokens that make calls, and those that made one a moment ago."""

import hashlib
import time
from dataclasses import dataclass
from typing import Literal

from service.kit.errors import Forbidden

Scope = Literal["read", "models:write", "verifications:write", "admin"]
"""What a token may do. Every token may read; ``admin`` may do everything."""


@dataclass(frozen=True)
class Caller:
    """A token of a tenant, which makes a call."""

    tenant_id: str
    token_id: str
    scopes: frozenset[str]

    def has(self, scope: Scope) -> bool:
        """Return whether the token has a scope; an admin's has all."""
        return "admin" in self.scopes or scope in self.scopes

    def require(self, *scopes: Scope) -> None:
        """Raise :class:`Forbidden` if the token has none of ``scopes``."""
        if "admin" not in self.scopes and "read" not in scopes and not self.scopes.intersection(scopes):
            raise Forbidden(f"this token lacks the scope {' or '.join(scopes)}; use one that has it")

    def require_maker(self, token_id: str | None, file_id: str) -> None:
        """Raise :class:`Forbidden` unless this token made a file, as ``token_id`` says, or has the scope of the owner."""
        if token_id != self.token_id and not self.has("models:write"):
            raise Forbidden(
                f"this token did not make {file_id} and lacks the scope models:write; use the token that made it, or one that "
                "has the scope"
            )


class RecentCallers:
    """Callers whose token was good less than a second ago: a client that polls costs one query a second, not one a call."""

    SECONDS = 1
    """How long a revoked token may still read."""

    MAX_CALLERS = 10_000
    """Callers kept at most. Strangers cannot fill it: only good tokens come in."""

    def __init__(self) -> None:
        self._callers: dict[str, tuple[Caller, float]] = {}

    def find(self, secret: str) -> Caller | None:
        caller, until = self._callers.get(digest(secret), (None, 0.0))
        return caller if time.monotonic() < until else None

    def note(self, secret: str, caller: Caller) -> None:
        if len(self._callers) >= self.MAX_CALLERS:
            self._callers.clear()
        self._callers[digest(secret)] = caller, time.monotonic() + self.SECONDS


def digest(secret: str) -> str:
    """Return what is kept of a token's secret."""
    return hashlib.sha256(secret.encode()).hexdigest()
