"""What this process has accepted and the store does not hold yet: order, numbers and the journal.

State only: no I/O, no event loop. One queue per run gives every event its number, so that a retry
after a lost reply is recognised, and keeps the order over all publishers of the process. While
Redis is away the queue *is* the journal. What was stored last is kept a little longer, for a Redis
that comes back without it. All state is behind one lock; any thread may call.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.errors import HoldfastError, JournalFull, RunEnded
from holdfast.signals import Reading
from holdfast.streams.event import TERMINAL_TYPES, ZERO, EventId
from holdfast.streams.store import Draft, Entry, Pending

MAX_BATCH_EVENTS = 500
MAX_BATCH_BYTES = 1 << 20
MIN_HALF = 16
MAX_IDLE_RUNS = 10_000
MAX_RECENT_EVENTS = 4096
MAX_RECENT_BYTES = 4 << 20

Answer = Callable[[Entry | HoldfastError], None]


@dataclass(slots=True, eq=False)
class Waiting:
    """One accepted event.

    Attributes:
        producer, seq: who writes it, and as its how-many-th of the run.
        created_ms: when it was accepted, in milliseconds since 1970.
        life: the life of the run that its publisher knows.
        sender: who accepted it, and waits for its answer.
        more: the next one in the queue was accepted with it, and is written with it or not at all.
        base: the last id known before it, once it is journalled.
        answer: tells its publisher, once; ``None`` when that has been done.
        sent: it has been sent, and may be stored although no answer came.
    """

    draft: Draft
    producer: str
    seq: int
    created_ms: int
    life: str | None
    owner: str | None
    sender: Hashable
    more: bool
    answer: Answer | None
    base: EventId | None = None
    sent: bool = False

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return len(self.draft.data)

    def tell(self, result: Entry | HoldfastError) -> None:
        """Tell the publisher, if nobody has."""
        answer, self.answer = self.answer, None
        if answer is not None:
            answer(result)

    def stored(self, at: EventId | None, n: int, prev: EventId | None, life: str | None) -> Entry:
        """Return it as the store holds it; where its id is no longer known, as before it."""
        draft = self.draft
        ms = self.created_ms if at is None else at.ms
        at = at or self.base or ZERO
        return Entry(at, draft.type, draft.data, n, prev, self.producer, self.seq, ms, False, life)

    def provisional(self, follows: int, prev: EventId | None) -> Entry:
        """Return it as what is accepted and not stored yet, after *follows*, stored by *prev*."""
        return Entry(
            self.base or ZERO,
            self.draft.type,
            self.draft.data,
            prev=prev,
            producer=self.producer,
            seq=self.seq,
            created_ms=self.created_ms,
            provisional=True,
            follows=follows,
            sent=self.sent,
        )


@dataclass(slots=True, eq=False)
class Lane:
    """The queue of one run in this process, oldest first.

    Attributes:
        next_seq: the number of the next event.
        last: the newest id known to be stored.
        sender: whose batch from the head of the queue is on its way; ``None`` where there is none.
        busy_until: after this time nobody waits for that batch any more: its sender is gone.
        life: the life of the run that this process has written to.
        stored: the newest number known to be stored; ``dropped``: the newest one of these that is
            no longer kept here; ``written``: the newest one that a reader may have read, kept or
            not.
        first: the number of its first event.
        alone: every event that the run had by then, this process wrote.
        size: how many events the last batch had.
    """

    next_seq: int
    last: EventId = ZERO
    life: str | None = None
    stored: int = 0
    dropped: int = 0
    written: int = 0
    first: int = 1
    alone: bool = True
    sender: Hashable | None = None
    busy_until: float = 0.0
    size: int = 0
    queue: deque[Waiting] = field(default_factory=deque)

    @property
    def ended(self) -> bool:
        """Whether the run's end waits here. Of what is stored the store knows better."""
        return bool(self.queue) and self.queue[-1].draft.type in TERMINAL_TYPES

    def journal(self) -> list[Entry]:
        """What waits here and has been acknowledged: the head of the queue."""
        found: list[Entry] = []
        # Of a run that was forgotten and comes back nothing is known: most often it is a new one.
        follows, prev = self.written, self.last if self.written else None
        for waiting in self.queue:
            if waiting.base is None:
                break
            if waiting.draft.type in TERMINAL_TYPES and not (self.alone and follows):
                # What others wrote before it could not be told after it.
                follows, prev = waiting.seq, None
            found.append(waiting.provisional(follows, prev))
            follows, prev = waiting.seq, None
        return found


