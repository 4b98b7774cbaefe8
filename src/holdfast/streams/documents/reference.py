"""What the sub-app says of itself: an OpenAPI and an AsyncAPI document, and a page of both."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from holdfast.streams.documents import asyncapi, docs_page, openapi
from holdfast.streams.documents.assets import ASK_AGAIN, answer
from holdfast.streams.event import to_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from holdfast.settings import Settings

TYPES = {
    "openapi.json": "application/json",
    "asyncapi.json": "application/json",
    "docs": "text/html; charset=utf-8",
}
"""The documents, and the media type of each."""


def serve(name: str, settings: Settings, request: Request) -> Response:
    """Return the document, or 304 where the client has it."""
    mount = request.scope.get("root_path", "").rstrip("/") if name == "openapi.json" else ""
    body, version = _made(name, settings.stream_access, settings.session_cookie, mount)
    headers = {
        "cache-control": ASK_AGAIN,
        "etag": f'"{version}"',
        "x-content-type-options": "nosniff",
    }
    if name == "docs":
        headers["content-security-policy"] = docs_page.content_security_policy()
        headers["referrer-policy"] = "no-referrer"
    return answer(body, TYPES[name], headers, request)


@lru_cache
def _made(name: str, access: str, cookie: str, mount: str) -> tuple[bytes, str]:
    for_http, for_frames = openapi.document(access, cookie, mount), asyncapi.document()
    texts = {
        "openapi.json": lambda: to_json(for_http),
        "asyncapi.json": lambda: to_json(for_frames),
        "docs": lambda: docs_page.page(for_http, for_frames),
    }
    body = texts[name]().encode()
    return body, sha256(body).hexdigest()[:16]
