"""Headers that every answer has unless its endpoint says otherwise, so that browsers and caches do little with it."""

from collections.abc import Iterable

DEFAULTS = {
    "Cache-Control": "no-store",  # answers may hold a secret, and all are one tenant's
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Headers = Iterable[tuple[bytes, bytes]]


def with_defaults(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return ``headers`` and those of :data:`DEFAULTS` that are not among them."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    missing = {name.lower().encode(): value.encode() for name, value in DEFAULTS.items()}
    return [*given, *((name, value) for name, value in missing.items() if name not in names)]
