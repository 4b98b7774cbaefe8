"""What a reader is answered before the first event: serve, wait, or say why not.

The decision is pure; :func:`look` and :func:`await_start` only fetch what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from typing import TYPE_CHECKING

from holdfast.errors import RedisUnavailable
from holdfast.streams.cursor import Cursor, Position
from holdfast.streams.store import EventStore, RunInfo, Status

if TYPE_CHECKING:
    from holdfast.streams.subscription import Subscription


class Opening(enum.Enum):
    """The answers to a reader who asks for a run."""

    SERVE = "serve"
    ABSENT = "absent"
    EXPIRED = "expired"
    NOTHING_FOLLOWS = "nothing follows"
    UNDECIDED = "undecided"


def decide(info: RunInfo | None, position: Position) -> Opening:
    """Judge a reader at *position* by what the store says (``None``: it cannot be asked).

    | run                        | reader                     | answer          |
    |----------------------------|----------------------------|-----------------|
    | unknown: store is away     | any                        | UNDECIDED       |
    | absent                     | any                        | ABSENT          |
    | ended, kept or expired     | at or past the end, or `$` | NOTHING_FOLLOWS |
    | expired                    | before the end             | EXPIRED         |
    | open or ended              | before the end             | SERVE           |
    """
    if info is None:
        return Opening.UNDECIDED
    if info.status == "absent":
        return Opening.ABSENT
    if _is_past_the_end(info, position):
        return Opening.NOTHING_FOLLOWS
    return Opening.EXPIRED if info.status == "expired" else Opening.SERVE


def _is_past_the_end(info: RunInfo, position: Position) -> bool:
    if info.end is None and info.end_origin is None:
        return False
    if not isinstance(position, Cursor):
        return True
    if info.end is not None and position.base >= info.end:
        return True
    return info.end_origin is not None and position.has_seen(*info.end_origin)


async def look(store: EventStore, run_id: str) -> RunInfo | None:
    """Return what is known of a run: by the store, or while that is away by this process; else ``None``."""
    try:
        return await store.describe(run_id)
    except RedisUnavailable:
        return from_pending(store, run_id)


def from_pending(store: EventStore, run_id: str) -> RunInfo | None:
    """Return what this process itself knows of a run that Redis cannot be asked about."""
    pending = store.pending(run_id)
    if pending is None:
        return None
    last = pending.entries[-1]
    origin = (last.producer or "", last.seq) if pending.ended else None
    status: Status = "ended" if pending.ended else "open"
    return RunInfo(status, last=pending.base, end_origin=origin, owner=pending.owner)


async def await_start(
    store: EventStore, subscription: Subscription, seconds: float
) -> RunInfo | None:
    """Wait at most *seconds* for somebody to start the run; return what is known then."""
    info = await look(store, subscription.run_id)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while info is not None and info.status == "absent" and not subscription.over:
                await subscription.wait_for_start()
                info = await look(store, subscription.run_id)
    return info
