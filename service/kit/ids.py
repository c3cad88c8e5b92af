"""Identifiers that sort by the time they were made: a prefix, and 48 bits of milliseconds, 20 of nanoseconds and 60 random."""

import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
LENGTH = 26


def new_id(prefix: str) -> str:
    """Make an identifier: ``<prefix>_`` and 26 characters of Crockford's base 32."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    number = milliseconds << 80 | nanoseconds << 60 | secrets.randbits(60)
    return f"{prefix}_" + "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(LENGTH)))


def pattern(prefix: str) -> str:
    """Return the regular expression of such an identifier."""
    return f"^{prefix}_[0-9a-hjkmnp-tv-z]{{{LENGTH}}}$"
