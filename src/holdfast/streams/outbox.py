"""What this process has accepted and the store does not hold yet: order, numbers, batches and the journal.

State only: no I/O, no event loop. One queue per run gives every event its number, so that a retry
after a lost reply is recognised, and keeps the order over all publishers of the process. While
Redis is away the queue *is* the journal. All state is behind one lock; any thread may call.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from holdfast.errors import HoldfastError, JournalFull, RunEnded
from holdfast.streams.event import ZERO, EventId
from holdfast.streams.store import Draft, Entry, Pending

MAX_BATCH_EVENTS = 500
MAX_BATCH_BYTES = 1 << 20
MAX_IDLE_RUNS = 10_000

Answer = Callable[[Entry | HoldfastError], None]


@dataclass(slots=True, eq=False)
class Waiting:
    """One accepted event. ``answer`` tells its publisher, once; ``None`` when that has been done."""

    entry: Entry
    life: str | None
    owner: str | None
    answer: Answer | None

    def tell(self, result: Entry | HoldfastError) -> None:
        answer, self.answer = self.answer, None
        if answer is not None:
            answer(result)


@dataclass(slots=True, eq=False)
class Lane:
    """The queue of one run in this process, oldest first.

    Attributes:
        next_seq: the number of the next event.
        last: the newest id known to be stored.
        busy_until: a batch from the head of the queue is on its way; after this time nobody waits
        for it
            any more, because the event loop that sent it is gone.
    """

    run_id: str
    next_seq: int
    last: EventId = ZERO
    busy_until: float = 0.0
    queue: deque[Waiting] = field(default_factory=deque)

    @property
    def ended(self) -> bool:
        """Whether the run's end waits here. Of what is stored the store knows better: it may be deleted."""
        return bool(self.queue) and self.queue[-1].entry.terminal


