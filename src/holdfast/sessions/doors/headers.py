"""The headers of a response with the session's among them: ``Set-Cookie``, ``Vary``, caching.

Pure, and of no protocol but HTTP's header lines: every door that sends them comes here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Message

logger = logging.getLogger("holdfast.sessions")


def response_headers(
    message: Message, name: str, cookie: bytes | None, *, vary: bool
) -> list[tuple[bytes, bytes]]:
    """Return the headers of ``http.response.start`` with ours among them.

    Args:
        message: the application's.
        name: of our cookie.
        cookie: the value of our ``Set-Cookie``, ``None`` for none.
        vary: the answer depends on the cookie (CVE-2023-30861: else a cache gives it to others).
    """
    headers = list(message.get("headers", ()))
    if cookie is not None:
        # RFC 6265, section 4.1.1: at most one Set-Cookie of a name in a response.
        ours = name.encode("latin-1") + b"="
        headers = [
            (key, value)
            for key, value in headers
            if key.lower() != b"set-cookie" or not value.startswith(ours)
        ]
        headers.append((b"set-cookie", cookie))
        caching = b",".join(value for key, value in headers if key.lower() == b"cache-control")
        if not caching:
            headers.append((b"cache-control", b"no-store"))
        elif b"public" in caching.lower():
            logger.warning("a response that sets the session cookie says Cache-Control: public")
    if vary:
        _add_vary(headers)
    return headers


def _add_vary(headers: list[tuple[bytes, bytes]]) -> None:
    first = None
    for position, (key, value) in enumerate(headers):
        if key.lower() == b"vary":
            names = {each.strip().lower() for each in value.split(b",")}
            if names & {b"*", b"cookie"}:
                return
            first = position if first is None else first
    if first is None:
        headers.append((b"vary", b"Cookie"))
    else:
        key, value = headers[first]
        headers[first] = (key, value + b", Cookie")
