"""Reports over HTTP: versioned JSON, or a self-contained page for whoever asks for one."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Header, Response
from fastapi.responses import HTMLResponse

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A report holds names that clients chose: nothing in it may run or load."""

Accept = Annotated[str, Header(description="`text/html` for a page to read or print; JSON otherwise.")]

JSON_OR_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "JSON, or HTML by `Accept`."}
}


def report_response(report: str, page: Callable[[], str], accept: str) -> Response:
    """The stored JSON ``report``, or the ``page`` made of it."""
    if "text/html" in accept.lower():
        return HTMLResponse(page(), headers={"Content-Security-Policy": POLICY})
    return Response(report, media_type="application/json")
