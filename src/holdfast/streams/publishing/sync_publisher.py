"""Publishing the events of a run from threads, and from workers that know no event loop.

The same verbs as ``publisher.py`` in plain calls; what a publisher remembers is in ``part.py``.
Order, batching, retries, the journal and the lease are the store's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any, Literal, Self

from holdfast import signals
from holdfast.errors import HoldfastError, RedisUnavailable, RunEnded, RunStopped
from holdfast.forks import watch_forks
from holdfast.streams import observed
from holdfast.streams.event import TERMINAL_TYPES
from holdfast.streams.publishing.part import Part, error_data

if TYPE_CHECKING:
    from types import TracebackType

    from holdfast.settings import Settings
    from holdfast.streams.event import StreamEvent
    from holdfast.streams.store import Draft, Entry, EventStore

log = logging.getLogger("holdfast.streams")


class SyncRunPublisher(Part):
    """Publishes the events of one run, by plain calls from any thread without a running event loop.

    One publisher may be used by many threads at once, and several publishers may feed one run: each
    thread's events keep their order. After a fork the child publishes under a name of its own; what
    waited in the parent is the parent's to write.

    Args:
        run_id: the run; 1 to 256 characters, exact and case-sensitive.
        owner: ``user:<id>`` or ``session:<id_hash>``, kept if this publisher's first event creates
            the run.
        store: where to publish. Default: the process's own store.
        settings: the configuration of that default. Default: the environment.

    As a context manager it begins its run and ends it: a normal exit leaves ``workflow_complete``
    (unless the run was ended already), an exception ``workflow_error``. It holds the run's lease:
    where this process dies, the run ends with ``run_lost`` after ``HOLDFAST_STREAM_LEASE`` seconds.
    Without ``with`` it ends nothing and holds no lease, so that several workers may feed one run;
    nor does a child forked inside the block.

    Asked to stop, the next event of the run is refused with :class:`~holdfast.errors.RunStopped`.
    A ``with`` block that this leaves is left quietly, and the run ends with ``run_stopped``.

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
        self._inside = False
        self._stop = threading.Event()
        watch_forks(self)

    def forked(self) -> None:
        """In a forked child: the block and the lease are the parent's; publish on without them."""
        self._inside = False
        self._stop = threading.Event()
        self._take_hold(lease=False)

    def wait_stop(self, timeout: float | None = None) -> bool:
        """Wait until the run is asked to stop, at most *timeout* seconds; whether it has been."""
        _refuse_a_loop()
        self._attend()
        return self._stop.wait(timeout)

    def __enter__(self) -> Self:
        _refuse_a_loop()
        self._take_hold(lease=True)
        # It hears of a stop from here on, also where Redis is away and takes no claim.
        self._attend()
        try:
            claim = self._store.claim_sync(self._hold, owner=self.owner)
        except RedisUnavailable:
            pass  # the store takes the lease when Redis is back
        except BaseException:
            self._leave()
            raise
        else:
            if claim.status != "mine":
                self._leave()
        self._inside = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        stopped = isinstance(exc, RunStopped) and exc.run_id == self.run_id
        if not self._inside:
            return stopped  # forked inside the block, which is not ours to end
        try:
            self._end_with(None if stopped else exc)
        except RunEnded:
            pass  # by another publisher of the run
        except HoldfastError:
            # What happened in the block is what its caller must hear of.
            if exc is None or stopped:
                raise
            fields = {"run_id": self.run_id}
            log.exception("the run %r could not be ended", self.run_id, extra=fields)
        finally:
            self._inside = False
            self._leave()
        return stopped

    def _end_with(self, error: BaseException | None) -> None:
        if self._ended:
            return
        if error is not None:
            self.workflow_error(error)
        elif self._hold.stopping:
            self._end("run_stopped")
        else:
            self.workflow_complete()

    def _told(self) -> None:
        self._stop.set()

    def emit(self, type: str, data: Any = None) -> StreamEvent:  # noqa: A002 - the wire's name
        """Publish one event and return it with its id; it blocks the calling thread.

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
            RunStopped: the run has been asked to stop; only an event that ends it is taken still.
            JournalFull: Redis is away, and so much waits already that this event was not accepted.
            RuntimeError: an event loop runs in this thread.
        """
        return self._publish(self._store.draft(type, data), data)

    def _end(self, kind: Literal["run_stopped"]) -> StreamEvent:
        """End the run with a type that only holdfast writes; the data is ``{}``."""
        return self._publish(self._store.draft(kind, {}, ours=True), {})

    def _publish(self, draft: Draft, data: Any) -> StreamEvent:
        _refuse_a_loop()
        self._check_open()
        if self._hold.stopping and draft.type not in TERMINAL_TYPES:
            raise RunStopped(self.run_id)
        if signals.observers:
            (entry,) = observed.publish_sync(draft, self._append, self.run_id)
        else:
            (entry,) = self._append(draft)
        event = self._published(draft, entry, data)
        if self._ended and entry.provisional:
            # Said now: a forked worker leaves by os._exit(), and has no other moment for it.
            log.warning(
                "the run %r has ended while Redis is away: its events wait in this process, and end"
                " with it",
                self.run_id,
                extra={"run_id": self.run_id},
            )
        return event

    def _append(self, draft: Draft) -> list[Entry]:
        life = self._hold.life
        return self._store.append_sync(self.run_id, [draft], owner=self.owner, life=life)

    def node_output(self, node: str, output: Any) -> StreamEvent:
        """Publish what one node of a workflow produced: ``{"node", "output"}``."""
        return self.emit("node_output", {"node": node, "output": output})

    def workflow_complete(self, output: Any = None) -> StreamEvent:
        """End the run well: ``{"output"}``."""
        return self.emit("workflow_complete", {"output": output})

    def workflow_error(self, error: BaseException | str) -> StreamEvent:
        """End the run with an error: ``{"error": {"type", "message"}}``, without a traceback.

        Args:
            error: the exception, or what to say. Of more than 10,000 characters the rest is cut.
        """
        return self.emit("workflow_error", error_data(error))


def _refuse_a_loop() -> None:
    """Waiting here would hold up the loop, and with it the batch of its own that it waits for."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "SyncRunPublisher blocks, and an event loop runs in this thread: use RunPublisher there, or"
        " call this from asyncio.to_thread()"
    )
