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
from typing import TYPE_CHECKING, Literal, Protocol

from holdfast.streams.event import ZERO, EventId
from holdfast.streams.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.streams.rollout import Transport
    from holdfast.streams.store import Entry

RING_BYTES = 1 << 20
"""How many bytes of frames a ring keeps for readers that are a little behind."""

BREAK_BYTES = 128

MAX_PAGE = 500
"""Entries per read: measured best between 100 and 1000 on small events."""

FIRST_PAGE = 16
PAGE_BYTES = 1 << 18
"""What a page should take: the events of a run may be 1 MiB each, and a reply has one deadline."""

WAKE_AT_ONCE = 64
"""How many readers are woken in one turn of the loop. A thousand at once would be a thousand new
objects, at which the garbage collector runs, with each event; and whatever else the loop has to do,
the next event too, would wait for all of them."""

BreakKind = Literal["gap", "reset"]


@dataclass(frozen=True, slots=True)
class Break:
    """Where the events of a run do not follow each other: some are gone, or another life began."""

    kind: BreakKind
    requested: str
    earliest: str | None


Item = Frame | Break


class Waiting(Protocol):
    """Whoever waits for something of a ring."""

    def wake(self) -> None:
        """Look now."""


class Sleeping(Protocol):
    """Whoever sleeps until there is news of a run."""

    def rouse(self) -> bool:
        """Look now; return whether to be roused at the next news again."""


@dataclass(slots=True, eq=False)
class Batch:
    """Stored events in a row, the same for every reader who stands before them.

    Attributes:
        frames: at least one.
        start, end: the positions in the ring before the first and after the last of them.
        first, last: their ids.
        terminal: the last of them ends the run.
        max_bytes: how many bytes were asked for.
        plain: what :meth:`event_source` returns without an envelope, once it has been asked.
    """

    frames: list[Frame]
    start: int
    end: int
    first: EventId
    last: EventId
    terminal: bool
    max_bytes: int
    plain: bytes | None = None

    def event_source(self, *, envelope: bool = False) -> bytes:
        """All of them for ``EventSource``, spelled once for everybody."""
        if envelope:
            return b"".join(each.event_source(each.cursor, envelope=True) for each in self.frames)
        if self.plain is None:
            self.plain = b"".join(each.event_source(each.cursor) for each in self.frames)
        return self.plain


class Page:
    """Some history that one reader is reading, for all who come to the same place meanwhile.

    Attributes:
        frames: what was found; ``None`` where it could not be read.
        waiting: who is to be woken.
        done: nobody reads it any more.
    """

    __slots__ = ("done", "frames", "waiting")

    def __init__(self) -> None:
        self.frames: list[Frame] | None = None
        self.waiting: set[Waiting] = set()
        self.done = False

    def finish(self) -> None:
        """Have all who wait for it look."""
        self.done = True
        while self.waiting:
            self.waiting.pop().wake()


def continuity(after: EventId, prev: EventId | None) -> BreakKind | None:
    """What lies between a reader at *after* and the next event, whose predecessor was *prev*.

    | next event's predecessor       | verdict                                               |
    |--------------------------------|-------------------------------------------------------|
    | is where the reader stands     | they follow each other                                |
    | is newer                       | what lies between is gone: a gap                      |
    | is older, or there is none     | the reader saw what this life never had: a reset      |
    | is unknown (a foreign program) | nothing can be said                                   |
    """
    if prev is None or prev == after:
        return None
    return "gap" if prev > after else "reset"


def next_page(entries: Sequence[Entry], page: int) -> int:
    """Return how many entries to read after a page of *entries*, to get about ``PAGE_BYTES``."""
    size = sum(len(entry.data) for entry in entries)
    fitting = PAGE_BYTES * len(entries) // size if size else MAX_PAGE
    return max(min(fitting, 8 * page, MAX_PAGE), 1)


