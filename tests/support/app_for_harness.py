"""The smallest ASGI app: what the tests of the harness itself serve."""

from __future__ import annotations

import os
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every request with the process id and one variable, as a page."""
    if scope["type"] == "lifespan":
        return
    body = f"<title>{os.environ.get('HOLDFAST_APP', 'none')}</title>{os.getpid()}".encode()
    headers = [(b"content-type", b"text/html")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
