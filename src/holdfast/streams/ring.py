"""The newest events of one run, encoded once and shared by all its readers of this process.

State without I/O: the hub fills it, readers walk it by an integer that counts every item the ring
ever had. A reader has no queue; one that is too slow finds its place gone and reads the store
instead.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Literal

from holdfast.streams.event import ZERO, EventId
from holdfast.streams.frames import Frame

RING_BYTES = 1 << 20
"""How many bytes of frames a ring keeps for readers that are a little behind."""


BreakKind = Literal["gap", "reset"]


@dataclass(frozen=True, slots=True)
class Break:
    """Where the events of a run do not follow each other: some are gone, or another life began."""

    kind: BreakKind
    requested: str
    earliest: str | None


Item = Frame | Break


def continuity(after: EventId, prev: EventId | None) -> BreakKind | None:
    """What lies between a reader at *after* and the next event, whose predecessor was *prev*.

    | next event's predecessor       | verdict                                                        |
    |--------------------------------|----------------------------------------------------------------|
    | is where the reader stands     | they follow each other                                         |
    | is newer                       | what lies between is gone: a gap                               |
    | is older, or there is none     | the reader saw what this life never had: another life, a reset |
    | is unknown (a foreign program) | nothing can be said                                            |
    """
    if prev is None or prev == after:
        return None
    return "gap" if prev > after else "reset"


class Ring:
    """A byte-capped window on the end of a run.

    Args:
        run_id: the run.
        start: the ring is complete after this id; older events are read from the store.
        life: the life of the run that it shows, as soon as that is known.
    """

    def __init__(
        self, run_id: str, start: EventId, life: str | None, *, max_bytes: int = RING_BYTES
    ) -> None:
        self.run_id = run_id
        self.life = life
        self.last = start
        self.last_n = 0
        self.begun = life is not None
        self.ended = False
        self.readers = 0
        self.encoded = 0
        self._start = start
        self._items: deque[tuple[EventId, int, Item]] = deque()
        self._first = 0
        self._bytes = 0
        self._max_bytes = max_bytes
        self._sleepers: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Ring {self.run_id!r} {len(self._items)} items, {self._bytes} bytes, {self.readers} readers>"

    @property
    def end(self) -> int:
        """The position after the newest item."""
        return self._first + len(self._items)

    def append(self, frame: Frame) -> None:
        """Add the next stored or provisional event."""
        entry = frame.entry
        if not entry.provisional:
            self.last, self.last_n = entry.id, entry.n
        self.begun = True
        self.ended = self.ended or entry.terminal
        self.encoded += 1
        self._push(frame, frame.size, 1 if entry.provisional else 0)

    def interrupt(self, item: Break) -> None:
        """Tell every reader that what follows does not follow what they have."""
        self._push(item, 128, 1)

    def begin_life(self, life: str | None, requested: str, earliest: str | None) -> None:
        """Tell every reader that another life began. Nothing of the earlier one stays: ids of two lives never mix."""
        self._first = self.end
        self._items.clear()
        self._bytes = 0
        self.life, self.begun = life, life is not None
        self.last, self.last_n, self.ended, self._start = ZERO, 0, False, ZERO
        self._push(Break("reset", requested, earliest), 128, -1)

    def locate(self, base: EventId) -> int | None:
        """Return the position after the event *base*; ``None`` where the ring does not reach back so far."""
        if base < self._start or base > self.last:
            return None
        index = bisect_right(self._items, (base, 0), key=_order)
        return self._first + self._past_provisional(index)

    def _past_provisional(self, index: int) -> int:
        """Step over events that have been stored since: who joins now gets them in their final order."""
        for ahead in range(index, len(self._items)):
            item = self._items[ahead][2]
            if isinstance(item, Frame) and not item.entry.provisional:
                return ahead
        return index

    def slice(self, position: int, max_bytes: int) -> list[Item] | None:
        """Return what follows *position*, up to *max_bytes* but at least one item; ``None`` where it is gone."""
        if position < self._first:
            return None
        items: list[Item] = []
        size = 0
        for index in range(position - self._first, len(self._items)):
            item = self._items[index][2]
            size += item.size if isinstance(item, Frame) else 0
            if items and size > max_bytes:
                break
            items.append(item)
        return items

    def sleep(self) -> asyncio.Future[None]:
        """Return a future that is done at the next news."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.add(future)
        future.add_done_callback(self._sleepers.discard)
        return future

    def wake(self) -> None:
        """Have every reader look."""
        sleepers, self._sleepers = self._sleepers, set()
        for future in sleepers:
            if not future.done():
                future.set_result(None)

    def _push(self, item: Item, size: int, rank: int) -> None:
        self._items.append((self.last, rank, item))
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._items) > 1:
            at, rank, old = self._items.popleft()
            self._first += 1
            # An event that is not stored yet cannot be read elsewhere: its id alone does not reach
            # behind it.
            self._start = max(self._start, at.next() if rank > 0 else at)
            self._bytes -= old.size if isinstance(old, Frame) else 128


def _order(item: tuple[EventId, int, Item]) -> tuple[EventId, int]:
    return item[0], item[1]