class Outbox:
    """The queues of all runs that this process publishes to.

    Args:
        limit: how many events may wait while Redis is away (``HOLDFAST_STREAM_JOURNAL``).
        max_bytes: how many bytes of their data may.
        producer: the name of this process life in stored entries; letters and digits.
    """

    def __init__(self, limit: int, max_bytes: int, producer: str | None = None) -> None:
        self.limit = limit
        self.max_bytes = max_bytes
        self._begin(producer)

    def _begin(self, producer: str | None = None) -> None:
        self.producer = producer or secrets.token_hex(6)
        self.journalled = 0
        self.journalled_bytes = 0
        self.refused = 0
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        # What was stored last, oldest first, of all runs.
        self._recent: deque[tuple[Lane, Waiting]] = deque()
        self._recent_bytes = 0
        # A queue that was forgotten and comes back goes on above every number it may have used.
        self._floor = 1
        self._lock = threading.RLock()

    def readings(self) -> Iterator[Reading]:
        """See :meth:`~holdfast.signals.Readable.readings`."""
        with self._lock:
            waiting = sum(len(lane.queue) for lane in self._lanes.values())
        yield Reading("stream_outbox_events", waiting)
        yield Reading("stream_journal_events", self.journalled)
        yield Reading("stream_journal_bytes", self.journalled_bytes)
        yield Reading("stream_journal_limit", self.limit)
        yield Reading("stream_journal_refused", self.refused)

    def __repr__(self) -> str:
        return f"<Outbox {len(self._lanes)} runs, {self.journalled} events wait for Redis>"

    def forked(self) -> None:
        """In a forked child: what waits is the parent's to write; begin anew, under a new name."""
        self._begin()

    def put(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        answers: Sequence[Answer],
        *,
        sender: Hashable,
        owner: str | None,
        life: str | None,
        now_ms: int,
        now: float = math.inf,
    ) -> bool:
        """Queue *drafts* in order, all or none.

        Args:
            now: as :meth:`take` has it.

        Returns:
            Whether *sender* has a batch on its way, which will bring the next: then there is
            nothing to take.

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
            if self.journalled and not self._room(drafts):
                raise self._full()
            seq, left = lane.next_seq, len(drafts)
            for draft, answer in zip(drafts, answers, strict=True):
                left -= 1
                lane.queue.append(
                    Waiting(
                        draft, self.producer, seq, now_ms, life, owner, sender, left > 0, answer
                    )
                )
                seq += 1
            lane.next_seq = seq
            return lane.sender == sender and now < lane.busy_until

    def take(
        self, run_id: str, sender: Hashable, now: float, patience: float
    ) -> list[Waiting] | float:
        """Return the next batch for *sender* to send, its own for *patience* seconds.

        Returns:
            An empty list where nothing waits or *sender* has a batch on its way, which will bring
            the next. Where another sender has: the seconds after which to ask again, because that
            one may be gone.
        """
        with self._lock:
            lane = self._lanes.get(run_id)
            if lane is None or not lane.queue:
                return []
            if lane.sender is not None and now < lane.busy_until:
                return [] if lane.sender == sender else lane.busy_until - now
            lane.sender, lane.busy_until = sender, now + patience
            batch = _batch(lane.queue, balanced(lane.size, len(lane.queue)))
            lane.size = len(batch)
            return batch

    def next_sender(self, run_id: str) -> Hashable | None:
        """Return who should send the next batch, ``None`` where none waits or one is on its way.

        Whoever waits for the first of its answers: another may be about to go, and leave the batch
        it sent without anybody to hear of it.
        """
        with self._lock:
            lane = self._lanes.get(run_id)
            if lane is None or not lane.queue or lane.sender is not None:
                return None
            return lane.queue[0].sender

    def head(self, run_id: str) -> list[Waiting]:
        """Return the next batch to be sent, whether or not one is on its way.

        The numbers of its events make that harmless.
        """
        with self._lock:
            lane = self._lanes.get(run_id)
            batch = _batch(lane.queue) if lane is not None and lane.queue else []
            self.leaves(batch)
            return batch

    def leaves(self, batch: Sequence[Waiting]) -> None:
        """Note that *batch* is being sent: from now on nobody can say that it is not stored."""
        for waiting in batch:
            waiting.sent = True

    def release(self, run_id: str) -> None:
        """Note that the batch on its way will bring no answer: it may be sent again."""
        with self._lock:
            lane = self._lanes.get(run_id)
            if lane is not None:
                lane.sender = None

    def done(
        self, run_id: str, batch: Sequence[Waiting], results: Sequence[Entry | HoldfastError]
    ) -> bool:
        """Take *batch* off the queue, tell its publishers, and return whether more waits there."""
        with self._lock:
            lane = self._lane(run_id)
            lane.sender = None
            queue = lane.queue
            for waiting, result in zip(batch, results, strict=True):
                if not queue or queue[0] is not waiting:
                    continue  # another sender was quicker; the store answered both alike
                queue.popleft()
                self._settle(lane, waiting, result)
            more = bool(queue)
        for waiting, result in zip(batch, results, strict=True):
            waiting.tell(result)
        return more

    def unavailable(self, run_id: str) -> list[Entry]:
        """Turn all that waits for *run_id* into the journal; return what that acknowledges."""
        with self._lock:
            lane = self._lane(run_id)
            lane.sender = None
            told = [waiting for waiting in lane.queue if waiting.base is None]
            accepted = self._accept(told)
            for waiting in told[len(accepted) :]:
                lane.queue.remove(waiting)
            for waiting in accepted:
                waiting.base = lane.last
            journal = lane.journal()
            entries = journal[len(journal) - len(accepted) :]
        for waiting, entry in zip(accepted, entries, strict=True):
            waiting.tell(entry)
        for waiting in told[len(accepted) :]:
            waiting.tell(self._full())
        return entries

    def pending(self, run_id: str) -> Pending | None:
        """Return what is journalled of *run_id*, or ``None``."""
        with self._lock:
            lane = self._lanes.get(run_id)
            if lane is None:
                return None
            entries = tuple(lane.journal())
            if not entries:
                return None
            # After a flush that was cut short, more is stored than when the first of these came.
            base = max(entries[0].id, lane.last)
            return Pending(base, entries, entries[-1].terminal, lane.queue[0].owner)

    def accepted(self, run_id: str) -> int:
        """Return the number of the newest event of *run_id* that was ever put here."""
        with self._lock:
            lane = self._lanes.get(run_id)
            return (self._floor if lane is None else lane.next_seq) - 1

    def waiting_runs(self) -> list[str]:
        """The runs that have something in their queue, oldest use first."""
        with self._lock:
            return [run_id for run_id, lane in self._lanes.items() if lane.queue]

    def written_since(self, ms: int) -> dict[str, str | None]:
        """The runs of which an event was stored since *ms*, each with its life."""
        with self._lock:
            lanes = self._lanes.items()
            return {run: lane.life for run, lane in lanes if lane.stored and lane.last.ms >= ms}

    def recall(self, held: Mapping[str, tuple[int, EventId]]) -> tuple[int, list[str]]:
        """Take back into the journal what was stored and is no more, because a failover lost it.

        Args:
            held: of each run the newest number of this process that the store has, and its own
                newest id.

        Returns:
            How many events were taken back; and the runs of which more is lost than is kept here.
            Of those none is: it would hide the hole before it.
        """
        with self._lock:
            found: dict[int, list[Waiting]] = {}
            after: dict[int, int] = {}
            lanes: list[Lane] = []
            torn: list[str] = []
            for run_id, (stored, last) in held.items():
                lane = self._lanes.get(run_id)
                if lane is None or stored >= lane.stored:
                    continue
                if lane.dropped > stored:
                    torn.append(run_id)
                else:
                    lanes.append(lane)
                    found[id(lane)], after[id(lane)] = [], stored
                lane.stored, lane.written, lane.last = stored, stored, last
                lane.alone = False
            kept: deque[tuple[Lane, Waiting]] = deque()
            for lane, waiting in self._recent:
                if waiting.seq > after.get(id(lane), waiting.seq):
                    found[id(lane)].append(waiting)
                else:
                    kept.append((lane, waiting))
            self._recent = kept
            for lane in lanes:
                self._take_back(lane, found[id(lane)])
            return sum(map(len, found.values())), torn

    def _take_back(self, lane: Lane, lost: Sequence[Waiting]) -> None:
        size = sum(waiting.size for waiting in lost)
        self._recent_bytes -= size
        self.journalled += len(lost)
        self.journalled_bytes += size
        for waiting in lost:
            waiting.base = lane.last
        lane.queue.extendleft(reversed(lost))

    def forget(self, run_id: str) -> None:
        """Know nothing of *run_id* any more but what still waits: it was deleted."""
        with self._lock:
            lane = self._lanes.get(run_id)
            if lane is not None:
                lane.last, lane.stored, lane.dropped = ZERO, 0, lane.next_seq - 1
                lane.written = 0

    def _lane(self, run_id: str) -> Lane:
        lane = self._lanes.get(run_id)
        if lane is None:
            lane = self._lanes[run_id] = Lane(
                self._floor, first=self._floor, dropped=self._floor - 1
            )
            self._drop_idle()
        self._lanes.move_to_end(run_id)
        return lane

    def _drop_idle(self) -> None:
        if len(self._lanes) <= MAX_IDLE_RUNS:
            return
        newest = next(reversed(self._lanes))
        for run_id, lane in list(self._lanes.items())[: MAX_IDLE_RUNS // 10]:
            if not lane.queue and run_id != newest:
                self._floor = max(self._floor, lane.next_seq)
                del self._lanes[run_id]

    def _settle(self, lane: Lane, waiting: Waiting, result: Entry | HoldfastError) -> None:
        if waiting.base is not None:
            self.journalled -= 1
            self.journalled_bytes -= waiting.size
            self.refused += isinstance(result, HoldfastError)
        if isinstance(result, Entry):
            lane.last = max(lane.last, result.id)
            lane.life = result.life
            lane.written = waiting.seq
            lane.alone = result.n == waiting.seq - lane.first + 1
            if result.kept:
                self._remember(lane, waiting)

    def _remember(self, lane: Lane, waiting: Waiting) -> None:
        lane.stored = waiting.seq
        self._recent.append((lane, waiting))
        self._recent_bytes += len(waiting.draft.data)
        while len(self._recent) > MAX_RECENT_EVENTS or self._recent_bytes > MAX_RECENT_BYTES:
            of, oldest = self._recent.popleft()
            self._recent_bytes -= oldest.size
            of.dropped = max(of.dropped, oldest.seq)

    def _room(self, drafts: Sequence[Draft]) -> bool:
        size = sum(len(draft.data) for draft in drafts)
        return (
            self.journalled + len(drafts) <= self.limit
            and self.journalled_bytes + size <= self.max_bytes
        )

    def _accept(self, told: Sequence[Waiting]) -> Sequence[Waiting]:
        """Take into the journal what fits, whole groups only, and whatever has been sent.

        That may be stored: its publisher, told that it is not, would try again and double it. So
        the journal may hold more than its limit, by the batch that was on its way in each run.
        """
        taken, count, size = 0, self.journalled, self.journalled_bytes
        for index, waiting in enumerate(told):
            count, size = count + 1, size + waiting.size
            if not waiting.sent and (count > self.limit or size > self.max_bytes):
                break
            if not waiting.more:
                taken = index + 1
        accepted = told[:taken]
        self.journalled += taken
        self.journalled_bytes += sum(waiting.size for waiting in accepted)
        return accepted

    def _full(self) -> JournalFull:
        return JournalFull(
            f"Redis is away and {self.journalled} events wait for it already: this one was not"
            f" accepted (HOLDFAST_STREAM_JOURNAL allows {self.limit} events, and"
            f" HOLDFAST_STREAM_MAX_RUN_BYTES {self.max_bytes} bytes of them)"
        )


def balanced(before: int, waiting: int) -> int:
    """Return how many of *waiting* events to send after a batch of *before*.

    Whoever was answered comes again: with one half on its way while the other half is prepared,
    neither side waits for the other. Of few there is nothing to halve.
    """
    if not before or waiting <= MIN_HALF:
        return MAX_BATCH_EVENTS
    return min(max((before + waiting + 1) // 2, MIN_HALF), MAX_BATCH_EVENTS)


def _batch(queue: deque[Waiting], most: int = MAX_BATCH_EVENTS) -> list[Waiting]:
    """Return from the head what may go as one batch: whole groups, numbers in a row, one life.

    It is bounded in count and bytes, but the first group goes whatever its size.
    """
    first = queue[0]
    if len(queue) == 1:
        return [first]
    batch: list[Waiting] = []
    group: list[Waiting] = []
    size = 0
    for count, waiting in enumerate(queue):
        size += waiting.size
        full = count >= most or size > MAX_BATCH_BYTES
        if batch and (full or waiting.life != first.life or waiting.seq != first.seq + count):
            break
        group.append(waiting)
        if not waiting.more:
            batch += group
            group = []
    return batch
