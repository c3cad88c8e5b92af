"""Changed copies of good bytes: cut, overwritten, spliced, and, where they are JSON, with other values in it."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

ODD_BYTES = (b"\0", b"\xff" * 8, b"\x7f", b"{", b'"', b"[" * 2000, b"../../etc/passwd", b"1e999", b"\xf0\x9f\x98\x80", b"-1")
ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 0.5, 1 << 31, 1 << 64, 10**400, 1e308, float("nan"), float("inf"), "", "\0", "a" * 5000, "\ud800",
    "../..", [], {}, [[]], [None], {"a": {}}, [1 << 40] * 3, "cuda", "nan",
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, good: list[bytes]) -> bytes:
    """Draw a copy of one of ``good`` with up to four changes."""
    content = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(1, 4))):
        document = _as_json(content)
        content = draw(_other_value(document)) if document and draw(st.booleans()) else draw(_other_bytes(content))
    return content


@st.composite
def _other_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    # Most of what a format means stands at its beginning and its end.
    near = st.integers(0, min(512, len(content)))
    start = draw(st.one_of(near, st.integers(0, len(content)), near.map(lambda back: len(content) - back)))
    size = draw(st.one_of(st.integers(0, 16), st.just(len(content))))
    put = draw(st.one_of(st.sampled_from(ODD_BYTES), st.binary(max_size=16), st.just(content[: draw(near)])))
    return content[:start] + put + content[start + size :]


@st.composite
def _other_value(draw: st.DrawFn, document: Any) -> bytes:
    """Draw a copy of a JSON document with another value, or another name, somewhere."""
    holder, place = draw(st.sampled_from(list(_places(document))))
    value = draw(st.sampled_from(ODD_VALUES))
    if isinstance(holder, dict) and draw(st.integers(0, 4)) == 0:
        holder[value if isinstance(value, str) else str(value)[:40]] = holder.pop(place)
    else:
        holder[place] = value
    return json.dumps(document).encode()


def _as_json(content: bytes) -> Any:
    """The object that the bytes are, or None."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and document else None


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a document that holds a value, as the list or object that it is in and its index or name."""
    for place, inside in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, place
        if isinstance(inside, dict | list):
            yield from _places(inside)
