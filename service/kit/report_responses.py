"""Reports over HTTP: versioned JSON, or a self-contained page if the client asks for one."""

import hashlib
from collections.abc import Callable
from typing import Annotated

from fastapi import Header, Response
from fastapi.responses import HTMLResponse

from aiao_core.reports import pages
from service.kit.etags import Precondition, conditional, strong, weak

POLICY = f"{pages.POLICY}; frame-ancestors 'none'"
"""What the page says of itself, and that no other page may frame it, which only a header can say."""

Accept = Annotated[str, Header(description="`text/html` for a page to read or print; JSON otherwise.")]

JSON_OR_PAGE = conditional(content={"text/html": {"schema": {"type": "string"}}}, description="JSON, or HTML by `Accept`.")


def report_response(report: str, page: Callable[[], str], accept: str, precondition: Precondition) -> Response:
    """Answer with the stored JSON ``report``, or with the ``page`` made of it."""
    if "text/html" in accept.lower():
        headers = precondition.check(weak(report, "page"), vary="Accept")
        return HTMLResponse(page(), headers=headers | {"Content-Security-Policy": POLICY})
    headers = precondition.check(strong(hashlib.sha256(report.encode()).hexdigest()), vary="Accept")
    return Response(report, media_type="application/json", headers=headers)