class Outbox:
    """The queues of all runs that this process publishes to.

    Args:
        limit: how many events may wait while Redis is away (``HOLDFAST_STREAM_JOURNAL``).
        producer: the name of this process life in stored entries; letters and digits.
    """

    def __init__(self, limit: int, producer: str | None = None) -> None:
        self.limit = limit
        self.producer = producer or secrets.token_hex(6)
        self.journalled = 0
        self.refused = 0
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        # A queue that was forgotten and comes back goes on above every number it may have used.
        self._floor = 1
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Outbox {len(self._lanes)} runs, {self.journalled} events wait for Redis>"

    def put(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        answers: Sequence[Answer],
        *,
        owner: str | None,
        life: str | None,
        now_ms: int,
    ) -> None:
        """Queue *drafts* in order, all or none.

        Raises:
            RunEnded: the run's end is in this queue already.
            JournalFull: Redis is away and the journal has no room for all of them.
        """
        with self._lock:
            lane = self._lane(run_id)
            if lane.ended:
                raise RunEnded(
                    f"the run {run_id!r} has ended; nothing can follow its terminal event"
                )
            if self.journalled and self.journalled + len(drafts) > self.limit:
                raise _full(self.limit)
            for draft, answer in zip(drafts, answers, strict=True):
                lane.queue.append(Waiting(self._entry(lane, draft, now_ms), life, owner, answer))

    def take(self, run_id: str, now: float, patience: float) -> list[Waiting]:
        """Return the next batch to send and mark the queue busy for *patience* seconds.

        Empty where nothing waits or a batch is on its way.
        """
        with self._lock:
            lane = self._lanes.get(run_id)
            if lane is None or now < lane.busy_until or not lane.queue:
                return []
            lane.busy_until = now + patience
            return list(_batch(lane.queue))

    def head(self, run_id: str) -> list[Waiting]:
        """Return the next batch, whether or not one is on its way: numbers make sending twice harmless."""
        with self._lock:
            lane = self._lanes.get(run_id)
            return list(_batch(lane.queue)) if lane is not None else []

    def done(
        self, run_id: str, batch: Sequence[Waiting], results: Sequence[Entry | HoldfastError]
    ) -> None:
        """Take *batch* off the queue and tell its publishers."""
        with self._lock:
            lane = self._lane(run_id)
            lane.busy_until = 0.0
            for waiting, result in zip(batch, results, strict=True):
                if not lane.queue or lane.queue[0] is not waiting:
                    continue  # another sender was quicker; the store answered both alike
                lane.queue.popleft()
                self._settle(lane, waiting, result)
        for waiting, result in zip(batch, results, strict=True):
            waiting.tell(result)

    def unavailable(self, run_id: str) -> list[Entry]:
        """Turn all that waits for *run_id* into the journal; return what is newly acknowledged by that."""
        with self._lock:
            lane = self._lane(run_id)
            lane.busy_until = 0.0
            told = [waiting for waiting in lane.queue if waiting.answer is not None]
            accepted = told[: max(self.limit - self.journalled, 0)]
            for waiting in told[len(accepted) :]:
                lane.queue.remove(waiting)
            self.journalled += len(accepted)
            for waiting in accepted:
                waiting.entry = _provisional(waiting.entry, lane.last)
        for waiting in accepted:
            waiting.tell(waiting.entry)
        for waiting in told[len(accepted) :]:
            waiting.tell(_full(self.limit))
        return [waiting.entry for waiting in accepted]

    def pending(self, run_id: str) -> Pending | None:
        """Return what is journalled of *run_id*, or ``None``."""
        with self._lock:
            lane = self._lanes.get(run_id)
            if lane is None or not any(waiting.entry.provisional for waiting in lane.queue):
                return None
            entries = tuple(waiting.entry for waiting in lane.queue if waiting.entry.provisional)
            return Pending(entries[0].id, entries, entries[-1].terminal, lane.queue[0].owner)

    def waiting_runs(self) -> list[str]:
        """The runs that have something in their queue, oldest use first."""
        with self._lock:
            return [run_id for run_id, lane in self._lanes.items() if lane.queue]

    def forget(self, run_id: str) -> None:
        """Know nothing of *run_id* any more but what still waits: it was deleted."""
        with self._lock:
            lane = self._lanes.get(run_id)
            if lane is not None:
                lane.last = ZERO

    def _lane(self, run_id: str) -> Lane:
        lane = self._lanes.get(run_id)
        if lane is None:
            lane = self._lanes[run_id] = Lane(run_id, self._floor)
            self._drop_idle()
        self._lanes.move_to_end(run_id)
        return lane

    def _drop_idle(self) -> None:
        if len(self._lanes) <= MAX_IDLE_RUNS:
            return
        for run_id, lane in list(self._lanes.items())[: MAX_IDLE_RUNS // 10]:
            if not lane.queue:
                self._floor = max(self._floor, lane.next_seq)
                del self._lanes[run_id]

    def _entry(self, lane: Lane, draft: Draft, now_ms: int) -> Entry:
        entry = Entry(
            lane.last,
            draft.type,
            draft.data,
            producer=self.producer,
            seq=lane.next_seq,
            created_ms=now_ms,
        )
        lane.next_seq += 1
        return entry

    def _settle(self, lane: Lane, waiting: Waiting, result: Entry | HoldfastError) -> None:
        if waiting.entry.provisional:
            self.journalled -= 1
            self.refused += isinstance(result, HoldfastError)
        if isinstance(result, Entry):
            lane.last = max(lane.last, result.id)


def _batch(queue: deque[Waiting]) -> Iterator[Waiting]:
    """Yield from the head what may go as one batch: numbers in a row, one life, bounded in count and bytes."""
    size = 0
    for count, waiting in enumerate(queue):
        size += len(waiting.entry.data)
        if count and (count >= MAX_BATCH_EVENTS or size > MAX_BATCH_BYTES):
            return
        if waiting.life != queue[0].life or waiting.entry.seq != queue[0].entry.seq + count:
            return
        yield waiting


def _provisional(entry: Entry, base: EventId) -> Entry:
    return Entry(
        base,
        entry.type,
        entry.data,
        producer=entry.producer,
        seq=entry.seq,
        created_ms=entry.created_ms,
        provisional=True,
    )


def _full(limit: int) -> JournalFull:
    return JournalFull(
        f"Redis is away and {limit} events wait for it already (HOLDFAST_STREAM_JOURNAL): this one was not accepted"
    )
