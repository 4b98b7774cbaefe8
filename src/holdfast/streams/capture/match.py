"""Which requests and which answers are captured, and what of an answer's head is said again.

Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from holdfast.streams.doors.sse import LEAVE_ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import Message, Scope

    from holdfast.streams.capture.register import Headers

RUN_HEADER = b"holdfast-run"
# Who lost the answer to a POST asks for the rest by a GET, with the server's own id (Model Context
# Protocol 2025-06-18, Streamable HTTP, "Resumability and Redelivery").
_MCP_SESSION = b"mcp-session-id"
EVENT_STREAM = b"text/event-stream"
_NOT = frozenset({"HEAD", "OPTIONS", "CONNECT", "TRACE"})
# What says nothing of the one who asked; everything else, cookies first, is said once.
_SAID_AGAIN = frozenset(
    {b"content-type", b"cache-control", b"vary", b"x-accel-buffering", b"content-language"}
)
_SAID_AGAIN_OF = (b"access-control-", b"cross-origin-")
_USUAL = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)
# Without it a page of another origin cannot read which run it has (WHATWG Fetch 3.3.4).
_EXPOSED = (b"access-control-expose-headers", b"Holdfast-Run, Link")
_NO_CACHE = re.compile(rb"\b(?:no-store|private)\b(?!=)", re.IGNORECASE)
# A server that sends files by itself would send them past us.
_PAST_US = frozenset({"http.response.pathsend", "http.response.zerocopysend"})


def captures(scope: Scope, prefixes: Iterable[str], mount: str) -> bool:
    """Whether the answer to a request may be captured.

    Args:
        prefixes: of ``HOLDFAST_STREAM_CAPTURE``: whole segments, after ``root_path``.
        mount: where the sub-app is, whose streams are resumable already.
    """
    if scope["type"] != "http" or scope["method"] in _NOT or LEAVE_ALONE in scope:
        return False
    path, root = scope["path"], scope.get("root_path", "")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return not _is_below(path, mount) and any(_is_below(path, prefix) for prefix in prefixes)


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def prepare(scope: Scope, leave_alone: Callable[[], bool], last_event_id: bytes | None) -> None:
    """Make the scope what the application is to see; others around it may look into it later.

    Args:
        leave_alone: has its answer left alone, or is False where it is captured already.
        last_event_id: what it is told of the client's; ``None``: what the client says itself.
    """
    extensions = scope.get("extensions") or {}
    if not _PAST_US.isdisjoint(extensions):
        kept = {name: value for name, value in extensions.items() if name not in _PAST_US}
        scope["extensions"] = kept
    scope[LEAVE_ALONE] = leave_alone
    if last_event_id is not None:
        headers = [each for each in scope["headers"] if each[0] != b"last-event-id"]
        own = [(b"last-event-id", last_event_id)] if last_event_id else []
        scope["headers"] = headers + own


def in_lower_case(start: Message) -> Message:
    """Return the start of an answer with its headers as ASGI names them; Django does not."""
    headers = [(name.lower(), value) for name, value in start.get("headers", ())]
    return {**start, "headers": headers}


def is_event_stream(start: Message) -> bool:
    """Whether an answer that begins so is to be recorded: an event stream, as plain text.

    None that is resumable already: ours, and MCP's.
    """
    headers = dict(reversed(list(start.get("headers", ()))))
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return (
        start["status"] == 200
        and kind == EVENT_STREAM
        and headers.get(b"content-encoding", b"identity") == b"identity"
        and headers.keys().isdisjoint((RUN_HEADER, _MCP_SESSION))
    )


def first_headers(headers: Headers, more: Headers) -> Headers:
    """Return the headers of a captured answer to the application's own client."""
    # Its ids are longer than those that the application counted.
    found = [each for each in headers if each[0] != b"content-length"]
    if any(name == b"set-cookie" for name, _ in more):
        # A cache that is shared would give the cookie to others (RFC 9111, section 7.3).
        found = [each for each in found if each[0] != b"cache-control" or _NO_CACHE.search(each[1])]
    return _completed(found) + more


def headers_to_keep(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return what of the headers of an answer may be recorded, and said again."""
    return [
        (name, value)
        for name, value in headers
        if name in _SAID_AGAIN or name.startswith(_SAID_AGAIN_OF)
    ]


def later_headers(kept: Headers | None, more: Headers) -> Headers:
    """Return the headers for who comes back; ``None``: it is not known what there were."""
    return _completed(list(kept or ())) + more


def run_headers(run_id: str, root: str, mount: str) -> Headers:
    """Return the headers that name a run for clients that are programs."""
    target = f"{quote(root)}{mount.rstrip('/')}/runs/{quote(run_id, safe='')}/events/stream"
    link = f'<{target}>; rel="alternate"; type="text/event-stream"'
    return [(RUN_HEADER, run_id.encode()), (b"link", link.encode())]


def _completed(headers: Headers) -> Headers:
    names = {name for name, _ in headers}
    more = [each for each in _USUAL if each[0] not in names]
    if b"access-control-allow-origin" in names:
        more.append(_EXPOSED)
    return headers + more
