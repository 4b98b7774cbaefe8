"""One reader of the store per process and event loop, for all subscribers of all runs.

The hub keeps a ring for each watched run, fills it when a doorbell rings (or a slow audit finds
that one was lost), and wakes the readers. Its work follows the events, not the number of open runs
or readers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError, RedisUnavailable
from holdfast.streams.event import ZERO
from holdfast.streams.frames import encode
from holdfast.streams.ring import Break, Ring, continuity
from holdfast.streams.store import Entry, EventStore, News, Pending, RunInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from holdfast.streams.subscription import Subscription

log = logging.getLogger("holdfast.streams")

PAGE = 500
"""Entries per read: measured best between 100 and 1000 on small events."""

AUDIT_INTERVAL = 1.5
AUDIT_SLICE = 200


class Hub:
    """Watches runs for the readers of one event loop.

    Args:
        store: where the events are.

    A hub belongs to the event loop that first uses it, and is closed with :meth:`aclose`.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.stopping = False
        self.subscribers: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._loop = asyncio.get_running_loop()
        self._rings: dict[str, Ring] = {}
        self._opening: dict[str, asyncio.Task[Ring]] = {}
        self._dirty: dict[str, News] = {}
        self._bell = store.doorbell(self._on_ring, self._on_missed)
        self._work = asyncio.Event()
        self._audit_now = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False

    def __repr__(self) -> str:
        return f"<Hub {len(self._rings)} runs, {len(self.subscribers)} subscribers>"

    # -- who reads what

    async def join(self, run_id: str) -> Ring:
        """Return the ring of *run_id*, watching the run from now on; :meth:`leave` it afterwards.

        Nothing that is written after this returns is missed: the bell hangs before the run is
        looked at.
        """
        self._start()
        ring = self._rings.get(run_id)
        if ring is None:
            task = self._opening.get(run_id)
            if task is None:
                task = self._opening[run_id] = self._loop.create_task(self._open(run_id))
            # Shared by all who join at once: one of them leaving must not cancel it for the others.
            ring = await asyncio.shield(task)
        ring.readers += 1
        return ring

    def leave(self, ring: Ring) -> None:
        """Read *ring* no more. The last reader takes the ring with it."""
        ring.readers -= 1
        if ring.readers == 0 and self._rings.get(ring.run_id) is ring:
            del self._rings[ring.run_id]
            self._dirty.pop(ring.run_id, None)
            self._spawn(self._bell.discard(ring.run_id))

    def look(self, run_id: str) -> None:
        """Read what is new in *run_id*, as if its bell had rung."""
        self._mark(run_id, News())

    def stop(self) -> None:
        """Have every reader end its stream now: the process stops, and clients are told to come back."""
        self.stopping = True
        for ring in list(self._rings.values()):
            ring.wake()
        for subscription in list(self.subscribers):
            subscription.wake()

    def stop_soon(self) -> None:
        """The same, from a signal handler or another thread."""
        self.stopping = True
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.stop)

    async def aclose(self) -> None:
        """End all streams and let go of the store."""
        self.stop()
        tasks = [*self._tasks, *self._opening.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._bell.aclose()

    def release(self) -> None:
        """Let go of the store after the event loop is gone: there is nobody left to tell."""
        self._bell.release()

    async def _open(self, run_id: str) -> Ring:
        try:
            await self._bell.add(run_id)
            ring = await self._first_look(run_id)
            self._rings[run_id] = ring
            # What rang while we looked was not for a ring yet.
            self.look(run_id)
            return ring
        finally:
            self._opening.pop(run_id, None)

    async def _first_look(self, run_id: str) -> Ring:
        try:
            info = await self.store.describe(run_id)
        except RedisUnavailable:
            return self._from_pending(run_id)
        if info.status == "absent":
            return Ring(run_id, ZERO, None)
        ring = Ring(run_id, info.last, info.life)
        ring.last_n = info.n
        ring.ended = info.status != "open"
        return ring

    def _from_pending(self, run_id: str) -> Ring:
        """While Redis is away a ring can show what this process itself accepted."""
        pending = self.store.pending(run_id) or Pending(ZERO, (), False, None)
        ring = Ring(run_id, pending.base, None)
        for entry in pending.entries:
            ring.append(encode(run_id, entry))
        return ring

    # -- news

    def _on_ring(self, run_id: str, news: News) -> None:
        """Called in any thread."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._mark(run_id, news)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._mark, run_id, news)

    def _on_missed(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._audit_now.set)

    def _mark(self, run_id: str, news: News) -> None:
        ring = self._rings.get(run_id)
        if ring is None:
            return
        if _known(ring, news) or self._take_directly(ring, news):
            return
        self._dirty[run_id] = news
        self._work.set()

    def _take_directly(self, ring: Ring, news: News) -> bool:
        """Show what this process wrote without reading it back, unless something of another is due before it."""
        entries = news.entries
        if not entries or ring.run_id in self._dirty:
            return False
        if not entries[0].provisional and not _follows(ring, news):
            return False
        ring.life = ring.life or news.life
        for entry in entries:
            ring.append(encode(ring.run_id, entry))
        ring.wake()
        return True

    async def _read_news(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            dirty, self._dirty = self._dirty, {}
            await asyncio.gather(*(self._refresh(run_id) for run_id in dirty))

    async def _refresh(self, run_id: str) -> None:
        """Bring a ring up to the end of its run."""
        ring = self._rings.get(run_id)
        if ring is None:
            return
        try:
            while await self._read_page(ring):
                pass
        except RedisUnavailable:
            pass  # the way back rings for every watched run
        except HoldfastError:
            log.exception("the run %r cannot be read", run_id)

    async def _read_page(self, ring: Ring) -> bool:
        """Read what follows the ring; True where there is more to do."""
        seen = ring.last
        entries = await self.store.read(ring.run_id, seen.next(), None, PAGE)
        if ring.last != seen:
            return True  # our own events arrived meanwhile, by the short way
        if not entries or ring.life is None:
            info = await self.store.describe(ring.run_id)
            if ring.last != seen:
                return True
            if _is_another_life(ring, info):
                await self._begin_life(ring, info)
                return True
            ring.life = info.life if info.status != "absent" else None
        elif seen != ZERO and continuity(seen, entries[0].prev) == "reset":
            await self._begin_life(ring, await self.store.describe(ring.run_id))
            return True
        self._extend(ring, entries)
        return len(entries) == PAGE

    def _extend(self, ring: Ring, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if ring.last != ZERO and continuity(ring.last, entry.prev):
                ring.interrupt(Break("gap", str(ring.last), str(entry.id)))
            ring.append(encode(ring.run_id, entry))
        ring.wake()

    async def _begin_life(self, ring: Ring, info: RunInfo) -> None:
        first = await self.store.read(ring.run_id, ZERO, None, 1)
        life = info.life if info.status != "absent" else None
        ring.begin_life(life, str(ring.last), str(first[0].id) if first else None)
        ring.wake()

    # -- the audit, for bells that nobody heard

    async def _audit(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._audit_now.wait(), AUDIT_INTERVAL)
            missed = self._audit_now.is_set()
            self._audit_now.clear()
            runs = list(self._rings)
            for start in range(0, len(runs), AUDIT_SLICE):
                some = runs[start : start + AUDIT_SLICE]
                await asyncio.gather(*(self._audit_run(run_id) for run_id in some))
            if missed:
                # Readers that were held because Redis was away can read on now.
                for ring in self._rings.values():
                    ring.wake()

    async def _audit_run(self, run_id: str) -> None:
        ring = self._rings.get(run_id)
        if ring is None or not self.store.available:
            return
        try:
            info = await self.store.describe(run_id)
        except HoldfastError:
            return
        if info.last != ring.last or _is_another_life(ring, info):
            self.look(run_id)

    # -- tasks

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._spawn(self._supervise("reader", self._read_news))
            self._spawn(self._supervise("audit", self._audit))

    async def _supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep *work* going: a hub whose reader died would leave its subscribers waiting for ever."""
        while True:
            try:
                await work()
            except Exception:  # noqa: BLE001 - whatever it is, it is told, and the work goes on
                log.exception("the hub's %s failed and is started again", name)
                await asyncio.sleep(0.1)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _known(ring: Ring, news: News) -> bool:
    """Whether the ring already holds what the bell tells of: an echo of our own event."""
    return 0 < news.n <= ring.last_n and news.life == ring.life


def _follows(ring: Ring, news: News) -> bool:
    first = news.entries[0]
    return first.n == ring.last_n + 1 and (
        news.life == ring.life or ring.life is None and first.n == 1
    )


def _is_another_life(ring: Ring, info: RunInfo) -> bool:
    """Whether what the ring shows is not what the store has: deleted, flushed, or lost by a failover."""
    if ring.last == ZERO and ring.life is None:
        return False
    if info.status == "absent":
        return True
    return ring.life not in {None, info.life} or info.last < ring.last
