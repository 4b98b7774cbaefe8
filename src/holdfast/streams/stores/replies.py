"""What Redis answers about a run, read into values; and the names that a run has there.

Pure: replies in, values out. What another program stored is made to fit a frame; what holdfast
stored and cannot be read is told as corrupt, never taken for an outage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.errors import (
    CorruptData,
    HoldfastError,
    IdempotencyKeyReused,
    RedisReplyError,
    RunEnded,
    RunExpired,
)
from holdfast.streams.event import (
    ZERO,
    EventId,
    normalise_data,
    normalise_type,
)
from holdfast.streams.store import Draft, Entry, News, RunInfo, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.streams.stores.outbox import Waiting

LIVE = frozenset({b"live", b"live stopping"})
"""What is answered for a run on Pub/Sub."""
STOPPING = frozenset({b"stopping", b"live stopping"})
"""What is answered for a run that has been asked to stop."""

Result = Entry | HoldfastError
"""What became of one event."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one run in Redis: one cluster slot, the braces hold the whole stream key."""

    stream: str
    meta: str
    bell: str
    stop: str

    @classmethod
    def of(cls, prefix: str, template: str, run_id: str) -> Keys:
        """Return the names of *run_id*, which holds no braces."""
        stream = prefix + template.replace("{run_id}", run_id)
        return cls(stream, f"{{{stream}}}:meta", f"{{{stream}}}:bell", f"{{{stream}}}:stop")


def results(run_id: str, batch: Sequence[Waiting], reply: Any) -> tuple[str | None, list[Result]]:
    """Read the reply of ``stream_publish``: the life of the run, and what became of each event."""
    if isinstance(reply, HoldfastError):
        return None, [as_corrupt(run_id, reply)] * len(batch)
    try:
        return _results(run_id, batch, reply)
    except (CorruptData, TypeError, ValueError) as error:
        # A batch that could not be settled would be sent again for ever.
        return None, [CorruptData(f"the answer about the run {run_id!r}: {error}")] * len(batch)


def _results(run_id: str, batch: Sequence[Waiting], reply: Any) -> tuple[str | None, list[Result]]:
    status, raw_life, n, previous, written, *ids = reply
    life = raw_life.decode() or None
    first_n = n - (len(ids) - written) + 1
    prev = event_id(previous)
    found: list[Result] = []
    for index, (waiting, raw) in enumerate(zip(batch, ids, strict=False)):
        if index < written:
            # Of an earlier try the number is not told, nor the id once the event was trimmed:
            # readers go and look.
            found.append(waiting.stored(event_id(raw) if raw else None, 0, None, life))
            continue
        now = event_id(raw)
        found.append(waiting.stored(now, first_n + index - written, prev, life))
        prev = now
    if status in STOPPING:
        found = [each._replace(stopping=True) for each in found if isinstance(each, Entry)]
    if status in LIVE:
        found = [each._replace(kept=False) for each in found if isinstance(each, Entry)]
    if len(found) < len(batch):
        found += [refusal(run_id, status)] * (len(batch) - len(found))
    return life, found


NOBODY = "-"
"""The producer of events that are written now or not at all: no retry is told by its number."""


def written(run_id: str, drafts: Sequence[Draft], reply: Any) -> list[Entry]:
    """Read the reply of ``stream_publish`` to a write that nobody's queue stands behind.

    Returns:
        The entries; without a number where an earlier request of the same key wrote them.

    Raises:
        RunEnded, RunExpired, IdempotencyKeyReused: nothing was written.
        CorruptData: the reply has not the form that the script gives it.
    """
    try:
        status, raw_life, n, previous, known, *ids = reply
        if status == b"reused":
            raise IdempotencyKeyReused(f"the key was used for other events of the run {run_id!r}")
        if status != b"ok" and status not in LIVE | STOPPING:
            raise refusal(run_id, status)
        life, first = raw_life.decode() or None, n - len(drafts) + 1
        kept = status not in LIVE
        prev, found = event_id(previous), list[Entry]()
        for index, (draft, raw) in enumerate(zip(drafts, ids, strict=True)):
            at = event_id(raw)
            number, before = (0, None) if known else (first + index, prev)
            entry = Entry(at, *draft, number, before, created_ms=at.ms, life=life, kept=kept)
            found.append(entry)
            prev = at
    except (TypeError, ValueError) as error:
        raise CorruptData(f"the answer about the run {run_id!r}: {error}") from error
    return found


