"""A request of PEP 3333 as the scope that the doors read, and their answer's head as WSGI has it.

Pure.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import WSGIEnvironment

    from starlette.types import Scope

# What servers call the path as it was sent; PEP 3333 has no name for it.
_RAW = ("RAW_URI", "REQUEST_URI")
# RFC 9110 section 15.3.5 and 15.4.5: these have no content, and so none of a type.
_EMPTY = frozenset({204, 304})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_UNPREFIXED = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})


def scope_of(environ: WSGIEnvironment) -> Scope:
    """Return the request as an ASGI scope; ``scope["wsgi.environ"]`` is what it was made of."""
    root, path = _bytes(environ.get("SCRIPT_NAME", "")), _bytes(environ.get("PATH_INFO", ""))
    inside = raw_path(environ, path)
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": environ.get("SERVER_PROTOCOL", "HTTP/1.1").partition("/")[2],
        "method": environ["REQUEST_METHOD"],
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "path": (root + path).decode("utf-8", "replace"),
        "raw_path": None if inside is None else quote(root).encode() + inside,
        "root_path": root.decode("utf-8", "replace"),
        "query_string": _bytes(environ.get("QUERY_STRING", "")),
        "headers": list(_headers(environ)),
        "client": _client(environ),
        "server": (environ.get("SERVER_NAME", ""), _number(environ.get("SERVER_PORT"))),
        "state": {},
        "wsgi.environ": environ,
    }
    session = environ.get("holdfast.session")
    if session is not None:
        scope["session"] = session
    return scope


def raw_path(environ: WSGIEnvironment, path: bytes) -> bytes | None:
    """Return what was sent for *path*, the decoded path below the mount.

    ``None`` where the server does not tell, or where something on the way has rewritten the path.
    What stands before it may be spelled in any way: a prefix may have been added or cut off.
    """
    for name in _RAW:
        segments = _bytes(environ.get(name, "")).partition(b"?")[0].split(b"/")
        sent = b""
        for segment in reversed(segments[1:]):
            sent = b"/" + segment + sent
            decoded = unquote_to_bytes(sent)
            if decoded == path:
                return sent
            if len(decoded) > len(path):
                break
    return None


def head_of(
    status: int, headers: Iterable[tuple[bytes, bytes]]
) -> tuple[str, list[tuple[str, str]]]:
    """Return the status line and the headers of an answer."""
    found = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    if status not in _EMPTY and not any(name == "content-type" for name, _ in found):
        # The validator of PEP 3333 wants one where a body could be, and so do some servers.
        found.append(("content-type", "text/plain; charset=utf-8"))
    return f"{status} {HTTPStatus(status).phrase}", found


def body_size(environ: WSGIEnvironment) -> int | None:
    """Return how many bytes of a body follow; ``None``: until its end, which the server marks."""
    if environ.get("REQUEST_METHOD") in _READING:
        # Waiting for one that nobody reads would hold up the answer.
        return 0
    announced = environ.get("CONTENT_LENGTH") or ""
    if announced.isdecimal():
        return int(announced[:20])
    chunked = "HTTP_TRANSFER_ENCODING" in environ and environ.get("wsgi.input_terminated")
    return None if chunked else 0


def _headers(environ: WSGIEnvironment) -> Iterator[tuple[bytes, bytes]]:
    for key, value in environ.items():
        if key.startswith("HTTP_") or (key in _UNPREFIXED and value):
            name = key.removeprefix("HTTP_")
            yield name.replace("_", "-").lower().encode("latin-1"), _bytes(value)


def _client(environ: WSGIEnvironment) -> tuple[str, int] | None:
    address = environ.get("REMOTE_ADDR")
    return (address, _number(environ.get("REMOTE_PORT"))) if address else None


def _number(text: Any) -> int:
    return int(text) if str(text).isdecimal() else 0


def _bytes(text: str) -> bytes:
    # PEP 3333: the bytes of the request, each as one character. Who asks without a server may
    # have written plain text.
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
