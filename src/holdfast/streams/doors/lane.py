"""One run of a connection that carries many: may it be read, what is due, and why it ends.

It steps when it is told to and waits for nothing; whoever holds it decides whose turn it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.streams.doors.opening import (
    Decision,
    Opening,
    Permit,
    judge,
    judge_late,
    look_from,
)
from holdfast.streams.fanout.pulse import Expiry
from holdfast.streams.fanout.subscription import Due, Subscription

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.streams.cursor import Position
    from holdfast.streams.fanout.hub import Hub

EXPIRED_RIGHT = "UNAUTHORIZED"
"""What is told where a permission ended in mid-stream: a fresh token is needed."""

PAUSE = 0.2
"""Seconds between two looks whether a run that is begun anew can be read."""

_ENDS = {Opening.ABSENT: "RUN_NOT_FOUND", Opening.EXPIRED: "RUN_EXPIRED"}


@dataclass(frozen=True, slots=True)
class Entrance:
    """How a run is come in to.

    Attributes:
        position: where to begin.
        wait: seconds to wait for it, if nobody has started it.
        until: when the permission to read ends, in seconds since 1970; ``None`` for never.
        permit: given where it could not be decided yet whether the reader is allowed.
        refused: it has said no, to who may be the owner of a run that has not begun: that is told
            when the run has been waited for.
    """

    position: Position
    wait: float
    until: float | None = None
    permit: Permit | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one look at a run.

    Attributes:
        due: what is to be sent.
        over: nothing follows: ``end``, or the code of the reason; ``None`` while something may.
        late: the reader was refused only now.
    """

    due: list[Due]
    over: str | None = None
    late: bool = False


_NOTHING = Step([])


class Lane:
    """A run that is read as one of many.

    Args:
        hub: the hub of the running event loop.
        run_id: the run.
        entrance: how it is come in to.
        rouse: called when it is worth another :meth:`step`.

    Open it before, and close it after.

    Attributes:
        unknowable: whether the reader is allowed cannot be learnt on this connection.
    """

    def __init__(
        self, hub: Hub, run_id: str, entrance: Entrance, rouse: Callable[[Lane], None]
    ) -> None:
        self.run_id = run_id
        self.unknowable = False
        self.subscription = Subscription(hub, run_id, entrance.position)
        self._hub = hub
        self._rouse = rouse
        self._position = entrance.position
        self._permit = entrance.permit
        self._wait = entrance.wait
        self._refused = entrance.refused
        # The refusal stays: nothing that happens in the run is news.
        self._settled = False
        self._expiry = Expiry(self, entrance.until)
        self._serving = False
        self._deadline: asyncio.TimerHandle | None = None
        self._gave_up = False
        self._pause: asyncio.TimerHandle | None = None
        self._news: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Join the run.

        Raises:
            HoldfastError: what is stored of it cannot be read.
        """
        await self.subscription.__aenter__()

    async def close(self) -> None:
        """Leave the run, and be roused no more."""
        self._expiry.cancel()
        for timer in (self._deadline, self._pause):
            if timer is not None:
                timer.cancel()
        self._hear_no_more()
        await self.subscription.__aexit__(None, None, None)

    def wake(self) -> None:
        """Be worth another step."""
        self._rouse(self)

    def leave(self) -> None:
        """The client is gone: that is known to who holds the lane."""

    def behind(self) -> bool:
        """Whether more has happened in the run than is kept in memory for the slow."""
        return self.subscription.behind()

    @property
    def granted(self) -> bool:
        """Whether the run may be read, as far as anybody has said so far."""
        return not self._refused

    @property
    def held(self) -> bool:
        """Whether nobody can say yet if there is anything to read."""
        return not self._serving and self._deadline is None

    def rest(self) -> None:
        """Be roused when there is news; at once where there may be something to take."""
        if self._serving and self._pause is None and self.subscription.ready:
            self._rouse(self)
        elif not self._settled:
            self._listen()

    async def rewind(self, position: Position) -> None:
        """Begin anew at *position*, when the store can be asked; not at once in any case.

        What made that necessary may be in memory still, and would make it so again.
        """
        self._hear_no_more()
        await self.subscription.__aexit__(None, None, None)
        self.subscription = Subscription(self._hub, self.run_id, position)
        self._begin_pause()
        await self.subscription.__aenter__()

    async def step(self) -> Step:
        """Look, and take what is due.

        Raises:
            HoldfastError: what is stored cannot be read, for a reason that is no outage.
        """
        if self._expiry.reached:
            return Step([], EXPIRED_RIGHT)
        if not self._serving:
            step = await self._decide()
            if not self._serving:
                return step
        if self._pause is not None:
            return _NOTHING
        due = await self.subscription.take()
        if self.subscription.expired:
            return Step(due, _ENDS[Opening.EXPIRED])
        return Step(due, "end" if self.subscription.done else None)

    async def _decide(self) -> Step:
        """Ask what a reader of a single run would be answered; serving, or why not."""
        # Taken before the look, so that what happens meanwhile is not missed.
        if not self._settled:
            self._listen()
        store = self._hub.store
        opening, refused = Opening.SERVE, ""
        if self._permit is not None:
            decision = await self._judged(self._permit)
            opening, refused = decision.opening, decision.code
            if opening is Opening.DENIED and self._refused:
                return Step([], refused) if self._waited() else _NOTHING
            if opening not in {Opening.UNDECIDED, Opening.DENIED}:
                self._expiry.move(decision.until)
                self._permit, self._refused, self._settled = None, False, False
        if self._permit is None:
            opening = await look_from(store, self.subscription, self._position)
        if opening is Opening.UNDECIDED:
            # What this request brought, its session, was loaded while Redis was away and stays as
            # it is. The next request brings a new one.
            self.unknowable = self._permit is not None and store.available
            self.subscription.doubt()
            return _NOTHING
        if opening is Opening.DENIED:
            return Step([], refused, late=True)
        if opening is Opening.ABSENT and not self._waited():
            return _NOTHING
        self._serving = opening is Opening.SERVE
        return Step([], _ENDS.get(opening, "end"))

    async def _judged(self, permit: Permit) -> Decision:
        store, position = self._hub.store, self._position
        if not self._refused:
            return await judge(store, self.run_id, position, permit)
        decision, self._settled = await judge_late(store, self.run_id, position, permit)
        return decision

    def _waited(self) -> bool:
        """Whether the run has been waited for long enough."""
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(self._wait, self._give_up)
        return self._gave_up or not self._wait

    def _give_up(self) -> None:
        # Noted here: a timer may run a little early by the clock of its loop.
        self._gave_up = True
        self.wake()

    def _begin_pause(self) -> None:
        self._pause = asyncio.get_running_loop().call_later(PAUSE, self._end_pause)

    def _end_pause(self) -> None:
        if self._hub.store.available:
            self._pause = None
            self.wake()
        else:
            self._begin_pause()

    def _listen(self) -> None:
        if self._news is None or self._news.done():
            self._news = self.subscription.news()
            self._news.add_done_callback(self._heard)

    def _hear_no_more(self) -> None:
        if self._news is not None:
            self._news.cancel()
            self._news = None

    def _heard(self, news: asyncio.Future[None]) -> None:
        if not news.cancelled():
            self._rouse(self)
