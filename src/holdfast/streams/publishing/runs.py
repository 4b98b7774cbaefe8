"""Detached runs: tasks that outlive the request that began them, at most one for each run.

The registry keeps a strong reference to each task, ends what runs at shutdown, and knows what this
process publishes while Redis cannot be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from typing import TYPE_CHECKING

from holdfast import signals
from holdfast.errors import (
    HoldfastError,
    RedisUnavailable,
    RunEnded,
    RunExpired,
    RunNotYours,
)
from holdfast.forks import watch_forks
from holdfast.streams import observed, shutdown
from holdfast.streams.cursor import TAIL
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.publishing.sources import check_source, discard, feed
from holdfast.streams.select import default_store, hub_of
from holdfast.streams.store import to_event

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from holdfast.runtime import Runtime
    from holdfast.settings import Settings
    from holdfast.streams.event import StreamEvent
    from holdfast.streams.hold import Claim, StopAnswer
    from holdfast.streams.publishing.sources import Source
    from holdfast.streams.store import Draft, Entry, EventStore

log = logging.getLogger("holdfast.streams")

BURST = 0.02
"""Seconds after news within which an end is not looked for again."""
LAST_WORD = 5.0
"""Seconds that a run may take to end where its process does."""
POLL = 0.5
"""Seconds between two looks for an end where no news come any more."""


class _Here:
    """The runs that this process publishes by itself, by store."""

    def __init__(self) -> None:
        self._watching = False
        self.forked()

    def forked(self) -> None:
        """In a forked child: the tasks are the parent's."""
        self._runs: weakref.WeakKeyDictionary[EventStore, dict[str, Detached]]
        self._runs = weakref.WeakKeyDictionary()
        self.beginning: set[asyncio.Task[Run]] = set()

    def stop_soon(self) -> None:
        """Have every run of this process end as lost: it is told to stop. From a signal handler."""
        for publishers in list(self._runs.values()):
            for publisher in list(publishers.values()):
                publisher.cancel()

    def of(self, store: EventStore) -> dict[str, Detached]:
        if not self._watching:
            watch_forks(self)
            self._watching = True
        return self._runs.setdefault(store, {})


_here = _Here()


async def start_run(
    run_id: str,
    source: Source,
    *,
    owner: str | None = None,
    media_type: str | None = None,
    store: EventStore | None = None,
    settings: Settings | None = None,
) -> Run:
    """Publish a run in a task of its own, which goes on when the request that began it ends.

    The same id again, from anywhere, attaches to the run that there is and never runs it twice,
    also after its end. The run ends as its source does: with ``workflow_complete``, with
    ``workflow_error`` where it raises, with ``run_stopped`` where it was asked to stop (the task
    is cancelled), and with ``run_lost`` where this process shuts down or dies.

    Args:
        run_id: the run.
        source: a coroutine function, called with the run's :class:`~holdfast.RunPublisher`; or an
            asynchronous iterator (or a function of the publisher that returns one) of
            :class:`~holdfast.StreamEvent`, ``(type, data)``, ``str`` or ``bytes``, or any other
            JSON value, which is the data of a ``message``. Where it is not needed it is closed.
        owner: ``user:<id>`` or ``session:<id_hash>``, kept if this begins the run. Default: none.
        media_type: ``text/event-stream`` where the text that *source* yields is one; else each
            piece of text is the data of a ``message``.
        store: where to publish. Default: the process's own store.
        settings: the configuration of that default. Default: the environment.

    Raises:
        InvalidEvent: the run id or the owner cannot exist.
        RunExpired: the run is over, and its events are no longer kept.
        RunNotYours: the run has another owner.
        RedisUnavailable: nobody can say now whether the run has been begun. Nothing is published by
            this call; a run that was begun nevertheless, and only the answer lost, ends with
            ``run_lost``.
        TypeError: no run can be made of *source*.
    """
    check_source(source)
    try:
        chosen = store or _default_store(settings)
        beginning = Beginning(chosen, run_id, source, owner=owner, media_type=media_type)
        run = await beginning.run()
    except Exception:
        await discard(source)
        raise
    return run


