"""A store in miniature whose outages happen exactly when a test says so.

It keeps the contract of a store shared by processes: other writers ring no bell here, own events
ring at once, and while it is away own events are provisional and wait.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from holdfast.errors import CorruptData, RedisUnavailable
from holdfast.streams.event import ZERO, EventId
from holdfast.streams.store import (
    Doorbell,
    Draft,
    Entry,
    EventStore,
    News,
    Once,
    Pending,
    RunInfo,
)
from holdfast.streams.stores.bell import LocalBells, LocalDoorbell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.streams.hold import Claim, Hold, StopAnswer
    from holdfast.streams.store import Ring, Status


class PatchyStore(EventStore):
    """One run, called ``r``.

    Attributes:
        entries: what is stored and kept.
        away: nothing can be asked.
        corrupt: what is stored cannot be read.
        gate: reads wait for it.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.journal: list[Entry] = []
        self.life: str | None = None
        self.n = 0
        self.seq = 0
        self.last = self.own_last = ZERO
        self.away = False
        self.corrupt = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0
        self.missed: list[Callable[[], None]] = []
        self.bells = LocalBells()

    # -- what the world does

    def other(self, *, bell: bool = False, producer: str = "other", kind: str = "t") -> Entry:
        """Another process writes the next event."""
        entry = self._store(Entry(ZERO, kind, b"0", producer=producer, seq=self.n + 1))
        if bell:
            self.bells.ring("r", News(self.life, n=self.n))
        return entry

    def foreign(self) -> Entry:
        """Another program writes the next event, and does not say what was before it."""
        entry = self.other()._replace(n=0, prev=None, producer=None, seq=0)
        self.entries[-1] = entry
        return entry

    def trim(self, count: int) -> None:
        del self.entries[:count]

    def flush(self) -> None:
        """All is gone, as after FLUSHALL."""
        self.entries, self.life, self.n, self.last = [], None, 0, ZERO

    def come_back(self, *, up_to: int | None = None) -> None:
        """Write the first *up_to* of the journal (default: all) and, if that is all, be there."""
        for waiting in self.journal[:up_to]:
            self._store(waiting._replace(provisional=False))
        del self.journal[:up_to]
        if not self.journal:
            self.away = False
            for missed in self.missed:
                missed()

    def own(self, *, count: int = 1, kind: str = "t") -> list[Entry]:
        """This process writes the next events and rings with them."""
        drafts = [Draft(kind, b"0")] * count
        entries = [self._own(draft) for draft in drafts]
        self.bells.ring("r", News(None if self.away else self.life, entries))
        return entries

    def _own(self, draft: Draft) -> Entry:
        self.seq += 1
        entry = Entry(self.last, draft.type, draft.data, producer="own", seq=self.seq)
        if not self.away:
            return self._store(entry)
        self.journal.append(entry._replace(provisional=True, follows=self.seq - 1))
        return self._journalled()[-1]

    def _journalled(self) -> list[Entry]:
        """What waits; of the first of it is known by which id the one before is stored."""
        return [each._replace(prev=self.own_last) for each in self.journal[:1]] + self.journal[1:]

    def _store(self, entry: Entry) -> Entry:
        self.life = self.life or "life-1"
        self.n += 1
        ms = time.time_ns() // 1_000_000
        at = EventId(ms, 0) if ms > self.last.ms else self.last.next()
        kept = entry._replace(id=at, n=self.n, prev=self.last, life=self.life)
        self.entries.append(kept)
        self.last = at
        self.own_last = at if entry.producer == "own" else self.own_last
        return kept

    # -- the contract

    @property
    def available(self) -> bool:
        return not self.away

    def pending(self, run_id: str) -> Pending | None:
        if not self.journal:
            return None
        ended = self.journal[-1].terminal
        return Pending(self.last, tuple(self._journalled()), ended, None)

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        raise NotImplementedError

    def append_sync(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        raise NotImplementedError

    async def write(
        self, run_id: str, drafts: Sequence[Draft], *, once: Once | None = None
    ) -> list[Entry]:
        await self._answer()
        entries = [self._own(draft) for draft in drafts]
        self.bells.ring("r", News(self.life, entries))
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
        self.reads += 1
        await self._answer()
        entries = [e for e in self.entries if e.id >= start and (end is None or e.id <= end)]
        return entries[:limit]

    async def describe(self, run_id: str) -> RunInfo:
        await self._answer()
        if self.life is None or run_id != "r":
            return RunInfo()
        ends = [entry.id for entry in self.entries if entry.terminal]
        status: Status = "ended" if ends else "open"
        end = ends[0] if ends else None
        return RunInfo(status, self.life, self.last, self.n, len(self.entries), end)

    async def _answer(self) -> None:
        await self.gate.wait()
        if self.corrupt:
            raise CorruptData("the key holds something else")
        if self.away:
            raise RedisUnavailable("refused")

    async def set_expire(self, run_id: str, seconds: float) -> bool:
        raise NotImplementedError

    async def delete(self, run_id: str) -> bool:
        raise NotImplementedError

    async def claim(self, hold: Hold, *, owner: str | None = None, start: bool = False) -> Claim:
        raise NotImplementedError

    def claim_sync(self, hold: Hold, *, owner: str | None = None, start: bool = False) -> Claim:
        raise NotImplementedError

    def attend(self, hold: Hold) -> None:
        raise NotImplementedError

    def leave(self, hold: Hold) -> None:
        raise NotImplementedError

    async def request_stop(self, run_id: str) -> StopAnswer:
        raise NotImplementedError

    def doorbell(self, ring: Ring, missed: Callable[[], None]) -> Doorbell:
        self.missed.append(missed)
        return LocalDoorbell(self.bells, ring)
