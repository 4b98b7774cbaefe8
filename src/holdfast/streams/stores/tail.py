"""The end of a run as its only publisher knows it, and the short write that this allows.

Pure values. What is known here may be wrong at any time: ``stream_append`` compares it with what
Redis has, and writes nothing where it differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.streams.event import TERMINAL_TYPES, EventId
from holdfast.streams.stores.replies import event_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.streams.stores.outbox import Waiting
    from holdfast.streams.stores.replies import Keys, Result

ASK_TAIL = ("tail", "1")
"""The option of ``stream_publish`` that asks for what :func:`after_long` reads."""

FEW = 8
"""Of more events at once, what the short way saves is less than what it takes to prepare each."""

STEPS = 100
LONGEST_STEP = 1.0
"""The expiry slides in steps of a hundredth of it, of this many seconds at most."""


class Tail(NamedTuple):
    """What the last answer said of a run's end.

    Attributes:
        life: the life of the run.
        at: the id of its newest event; ``last``: as text.
        n: its number in that life.
        size: the bytes of the life up to it.
        room: how many more fit into the byte budget.
        kept: when the expiry was last set, in milliseconds, as Redis has it.
        due: by the caller's clock, when it is to be set again.
        alone: nobody else wrote between the last two writes of this process.
    """

    life: str
    at: EventId
    last: str
    n: int
    size: int
    room: int
    kept: str
    due: float
    alone: bool


class Short(NamedTuple):
    """A write that is tried the short way.

    Attributes:
        tail: what it relies on.
        size: the bytes of the life after it.
        call: the keys and arguments of ``stream_append``.
    """

    tail: Tail
    size: int
    call: tuple[tuple[str, str], list[str | bytes]]


def short(
    tail: Tail | None, batch: Sequence[Waiting], keys: Keys, maxlen: str, now: float
) -> Short | None:
    """Return the short write of *batch*, ``None`` where it has to go the long way.

    Args:
        tail: what is known of the run.
        batch: the events, not empty.
        keys: the names of the run.
        maxlen: how many events are kept, as text, like every number here: packing is quicker so.
        now: the time by the caller's clock.
    """
    if tail is None or not tail.alone or now >= tail.due or len(batch) > FEW:
        return None
    head = batch[0]
    if head.life is not None and head.life != tail.life:
        return None
    n, size, seq, origin = tail.n, tail.size, head.seq, f" {head.producer} "
    events: list[str | bytes] = []
    for waiting in batch:
        kind, data = waiting.draft
        if kind in TERMINAL_TYPES:
            return None
        seq, n = waiting.seq, n + 1
        size += len(data) + (len(kind) if kind.isascii() else len(kind.encode()))
        events += (kind, data, str(n), f" {size}{origin}{seq}")
    if size - tail.size > tail.room:
        return None
    known = (keys.bell, tail.life, tail.last, tail.kept)
    args = [*known, maxlen, f"s:{head.producer}", str(seq), str(size), *events]
    return Short(tail, size, ((keys.stream, keys.meta), args))


def after_short(write: Short, batch: Sequence[Waiting], reply: Any) -> tuple[Tail, list[Result]]:
    """Read the ids that ``stream_append`` answered: the run's end now, and what was written."""
    life, prev, text, n, size, room, kept, due, alone = write.tail
    found: list[Result] = []
    ids = reply if isinstance(reply, list) else [reply]
    for waiting, raw in zip(batch, ids, strict=True):
        at, n = event_id(raw), n + 1
        found.append(waiting.stored(at, n, prev, life))
        prev = at
    text = ids[-1].decode()
    left = room - (write.size - size)
    return Tail(life, prev, text, n, write.size, left, kept, due, alone), found


def after_long(
    known: Tail | None, reply: Any, budget: int, retention: int, now: float
) -> Tail | None:
    """Take off the reply of ``stream_publish`` what it says of the run's end, if it does.

    Args:
        known: what was known before.
        reply: the reply to a call with the option ``tail``; it is changed.
        budget: how many bytes of a run are kept.
        retention: the expiry, in milliseconds.
        now: the time by the caller's clock.
    """
    if not isinstance(reply, list) or not isinstance(reply[-1], list):
        return None
    size, cut, kept = (int(each) for each in reply.pop())
    _, life, n, previous, *_, last = reply
    life, at = life.decode(), event_id(last)
    # Unknown before, or somebody else wrote in between: then the next write shows it.
    alone = known is not None and known.life == life and known.last.encode() == previous
    step = min(retention / STEPS, 1000 * LONGEST_STEP)
    due = now + (kept + step - at.ms) / 1000
    return Tail(life, at, last.decode(), n, size, budget - size + cut, str(kept), due, alone)