class Run:
    """A run that has been begun, here or elsewhere.

    Attributes:
        run_id: the run.
        started: whether the call that returned this began it.
    """

    def __init__(self, store: EventStore, run_id: str, *, started: bool) -> None:
        self.run_id = run_id
        self.started = started
        self._store = store

    def __repr__(self) -> str:
        return f"<Run {self.run_id!r}{' started' if self.started else ''}>"

    async def wait(self) -> StreamEvent:
        """Wait until the run has ended, wherever it is published; return its terminal event.

        Raises:
            RunExpired: it has ended, and its events are no longer kept.
            RunEnded: it was deleted.
        """
        async with Subscription(hub_of(self._store), self.run_id, TAIL) as subscription:
            while True:
                # Taken before the look, so that what happens meanwhile is not missed.
                news = subscription.news()
                try:
                    end = await _end_of(self._store, self.run_id)
                except RedisUnavailable:
                    subscription.doubt()
                    end = None
                if end is not None:
                    return end
                await news
                # What comes in a burst is looked at once; and a hub that stops has no more news.
                await asyncio.sleep(POLL if subscription.over else BURST)

    async def stop(self) -> StopAnswer:
        """Ask the run to stop, as :func:`~holdfast.request_stop` does."""
        return await stop_run(self._store, self.run_id)


class Beginning:
    """One request to begin a run or to attach to it, until somebody can say which it is.

    Args:
        source: what it is made of where this begins it; else it is closed.
        owner: of the run, if this begins it.
        also: other names of the same owner.

    Raises:
        InvalidEvent: the run id or the owner cannot exist.
    """

    def __init__(
        self,
        store: EventStore,
        run_id: str,
        source: Source,
        *,
        owner: str | None,
        also: Collection[str] = (),
        media_type: str | None = None,
    ) -> None:
        # One for all tries: a claim whose answer was lost is this one's still.
        self._publisher = Detached(run_id, owner=owner, store=store)
        self._store = store
        self._source = source
        self._yours = {None, owner, *also}
        self._media_type = media_type

    async def run(self) -> Run:
        """Begin it or attach to it; then the source is used, or closed.

        Whoever asked may leave meanwhile: what has been begun is then published all the same.

        Raises:
            RunExpired, RunNotYours: it may not be.
            RedisUnavailable: nobody can say now. Ask again, or close the source.
        """
        task = asyncio.get_running_loop().create_task(self._run())
        _here.beginning.add(task)
        task.add_done_callback(_begun)
        return await asyncio.shield(task)

    async def _run(self) -> Run:
        run_id = self._publisher.run_id
        there = _here.of(self._store).get(run_id)
        if there is not None:
            # It is known without Redis, which may be away.
            owner = there.owner
        else:
            claim = await self._publisher.take()
            if claim.status == "mine":
                self._publisher.run(self._source, self._media_type)
                return Run(self._store, run_id, started=True)
            owner = claim.owner
        if owner not in self._yours:
            raise RunNotYours(f"the run {run_id!r} belongs to another owner")
        if there is None and (await self._store.describe(run_id)).status == "expired":
            raise RunExpired(f"the run {run_id!r} has expired; delete it to use its id again")
        await discard(self._source)
        return Run(self._store, run_id, started=False)


def _begun(task: asyncio.Task[Run]) -> None:
    _here.beginning.discard(task)
    if not task.cancelled():
        # Nobody hears of it where whoever asked has left.
        task.exception()


async def stop_run(store: EventStore, run_id: str) -> StopAnswer:
    """Ask a run to stop; a run of this process also while Redis is away."""
    there = _here.of(store).get(run_id)
    try:
        return await store.request_stop(run_id)
    except RedisUnavailable:
        if there is None:
            raise
        there.ask_to_stop()
        return "requested"


