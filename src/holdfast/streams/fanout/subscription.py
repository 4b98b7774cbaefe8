"""One reader of one run: its cursor, and what it is due next.

A subscription has no queue. It walks the shared ring by an integer, reads the store where the ring
does not reach back so far, and rejoins. History and live events are one source: nothing to lose or
double at the join.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from holdfast import signals
from holdfast.errors import RedisUnavailable
from holdfast.streams import observed
from holdfast.streams.cursor import TAIL, Cursor, Position
from holdfast.streams.event import ZERO, EventId
from holdfast.streams.fanout.ring import (
    FIRST_PAGE,
    Batch,
    Break,
    BreakKind,
    Item,
    Page,
    Ring,
    continuity,
    next_page,
)
from holdfast.streams.frames import Frame, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence
    from types import TracebackType

    from holdfast.signals import Operation
    from holdfast.streams.fanout.hub import Hub
    from holdfast.streams.store import Entry, RunInfo

CHUNK_BYTES = 65536
"""The most that is handed over at once (a larger single event goes alone)."""


NOWHERE = str(ZERO)


@dataclass(frozen=True, slots=True)
class Due:
    """One thing to send: an event under the reader's own cursor, or a break."""

    cursor: str
    item: Item


class Taker(Protocol):
    """Whoever can take what is due without the task that waits for it."""

    def take_over(self) -> bool:
        """Take what is due; return whether the task may sleep on."""


