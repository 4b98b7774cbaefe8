"""Publishing the events of a run.

What a publisher remembers is in ``part.py``; order, batching, retries, the journal and the lease
are the store's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Literal, Self

from holdfast import signals
from holdfast.errors import HoldfastError, RedisUnavailable, RunEnded
from holdfast.streams import observed
from holdfast.streams.publishing.part import Part, error_data
from holdfast.streams.publishing.stop import StopBell, StopScope

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from holdfast.settings import Settings
    from holdfast.streams.event import StreamEvent
    from holdfast.streams.hold import Claim
    from holdfast.streams.store import Draft, Entry, EventStore


log = logging.getLogger("holdfast.streams")


class RunPublisher(Part):
    """Publishes the events of one run.

    Args:
        run_id: the run; 1 to 256 characters, exact and case-sensitive.
        owner: ``user:<id>`` or ``session:<id_hash>``, kept if this publisher's first event creates
            the run.
        store: where to publish. Default: the process's own store.
        settings: the configuration of that default. Default: the environment.

    As an asynchronous context manager it begins its run and ends it: a normal exit leaves
    ``workflow_complete`` (unless the run was ended already), an exception ``workflow_error``. Asked
    to stop, the block is left quietly at what it waits for, and the run ends with ``run_stopped``.
    It holds the run's lease: where this process dies, the run ends with ``run_lost`` after
    ``HOLDFAST_STREAM_LEASE`` seconds. Without ``async with`` it ends nothing and holds no lease, so
    that several workers may feed one run.

    Raises:
        InvalidEvent: the run id or the owner cannot exist.
        ConfigurationError: a variable cannot work.
    """

    def __init__(
        self,
        run_id: str,
        *,
        owner: str | None = None,
        store: EventStore | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(run_id, owner=owner, store=store, settings=settings)
        self._claimed = False
        self._bell = StopBell()
        self._scope: StopScope | None = None

    async def wait_stop(self) -> None:
        """Wait until the run is asked to stop; at once where it has been."""
        self._attend()
        await self._bell.wait(lambda: self._hold.stopping)

    async def _claim(self, *, start: bool = False) -> Claim:
        """Take the run and its lease.

        Args:
            start: only if the run has not begun.

        Raises:
            RedisUnavailable: nobody can say now whose the run is.
        """
        if not self._hold.name:
            self._take_hold(lease=True)
        if not start:
            # It hears of a stop from here on, also where Redis is away and takes no claim. Not so
            # what may not begin: whoever is attended to takes a lease that is free.
            self._attend()
        claim = await self._store.claim(self._hold, owner=self.owner, start=start)
        if claim.status == "mine":
            self._claimed = True
            self._attend()
        else:
            self._leave()
        return claim

    async def __aenter__(self) -> Self:
        if not self._claimed:
            try:
                await self._claim()
            except RedisUnavailable:
                pass  # the store takes the lease when Redis is back
            except BaseException:
                self._leave()
                raise
        self._scope = StopScope()
        if self._hold.stopping:
            self._scope.stop()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        scope, self._scope = self._scope, None
        stopped = scope is not None and scope.leave(exc)
        try:
            await self._end_with(None if stopped else exc)
        except RunEnded:
            pass  # by another publisher of the run
        except HoldfastError:
            # What happened in the block is what its caller must hear of.
            if exc is None or stopped:
                raise
            fields = {"run_id": self.run_id}
            log.exception("the run %r could not be ended", self.run_id, extra=fields)
        finally:
            self._leave()
        return stopped

    async def _end_with(self, error: BaseException | None) -> None:
        if self._ended:
            return
        cancelled = isinstance(error, asyncio.CancelledError)
        if self._hold.stopping and (error is None or cancelled):
            await self._end("run_stopped")
        elif error is None:
            await self.workflow_complete()
        else:
            await self.workflow_error(error)

    def _told(self) -> None:
        """The run has been asked to stop. Any thread."""
        self._bell.ring()
        scope = self._scope
        if scope is not None:
            scope.stop()

    def _leave(self) -> None:
        self._claimed = False
        super()._leave()

    async def emit(self, type: str, data: Any = None) -> StreamEvent:  # noqa: A002 - the wire's name
        """Publish one event and return it with its id.

        It returns when Redis has it, or, while Redis is away, with a provisional id: the event
        waits in this process and is written when Redis is back. Each command may take
        ``HOLDFAST_REDIS_TIMEOUT``; the first use of Redis, another batch of the run on its way,
        and a script to be loaded may each add as much before that.

        Args:
            type: any text without control characters; not ``holdfast.*``, ``run_stopped`` or
                ``run_lost``.
            data: any JSON value of at most ``HOLDFAST_STREAM_MAX_EVENT_BYTES`` as compact JSON.

        Raises:
            InvalidEvent, EventTooLarge: refused before any I/O.
            RunEnded: the run has its terminal event.
            JournalFull: Redis is away, and so much waits already that this event was not accepted.
        """
        draft = self._store.draft(type, data)
        (entry,) = await self._append(draft)
        return self._published(draft, entry, data)

    async def _end(self, kind: Literal["run_stopped", "run_lost"]) -> StreamEvent:
        """End the run with one of the types that only holdfast writes; the data is ``{}``."""
        draft = self._store.draft(kind, {}, ours=True)
        (entry,) = await self._append(draft)
        return self._published(draft, entry, {})

    def _append(self, draft: Draft) -> Awaitable[list[Entry]]:
        # Awaited by who calls it: each coroutine on the way would cost every event.
        self._check_open()
        life = self._hold.life
        append = self._store.append(self.run_id, [draft], owner=self.owner, life=life)
        return observed.publish(self.run_id, 1, append) if signals.observers else append

    async def node_output(self, node: str, output: Any) -> StreamEvent:
        """Publish what one node of a workflow produced: ``{"node", "output"}``."""
        return await self.emit("node_output", {"node": node, "output": output})

    async def workflow_complete(self, output: Any = None) -> StreamEvent:
        """End the run well: ``{"output"}``."""
        return await self.emit("workflow_complete", {"output": output})

    async def workflow_error(self, error: BaseException | str) -> StreamEvent:
        """End the run with an error: ``{"error": {"type", "message"}}``, without a traceback.

        Args:
            error: the exception, or what to say. Of more than 10,000 characters the rest is cut.
        """
        return await self.emit("workflow_error", error_data(error))
