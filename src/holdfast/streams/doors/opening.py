"""What a reader is answered before the first event: serve, wait, or say why not.

The decision is pure; :func:`judge` and :func:`await_start` only fetch what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast.errors import RedisUnavailable
from holdfast.streams import problems
from holdfast.streams.access import Verdict
from holdfast.streams.cursor import Cursor, Position
from holdfast.streams.store import EventStore, RunInfo, Status

if TYPE_CHECKING:
    from holdfast.streams.fanout.subscription import Subscription
    from holdfast.streams.rollout import Transport

Permit = Callable[[], Awaitable[Verdict]]
"""Asks whether the reader is allowed; raises :class:`RedisUnavailable` where nobody can say."""


class Opening(enum.Enum):
    """The answers to a reader who asks for a run."""

    SERVE = "serve"
    ABSENT = "absent"
    EXPIRED = "expired"
    NOTHING_FOLLOWS = "nothing follows"
    DENIED = "denied"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer.

    Attributes:
        opening: what it is.
        until: when the permission behind it ends, in seconds since 1970; ``None`` for never.
        code: of a refusal: ``UNAUTHORIZED`` or ``FORBIDDEN``.
    """

    opening: Opening
    until: float | None = None
    code: str = ""


UNDECIDED = Decision(Opening.UNDECIDED)


def decide(info: RunInfo | None, position: Position) -> Opening:
    """Judge a reader at *position* by what the store says (``None``: it cannot be asked).

    | run                        | reader                     | answer          |
    |----------------------------|----------------------------|-----------------|
    | unknown: store is away     | any                        | UNDECIDED       |
    | Pub/Sub, ended             | any                        | NOTHING_FOLLOWS |
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
    if not isinstance(position, Cursor) or info.transport == "pubsub":
        return True
    if info.end is not None and position.base >= info.end:
        return True
    return info.end_origin is not None and position.has_seen(*info.end_origin)


async def look(store: EventStore, run_id: str) -> RunInfo | None:
    """Return what is known of a run: by the store, or by this process while that is away.

    ``None`` where neither knows anything.
    """
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
    transport: Transport = "streams" if last.kept else "pubsub"
    return RunInfo(
        status, last=pending.base, end_origin=origin, owner=pending.owner, transport=transport
    )


async def judge(
    store: EventStore, run_id: str, position: Position, permit: Permit | None
) -> Decision:
    """Ask whether the reader may read (*permit*, unless that is known), then what there is."""
    until = None
    if permit is not None:
        try:
            verdict = await permit()
        except RedisUnavailable:
            return UNDECIDED
        if verdict.status != 200:
            return Decision(Opening.DENIED, code=problems.BY_VERDICT[verdict.status].code)
        until = verdict.until
    return Decision(decide(await look(store, run_id), position), until)


async def judge_late(
    store: EventStore, run_id: str, position: Position, permit: Permit
) -> tuple[Decision, bool]:
    """Judge a reader who was refused, and is the owner perhaps of a run that begins meanwhile.

    Returns:
        the decision, and whether it stays as it is: a run that has begun keeps its owner.
    """
    # In this order: it may begin in between.
    info = await look(store, run_id)
    there = info is not None and info.status != "absent"
    return await judge(store, run_id, position, permit), there


async def await_right(
    store: EventStore,
    subscription: Subscription,
    position: Position,
    permit: Permit,
    seconds: float,
) -> Decision:
    """Decide, but give somebody *seconds* to begin the run, if it is not there, for this reader.

    A run that is not there, one of nobody's and one of somebody else's are refused alike: when that
    time is over, and not before.
    """
    run_id, settled = subscription.run_id, False
    decision = UNDECIDED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not subscription.over:
                # Taken before the look, so that what happens meanwhile is not missed.
                news = subscription.news()
                if not settled:
                    decision, settled = await judge_late(store, run_id, position, permit)
                    if decision.opening is not Opening.DENIED:
                        break
                await news
    if decision.opening is Opening.DENIED:
        # It may have begun without a word, or anew.
        decision = await judge(store, run_id, position, permit)
    if decision.opening in {Opening.DENIED, Opening.UNDECIDED}:
        return decision
    return replace(decision, opening=await look_from(store, subscription, position))


async def await_start(
    store: EventStore,
    subscription: Subscription,
    position: Position,
    seconds: float,
    waiting: Callable[[], None] = lambda: None,
) -> Opening:
    """Decide, but give somebody at most *seconds* to start the run if it is absent.

    *waiting* is called before anything is waited for.
    """
    opening = await look_from(store, subscription, position)
    if opening is not Opening.ABSENT:
        return opening
    waiting()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while opening is Opening.ABSENT and not subscription.over:
                # Taken before the look, so that what happens meanwhile is not missed.
                news = subscription.news()
                opening = await look_from(store, subscription, position)
                if opening is Opening.ABSENT:
                    await news
    if opening is Opening.ABSENT and seconds:
        # It may have begun without a word: the bell that tells of it can be lost.
        opening = await look_from(store, subscription, position)
    return opening


async def look_from(store: EventStore, subscription: Subscription, position: Position) -> Opening:
    """Decide for a reader who has joined already.

    What comes by on Pub/Sub from then on is theirs, also of a run that has ended meanwhile, and of
    one that the store knows nothing of, because another program publishes it.
    """
    info: RunInfo | None
    try:
        info = await subscription.describe()
    except RedisUnavailable:
        info = from_pending(store, subscription.run_id)
    on_pubsub = info is not None and info.transport == "pubsub"
    if subscription.begun or (on_pubsub and not subscription.late):
        return Opening.SERVE
    return decide(info, position)
