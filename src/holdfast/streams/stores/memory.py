"""The event store in memory: for one process, for tests, for the first minute of an app.

It keeps the same promises as the Redis store, as far as one process can. All state is behind one
lock, so that any thread and any event loop may use it.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
import weakref
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.errors import IdempotencyKeyReused, RunEnded, RunExpired
from holdfast.forks import watch_forks
from holdfast.streams.event import TERMINAL_TYPES, ZERO, EventId, check_run_id
from holdfast.streams.hold import STOP_WAITS, Claim, Hold, StopAnswer
from holdfast.streams.rollout import Transport, transport_of_new
from holdfast.streams.store import (
    Doorbell,
    Draft,
    Entry,
    EventStore,
    News,
    Once,
    Ring,
    RunInfo,
    Status,
    within_bytes,
)
from holdfast.streams.stores.bell import LocalBells, LocalDoorbell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

META_EXTRA = 86400.0
"""Seconds, at the least, for which a run is remembered after its events are gone."""


@dataclass(slots=True)
class _Run:
    life: str
    owner: str | None
    entries: list[Entry] = field(default_factory=list)
    answers: dict[str, tuple[str, list[EventId]]] = field(default_factory=dict)
    n: int = 0
    size: int = 0
    last: EventId = ZERO
    end: EventId | None = None
    live: bool = False
    deleted: bool = False
    expires_at: float = 0.0
    forgotten_at: float = 0.0
    stopping: bool = False
    holder: weakref.ref[Hold] | None = None

    def status(self, now: float) -> Status:
        if self.deleted:
            return "absent"
        if now >= self.expires_at and not self.live and not self.is_held():
            return "expired"
        return "ended" if self.end else "open"

    def is_held(self) -> bool:
        """Whether its publisher lives, who may be silent for longer than events are kept."""
        return not self.end and self.holder is not None and self.holder() is not None


class MemoryEventStore(EventStore):
    """Events in memory, bounded per run by count, bytes and age.

    Args:
        maxlen: events kept per run; the oldest go first. Default 10,000.
        max_run_bytes: bytes of data kept per run. Default 128 MiB.
        max_event_bytes: the largest event, in bytes of JSON. Default 1 MiB.
        retention: seconds a run's events are kept after its last event. Default 86,400.
        enabled, rollout: whether new runs keep their events at all, and how many percent of them
            do. Default True and 100.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        maxlen: int = 10000,
        max_run_bytes: int = 134217728,
        max_event_bytes: int = 1048576,
        retention: float = 86400.0,
        enabled: bool = True,
        rollout: int = 100,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.maxlen = maxlen
        self.max_run_bytes = max_run_bytes
        self.max_event_bytes = max_event_bytes
        self.retention = retention
        self.enabled = enabled
        self.rollout = rollout
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._bells = LocalBells()
        self._lock = threading.RLock()
        self._next_sweep = 0.0
        self._begin_holds()
        watch_forks(self)

    def __repr__(self) -> str:
        return f"<MemoryEventStore {len(self._runs)} runs>"

    def forked(self) -> None:
        """In a forked child: go on with the parent's events, and with locks of its own."""
        self._lock = threading.RLock()
        self._bells.forked()
        self._begin_holds()

    def _begin_holds(self) -> None:
        self._holders: dict[str, str] = {}
        self._holds: weakref.WeakSet[Hold] = weakref.WeakSet()
        # Of runs that have not begun: when they were asked to stop.
        self._stops: dict[str, float] = {}

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        return self.append_sync(run_id, drafts, owner=owner, life=life)

    def append_sync(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        check_run_id(run_id)
        if not drafts:
            return []
        with self._lock:
            now = self._clock()
            self._sweep(now)
            if any(draft.type in TERMINAL_TYPES for draft in drafts[:-1]):
                raise _ended(run_id)
            run = self._open(run_id, owner, life, now)
            if run.end is not None:
                raise _ended(run_id)
            entries = [self._push(run_id, run, draft, now) for draft in drafts]
            self._trim(run)
            self._keep(run, now, self.retention)
            # Rung under the lock: a hub must hear of event 7 after event 6.
            self._bells.ring(run_id, News(run.life, entries))
        return entries

    async def write(
        self, run_id: str, drafts: Sequence[Draft], *, once: Once | None = None
    ) -> list[Entry]:
        with self._lock:
            run = self._runs.get(check_run_id(run_id))
            if once is not None and run is not None and once.key in run.answers:
                return _answered(run_id, run, drafts, once)
            entries = await self.append(run_id, drafts)
            if once is not None and entries:
                answers = self._runs[run_id].answers
                answers[once.key] = once.body, [entry.id for entry in entries]
                if len(answers) > self.maxlen:
                    del answers[next(iter(answers))]
            return entries

    async def read(
        self,
        run_id: str,
        start: EventId,
        end: EventId | None,
        limit: int,
        *,
        max_bytes: int | None = None,
    ) -> list[Entry]:
        with self._lock:
            run = self._runs.get(check_run_id(run_id))
            if run is None or run.status(self._clock()) in {"absent", "expired"}:
                return []
            first = bisect_left(run.entries, start, key=_id_of)
            page = run.entries[first : first + max(limit, 0)]
        entries = [entry for entry in page if end is None or entry.id <= end]
        return entries if max_bytes is None else within_bytes(entries, max_bytes)

    async def describe(self, run_id: str) -> RunInfo:
        with self._lock:
            run = self._runs.get(check_run_id(run_id))
            if run is None:
                return RunInfo()
            status = run.status(self._clock())
            if status == "absent":
                return RunInfo(life=run.life, last=run.last)
            kept = 0 if status == "expired" else len(run.entries)
            last = run.last if run.n else ZERO
            transport: Transport | None = "streams" if run.n else None
            return RunInfo(
                *(status, run.life, last, run.n, kept, run.end, None, run.owner),
                transport="pubsub" if run.live else transport,
            )

    async def set_expire(self, run_id: str, seconds: float) -> bool:
        if not math.isfinite(seconds):
            raise ValueError("a time to live is a finite number of seconds")
        with self._lock:
            run, now = self._runs.get(check_run_id(run_id)), self._clock()
            if run is None or run.live or run.status(now) in {"absent", "expired"}:
                return False
            self._keep(run, now, seconds)
            return True

    async def delete(self, run_id: str) -> bool:
        with self._lock:
            run, now = self._runs.get(check_run_id(run_id)), self._clock()
            if run is None or run.status(now) == "absent":
                return False
            run.deleted = True
            run.entries.clear()
            run.answers.clear()
            run.stopping = False
            self._bells.ring(run_id, News())
            return True

    async def claim(self, hold: Hold, *, owner: str | None = None, start: bool = False) -> Claim:
        return self.claim_sync(hold, owner=owner, start=start)

    def claim_sync(self, hold: Hold, *, owner: str | None = None, start: bool = False) -> Claim:
        with self._lock:
            run_id, now = check_run_id(hold.run_id), self._clock()
            run = self._runs.get(run_id)
            status = run.status(now) if run is not None else "absent"
            if run is None or status == "absent":
                run = self._open(run_id, owner, None, now)
                self._keep(run, now, self.retention)
                self._bells.ring(run_id, News(run.life))
            elif status != "open":
                return Claim(status, run.life, run.owner)
            elif start and self._holders.get(run_id) != hold.name:
                return Claim("open", run.life, run.owner)
            self._holders[run_id] = hold.name
            run.holder = weakref.ref(hold)
            hold.learn(run.life, stopping=run.stopping)
            return Claim("mine", run.life, run.owner)

    def attend(self, hold: Hold) -> None:
        # The lease needs no keeping: it dies with this process, and so does the run.
        with self._lock:
            self._holds.add(hold)
            self._tell(hold)

    def leave(self, hold: Hold) -> None:
        with self._lock:
            self._holds.discard(hold)
            if self._holders.get(hold.run_id) == hold.name:
                del self._holders[hold.run_id]
                run = self._runs.get(hold.run_id)
                if run is not None and run.is_held():
                    self._keep(run, self._clock(), self.retention)
                    run.holder = None

    async def request_stop(self, run_id: str) -> StopAnswer:
        with self._lock:
            run, now = self._runs.get(check_run_id(run_id)), self._clock()
            status = run.status(now) if run is not None else "absent"
            if run is None or status == "absent":
                self._stops[run_id] = now
            elif status != "open":
                return status
            else:
                run.stopping = True
            for hold in list(self._holds):
                if hold.run_id == run_id:
                    self._tell(hold)
            return "requested"

    def _tell(self, hold: Hold) -> None:
        """Tell *hold* of a stop that is for its life of the run."""
        run = self._runs.get(hold.run_id)
        if run is None or run.deleted:
            hold.learn(None, stopping=hold.life is None and hold.run_id in self._stops)
        elif hold.life in {None, run.life}:
            hold.learn(run.life, stopping=run.stopping)

    def doorbell(self, ring: Ring, missed: Callable[[], None]) -> Doorbell:
        return LocalDoorbell(self._bells, ring)

    def _open(self, run_id: str, owner: str | None, life: str | None, now: float) -> _Run:
        run = self._runs.get(run_id)
        if run is not None and life is not None and (run.deleted or run.life != life):
            raise RunEnded(
                f"the run {run_id!r} was deleted; this publisher belongs to its earlier life"
            )
        if run is not None and not run.deleted:
            if run.status(now) == "expired":
                raise RunExpired(f"the run {run_id!r} has expired; delete it to use its id again")
            return run
        fresh = _Run(secrets.token_hex(8), owner, last=run.last if run else ZERO)
        asked = self._stops.pop(run_id, None)
        fresh.stopping = asked is not None and now - asked <= STOP_WAITS
        self._runs[run_id] = fresh
        return fresh

    def _push(self, run_id: str, run: _Run, draft: Draft, now: float) -> Entry:
        ms = int(now * 1000)
        event_id = EventId(ms, 0) if ms > run.last.ms else run.last.next()
        if not run.n:
            transport = transport_of_new(run_id, enabled=self.enabled, percent=self.rollout)
            run.live = transport == "pubsub"
        run.n += 1
        prev = run.last if run.n > 1 else ZERO
        entry = Entry(
            *(event_id, draft.type, draft.data, run.n, prev),
            created_ms=event_id.ms,
            life=run.life,
            stopping=run.stopping,
            kept=not run.live,
        )
        run.last = event_id
        if not run.live:
            run.entries.append(entry)
            run.size += len(draft.data)
        if entry.terminal:
            run.end = event_id
        return entry

    def _trim(self, run: _Run) -> None:
        drop = max(len(run.entries) - self.maxlen, 0)
        size = run.size - sum(len(entry.data) for entry in run.entries[:drop])
        while size > self.max_run_bytes and drop < len(run.entries) - 1:
            size -= len(run.entries[drop].data)
            drop += 1
        run.size = size
        del run.entries[:drop]

    def _keep(self, run: _Run, now: float, seconds: float) -> None:
        run.expires_at = now + seconds
        run.forgotten_at = run.expires_at + max(self.retention, META_EXTRA)

    def _sweep(self, now: float) -> None:
        """Give back the memory of expired runs, at most once a minute; readers never pay for it."""
        if now < self._next_sweep:
            return
        self._next_sweep = now + 60
        for run_id, run in list(self._runs.items()):
            if run.is_held():
                continue
            if now >= run.forgotten_at:
                del self._runs[run_id]
            elif now >= run.expires_at:
                run.entries.clear()
        for run_id, asked in list(self._stops.items()):
            if now - asked > STOP_WAITS:
                del self._stops[run_id]


def _id_of(entry: Entry) -> EventId:
    return entry.id


def _answered(run_id: str, run: _Run, drafts: Sequence[Draft], once: Once) -> list[Entry]:
    body, ids = run.answers[once.key]
    if body != once.body:
        raise IdempotencyKeyReused(f"the key was used for other events of the run {run_id!r}")
    return [
        Entry(at, *draft, created_ms=at.ms, life=run.life)
        for at, draft in zip(ids, drafts, strict=True)
    ]


def _ended(run_id: str) -> RunEnded:
    return RunEnded(f"the run {run_id!r} has ended; nothing can follow its terminal event")
