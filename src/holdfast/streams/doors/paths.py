"""Which operation a request names, and how it may be asked for.

Pure: a scope's path in, an operation and a run id out.

Run ids are taken from the raw path and decoded once: a decoded path cannot tell ``a%2Fb`` from
``a/b``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote_to_bytes

from holdfast.errors import InvalidEvent
from holdfast.streams.event import check_run_id

if TYPE_CHECKING:
    from starlette.types import Scope

Operation = Literal[
    "events",
    "stream",
    "websocket",
    "stop",
    "many_stream",
    "many_websocket",
    "livez",
    "readyz",
    "openapi.json",
    "asyncapi.json",
    "docs",
    "holdfast.js",
    "holdfast.d.ts",
]

_RUN_OPERATIONS: dict[tuple[bytes, ...], Operation] = {
    (b"events",): "events",
    (b"events", b"stream"): "stream",
    (b"events", b"ws"): "websocket",
    (b"stop",): "stop",
}
_OPERATIONS: dict[tuple[bytes, ...], Operation] = {
    (b"events", b"stream"): "many_stream",
    (b"events", b"ws"): "many_websocket",
    (b"livez",): "livez",
    (b"readyz",): "readyz",
    (b"openapi.json",): "openapi.json",
    (b"asyncapi.json",): "asyncapi.json",
    (b"docs",): "docs",
    (b"holdfast.js",): "holdfast.js",
    (b"holdfast.d.ts",): "holdfast.d.ts",
}
_READING = ("GET", "HEAD", "OPTIONS")
_METHODS: dict[Operation, tuple[str, ...]] = {
    "events": ("GET", "HEAD", "POST", "OPTIONS"),
    "stop": ("POST", "OPTIONS"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """An operation, and the run it is about."""

    operation: Operation
    run_id: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        """The HTTP methods that the address takes."""
        return _METHODS.get(self.operation, _READING)


def find(scope: Scope) -> Target | None:
    """Return what *scope* asks for, or ``None`` where nothing is there.

    Raises:
        InvalidEvent: the address names a run that cannot exist.
    """
    segments = _segments(scope)
    if len(segments) < 3 or segments[0] != b"runs":
        operation = _OPERATIONS.get(tuple(segments))
        return Target(operation) if operation is not None else None
    operation = _RUN_OPERATIONS.get(tuple(segments[2:]))
    if operation is not None:
        return Target(operation, decode_run_id(segments[1]))
    if not scope.get("raw_path") and segments[-1] in {b"events", b"stream", b"ws", b"stop"}:
        raise InvalidEvent("without a raw path, a run id with '/' looks like a longer path")
    return None


def decode_run_id(segment: bytes) -> str:
    """Decode one raw path segment, once, and check it.

    Raises:
        InvalidEvent: it is not UTF-8, or no run id.
    """
    try:
        return check_run_id(unquote_to_bytes(segment).decode())
    except UnicodeDecodeError:
        raise InvalidEvent("a run id is UTF-8 text") from None


def _segments(scope: Scope) -> list[bytes]:
    """The raw segments below the mount: raw path and root path count segments alike."""
    path: bytes = scope.get("raw_path") or scope["path"].replace("%", "%25").encode()
    mount: str = scope.get("root_path", "").rstrip("/")
    # Some servers leave the root path out of the path (ASGI 2.x), some keep it in.
    inside = scope["path"].startswith(mount + "/") if mount else False
    skip = mount.count("/") if inside else 0
    return path.partition(b"?")[0].split(b"/")[1 + skip :]