def refusal(run_id: str, status: bytes) -> RunEnded:
    """Return why nothing more is written to a run."""
    if status == b"expired":
        return RunExpired(f"the run {run_id!r} has expired; delete it to use its id again")
    if status == b"fenced":
        return RunEnded(
            f"the run {run_id!r} was deleted; this publisher belongs to its earlier life"
        )
    return RunEnded(f"the run {run_id!r} has ended; nothing can follow its terminal event")


def as_corrupt(run_id: str, error: HoldfastError) -> HoldfastError:
    """Return *error*, or what it means where a key of the run holds something else."""
    # Before Redis 7 an error inside a script is wrapped in the words of ERR.
    if isinstance(error, RedisReplyError) and "WRONGTYPE" in str(error):
        return CorruptData(f"a key of the run {run_id!r} holds something that is no stream of ours")
    return error


def news(payload: bytes) -> News:
    """Read a doorbell: the life of the run, the number of its newest event, and what it carries."""
    head, _, rest = payload.partition(b"\n")
    life, _, number = head.partition(b":")
    name, n = life.decode("ascii", "replace"), int(number) if number.isdigit() else 0
    return News(name, _carried(name, n, rest) if rest else (), n)


def _carried(life: str, newest: int, rest: bytes) -> list[Entry]:
    """Read the event on a doorbell, which is number *newest*; none where it cannot be read."""
    head, _, event = rest.partition(b"\n")
    kind, _, data = event.partition(b"\n")
    raw, _, h = head.partition(b" ")
    try:
        found = entry((raw, (b"type", kind, b"data", data, b"h", h)))
    except CorruptData:
        return []
    return [found._replace(life=life)] if found.n == newest else []


def event_id(raw: bytes) -> EventId:
    """Read an id as Redis spells it.

    Raises:
        CorruptData: it is none.
    """
    ms, _, seq = raw.partition(b"-")
    try:
        return EventId(int(ms), int(seq))
    except ValueError:
        raise CorruptData(f"Redis answered {raw!r} where a stream id belongs") from None


def entry(item: Any) -> Entry:
    """Read one element of an ``XRANGE`` reply."""
    at, fields = event_id(item[0]), item[1]
    if fields[::2] == OUR_FIELDS:  # in the order in which the script writes them, so nearly always
        _, kind, _, data, _, own = fields
    else:
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        kind, data, own = values.get(b"type"), values.get(b"data"), values.get(b"h", b"")
        if kind is None or data is None:
            return _foreign(at, kind, data)
    try:
        n, prev, _, producer, seq = own.split(b" ")
        before = event_id(prev)
        origin = None if producer == b"-" else producer.decode("ascii")
        return Entry(at, kind.decode(), data, int(n), before, origin, int(seq), at.ms)
    except (ValueError, CorruptData):
        return _foreign(at, kind, data)


OUR_FIELDS = [b"type", b"data", b"h"]


def _foreign(at: EventId, kind: bytes | None, data: bytes | None) -> Entry:
    """Read what another program added: it knows of types and data, and may spell both its way."""
    name = "message" if kind is None else normalise_type(kind)
    return Entry(at, name, normalise_data(b"null" if data is None else data), created_ms=at.ms)


def info(reply: Any) -> tuple[RunInfo, bool]:
    """Read the reply of ``stream_look``: the run, and whether another program wrote to it.

    Raises:
        CorruptData: what is kept about the run has not the form that holdfast gives it.
    """
    try:
        return _info(reply)
    except (TypeError, ValueError) as error:
        raise CorruptData(f"what is kept about a run cannot be read: {error}") from error


def _info(reply: Any) -> tuple[RunInfo, bool]:
    length, foreign, (life, n, last, end, gone, owner, live), lapsed = reply
    newest = event_id(last) if last else ZERO
    name = life.decode() if life else None
    if name is None or gone is not None:
        return RunInfo(life=name, last=newest), bool(foreign)
    ended, origin = _end(end) if end else (None, None)
    count = int(n or 0)
    return (
        RunInfo(
            _status(count, length, ended=ended is not None, live=live is not None),
            name,
            # A run that has begun without an event follows no event of an earlier life.
            newest if count else ZERO,
            count,
            length,
            ended,
            origin,
            owner.decode() if owner else None,
            lapsed=lapsed.decode() or None,
            transport="pubsub" if live else "streams" if count or length else None,
        ),
        bool(foreign),
    )


def _end(raw: bytes) -> tuple[EventId, tuple[str, int] | None]:
    at, producer, seq = raw.split(b" ")
    return event_id(at), None if producer == b"-" else (producer.decode(), int(seq))


def _status(n: int, length: int, *, ended: bool, live: bool) -> Status:
    if n and not length and not live:
        return "expired"
    return "ended" if ended else "open"
