"""Publishing the events of a run from threads, and from workers that know no event loop.

The same verbs as ``publisher.py`` in plain calls. Order, batching, retries and the journal are the
store's; here is only what one publisher remembers.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any, Self

from holdfast.errors import HoldfastError, RunEnded
from holdfast.streams.event import TERMINAL_TYPES, StreamEvent, check_owner, check_run_id
from holdfast.streams.publisher import error_data
from holdfast.streams.store import EventStore, to_event

if TYPE_CHECKING:
    from types import TracebackType

    from holdfast.settings import Settings

log = logging.getLogger("holdfast.streams")


class SyncRunPublisher:
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

    As a context manager it ends its run: a normal exit leaves ``workflow_complete`` (unless the run
    was ended already), an exception ``workflow_error``; a child forked inside the block ends
    nothing. Without ``with`` it ends nothing either, so that several workers may feed one run.

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
        self.run_id = check_run_id(run_id)
        self.owner = check_owner(owner)
        self._store = store or EventStore.from_settings(settings)
        self._life: str | None = None
        self._ended = False
        self._entered_in: int | None = None

    def __repr__(self) -> str:
        return f"<SyncRunPublisher {self.run_id!r}{' ended' if self._ended else ''}>"

    def __enter__(self) -> Self:
        _refuse_a_loop()
        self._entered_in = os.getpid()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._ended or self._entered_in != os.getpid():
            return
        try:
            if exc is None:
                self.workflow_complete()
            else:
                self.workflow_error(exc)
        except RunEnded:
            pass  # by another publisher of the run
        except HoldfastError:
            # What happened in the block is what its caller must hear of.
            if exc is None:
                raise
            log.exception("the run %r could not be ended", self.run_id)

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
            JournalFull: Redis is away, and so much waits already that this event was not accepted.
            RuntimeError: an event loop runs in this thread.
        """
        _refuse_a_loop()
        draft = self._store.draft(type, data)
        if self._ended:
            raise RunEnded(
                f"the run {self.run_id!r} has ended; nothing can follow its terminal event"
            )
        (entry,) = self._store.append_sync(self.run_id, [draft], owner=self.owner, life=self._life)
        # Another life than before is the store's word that it had lost the run, and begun it anew.
        self._life = entry.life or self._life
        if type in TERMINAL_TYPES:
            self._ended = True
        return to_event(self.run_id, entry, data)

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