class Ring:
    """A byte-capped window on the end of a run.

    Args:
        run_id: the run.
        start: the ring is complete after this id; older events are read from the store.
        life: the life of the run that it shows, as soon as that is known.
        max_bytes: how much it keeps; the newest item always stays. Default 1 MiB.
        accepted: the newest event of this process that may be stored up to *start*. Default 0.

    Attributes:
        last, last_n: id and number of the newest stored event that it knows of.
        ended: whether that, or a provisional event, ended the run, or it has expired.
        expired: the run never ended, and its events are kept no longer.
        readers: how many subscriptions walk it.
        doubtful: the store could not be asked; when it can, every reader must look again.
        transport: what the run uses, once that is known.
        begun: whether a Pub/Sub run had begun when this was opened.
        noted: whether the store has been told that another program publishes the run.
        overdue: of a Pub/Sub run, what an audit found that had not arrived, and when.
        page: how many entries to read of it at once.
        pages: its history that is being read now, by the id after which it begins.
        encoded: how many events have been encoded for it.
        end: the position after the newest item.
    """

    __slots__ = (
        "_accepted",
        "_batch",
        "_bytes",
        "_first",
        "_items",
        "_max_bytes",
        "_newest",
        "_sleepers",
        "_start",
        "_stored_at",
        "_waking",
        "begun",
        "doubtful",
        "encoded",
        "end",
        "ended",
        "expired",
        "last",
        "last_n",
        "life",
        "noted",
        "overdue",
        "page",
        "pages",
        "readers",
        "run_id",
        "transport",
    )

    def __init__(
        self,
        run_id: str,
        start: EventId,
        life: str | None,
        *,
        max_bytes: int = RING_BYTES,
        accepted: int = 0,
    ) -> None:
        self.run_id = run_id
        self.life = life
        self.last = start
        self.last_n = 0
        self.ended = self.expired = False
        self.readers = 0
        self.doubtful = False
        self.transport: Transport | None = None
        self.begun = self.noted = False
        self.overdue: tuple[tuple[int, bool], float] | None = None
        self.page = FIRST_PAGE
        self.pages: dict[EventId, Page] = {}
        self.encoded = 0
        self.end = 0
        self._start = start
        self._accepted = accepted
        self._items: deque[tuple[EventId, int, Item]] = deque()
        self._first = 0
        self._bytes = 0
        self._max_bytes = max_bytes
        # Per producer: the newest number here since its last stored event, and where that one is.
        self._newest: dict[str, int] = {}
        self._stored_at: dict[str, int] = {}
        # In the order in which they fell asleep.
        self._sleepers: dict[Sleeping, None] = {}
        # Who slept at the last news and has not been roused yet.
        self._waking: deque[Sleeping] = deque()
        # What the last reader took; most often the next one stands where he stood.
        self._batch: Batch | None = None

    def __repr__(self) -> str:
        size = f"{len(self._items)} items, {self._bytes} bytes"
        return f"<Ring {self.run_id!r} {size}, {self.readers} readers>"

    def append(self, frame: Frame) -> None:
        """Add the next stored event, or a provisional one that is not here yet.

        Where only a part of what waited has been stored, the rest is added again behind that part.
        """
        entry = frame.entry
        producer = entry.producer or ""
        if not entry.provisional:
            self.last, self.last_n = entry.id, entry.n
            self._stored_at[producer] = self.end
        elif entry.seq <= self._newest.get(producer, 0):
            return
        elif entry.sent and entry.id < self._start and entry.seq <= self._accepted:
            # It may be stored before the place where this ring begins, and have been read there.
            return
        self._newest[producer] = entry.seq
        self.ended = self.ended or entry.terminal
        self.encoded += 1
        self._push(frame, frame.size, 1 if entry.provisional else 0)

    def pass_on(self, frame: Frame) -> None:
        """Add an event that is kept nowhere.

        One that was shown while it waited for Redis is not shown again when it comes by.
        """
        entry = frame.entry
        producer = entry.producer or ""
        if entry.n:
            self.last, self.last_n = entry.id, entry.n
        if 0 < entry.seq <= self._newest.get(producer, 0):
            return
        self._newest[producer] = entry.seq
        self.ended = self.ended or entry.terminal
        self.encoded += 1
        self._push(frame, frame.size, 0)

    @property
    def size(self) -> int:
        """How many bytes it holds."""
        return self._bytes

    @property
    def first(self) -> int:
        """The position of the oldest item."""
        return self._first

    def interrupt(self, item: Break) -> None:
        """Tell every reader that what follows does not follow what they have."""
        self._push(item, BREAK_BYTES, 1)

    def begin_life(self, life: str | None, requested: str, earliest: str | None) -> None:
        """Tell every reader that another life began; nothing of the earlier one stays.

        Ids of two lives never mix.
        """
        self._first = self.end
        self._items.clear()
        self._newest.clear()
        self._stored_at.clear()
        self._bytes = 0
        self.life = life
        self.last, self.last_n, self._start = ZERO, 0, ZERO
        self.ended = self.expired = False
        self.transport = self.overdue = None
        # Before everything that follows: who joins the new life is not told of the old one's end.
        self._push(Break("reset", requested, earliest), BREAK_BYTES, -1)

    def expire(self) -> None:
        """Tell every reader that the run is over without an end: its events are kept no longer."""
        self.ended = self.expired = True
        self.wake()

    def superseded(self, position: int, entry: Entry) -> bool:
        """Whether the provisional *entry* at *position* is here once more, in a later place.

        A reader who took it before an earlier event of its producer would never get that one: a
        cursor says of each producer how far it has been seen. The hub adds none behind such
        an event that it knows of; this is for what it had added before.
        """
        return self._stored_at.get(entry.producer or "", -1) > position

    def leads_to(self, entry: Entry) -> bool:
        """Whether all that the producer of the provisional *entry* wrote before it was here."""
        if entry.prev is not None and entry.prev <= self.last:
            return True
        return entry.follows <= self._newest.get(entry.producer or "", 0)

    def has_others_than(self, producer: str | None) -> bool:
        """Whether another than *producer* has stored something here."""
        return any(each != producer for each in self._stored_at)

    def locate(self, base: EventId) -> int | None:
        """Return the position after the event *base*, ``None`` where the ring cannot tell."""
        if base < self._start or base > self.last:
            return None
        return self._first + bisect_right(self._items, (base, 0), key=_order)

    def reaches(self, position: int) -> bool:
        """Whether all that followed *position* is still here."""
        return position >= self._first

    def slice(self, position: int, max_bytes: int) -> list[Item] | None:
        """Return what follows *position*: up to *max_bytes*, but at least one item if there is one.

        ``None`` where the ring no longer reaches back to *position*.
        """
        if position < self._first:
            return None
        items: list[Item] = []
        size = 0
        for index in range(position - self._first, len(self._items)):
            item = self._items[index][2]
            size += _size(item)
            if items and size > max_bytes:
                break
            items.append(item)
        return items

    def batch(self, position: int, max_bytes: int) -> Batch | None:
        """Return what follows *position*, at most *max_bytes* but at least one event.

        ``None`` where that is nothing, or not the same for every reader at that place: there
        :meth:`slice` tells what there is.
        """
        batch = self._batch
        if batch is None or batch.start != position or batch.max_bytes != max_bytes:
            batch = self._batch = self._plain(position, max_bytes)
        return batch

    def _plain(self, position: int, max_bytes: int) -> Batch | None:
        frames: list[Frame] = []
        size = 0
        for index in range(max(position - self._first, 0), len(self._items)):
            item = self._items[index][2]
            if not isinstance(item, Frame) or item.entry.provisional or not item.kept:
                break
            size += item.size
            if frames and size > max_bytes:
                break
            frames.append(item)
            if item.entry.terminal:
                break
        if not frames or position < self._first:
            return None
        first, last, end = frames[0].entry, frames[-1].entry, position + len(frames)
        return Batch(frames, position, end, first.id, last.id, last.terminal, max_bytes)

    def sleep(self, sleeper: Sleeping) -> None:
        """Have *sleeper* roused at the next news."""
        self._sleepers[sleeper] = None

    def forget(self, sleeper: Sleeping) -> None:
        """Rouse *sleeper* no more, unless its turn has come already."""
        self._sleepers.pop(sleeper, None)

    def wake(self) -> None:
        """Have every reader look, in the next turns of the loop: not in the midst of its caller."""
        if self._sleepers and not self._waking:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._waking += self._sleepers
        self._sleepers.clear()

    def _wake_some(self) -> None:
        waking, sleepers = self._waking, self._sleepers
        try:
            for _ in range(min(len(waking), WAKE_AT_ONCE)):
                sleeper = waking.popleft()
                if sleeper.rouse():
                    sleepers[sleeper] = None
        finally:
            if waking:
                # After those who have just been roused, whose tasks may be waiting by now; and
                # whatever became of one, the others have their turn.
                asyncio.get_running_loop().call_soon(self._wake_some)

    def _push(self, item: Item, size: int, rank: int) -> None:
        self._items.append((self.last, rank, item))
        self.end += 1
        self._batch = None
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._items) > 1:
            at, rank, old = self._items.popleft()
            self._first += 1
            self._bytes -= _size(old)
            # An event that is not stored yet cannot be read elsewhere, so a reader who stands at
            # the id before it must not be let in behind it.
            self._start = max(self._start, at.next() if rank > 0 else at)


def _order(item: tuple[EventId, int, Item]) -> tuple[EventId, int]:
    return item[0], item[1]


def _size(item: Item) -> int:
    return item.size if isinstance(item, Frame) else BREAK_BYTES