async def close_runs(store: EventStore) -> None:
    """End every run that this process publishes to *store* by itself, with ``run_lost``."""
    tasks = [publisher.cancel() for publisher in list(_here.of(store).values())]
    mine = [task for task in tasks if task is not None]
    if mine:
        # One that will not be cancelled keeps no process; its lease lapses.
        await asyncio.wait(mine, timeout=LAST_WORD)


def _default_store(settings: Settings | None) -> EventStore:
    from holdfast.runtime import runtime

    return store_of(runtime(settings))


def store_of(chosen: Runtime) -> EventStore:
    """Return the store of a runtime, which then ends its detached runs when it is closed."""
    store = default_store(chosen)

    async def close() -> None:
        await close_runs(store)

    chosen.once("detached runs", lambda: chosen.on_close(close))
    if chosen.settings.stream_handle_signals:
        shutdown.watch(_here)
    return store


class Detached(RunPublisher):
    """A publisher and the task that feeds it."""

    async def write(self, drafts: Sequence[Draft]) -> list[Entry]:
        """Publish *drafts*, all or none, as :meth:`emit` does one event. Raises the same."""
        self._check_open()
        life = self._hold.life
        append = self._store.append(self.run_id, drafts, owner=self.owner, life=life)
        entries = await (
            observed.publish(self.run_id, len(drafts), append) if signals.observers else append
        )
        for draft, entry in zip(drafts, entries, strict=True):
            self._note(draft, entry)
        return entries

    async def take(self) -> Claim:
        """Begin the run if nobody has; else let go of it."""
        return await self._claim(start=True)

    def run(self, source: Source, media_type: str | None) -> None:
        """Publish *source* from now on."""
        self._loop = asyncio.get_running_loop()
        self._cancelled = False
        _here.of(self._store)[self.run_id] = self
        work = self._supervise(source, media_type)
        self._task = self._loop.create_task(work, name=f"holdfast run {self.run_id}")

    def ask_to_stop(self) -> None:
        """Stop without a word to the store. Any thread."""
        self._hold.learn(None, stopping=True)

    def cancel(self) -> asyncio.Task[None] | None:
        """Have the run end as lost; return its task if that is of the running loop. Any thread."""
        # Once: a second one would cut off its last word.
        if not self._cancelled:
            self._cancelled = True
            # After what is due, for a task that has not begun could not end its run; and that loop
            # may be closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return None
        return self._task if self._loop is here else None

    async def _supervise(self, source: Source, media_type: str | None) -> None:
        try:
            async with self:
                await self._feed(source, media_type)
        except RunEnded as error:
            fields = {"run_id": self.run_id}
            log.warning(
                "the source of the run %r was cut off: %s", self.run_id, error, extra=fields
            )
        except Exception:
            # Nobody waits for this task: the log and the run's end are where it is told.
            log.exception("the run %r failed", self.run_id, extra={"run_id": self.run_id})
        finally:
            _here.of(self._store).pop(self.run_id, None)

    async def _feed(self, source: Source, media_type: str | None) -> None:
        try:
            await feed(self, source, media_type)
        except asyncio.CancelledError:
            # Not asked to stop: the process ends, and the run did not fail by its own doing.
            if not self.stop_requested:
                with contextlib.suppress(HoldfastError):
                    await self._end("run_lost")
            raise


async def _end_of(store: EventStore, run_id: str) -> StreamEvent | None:
    """Return the terminal event of a run, ``None`` while it goes on."""
    info = await store.describe(run_id)
    if info.status in {"absent", "expired"}:
        kind = RunExpired if info.status == "expired" else RunEnded
        raise kind(f"the run {run_id!r} is no longer kept")
    if info.end is None:
        return None
    entries = await store.read(run_id, info.end, info.end, 1)
    return to_event(run_id, entries[0]) if entries else None
