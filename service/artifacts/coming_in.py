"""How many uploads come in at a time: each holds 8 MiB of its file in memory, however slowly it comes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.kit.errors import TooManyRequests

OF_A_TENANT, IN_ALL = 8, 16
"""Most uploads at a time into one process of the API."""

_coming_in: Counter[str] = Counter()


@contextmanager
def coming_in(tenant_id: str) -> Iterator[None]:
    """Count an upload of this tenant during the block. Raise :class:`TooManyRequests`. For the event loop alone."""
    if _coming_in[tenant_id] >= OF_A_TENANT or _coming_in.total() >= IN_ALL:
        raise TooManyRequests(
            f"{_coming_in[tenant_id]} of your uploads and {_coming_in.total()} in all are coming in at the moment; send this "
            "one once another has ended",
            {"Retry-After": "10"},
        )
    _coming_in[tenant_id] += 1
    try:
        yield
    finally:
        _coming_in[tenant_id] -= 1
        if not _coming_in[tenant_id]:
            del _coming_in[tenant_id]
