"""An application's event as an event of a run, and back to the text that it was.

Pure. What a page reads of an event (WHATWG HTML 9.2.6) is kept to the letter; how it was cut into
lines, chunks and bytes is not.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from holdfast.errors import EventTooLarge, InvalidEvent
from holdfast.streams.event import TERMINAL_TYPES, check_type, to_json
from holdfast.streams.event_text import LINE_BREAK, Event
from holdfast.streams.store import Draft

if TYPE_CHECKING:
    from holdfast.streams.store import Entry

# What surrounds data that came with more than a type and a text. Data that begins so by itself is
# kept as text, so that nobody takes it for ours.
_AROUND, _DATA = '{"holdfast":', ',"data":'
_decoder = json.JSONDecoder()


def to_draft(event: Event, max_bytes: int) -> Draft:
    """Return *event* as it is stored.

    Data that is JSON on one line stays as it is, so that whoever reads the run elsewhere gets the
    value; a JSON string and any other text become a JSON string.

    Raises:
        EventTooLarge: more than *max_bytes* bytes.
    """
    extra: dict[str, Any] = {}
    kind = event.kind
    if kind in TERMINAL_TYPES or not _may_be_a_type(kind):
        # Such a name would end the run, or is not for a run to have.
        extra["type"], kind = kind, "message"
    if event.id is not None:
        extra["id"] = event.id
    if event.retry is not None:
        extra["retry"] = event.retry
    body = event.text if _stays(event.text) else to_json(event.text)
    data = (f"{_AROUND}{to_json(extra)}{_DATA}{body}}}" if extra else body).encode()
    if len(data) > max_bytes:
        raise EventTooLarge(
            f"an event of {len(data)} bytes cannot be captured; HOLDFAST_STREAM_MAX_EVENT_BYTES"
            f" allows {max_bytes}"
        )
    return Draft(kind, data)


def to_event(entry: Entry) -> Event:
    """Return the event that was stored as *entry*."""
    body, extra = _unwrapped(entry.data.decode("utf-8", "replace"))
    if body.startswith('"'):
        body = json.loads(body)
    return Event(extra.get("type", entry.type), body, extra.get("id"), extra.get("retry"))


def spell(event: Event, wire_id: str | None) -> bytes:
    """Return the text of *event* under the id that it has for this reader, ``None`` for none."""
    lines = [] if wire_id is None else [f"id: {wire_id}"]
    if event.retry is not None:
        lines.append(f"retry: {event.retry}")
    if event.kind != "message":
        lines.append(f"event: {event.kind}")
    lines += [f"data: {line}" for line in LINE_BREAK.split(event.text)]
    return ("\n".join(lines) + "\n\n").encode()


def spell_id(wire_id: str) -> bytes:
    """Return what moves a reader to *wire_id* without an event: a block without data."""
    return f"id: {wire_id}\n\n".encode()


def spell_comment(text: str) -> bytes:
    """Return a keep-alive: without a blank line, which some programs take for the end of an event.

    Those that hold the last id say so of an event without data, as those of OpenAI and httpx-sse.
    """
    return f": {text}\n".encode() if text else b":\n"


def _may_be_a_type(kind: str) -> bool:
    try:
        check_type(kind)
    except InvalidEvent:
        return False
    return True


def _stays(text: str) -> bool:
    if "\n" in text or text.startswith(('"', _AROUND)):
        return False
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> Any:
    # Python reads NaN and Infinity, which JSON has not (RFC 8259 section 6).
    raise ValueError(name)


def _unwrapped(data: str) -> tuple[str, dict[str, Any]]:
    """Return the data and what surrounds it. What another program made up is data."""
    if data.startswith(_AROUND):
        try:
            extra, end = _decoder.raw_decode(data, len(_AROUND))
        except (ValueError, RecursionError):
            return data, {}
        if data.startswith(_DATA, end) and _is_ours(extra):
            return data[end + len(_DATA) : -1], extra
    return data, {}


def _is_ours(extra: Any) -> bool:
    """Whether it may be spelled: a line break would begin a field of its own."""
    if not isinstance(extra, dict) or not extra.keys() <= {"type", "id", "retry"}:
        return False
    texts = [extra[name] for name in ("type", "id") if name in extra]
    return isinstance(extra.get("retry", 0), int) and all(
        isinstance(text, str) and not LINE_BREAK.search(text) for text in texts
    )
