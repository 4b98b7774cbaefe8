"""The browser's client, served from where its streams are: ``holdfast.js`` and its types.

Only files that ship with the package, each read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib import resources
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

TYPES = {
    "holdfast.js": "text/javascript; charset=utf-8",
    "holdfast.d.ts": "application/typescript; charset=utf-8",
}
"""The files, and the media type of each."""

FOR_EVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "public, no-cache"


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    version: str


def serve(name: str, request: Request) -> Response:
    """Return the file, or 304 where the client has it.

    ``?v=<version>`` with the version of the file as it is may be kept for ever; any other address
    is asked about again each time, which costs a 304.
    """
    file = _read(name)
    etag = f'"{file.version}"'
    named = request.query_params.get("v") == file.version
    headers = {
        "cache-control": FOR_EVER if named else ASK_AGAIN,
        "etag": etag,
        "x-content-type-options": "nosniff",
    }
    return answer(file.body, TYPES[name], headers, request)


def answer(body: bytes, media_type: str, headers: dict[str, str], request: Request) -> Response:
    """Return *body*, or 304 where the client has what ``headers["etag"]`` names."""
    if _has(request.headers.get("if-none-match", ""), headers["etag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def _has(condition: str, etag: str) -> bool:
    """Whether If-None-Match names *etag*; weakly compared, as a proxy may have made it weak."""
    tags = {each.strip().removeprefix("W/") for each in condition.split(",")}
    return etag in tags or "*" in tags


@lru_cache
def _read(name: str) -> _File:
    body = (resources.files("holdfast.streams") / "static" / name).read_bytes()
    return _File(body, sha256(body).hexdigest()[:16])
