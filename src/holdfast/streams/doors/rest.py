"""The history of a run over plain HTTP: pages of events, from one id to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.responses import Response

from holdfast.errors import RedisUnavailable
from holdfast.streams import problems
from holdfast.streams.cursor import Cursor, parse_position
from holdfast.streams.doors.opening import from_pending
from holdfast.streams.event import ZERO, EventId, to_json
from holdfast.streams.fanout.ring import FIRST_PAGE, next_page
from holdfast.streams.frames import encode

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

    from holdfast.streams.store import Entry, EventStore, RunInfo

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000

MAX_PAGE_BYTES = 1 << 23
"""A page ends early, and says that there is more, where its events are this large together."""


@dataclass(frozen=True, slots=True)
class Query:
    """What part of a run is asked for; both ids are inclusive.

    Attributes:
        bounded: it begins or ends anywhere but where the run does.
    """

    start: EventId
    end: EventId | None
    limit: int
    bounded: bool


def parse(params: QueryParams) -> Query | problems.Problem:
    """Read the query, or say what is wrong with it."""
    start = parse_position(params.get("start_id"), allow_tail=False)
    end = (
        parse_position(params.get("end_id"), allow_tail=False) if params.get("end_id") else Cursor()
    )
    if not isinstance(start, Cursor) or not isinstance(end, Cursor):
        return problems.INVALID_ID
    text = params.get("limit") or str(DEFAULT_LIMIT)
    if not (text.isascii() and text.isdigit()) or int(text[:20]) < 1:
        return problems.INVALID_LIMIT
    last = end.base if params.get("end_id") else None
    bounded = start != Cursor() or last is not None
    return Query(start.base, last, min(int(text[:20]), MAX_LIMIT), bounded)


async def serve(store: EventStore, run_id: str, query: Query) -> Response:
    """Return one page, or the problem that there is none."""
    try:
        info = await store.describe(run_id)
        entries = await _read(store, run_id, query)
    except RedisUnavailable:
        return _from_pending(store, run_id, query)
    if info.status == "absent":
        return problems.RUN_NOT_FOUND.response()
    if info.transport == "pubsub":
        return problems.NO_HISTORY.response()
    if info.status == "expired":
        return problems.RUN_EXPIRED.response()
    return _page(run_id, info, entries, _fitting(entries, query.limit))


async def _read(store: EventStore, run_id: str, query: Query) -> list[Entry]:
    """Read one entry more than the page takes, in pieces: a reply of Redis has one deadline."""
    entries: list[Entry] = []
    start, size, wanted, page = query.start, 0, query.limit + 1, FIRST_PAGE
    while wanted > 0 and (size <= MAX_PAGE_BYTES or len(entries) < 2):
        asked = min(page, wanted)
        some = await store.read(run_id, start, query.end, asked)
        entries += some
        if len(some) < asked:
            break
        start, wanted, page = some[-1].id.next(), wanted - asked, next_page(some, page)
        size += sum(len(entry.data) for entry in some)
    return entries


def _fitting(entries: list[Entry], limit: int) -> int:
    """Return how many of *entries* make the page: at least one."""
    size = 0
    for count, entry in enumerate(entries[:limit]):
        size += len(entry.data)
        if count and size > MAX_PAGE_BYTES:
            return count
    return limit


def _from_pending(store: EventStore, run_id: str, query: Query) -> Response:
    """While Redis is away, only a run that began here meanwhile is known, and told, whole."""
    pending, info = store.pending(run_id), from_pending(store, run_id)
    if info is not None and info.transport == "pubsub":
        return problems.NO_HISTORY.response()
    if pending is None or info is None or pending.base != ZERO:
        return problems.UNAVAILABLE.response()
    entries = list(pending.entries)
    # Its ids are no places in the log yet: no page could begin where another ended.
    if query.bounded or _fitting(entries, query.limit) < len(entries):
        return problems.UNAVAILABLE.response()
    return _page(run_id, info, entries, len(entries))


def _page(run_id: str, info: RunInfo, entries: list[Entry], limit: int) -> Response:
    page, following = entries[:limit], entries[limit : limit + 1]
    next_id = to_json(following[0].public_id) if following else "null"
    events = b",".join(encode(run_id, entry).json() for entry in page)
    body = (
        f'{{"run_id":{to_json(run_id)},"status":"{info.status}","events":['.encode()
        + events
        + f'],"has_more":{"true" if following else "false"},"next_id":{next_id}}}'.encode()
    )
    return Response(body, 200, problems.PRIVATE_HEADERS, "application/json")
