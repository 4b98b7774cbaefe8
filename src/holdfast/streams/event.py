"""What an event is: its id, run id, type and data, and what makes each of them valid.

Pure values and checks only. Nothing here knows Redis, HTTP or a clock, so that publishers, stores
and protocols share one idea of what is allowed.
"""

from __future__ import annotations

import json.encoder
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from holdfast.errors import EventTooLarge, InvalidEvent

TERMINAL_TYPES = frozenset({"workflow_complete", "workflow_error", "run_stopped", "run_lost"})
"""The types that end a run, however they were written."""

RESERVED_TYPES = frozenset({"run_stopped", "run_lost"})
"""Terminal types that only holdfast itself may write."""

MAX_RUN_ID = 256
MAX_OWNER = 512
MAX_TYPE = 256
MAX_PART = 2**64 - 1
"""The largest number on either side of an id's hyphen."""

_END_OF_TIME = 253402300799999

# Redis forgives ' 8-0', '+9-0' and '09-0'; we do not, because such an id would compare unequal to
# itself.
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class EventId(NamedTuple):
    """A Redis stream id, ordered as Redis orders it: by number, never as text."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    @property
    def created_at(self) -> datetime:
        """The moment in the id, UTC. Ids beyond year 9999 are shown as its last moment."""
        return moment(self.ms)

    def next(self) -> EventId:
        """The smallest id after this one (Redis before 6.2 has no exclusive ranges)."""
        return EventId(self.ms + 1, 0) if self.seq == MAX_PART else EventId(self.ms, self.seq + 1)


@lru_cache(256)  # events come in bursts
def moment(ms: int) -> datetime:
    """Return the moment *ms* milliseconds after 1970, UTC, within what a date can say."""
    return datetime.fromtimestamp(min(ms, _END_OF_TIME) / 1000, UTC)


ZERO = EventId(0, 0)
"""The position before the first event of any run."""


def parse_id(text: str) -> EventId | None:
    """Return the id that *text* spells in its one canonical form, else ``None``."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    ms, seq = int(match[1]), int(match[2])
    return EventId(ms, seq) if ms <= MAX_PART and seq <= MAX_PART else None


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a run.

    Attributes:
        id: the Redis stream id (``ms-seq``); while Redis is away a provisional one,
            ``<Redis id>~<producer>.<seq>``, which is a valid cursor on every process.
        run_id: the run it belongs to.
        type: what kind of event, such as ``token`` or ``workflow_complete``.
        data: any JSON value.
        created_at: when it was written, UTC, with milliseconds.
    """

    id: str
    run_id: str
    type: str
    data: Any
    created_at: datetime


def check_run_id(run_id: object) -> str:
    """Return *run_id* if it is exact, printable text that fits a key, a URL and a cluster slot.

    Raises:
        InvalidEvent: it is empty, longer than 256 characters, ``.`` or ``..``, or holds a control
            character, a brace (Redis Cluster's hash tag) or half a surrogate pair.
    """
    if not isinstance(run_id, str) or not 1 <= len(run_id) <= MAX_RUN_ID:
        raise InvalidEvent(f"a run id is text of 1 to {MAX_RUN_ID} characters")
    if run_id in {".", ".."} or _CONTROL.search(run_id) or "{" in run_id or "}" in run_id:
        raise InvalidEvent(
            "a run id is not '.' or '..' and holds no control character and no brace"
        )
    _refuse_surrogates("run id", run_id)
    return run_id


def check_type(type: object, *, ours: bool = False) -> str:  # noqa: A002 - the wire's own name
    """Return *type* if it may be the type of an event (*ours*: of one that holdfast itself writes).

    Raises:
        InvalidEvent: empty, too long, with a line break or NUL (they would break the SSE frame,
            WHATWG HTML 9.2.6), or a name that belongs to holdfast.
    """
    if not isinstance(type, str) or not 1 <= len(type) <= MAX_TYPE:
        found = f"{len(type)} of them" if isinstance(type, str) else _class_of(type)
        raise InvalidEvent(
            f"type: an event type is text of 1 to {MAX_TYPE} characters, not {found}"
        )
    return _checked_type(type, ours=ours)


def _class_of(value: object) -> str:
    return type(value).__name__


@lru_cache(1024)  # an app has a handful of types, and a refusal is not kept
def _checked_type(kind: str, *, ours: bool) -> str:
    if _CONTROL.search(kind):
        raise InvalidEvent("an event type holds no control character")
    _refuse_surrogates("event type", kind)
    if not ours and (kind.startswith("holdfast.") or kind in RESERVED_TYPES):
        raise InvalidEvent(f"the event type {kind!r} belongs to holdfast; choose another name")
    return kind


def check_owner(owner: object) -> str | None:
    """Return *owner* if it may own a run; ``None`` is a run without an owner.

    Raises:
        InvalidEvent: it is neither ``user:<id>`` nor ``session:<id_hash>``, or is longer than 512
            characters.
    """
    if owner is None:
        return None
    if not isinstance(owner, str) or not owner.startswith(("user:", "session:")):
        raise InvalidEvent("an owner is text: 'user:<id>' or 'session:<id_hash>'")
    if len(owner) > MAX_OWNER:
        raise InvalidEvent(f"an owner is text of at most {MAX_OWNER} characters")
    _refuse_surrogates("owner", owner)
    return owner


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
# What that makes anew for each text, made once; it looks for no cycle before it is in one.
_c_encoder: Any = getattr(json.encoder, "c_make_encoder", None)
_chunks = _c_encoder and _c_encoder(
    None,
    _encoder.default,
    json.encoder.encode_basestring,
    _encoder.indent,
    _encoder.key_separator,
    _encoder.item_separator,
    _encoder.sort_keys,
    _encoder.skipkeys,
    _encoder.allow_nan,
)


def _encode(value: Any) -> str:
    if _chunks is None:  # a Python that has none in C
        return _encoder.encode(value)
    try:
        return "".join(_chunks(value, 0))
    except RecursionError:
        return _encoder.encode(value)  # it tells a cycle from what is nested too deeply


def encode_data(data: Any, max_bytes: int) -> bytes:
    """Return *data* as compact JSON in UTF-8, which holds no line break (RFC 8259 section 7).

    Raises:
        InvalidEvent: JSON cannot carry it (NaN, a datetime, half a surrogate pair, a cycle …).
        EventTooLarge: more than *max_bytes* bytes.
    """
    try:
        encoded = _encode(data).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(
            f"the event's data is not JSON: {str(error) or type(error).__name__}"
        ) from None
    if len(encoded) > max_bytes:
        raise EventTooLarge(
            f"the event's data is {len(encoded)} bytes of JSON; HOLDFAST_STREAM_MAX_EVENT_BYTES"
            f" allows {max_bytes}"
        )
    return encoded


def to_json(value: Any) -> str:
    """Encode a value of our own (an id, a name, a small object) as compact JSON text."""
    return _encoder.encode(value)


def decode_data(data: bytes) -> Any:
    """Return the value of stored JSON."""
    return json.loads(data)


def normalise_data(data: bytes) -> bytes:
    """Make stored data fit a frame: valid JSON is made compact, other text a JSON string.

    A producer in any language may ``XADD`` by itself; pretty-printed JSON has line breaks, which
    SSE would split, and text that is no JSON would break the frame around it.
    """
    try:
        return _encoder.encode(json.loads(data)).encode()
    except (ValueError, RecursionError):
        return _encoder.encode(data.decode("utf-8", "replace")).encode()


def normalise_type(raw: bytes) -> str:
    """Return the type that another program stored, or ``message`` where no event may have it.

    The names that are holdfast's own frames are not for others to send; the types that end a run
    are, however they were written.
    """
    kind = raw.decode("utf-8", "replace")
    try:
        check_type(kind, ours=True)
    except InvalidEvent:
        return "message"
    return "message" if kind.startswith("holdfast.") else kind


def rfc3339(at: datetime) -> str:
    """Return *at* as RFC 3339 in UTC with milliseconds: ``2026-01-31T09:30:00.125Z``."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _refuse_surrogates(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEvent(
            f"the {what} holds half a surrogate pair, which UTF-8 cannot carry"
        ) from None
