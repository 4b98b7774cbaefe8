"""How an event looks on the wire, version 1: fields may be added, never changed.

Pure, and the only place that spells a frame. Each event is encoded once; only its id may differ
between readers (the suffix of an outage), so a frame is kept in two pieces around the id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast.streams.event import EventId, rfc3339, to_json

if TYPE_CHECKING:
    from holdfast.streams.store import Entry

_SEPARATOR, _NEXT_LINE = b"\xe2\x80", b"\xc2\x85"

ControlKind = Literal["gap", "reset", "end", "error", "denied"]


@dataclass(slots=True, eq=False)
class Frame:
    """One encoded event, shared by all its readers.

    Attributes:
        entry: the event itself.
        cursor: its id as a cursor, which is that of every reader whom no outage has touched.
        sse: everything after the ``id:`` line.
        size: bytes it takes in a ring.
        kept: whether the event can be asked for again; else its id is not given as a position.
    """

    run_id: str
    entry: Entry
    cursor: str
    sse: bytes
    size: int
    kept: bool = True
    _whole: bytes | None = field(default=None, repr=False)
    _ws: tuple[str, str] | None = field(default=None, repr=False)
    _ws_whole: str | None = field(default=None, repr=False)

    def event_source(self, cursor: str, *, envelope: bool = False) -> bytes:
        """The frame for ``EventSource``, with *cursor* as its id (WHATWG HTML 9.2.6)."""
        if envelope:
            head = f"id: {cursor}\n" if self.kept else ""
            return f"{head}data: {self.websocket(cursor)}\n\n".encode()
        if not self.kept:
            return self.sse
        if cursor is not self.cursor:
            return b"id: " + cursor.encode() + b"\n" + self.sse
        if self._whole is None:
            self._whole = b"id: " + cursor.encode() + b"\n" + self.sse
        return self._whole

    def websocket(self, cursor: str) -> str:
        """The same event as a JSON frame."""
        if self._ws is None:
            self._ws = _websocket_halves(self.run_id, self.entry)
        head, tail = self._ws
        if cursor is not self.cursor:
            return head + cursor + tail
        if self._ws_whole is None:
            self._ws_whole = head + cursor + tail
        return self._ws_whole

    def json(self) -> bytes:
        """The event as an element of a REST answer; its data is not parsed and encoded again."""
        entry = self.entry
        created = rfc3339(EventId(entry.created_ms, 0).created_at)
        head = f'{{"id":"{entry.public_id}","type":{to_json(entry.type)},"data":'.encode()
        return head + entry.data + f',"created_at":"{created}"}}'.encode()


def encode(run_id: str, entry: Entry) -> Frame:
    """Encode *entry* once, for everybody. Its data is compact JSON, which holds no line break."""
    body = b"event: " + entry.type.encode() + b"\ndata: " + _one_line(entry.data) + b"\n\n"
    return Frame(run_id, entry, entry.public_id, body, len(body) + 64, entry.kept)


def control_event_source(kind: ControlKind, run_id: str, **fields: str | None) -> bytes:
    """A ``holdfast.<kind>`` event; an ``id:`` line would move the browser's cursor."""
    data = to_json({"kind": kind, "run_id": run_id, **fields})
    return f"event: holdfast.{kind}\ndata: {data}\n\n".encode()


def control_envelope(kind: ControlKind, run_id: str, **fields: str | None) -> bytes:
    """The same for pages that use ``onmessage``."""
    return f"data: {control_websocket(kind, run_id, **fields)}\n\n".encode()


def control_websocket(kind: ControlKind, run_id: str, **fields: str | None) -> str:
    """``end``, ``gap``, ``reset`` or ``error`` as a WebSocket frame."""
    return to_json({"kind": kind, "run_id": run_id, **fields})


def comment(text: str = "") -> bytes:
    """A keep-alive that no script sees."""
    return f": {text}\n\n".encode() if text else b":\n\n"


def retry(milliseconds: int) -> bytes:
    """Tell ``EventSource`` after how long to come back."""
    return f"retry: {milliseconds}\n\n".encode()


def _one_line(data: bytes) -> bytes:
    """Escape in JSON what Unicode calls a line break and WHATWG HTML 9.2.6 does not.

    The value is the same. Clients that split text by Unicode, as ``str.splitlines`` does, would
    take such an event for two lines.
    """
    if _SEPARATOR in data:  # also the first two bytes of most dashes and quotation marks
        data = data.replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    return data.replace(_NEXT_LINE, rb"\u0085") if _NEXT_LINE in data else data


def _websocket_halves(run_id: str, entry: Entry) -> tuple[str, str]:
    created = rfc3339(EventId(entry.created_ms, 0).created_at)
    data = _one_line(entry.data).decode()
    return (
        f'{{"kind":"event","run_id":{to_json(run_id)},"id":"',
        f'","type":{to_json(entry.type)},"data":{data},"created_at":"{created}"}}',
    )
