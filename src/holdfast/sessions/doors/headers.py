"""The headers of a response with the session's among them: ``Set-Cookie``, ``Vary``, caching.

Pure, and of no protocol but HTTP's header lines: every door that sends them comes here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import Message

    #: Says what is to be sent, and nothing the next time it is asked.
    MoreHeaders = Callable[[], list[tuple[str, str]]]

logger = logging.getLogger("holdfast.sessions")

#: Where a scope or environ lists who else has headers for the response, as :data:`MoreHeaders`.
#: Whoever adds to it marks the session as accessed: else no door looks.
MORE_HEADERS = "holdfast.headers"


def response_headers(
    message: Message,
    name: str,
    cookie: bytes | None,
    *,
    vary: bool,
    more: Iterable[MoreHeaders] = (),
) -> list[tuple[bytes, bytes]]:
    """Return the headers of ``http.response.start`` with ours among them.

    Args:
        message: the application's.
        name: of our cookie.
        cookie: the value of our ``Set-Cookie``, ``None`` for none.
        vary: the answer depends on the cookie (CVE-2023-30861: else a cache gives it to others).
        more: what others have for it, as listed under :data:`MORE_HEADERS`.
    """
    headers = list(message.get("headers", ()))
    add_others(headers, more)
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


def add_others(headers: list[tuple[bytes, bytes]], more: Iterable[MoreHeaders]) -> None:
    """Add to *headers* what others have for them, as listed under :data:`MORE_HEADERS`."""
    for name, value in (line for each in more for line in each()):
        key = name.lower().encode("latin-1")
        if key == b"set-cookie" or all(known.lower() != key for known, _ in headers):
            headers.append((key, value.encode("latin-1")))


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
