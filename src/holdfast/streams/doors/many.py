"""Many runs as one stream: each run's events once and in order, and fair among the runs.

No queue and no task per run. A run that has news gets in line; what it is due is taken when its
turn comes, and it goes to the end of the line.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Self

from holdfast.errors import HoldfastError
from holdfast.streams.access import PolicyError
from holdfast.streams.composite import GONE, Composite
from holdfast.streams.cursor import Cursor, parse_position
from holdfast.streams.doors.lane import Lane
from holdfast.streams.doors.told import Told, failed
from holdfast.streams.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from holdfast.streams.doors.lane import Entrance, Step
    from holdfast.streams.fanout.hub import Hub
    from holdfast.streams.fanout.rounds import Rounds
    from holdfast.streams.fanout.subscription import Due

log = logging.getLogger("holdfast.streams")

ACCESS_FAILED, CORRUPT = "ACCESS_FAILED", "CORRUPT_DATA"
FOR_GOOD = {"RUN_NOT_FOUND", "RUN_EXPIRED"}
"""Why a run is over without an end, in a way that a position can say."""


class Many:
    """The reader of one connection: its runs, and where it stands in each.

    It counts as one reader beside its runs, so that an empty one is counted too.

    Args:
        hub: the hub of the running event loop.
        composite: where the client stands; moved as events are taken.

    Use it as an asynchronous context manager; :meth:`add` runs, and alternate :meth:`take` and
    :meth:`wait`.

    Attributes:
        composite: what has been taken.
        left: the client is gone.
        unknowable: of some run it cannot be learnt on this connection whether it may be read; the
            client has to come back with another one.
    """

    def __init__(self, hub: Hub, composite: Composite) -> None:
        self.composite = composite
        self.left = False
        self.unknowable = False
        self._hub = hub
        self._lanes: dict[str, Lane] = {}
        # A dictionary for its order: who has waited longest is first.
        self._line: dict[Lane, None] = {}
        self._sleeper: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Many {len(self._lanes)} runs>"

    async def __aenter__(self) -> Self:
        self._hub.subscribers.add(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hub.subscribers.discard(self)
        for lane in list(self._lanes.values()):
            await self._remove(lane)

    def __len__(self) -> int:
        return len(self._lanes)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._lanes

    # -- who is read

    async def add(self, entrances: Mapping[str, Entrance]) -> list[Told]:
        """Read these runs too; return what is to be told of those that cannot be read."""
        lanes = [Lane(self._hub, run, how, self._rouse) for run, how in entrances.items()]
        self._lanes.update((lane.run_id, lane) for lane in lanes)
        opened = await asyncio.gather(*(self._open(lane) for lane in lanes))
        self.composite.keep_room(self._lanes)
        return [told for told in opened if told is not None]

    async def _open(self, lane: Lane) -> Told | None:
        try:
            await lane.open()
        except HoldfastError as error:
            return await self._broken(lane, error)
        if self.composite.place(lane.run_id) is None:
            # Where the end of a run is asked for, it is this from now on.
            self.composite.move(lane.run_id, _copy(lane.subscription.cursor))
        self._rouse(lane)
        return None

    async def drop(self, run_id: str) -> bool:
        """Read *run_id* no more; False where it was not read. Its place is kept, while it fits."""
        lane = self._lanes.get(run_id)
        if lane is not None:
            await self._remove(lane)
        return lane is not None

    async def _remove(self, lane: Lane) -> None:
        del self._lanes[lane.run_id]
        self._line.pop(lane, None)
        await lane.close()

    # -- what wakes it

    @property
    def over(self) -> bool:
        """Whether there is nobody to read for: the client left, or the process stops."""
        return self.left or self._hub.stopping

    @property
    def granted(self) -> bool:
        """Whether any run may be read, as far as anybody has said so far."""
        return any(lane.granted for lane in self._lanes.values())

    @property
    def away(self) -> bool:
        """Whether Redis is."""
        return not self._hub.store.available

    @property
    def held(self) -> bool:
        """Whether Redis is away, or of no run anybody can say yet if there is anything to read."""
        if self.away:
            return True
        return bool(self._lanes) and all(lane.held for lane in self._lanes.values())

    @property
    def rounds(self) -> Rounds:
        """What looks after the heartbeat of the connection."""
        return self._hub.rounds

    def behind(self) -> bool:
        """Whether more has happened in one of the runs than is kept in memory for the slow."""
        return any(lane.behind() for lane in self._lanes.values())

    def leave(self) -> None:
        """Note that the client is gone."""
        self.left = True
        self.wake()

    def wake(self) -> None:
        """End a :meth:`wait` now."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def wait(self) -> None:
        """Wait until there may be something to take. May be woken for nothing."""
        if not (self._line or self.over):
            self._sleeper = asyncio.get_running_loop().create_future()
            await self._sleeper

    def _rouse(self, lane: Lane) -> None:
        if self._lanes.get(lane.run_id) is lane:
            self._line[lane] = None
            self.wake()

    # -- what is due

    async def take(self) -> list[Told]:
        """Return what is due of the run whose turn it is; empty where nothing is."""
        lane = next(iter(self._line), None)
        if lane is None:
            return []
        del self._line[lane]
        try:
            step = await lane.step()
        except HoldfastError as error:
            return [await self._broken(lane, error)]
        self.unknowable = self.unknowable or lane.unknowable
        told = await self._taken(lane, step)
        if lane.run_id in self._lanes:
            lane.rest()
        return told

    async def _taken(self, lane: Lane, step: Step) -> list[Told]:
        told: list[Told] = []
        for due in step.due:
            self._move(lane.run_id, due)
            while self.composite.is_long:
                begun = await self._begin_heaviest_anew()
                told += begun
                if any(each.run_id == lane.run_id for each in begun):
                    return told
            told.append(self._told(lane.run_id, due))
        if step.over is not None:
            told.append(await self._finished(lane, step.over, late=step.late))
        return told

    def _move(self, run_id: str, due: Due) -> None:
        if isinstance(due.item, Frame):
            position = parse_position(due.cursor) if due.item.kept else None
            if isinstance(position, Cursor):
                self.composite.move(run_id, position)
        elif due.item.kind == "reset":
            self.composite.forget(run_id)

    def _told(self, run_id: str, due: Due) -> Told:
        item = due.item
        if isinstance(item, Frame):
            # What is kept nowhere cannot be come back to: no position moves with it.
            at = str(self.composite) if item.kept else ""
            return Told("event", run_id, at, item, due.cursor)
        fields = (("requested", item.requested), ("earliest", item.earliest))
        return Told(item.kind, run_id, fields=fields)

    async def _begin_heaviest_anew(self) -> list[Told]:
        """Make the composite shorter: the run that names most processes begins at its start.

        That is an outage in which many processes publish to many runs. Who was told of a reset
        loses nothing and gets nothing twice.
        """
        run_id = self.composite.heaviest(self._lanes)
        if run_id is None:
            self.composite.forget_others(self._lanes)
            return []
        lane, requested = self._lanes[run_id], str(self.composite.position(run_id))
        self.composite.forget(run_id)
        told = [Told("reset", run_id, fields=(("requested", requested), ("earliest", None)))]
        try:
            await lane.rewind(Cursor())
        except HoldfastError as error:
            told.append(await self._broken(lane, error))
        return told

    async def _finished(self, lane: Lane, how: str, *, late: bool) -> Told:
        await self._remove(lane)
        if how == "end":
            return Told("end", lane.run_id)
        if how not in FOR_GOOD and lane.granted:
            return failed(lane.run_id, how, late=late)
        # A client that comes back with it need not wait for the run again, as long as that is so.
        self.composite.move(lane.run_id, GONE)
        return failed(lane.run_id, how, str(self.composite))

    async def _broken(self, lane: Lane, error: HoldfastError) -> Told:
        fields = {"run_id": lane.run_id}
        log.warning("the run %r breaks off: %s", lane.run_id, error, extra=fields)
        await self._remove(lane)
        return failed(lane.run_id, ACCESS_FAILED if isinstance(error, PolicyError) else CORRUPT)


def _copy(cursor: Cursor) -> Cursor:
    return Cursor(cursor.base, dict(cursor.seen))
