"""Events that arrive over HTTP: from a request to what the store is asked to write, and back.

Everything is checked before the first write. Nothing waits in this process: while Redis is away the
answer is 503, because only the sender can keep an event that nobody has taken yet.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from holdfast import signals
from holdfast.errors import (
    EventTooLarge,
    IdempotencyKeyReused,
    InvalidEvent,
    RunEnded,
    RunExpired,
)
from holdfast.streams import observed, problems
from holdfast.streams.event import TERMINAL_TYPES, rfc3339, to_json
from holdfast.streams.store import Once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.datastructures import Headers
    from starlette.requests import Request

    from holdfast.streams.store import Draft, Entry, EventStore

MAX_EVENTS = 1000
MIN_BODY = 1 << 20
BODY_PER_EVENT = 8
"""A body may be as large as this many of the largest events; escaped, one takes up to six."""

_MEDIA_TYPE = re.compile(r"application/(json|[\w.!#$&^-]+\+json)", re.ASCII | re.IGNORECASE)
# Structured field strings (RFC 8941 section 3.3.3), as the header's draft has it, or the bare text
# that most clients send.
_KEY = re.compile(r'[\x21\x23-\x7e]{1,255}|"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255}"')

_sorted = json.JSONEncoder(sort_keys=True).encode


async def publish(store: EventStore, run_id: str, request: Request) -> Response:
    """Write what the request brings, all of it or nothing, and say under which ids.

    Raises:
        RedisUnavailable: it may be written, if the answer was lost; a key makes another try safe.
        ClientDisconnect: the client left before its body was here.
    """
    if not _is_json(request.headers):
        return problems.NOT_JSON.response()
    try:
        key = idempotency_key(request.headers)
    except ValueError as error:
        return problems.INVALID_KEY.response(str(error))
    body = await _read(request, max(MIN_BODY, BODY_PER_EVENT * store.max_event_bytes))
    if body is None:
        return problems.BODY_TOO_LARGE.response()
    try:
        value = parse(body)
    except ValueError as error:
        return problems.INVALID_JSON.response(str(error))
    try:
        drafts = drafts_of(value, store)
    except EventTooLarge as error:
        return problems.EVENT_TOO_LARGE.response(str(error))
    except InvalidEvent as error:
        return problems.INVALID_EVENT.response(str(error))
    once = None if key is None else Once(_digest(key.encode()), fingerprint(value))
    return await _write(store, run_id, drafts, once)


async def _write(
    store: EventStore, run_id: str, drafts: Sequence[Draft], once: Once | None
) -> Response:
    try:
        writing = store.write(run_id, drafts, once=once)
        told = observed.publish(run_id, len(drafts), writing) if signals.observers else writing
        entries = await told
    except IdempotencyKeyReused:
        return problems.KEY_REUSED.response()
    except RunExpired:
        return problems.RUN_EXPIRED.response()
    except RunEnded:
        return problems.RUN_ENDED.response()
    body = to_json({"events": [_told(entry) for entry in entries]})
    return Response(body, 201, problems.PRIVATE_HEADERS, "application/json")


def idempotency_key(headers: Headers) -> str | None:
    """Return the key of a request, or ``None``.

    Raises:
        ValueError: there are several, or what is there is none.
    """
    given = headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1:
        raise ValueError("Idempotency-Key is given more than once")
    text = given[0].strip()
    if not _KEY.fullmatch(text):
        raise ValueError(
            "an idempotency key is 1 to 255 characters of ASCII, quoted if it has spaces"
        )
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def parse(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is none that could be kept. The message quotes nothing of it.
    """
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, at character {error.pos}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def drafts_of(value: Any, store: EventStore) -> list[Draft]:
    """Check one event or a list of them.

    Raises:
        InvalidEvent, EventTooLarge: nothing of it may be written. The message says which event.
    """
    events = value if isinstance(value, list) else [value]
    if not 1 <= len(events) <= MAX_EVENTS:
        raise InvalidEvent(f"a list holds 1 to {MAX_EVENTS} events, not {len(events)}")
    drafts: list[Draft] = []
    for number, event in enumerate(events):
        try:
            drafts.append(_draft(event, drafts, store))
        except InvalidEvent as error:
            if isinstance(value, list):
                raise type(error)(f"event {number} of the list: {error}") from None
            raise
    return drafts


def fingerprint(value: Any) -> str:
    """Return what tells the events of this body from others, however their JSON was written.

    The members of an object have no order (RFC 8259 section 4). One event and a list of just that
    event are two bodies.
    """
    events = value if isinstance(value, list) else [value]
    said = [part for event in events for part in (event["type"], _sorted(event.get("data")))]
    parts = [part.encode() for part in said]
    digest = _digest(b"".join(b"%d:%b" % (len(part), part) for part in parts))
    return f"{digest}.list" if isinstance(value, list) else f"{digest}.one"


def _draft(event: Any, before: Sequence[Draft], store: EventStore) -> Draft:
    if not isinstance(event, dict) or "type" not in event or not event.keys() <= {"type", "data"}:
        raise InvalidEvent('an event is an object: {"type": …, "data": …}, and nothing else in it')
    if before and before[-1].type in TERMINAL_TYPES:
        raise InvalidEvent("it follows an event that ends the run")
    return store.draft(event["type"], event.get("data"))


def _told(entry: Entry) -> dict[str, str]:
    return {
        "id": entry.public_id,
        "type": entry.type,
        "created_at": rfc3339(entry.id.created_at),
    }


def _is_json(headers: Headers) -> bool:
    # What a form of a foreign page can send without being asked first is none of these (CORS).
    kind = headers.get("content-type", "").partition(";")[0].strip()
    plain = headers.get("content-encoding", "identity").strip().lower() == "identity"
    return plain and _MEDIA_TYPE.fullmatch(kind) is not None


async def _read(request: Request, limit: int) -> bytes | None:
    """Return the body, ``None`` as soon as it is larger than *limit* bytes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        return None
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            return None
    return bytes(body)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:40]
