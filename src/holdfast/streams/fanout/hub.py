"""One reader of the store per process and event loop, for all subscribers of all runs.

The hub keeps a ring for each watched run, fills it when a doorbell rings (or a slow audit finds
that one was lost), and wakes the readers. Reading follows the events, whatever the number of open
runs and readers; the audit looks at each watched run every 1.5 seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast import signals
from holdfast.errors import HoldfastError, RedisUnavailable
from holdfast.signals import Reading
from holdfast.streams.event import ZERO, EventId
from holdfast.streams.fanout.ring import FIRST_PAGE, Break, Ring, continuity, next_page
from holdfast.streams.fanout.rounds import Rounds
from holdfast.streams.frames import encode
from holdfast.streams.store import Known, News

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from holdfast.streams.fanout.pulse import Reader
    from holdfast.streams.store import Entry, EventStore, Pending, RunInfo

log = logging.getLogger("holdfast.streams")

READS_AT_ONCE = 16
"""Pages in flight: a thousand readers who come back together must not ask for them all at once."""

AUDIT_INTERVAL = 1.5
AUDIT_SLICE = 200


class Hub:
    """Watches runs for the readers of one event loop.

    Args:
        store: where the events are.

    A hub belongs to the event loop that first uses it, and is closed with :meth:`aclose`.

    Attributes:
        stopping: every stream is to end now.
        subscribers: the readers of all runs.
        rounds: looks after their heartbeats and their patience.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.stopping = False
        self.subscribers: set[Reader] = set()
        self.rounds = Rounds()
        self._loop = asyncio.get_running_loop()
        self._rings: dict[str, Ring] = {}
        self._opening: dict[str, _Opening] = {}
        # Who shares the question that the next turn of the loop asks, and what is on its way.
        self._asking: dict[str, list[asyncio.Future[RunInfo]]] = {}
        self._describing: set[asyncio.Task[RunInfo]] = set()
        self._dirty: set[str] = set()
        self._refreshing: set[str] = set()
        # Events of this process that wait for an earlier one, of another process, to be read.
        self._unread: dict[str, list[Entry]] = {}
        # Runs of which something may be stored, also of ours, that has not been read yet:
        # meanwhile only what follows what was shown is shown as provisional, see `_hides`. For what
        # was shown before: Ring.superseded().
        self._behind: set[str] = set()
        # Those of which that became so during a read under way, which may be too old to end it.
        self._flushed: set[str] = set()
        # Runs of which the audit has told already that it cannot look at them.
        self._unreadable: set[str] = set()
        self._bell = store.doorbell(self._on_ring, self._on_missed)
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._audit_now = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False
        signals.readable(self)

    @property
    def runs(self) -> int:
        """How many runs it watches."""
        return len(self._rings)

    def readings(self) -> Iterable[Reading]:
        """See :meth:`~holdfast.signals.Readable.readings`."""
        yield Reading("stream_runs", len(self._rings))
        yield Reading("stream_subscribers", len(self.subscribers))
        # Not an iterator: the loop may add one meanwhile.
        yield Reading("stream_ring_bytes", sum(ring.size for ring in list(self._rings.values())))

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
            return await self._opened(run_id)
        ring.readers += 1
        return ring

    def watches(self, run_id: str) -> bool:
        """Whether the run is watched already, so that :meth:`join` returns at once."""
        return run_id in self._rings

    def leave(self, ring: Ring) -> None:
        """Read *ring* no more. The last reader takes the ring with it."""
        ring.readers -= 1
        self._drop_idle(ring)

    async def read(self, run_id: str, start: EventId, limit: int) -> list[Entry]:
        """Read a page of the store, in turn with the other readers.

        Raises:
            RedisUnavailable: the store cannot be asked now.
        """
        async with self._reads:
            return await self.store.read(run_id, start, None, limit)

    def describe(self, run_id: str) -> Awaitable[RunInfo]:
        """Ask the store what a run is: one question for all who ask in one turn of the loop.

        A thousand readers who come back together would each have one on its way, and the memory of
        that is not given back.

        Raises:
            RedisUnavailable: the store cannot be asked now.
        """
        answer: asyncio.Future[RunInfo] = self._loop.create_future()
        asking = self._asking.get(run_id)
        if asking is None:
            asking = self._asking[run_id] = []
            self._loop.call_soon(self._ask, run_id)
        asking.append(answer)
        return answer

    def _ask(self, run_id: str) -> None:
        # Whoever asks from now on is to learn of what happens from now on.
        asking = self._asking.pop(run_id)
        task = self._loop.create_task(self.store.describe(run_id))
        self._describing.add(task)
        task.add_done_callback(partial(self._answer, asking))

    def _answer(self, asking: list[asyncio.Future[RunInfo]], task: asyncio.Task[RunInfo]) -> None:
        self._describing.discard(task)
        error = None if task.cancelled() else task.exception()
        for answer in asking:
            if answer.done():
                continue
            if task.cancelled():
                answer.cancel()
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

    def look(self, run_id: str) -> None:
        """Read what is new in *run_id*, as if its bell had rung."""
        if run_id in self._rings:
            self._dirty.add(run_id)
            if run_id not in self._refreshing:
                self._refreshing.add(run_id)
                self._spawn(self._refresh(run_id))

    def stop(self) -> None:
        """Have every reader end its stream now: the process stops, and its clients come back."""
        self.stopping = True
        for ring in list(self._rings.values()):
            ring.wake()
        for subscription in list(self.subscribers):
            subscription.wake()

    def stop_soon(self) -> None:
        """The same, from a signal handler or another thread."""
        self.stopping = True
        self._call_soon(self.stop)

    async def aclose(self) -> None:
        """End all streams and let go of the store."""
        self.stop()
        tasks = [*self._tasks, *(opening.task for opening in self._opening.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._bell.aclose()

    def release(self) -> None:
        """Let go of the store after the event loop is gone: there is nobody left to tell."""
        self._bell.release()

    # -- opening and dropping rings

    async def _opened(self, run_id: str) -> Ring:
        """Return the ring once it is open, with its reader counted.

        It is opened once for all who wait for it.
        """
        opening = self._opening.get(run_id)
        if opening is None:
            opening = _Opening(self._loop.create_task(self._open(run_id)))
            self._opening[run_id] = opening
        opening.waiting += 1
        try:
            # One of them leaving must not cancel it for the others.
            return await asyncio.shield(opening.task)
        except asyncio.CancelledError:
            opening.task.add_done_callback(self._leave_opened)
            raise

    def _leave_opened(self, task: asyncio.Task[Ring]) -> None:
        """Who asked for the ring has left before it was told that it is open."""
        if not (task.cancelled() or task.exception()):
            self.leave(task.result())

    async def _open(self, run_id: str) -> Ring:
        try:
            await self._bell.add(run_id)
            ring = await self._first_look(run_id)
        except BaseException:
            self._spawn(self._bell.discard(run_id))
            raise
        finally:
            opening = self._opening.pop(run_id)
        # They run some turns of the loop later: nobody who leaves meanwhile may take the ring away.
        ring.readers = opening.waiting
        self._rings[run_id] = ring
        # What rang while we looked was not for a ring yet.
        if not ring.doubtful:
            self._behind.add(run_id)
        self.look(run_id)
        return ring

    async def _first_look(self, run_id: str) -> Ring:
        try:
            info = await self.store.describe(run_id)
        except RedisUnavailable:
            return self._from_pending(run_id)
        if info.status == "absent":
            return Ring(run_id, ZERO, None)
        ring = Ring(run_id, info.last, info.life, accepted=self.store.accepted(run_id))
        ring.last_n = info.n
        ring.ended = info.status != "open"
        ring.expired = _has_no_end(info)
        ring.transport = info.transport
        ring.begun = info.transport == "pubsub"
        if info.transport == "streams":
            await self._bell.settle(run_id)
        return ring

    def _from_pending(self, run_id: str) -> Ring:
        """While Redis is away a ring can show what this process itself accepted."""
        pending = self.store.pending(run_id)
        ring = Ring(run_id, pending.base if pending else ZERO, None)
        ring.doubtful = True
        self._show_pending(ring)
        return ring

    def _drop_idle(self, ring: Ring) -> None:
        run_id = ring.run_id
        if ring.readers == 0 and self._rings.get(run_id) is ring:
            del self._rings[run_id]
            self._dirty.discard(run_id)
            self._unread.pop(run_id, None)
            self._behind.discard(run_id)
            self._flushed.discard(run_id)
            self._unreadable.discard(run_id)
            self._spawn(self._bell.discard(run_id))

    # -- news

    def _on_ring(self, run_id: str, news: News) -> None:
        """Called in any thread."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        # What cannot be read afterwards is heard in the order in which it was said.
        if here and not _is_live(news):
            self._hear(run_id, news)
        else:
            self._call_soon(self._hear, run_id, news)

    def _on_missed(self) -> None:
        self._call_soon(self._audit_now.set)

    def _call_soon(self, callback: Callable[..., object], *args: object) -> None:
        # The loop may be closed by its own thread at any moment.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _hear(self, run_id: str, news: News) -> None:
        ring = self._rings.get(run_id)
        if ring is None or _known(ring, news):
            return
        if _is_live(news):
            self._hear_live(ring, news)
        elif news.entries and news.entries[0].provisional:
            self._show_unstored(ring, news.entries)
        elif news.entries and run_id not in self._dirty and _follows(ring, news):
            ring.life = ring.life or news.life
            if ring.transport is None:
                ring.transport = "streams"
                self._spawn(self._bell.settle(run_id))
            self._show(ring, news.entries)
        else:
            # Something of another process is due before it. What a bell carries is stored.
            if not news.n:
                self._unread.setdefault(run_id, []).extend(news.entries)
                if not news.entries:  # what waited here is stored, and a read under way is too old
                    self._behind.add(run_id)
                    self._flushed.add(run_id)
            self.look(run_id)

    def _show(self, ring: Ring, entries: Iterable[Entry]) -> None:
        for entry in entries:
            ring.append(encode(ring.run_id, entry))
        ring.wake()

    def _show_unstored(self, ring: Ring, entries: Sequence[Entry]) -> None:
        """Show what cannot be read back now, after whatever of ours was to be read before it.

        That is stored, but its place among the events of others is not known yet, so it is shown
        as provisional: a cursor may pass it, and the event read later is recognised.

        Not while what comes before it has to be read: a cursor that passes an event passes all that
        its producer wrote before.
        """
        if self._hides(ring, entries):
            return
        waiting = self._unread.pop(ring.run_id, ())
        self._show(ring, _as_provisional(ring, waiting))
        self._show(ring, entries)

    def _hides(self, ring: Ring, entries: Sequence[Entry]) -> bool:
        """Whether something has to be read first that may come before *entries*."""
        if ring.run_id not in self._behind:
            return False
        waiting = self._unread.get(ring.run_id)
        return bool(waiting) or not entries or not ring.leads_to(entries[0])

    def _show_pending(self, ring: Ring) -> None:
        pending: Pending | None = self.store.pending(ring.run_id)
        if pending is None or self._hides(ring, pending.entries):
            return
        news = News(None, pending.entries)
        if _is_live(news):
            self._hear_live(ring, news)
        else:
            self._show(ring, pending.entries)

    # -- Pub/Sub runs, of which nothing can be read

    def _hear_live(self, ring: Ring, news: News) -> None:
        if ring.transport == "streams" or (ring.transport is None and ring.last_n):
            if news.entries[0].provisional:  # guessed wrongly, while Redis is away
                self._show_unstored(ring, [entry._replace(kept=True) for entry in news.entries])
            return
        if news.life and ring.life and news.life != ring.life:
            ring.begin_life(news.life, str(ring.last), None)
        ring.transport, ring.life = "pubsub", ring.life or news.life
        for entry in news.entries:
            self._pass_on(ring, entry, told=news.n > 0)
        ring.wake()

    def _pass_on(self, ring: Ring, entry: Entry, *, told: bool) -> None:
        """Show an event, in its turn; *told*: it comes from Redis, which keeps their order."""
        if entry.n:
            if entry.n <= ring.last_n or (entry.n > ring.last_n + 1 and not told):
                return  # here already, or to come after what another process has published
            if entry.n > ring.last_n + 1:
                ring.interrupt(Break("gap", str(ring.last), entry.public_id))
        elif not entry.provisional:
            if ZERO < entry.id <= ring.last:
                return
            if not ring.noted or entry.terminal:
                ring.noted = True
                self._spawn(self._note_foreign(ring, ended=entry.terminal))
        ring.pass_on(encode(ring.run_id, entry))

    async def _note_foreign(self, ring: Ring, *, ended: bool) -> None:
        try:
            await self.store.note_foreign(ring.run_id, ended=ended)
        except HoldfastError:
            ring.noted = False  # the next message says it again

    async def _look_live(self, ring: Ring) -> None:
        shown = ring.end
        info = await self.store.describe(ring.run_id)
        if ring.end == shown:
            self._judge_live(ring, info)

    def _judge_live(self, ring: Ring, info: RunInfo) -> bool:
        """Whether the run is on Pub/Sub; another life of it is told."""
        if ring.transport == "pubsub":
            if ring.life and (info.status == "absent" or info.life != ring.life):
                ring.begin_life(None, str(ring.last), None)
                ring.wake()
                return False
            ring.life = ring.life or info.life
        elif info.transport == "pubsub" and ring.last_n == 0:
            ring.transport, ring.life = "pubsub", info.life
            ring.wake()
        return ring.transport == "pubsub"

    def _audit_live(self, ring: Ring, info: RunInfo) -> None:
        """Tell a gap where what was published by the last audit has not come by this one."""
        found, now = (info.n, info.status == "ended"), self._loop.time()
        if found == (ring.last_n, ring.ended) or info.n < ring.last_n:
            ring.overdue = None
        elif ring.overdue is None or ring.overdue[0] != found:
            ring.overdue = found, now
        elif now - ring.overdue[1] >= AUDIT_INTERVAL / 2:
            if info.n > ring.last_n:
                ring.interrupt(Break("gap", str(ring.last), None))
            ring.last, ring.last_n, ring.ended = info.last, info.n, found[1]
            ring.overdue = None
            ring.wake()

    # -- reading

    async def _refresh(self, run_id: str) -> None:
        """Bring a ring up to the end of its run, and again while its bell rings."""
        try:
            while run_id in self._dirty and (ring := self._rings.get(run_id)):
                self._dirty.discard(run_id)
                await self._catch_up(ring)
        finally:
            self._refreshing.discard(run_id)

    async def _catch_up(self, ring: Ring) -> None:
        self._flushed.discard(ring.run_id)
        try:
            if ring.transport == "pubsub":
                await self._look_live(ring)
            while ring.transport != "pubsub" and await self._read_page(ring):
                pass
            if ring.run_id not in self._flushed:
                self._behind.discard(ring.run_id)
        except RedisUnavailable:
            ring.doubtful = True
            ring.page = FIRST_PAGE
            self._show_unstored(ring, ())
        except Exception:  # whatever it is, it is told, and the hub goes on
            fields = {"run_id": ring.run_id}
            log.exception("the run %r cannot be read", ring.run_id, extra=fields)
        self._forget_read(ring)
        self._show_pending(ring)

    def _forget_read(self, ring: Ring) -> None:
        waiting = self._unread.pop(ring.run_id, ())
        left = [entry for entry in waiting if entry.id > ring.last]
        if left:
            self._unread[ring.run_id] = left

    async def _read_page(self, ring: Ring) -> bool:
        """Read what follows the ring; False where that was all."""
        seen, page = ring.last, ring.page
        entries = await self.read(ring.run_id, seen.next(), page)
        if ring.last != seen:
            return True  # our own events arrived meanwhile, by the short way
        broken = continuity(seen, entries[0].prev) if entries and seen != ZERO else None
        if broken or not entries or ring.life is None:
            # Ids alone would call it a gap where the first events of another life are gone already.
            info = await self.store.describe(ring.run_id)
            if ring.last != seen:
                return True
            if self._judge_live(ring, info):
                return False
            if broken == "reset" or _is_another_life(ring, info):
                await self._begin_life(ring, info)
                return True
            ring.life = info.life if info.status != "absent" else None
            if ring.transport is None and info.transport == "streams":
                ring.transport = "streams"
                await self._bell.settle(ring.run_id)
            if not entries and info.last > seen and ring.life is not None:
                return await self._pass_over(ring, info)
        self._extend(ring, entries)
        ring.page = next_page(entries, page)
        if len(entries) == page:
            # What waited and is stored now counts no more as provisional.
            self._behind.add(ring.run_id)
            return True
        return False

    async def _pass_over(self, ring: Ring, info: RunInfo) -> bool:
        """Tell a gap where the run goes on past the ring and nothing of that is left to read.

        Returns:
            Whether there is more to read after all.
        """
        seen = ring.last
        # It may have been written since we read.
        if await self.read(ring.run_id, seen.next(), 1) or ring.last != seen:
            return True
        ring.interrupt(Break("gap", str(seen), None))
        ring.last, ring.last_n = info.last, info.n
        ring.ended = ring.ended or info.status != "open"
        ring.expired = _has_no_end(info)
        ring.wake()
        return False

    def _extend(self, ring: Ring, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if continuity(ring.last, entry.prev):
                ring.interrupt(Break("gap", str(ring.last), str(entry.id)))
            ring.append(encode(ring.run_id, entry))
        ring.wake()

    async def _begin_life(self, ring: Ring, info: RunInfo) -> None:
        first = await self.read(ring.run_id, ZERO, 1)
        life = info.life if info.status != "absent" else None
        ring.begin_life(life, str(ring.last), str(first[0].id) if first else None)
        self._behind.add(ring.run_id)
        self._unread.pop(ring.run_id, None)
        ring.wake()
        if self._rings.get(ring.run_id) is ring:
            await self._bell.add(ring.run_id)  # the new life may use what this one did not

    # -- the audit, for bells that nobody heard

    async def _audit(self) -> None:
        while True:
            # Not wait_for(), which in Python 3.11 takes a cancellation for the event it waits for,
            # if both come in one turn: the hub would never close.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AUDIT_INTERVAL):
                    await self._audit_now.wait()
            self._audit_now.clear()
            rings = list(self._rings.values())
            for start in range(0, len(rings), AUDIT_SLICE):
                await self._audit_some(rings[start : start + AUDIT_SLICE])

    async def _audit_some(self, rings: Sequence[Ring]) -> None:
        """Describe those of which one question about all says that they are not as we know them."""
        if not self.store.available:
            return
        try:
            changed = set(await self.store.changed([_as_known(ring) for ring in rings]))
        except RedisUnavailable:
            return
        changed.update(ring.run_id for ring in rings if ring.doubtful)
        await asyncio.gather(*(self._audit_run(run_id) for run_id in changed))

    async def _audit_run(self, run_id: str) -> None:
        ring = self._rings.get(run_id)
        if ring is None or not self.store.available:
            return
        shown = ring.end
        try:
            info = await self.store.describe(run_id)
        except RedisUnavailable:
            return
        except Exception:  # whatever it is, the other runs are none of its business
            if run_id not in self._unreadable:
                self._unreadable.add(run_id)
                fields = {"run_id": run_id}
                log.exception("the run %r cannot be looked at", run_id, extra=fields)
            return
        self._unreadable.discard(run_id)
        if ring.transport == "pubsub" and ring.end != shown:
            pass  # the answer is older than what has come by
        elif self._judge_live(ring, info):
            self._audit_live(ring, info)
        elif run_id in self._behind or info.last != ring.last or _is_another_life(ring, info):
            self.look(run_id)  # also where a look has failed, and nothing has changed since
        elif _has_no_end(info) and not ring.ended:
            ring.expire()
        if ring.doubtful:
            # Readers that were held because Redis was away can go on now.
            ring.doubtful = False
            ring.wake()

    # -- tasks

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._spawn(self._supervise("audit", self._audit))

    async def _supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep *work* going: a hub whose audit died would leave its readers waiting for ever."""
        while True:
            try:
                await work()
            except Exception:
                log.exception("the hub's %s failed and is started again", name)
                await asyncio.sleep(0.1)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@dataclass(slots=True)
class _Opening:
    """A ring that is being opened, and how many wait for it."""

    task: asyncio.Task[Ring]
    waiting: int = 0


def _as_provisional(ring: Ring, stored: Iterable[Entry]) -> Iterable[Entry]:
    """Take events of this process that cannot be read now for such as are not stored yet."""
    follows = 0
    for entry in stored:
        # What its producer wrote before the first of them is in the ring, or was before it began.
        # Where that is not known, only who has this one's id has surely seen all before it.
        prev = None if follows else ring.last if ring.life is not None else entry.id
        follows = follows or entry.seq - 1
        if entry.terminal and entry.n != entry.seq:
            # What others wrote before it could not be told after it.
            follows, prev = entry.seq, None
        yield entry._replace(provisional=True, follows=follows, prev=prev)
        follows = entry.seq


def _has_no_end(info: RunInfo) -> bool:
    """Whether the events of a run are kept no longer, though it never ended."""
    return info.status == "expired" and info.end is None


def _is_live(news: News) -> bool:
    return bool(news.entries) and not news.entries[0].kept


def _as_known(ring: Ring) -> Known:
    return Known(ring.run_id, ring.last, ring.last_n, ring.life, ring.ended)


def _known(ring: Ring, news: News) -> bool:
    """Whether the ring already holds what the bell tells of: an echo of our own event."""
    return 0 < news.n <= ring.last_n and news.life == ring.life


def _follows(ring: Ring, news: News) -> bool:
    first = news.entries[0]
    # A failover that lost an event gives its number to another one.
    if first.n != ring.last_n + 1 or first.prev not in {ring.last, None}:
        return False
    return news.life == ring.life or (ring.life is None and first.n == 1)


def _is_another_life(ring: Ring, info: RunInfo) -> bool:
    """Whether the store has not what the ring shows: deleted, flushed, or lost by a failover."""
    if ring.last == ZERO and ring.life is None:
        return False
    if info.status == "absent":
        return True
    return ring.life not in {None, info.life} or info.last < ring.last
