"""Whose page a request comes from, by what browsers say of it and pages cannot forge. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.datastructures import Headers

Site = Literal["ours", "foreign", "unknown"]


def origin_allowed(origin: str | None, host: str, allowed: Collection[str]) -> bool:
    """Whether a page of *origin* may open a WebSocket here.

    CORS does not apply to WebSockets and cookies are sent, so the server must look (RFC 6455
    section 10.2). No ``Origin`` is no browser; ``null`` is a sandboxed or local page and never the
    same origin. A ``Host`` without a port means the default port of the origin's scheme: behind a
    proxy that ends TLS the server's own scheme says nothing.
    """
    if origin is None or "*" in allowed:
        return True
    asked = _origin(origin)
    if asked is None:
        return False
    return _is_named(asked, allowed) or asked == _origin(f"{asked[0]}://{host}")


def site_of(headers: Headers, allowed: Collection[str]) -> Site:
    """Say for whose page a browser sends a request: what a session may do, another's page may not.

    A page of *allowed* is ours, ``*`` names none: it allows no credentials. ``Sec-Fetch-Site``
    knows the scheme, ``Host`` does not, so it is asked first (Fetch Metadata). ``unknown``: no
    page, or no browser.
    """
    origin, fetched = headers.get("origin"), headers.get("sec-fetch-site")
    asked = None if origin is None else _origin(origin)
    if asked is not None and _is_named(asked, allowed):
        return "ours"
    if fetched not in {None, "none"}:
        return "ours" if fetched == "same-origin" else "foreign"
    if origin is None:
        return "unknown"
    same = asked is not None and asked == _origin(f"{asked[0]}://{headers.get('host', '')}")
    return "ours" if same else "foreign"


def _is_named(origin: tuple[str, str, int], allowed: Collection[str]) -> bool:
    return any(origin == _origin(each) for each in allowed)


_DEFAULT_PORTS = {"http": 80, "https": 443}


@lru_cache(1024)
def _origin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an origin (RFC 6454 section 4), ``None`` if it is none."""
    try:
        parts = urlsplit(text)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    extra = parts.path or parts.query or parts.fragment or "@" in parts.netloc
    if port is None or not parts.hostname or extra:
        return None
    return parts.scheme, parts.hostname, port