class Subscription:
    """A position in a run that moves as it is read.

    Args:
        hub: the hub of the running event loop.
        run_id: the run.
        position: where to start: a cursor, or ``TAIL`` for only what comes from now.
        chunk_bytes: the most that :meth:`take` hands over at once from the ring.

    Use it as an asynchronous context manager; then alternate :meth:`take` and :meth:`wait`, which
    returns at once where there is more, until :attr:`done`.

    Attributes:
        cursor: what has been handed over.
        done: nothing follows: the run is over, and all of it was handed over.
        left: the client is gone.
        late: the run is on Pub/Sub, and had begun before this reader joined.
        taker: who takes what is due while :meth:`news` is awaited, in place of who awaits it.
    """

    # There may be ten thousand of them, and each event visits them all.
    __slots__ = (
        "_awaited",
        "_began",
        "_chunk_bytes",
        "_from_tail",
        "_hub",
        "_joined_at",
        "_live",
        "_more",
        "_operation",
        "_page",
        "_passed",
        "_passed_end",
        "_position",
        "_ring",
        "_sleeper",
        "_tail",
        "cursor",
        "done",
        "late",
        "left",
        "run_id",
        "taker",
    )

    def __init__(
        self, hub: Hub, run_id: str, position: Position, *, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self.run_id = run_id
        self.cursor = position if isinstance(position, Cursor) else Cursor()
        self.done = False
        self.left = False
        self.taker: Taker | None = None
        self._from_tail = position is TAIL
        self._began = EventId(time.time_ns() // 1_000_000, 0) if self._from_tail else ZERO
        self._hub = hub
        self._chunk_bytes = chunk_bytes
        self._page = FIRST_PAGE
        self._awaited: Page | None = None
        self._more = False
        self._ring: Ring | None = None
        self._position: int | None = None
        self._tail = self._from_tail
        self._joined_at = 0
        self.late = self._live = False
        self._passed = NOWHERE
        # The end of the run that is in the ring was passed over, and comes again when it is stored.
        self._passed_end = False
        self._sleeper: asyncio.Future[None] | None = None
        self._operation: Operation | None = None

    def __repr__(self) -> str:
        return f"<Subscription {self.run_id!r} at {self.cursor}>"

    async def __aenter__(self) -> Self:
        if self._ring is not None:
            return self  # joined already, by who hands it on
        # Counted before it is open, or any number could open at once.
        self._hub.subscribers.add(self)
        there = self._hub.watches(self.run_id)
        try:
            self._ring = await self._hub.join(self.run_id)
        except BaseException:
            self._hub.subscribers.discard(self)
            raise
        if signals.observers:
            self._operation = observed.delivering(self.run_id).__enter__()
        # All of a ring that was opened for this reader is theirs, though the loop has turned since.
        self._joined_at = self._ring.end if there else 0
        self.late = self._ring.transport == "pubsub" if there else self._ring.begun
        if self._from_tail:
            self.cursor.base = self._ring.last
            self._position = self._ring.end
            # Without the store nobody knows what the end is; then it is found out later.
            self._from_tail = self._ring.doubtful and self._ring.life is None
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hub.subscribers.discard(self)
        if self._ring is not None:
            self._ring.forget(self)
            self._hub.leave(self._ring)
            self._ring = None
        if self._operation is not None:
            self._operation.__exit__(exc_type, exc, traceback)
            self._operation = None

    @property
    def over(self) -> bool:
        """Whether there is nobody to read for: the client left, or the process stops."""
        return self.left or self._hub.stopping

    @property
    def expired(self) -> bool:
        """Whether nothing follows because the run is kept no longer, though it never ended."""
        return self.done and self._joined().expired

    @property
    def begun(self) -> bool:
        """Whether an event of a Pub/Sub run has come by since this reader joined."""
        ring = self._joined()
        return ring.transport == "pubsub" and ring.end > self._joined_at

    def behind(self) -> bool:
        """Whether more has happened than the ring keeps since this reader last took something."""
        ring, position = self._ring, self._position
        return ring is not None and position is not None and not ring.reaches(position)

    def leave(self) -> None:
        """Note that the client is gone."""
        self.left = True
        self.wake()

    def wake(self) -> None:
        """End a :meth:`wait` now."""
        self.taker = None
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def rouse(self) -> bool:
        """End a :meth:`wait`, as there is news, unless all of that is taken over.

        Returns:
            Whether the wait goes on.
        """
        taker, sleeper = self.taker, self._sleeper
        if taker is None or sleeper is None or sleeper.done():
            pass  # who was cancelled waits no more, and nothing may begin in that task's name
        # More may be due, also of what has happened meanwhile, and so may be an end.
        elif taker.take_over() and self.taker is taker and not self.ready:
            return True
        self.wake()
        return False

    def news(self) -> asyncio.Future[None]:
        """Return a future that is done when there is news of the run from now on.

        Take it before you look, and nothing that happens meanwhile is missed.
        """
        sleeper = self._sleeper
        if sleeper is None or sleeper.done():
            ring = self._joined()
            sleeper = self._sleeper = asyncio.get_running_loop().create_future()
            ring.sleep(self)
        if self.over:
            self.wake()
        return sleeper

    def doubt(self) -> None:
        """Have :meth:`wait` end when the store can be asked again."""
        self._joined().doubtful = True

    def describe(self) -> Awaitable[RunInfo]:
        """Ask the store what the run is, together with whoever else asks now.

        Raises:
            RedisUnavailable: it cannot be asked.
        """
        return self._hub.describe(self.run_id)

    @property
    def ready(self) -> bool:
        """Whether there may be something to take already."""
        if self.done or self._more or (self._awaited is not None and self._awaited.done):
            return True
        ring, position = self._ring, self._position
        return ring is not None and position is not None and position < ring.end

    @property
    def idle(self) -> bool:
        """Whether there is surely nothing to take."""
        ring = self._ring
        if ring is None or self._from_tail or ring.expired:
            return False
        return self._position == ring.end

    async def wait(self) -> None:
        """Wait until there may be something to take. May be woken for nothing."""
        if not self.ready:
            await self.news()

    def take_batch(self) -> Batch | None:
        """Return what is due now if it is what every reader at this place is due, else ``None``.

        That is the quick way of nearly every event; :meth:`take` knows all others.
        """
        ring, position, cursor = self._ring, self._position, self.cursor
        if ring is None or position is None or cursor.seen or self._from_tail:
            return None
        batch = ring.batch(position, self._chunk_bytes)
        if batch is None or batch.first <= cursor.base:
            return None
        cursor.base = batch.last
        self._position = batch.end
        self._more = False
        over = ring.ended and batch.end == ring.end and not self._passed_end
        self.done = batch.terminal or over
        if signals.observers:
            observed.delivered(self._operation, len(batch.frames))
        return batch

    async def take(self) -> list[Due]:
        """Return what is due now, oldest first.

        It is empty where nothing is due, and where it cannot be read yet. After the terminal event
        :attr:`done` is true.

        Raises:
            HoldfastError: what is stored cannot be read, for a reason that is no outage.
        """
        due = await self._take()
        if due and signals.observers:
            observed.took(self._operation, due)
        return due

    async def _take(self) -> list[Due]:
        ring = self._joined()
        if ring.transport == "pubsub":
            self._awaited = None
            return self._take_live(ring)
        if self._from_tail:
            await self._find_tail(ring)
        if self._position is None:
            self._position = self._rejoin(ring)
        if self._position is None:
            due = await self._take_from_store(ring)
            self._more = bool(due)
            return due
        # Who has a place in the ring waits for no page, and is not ready because one was read.
        self._awaited, self._more = None, False
        items = ring.slice(self._position, self._chunk_bytes)
        if items is None:
            self._position = None
            return await self._take()
        due = list(self._deliver(ring, items, self._position))
        self._position += len(items)
        over = ring.ended and self._position == ring.end and not self._passed_end
        self.done = self.done or over
        return due

    def _take_live(self, ring: Ring) -> list[Due]:
        """Return what has come by since the last time; a position names nothing there."""
        due: list[Due] = []
        if not self._live:
            self._live, self._from_tail = True, False
            if not self._tail and (self.late or self.cursor.base != ZERO):
                due.append(Due("", Break("gap", str(self.cursor), None)))
            self.cursor = Cursor()
            self._position = self._joined_at if self._position is None else self._position
        position = self._joined_at if self._position is None else self._position
        items = ring.slice(position, self._chunk_bytes)
        if items is None:
            # Slower than the run, whose events are nowhere else.
            due.append(Due("", Break("gap", self._passed, None)))
            position = ring.first
            items = ring.slice(position, self._chunk_bytes) or []
        due += [Due("" if isinstance(item, Break) else item.cursor, item) for item in items]
        self._passed = due[-1].cursor if items and due[-1].cursor else self._passed
        self._position, self._more = position + len(items), False
        self.done = self.done or (ring.ended and self._position == ring.end)
        return due

    async def _find_tail(self, ring: Ring) -> None:
        """Pass over what was stored before this reader came, when the store can be asked again.

        Ids begin with the time of their writing, so the first one of his time tells the end of
        what was there before.
        """
        try:
            info = await self._hub.store.describe(self.run_id)
            first = await self._hub.read(self.run_id, self._began, 1)
        except RedisUnavailable:
            ring.doubtful = True
            return
        self._from_tail = False
        end = first[0].prev if first else info.last
        self.cursor.base = max(self.cursor.base, info.last if end is None else end)
        self._position = None

    def _rejoin(self, ring: Ring) -> int | None:
        """Return the place in the ring after the cursor, if the events there really follow it."""
        position = ring.locate(self.cursor.base)
        if position is None:
            return None
        head = ring.slice(position, 1)
        if not head or isinstance(head[0], Break) or head[0].entry.provisional:
            return position
        return None if continuity(self.cursor.base, head[0].entry.prev) else position

    async def _take_from_store(self, ring: Ring) -> list[Due]:
        """Read a page of history.

        While Redis is away there is none: the reader is held, not told an end.
        """
        try:
            page = await self._page_of_history(ring)
            if page is None:
                return []
            if not page:
                return await self._nothing_follows(ring)
            broken = await self._judge(page[0].entry)
            if broken == "reset":
                return [await self._reset()]
        except RedisUnavailable:
            self._page = FIRST_PAGE
            ring.doubtful = True
            return []
        self._page = next_page([frame.entry for frame in page], self._page)
        earliest = str(page[0].entry.id)
        due = [Due("", Break("gap", str(self.cursor), earliest))] if broken else []
        due += self._deliver_page(page)
        # A whole page may be known from before it was stored: then there is more to read.
        return due if due or self.done else await self._take()

    async def _page_of_history(self, ring: Ring) -> Sequence[Frame] | None:
        """Return what follows in the store, ``None`` while another reader is reading just that.

        Readers who come back together stand at few places, and go on together: each page is read
        and encoded once, and who waits for it does so without a place in a queue.
        """
        base, awaited = self.cursor.base, self._awaited
        page = ring.pages.get(base) if awaited is None else awaited
        if page is not None and not page.done:
            self._awaited = page
            page.waiting.add(self)
            return None
        self._awaited = None
        if page is None:
            page = ring.pages[base] = Page()
            try:
                page.frames = await self._read_page(base)
            finally:
                ring.pages.pop(base, None)
                page.finish()
        if page.frames is None:
            # Not together: where one of them fails, each of the others would in its turn.
            return await self._read_page(base)
        return page.frames

    async def _read_page(self, base: EventId) -> list[Frame]:
        entries = await self._hub.read(self.run_id, base.next(), self._page)
        return [encode(self.run_id, entry) for entry in entries]

    def _deliver_page(self, page: Iterable[Frame]) -> Iterable[Due]:
        last: EventId | None = None
        for frame in page:
            entry = frame.entry
            # An entry may be removed by itself, in the middle of what is kept.
            if last is not None and continuity(last, entry.prev):
                yield Due("", Break("gap", str(self.cursor), str(entry.id)))
            yield from self._deliver_frame(frame)
            last = entry.id
            if entry.terminal:
                self.done = True
                return

    async def _nothing_follows(self, ring: Ring) -> list[Due]:
        """The store has nothing after the cursor, and the ring does not know it: say why."""
        info = await self._hub.store.describe(self.run_id)
        base = self.cursor.base
        over = info.status in {"ended", "expired"}
        if info.status == "expired" and info.end is None and not ring.ended:
            ring.expire()
        if info.status != "absent" and info.last < base:
            return [await self._reset()]
        self._hub.look(self.run_id)
        if info.last > base:
            if info.length and await self._hub.read(self.run_id, base.next(), 1):
                return []  # it was written since we read, and the look will find it
            # What followed the cursor is no longer kept.
            requested, self.cursor.base, self.done = str(self.cursor), info.last, over
            return [Due("", Break("gap", requested, None))]
        if info.last == base or info.status == "absent":
            self.done = over
            if ring.last == base or (info.status == "absent" and ring.last < base):
                self._position, self._passed_end = ring.end, ring.ended
            # Else the ring is behind, and this reader joins when it has come up to here: until then
            # another life may begin that it cannot tell from what comes before the cursor.
        return []

    async def _reset(self) -> Due:
        first = await self._hub.read(self.run_id, ZERO, 1)
        earliest = str(first[0].id) if first else None
        requested, self.cursor = str(self.cursor), Cursor()
        return Due("", Break("reset", requested, earliest))

    async def _judge(self, first: Entry) -> BreakKind | None:
        """Say what lies between the cursor and the first event that the store still has after it.

        An entry of another program does not name its predecessor: what is in doubt is told as a
        gap.
        """
        base = self.cursor.base
        if first.prev is not None:
            return continuity(base, first.prev)
        if base != ZERO:
            return None if await self._hub.store.read(self.run_id, base, base, 1) else "gap"
        info = await self._hub.store.describe(self.run_id)
        return None if info.n == info.length else "gap"

    def _deliver(self, ring: Ring, items: Iterable[Item], position: int) -> Iterable[Due]:
        for place, item in enumerate(items, position):
            if isinstance(item, Break):
                if item.kind == "reset":
                    self.cursor = Cursor()
                yield Due("", item)
                continue
            if item.entry.provisional and not self._may_take(ring, place, item.entry):
                self._passed_end = self._passed_end or item.entry.terminal
                continue
            yield from self._deliver_frame(item)
            if item.entry.terminal:
                self.done = True
                return

    def _may_take(self, ring: Ring, position: int, entry: Entry) -> bool:
        """Whether a provisional event is due now, and not when it comes once more, as stored.

        To take it says: all that its producer wrote before has been seen. Who asked for the end of
        a run that cannot be looked at wants nothing of that.
        """
        if ring.superseded(position, entry):
            return False
        if entry.terminal and ring.has_others_than(entry.producer):
            return False  # its producer had not heard of them, and they may have written more
        reached = self.cursor.reaches(entry.producer, entry.follows, entry.prev)
        return reached or self._from_tail

    def _deliver_frame(self, frame: Frame) -> Iterable[Due]:
        entry = frame.entry
        if not entry.provisional and entry.id <= self.cursor.base:
            return  # the ring was behind this reader, who has it from another process
        if self.cursor.has_seen(entry.producer, entry.seq):
            if not entry.provisional:
                self.cursor.advance(entry.id, entry.producer, entry.seq)
            return
        if entry.provisional and entry.producer is not None:
            if not self.cursor.advance_provisional(entry.producer, entry.seq):
                yield Due("", Break("reset", str(self.cursor), str(self.cursor.base)))
                self.cursor.seen = {entry.producer: entry.seq}
        else:
            self.cursor.advance(entry.id, entry.producer, entry.seq)
        yield Due(str(self.cursor) if self.cursor.seen else frame.cursor, frame)

    def _joined(self) -> Ring:
        if self._ring is None:
            raise RuntimeError("use the subscription as an asynchronous context manager")
        return self._ring
