"""Stopping a run: asking for it, and what a publisher does when it was asked.

A scope cancels the task inside its block once, and takes exactly that cancellation back; a bell
wakes who waits. Both are told in any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from holdfast.streams.store import EventStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.settings import Settings
    from holdfast.streams.hold import StopAnswer


async def request_stop(
    run_id: str, *, store: EventStore | None = None, settings: Settings | None = None
) -> StopAnswer:
    """Ask a run to stop, whoever publishes it and wherever.

    Its publisher is told at once: an ``async with`` block is left, a detached run cancelled, and
    the run ends with ``run_stopped``. The mark stays with the run, and waits an hour for one that
    has not begun.

    Args:
        run_id: the run.
        store: where it is. Default: the process's own store.
        settings: the configuration of that default. Default: the environment.

    Returns:
        ``"requested"``, also when it was asked before; ``"ended"`` or ``"expired"`` where it is too
        late.

    Raises:
        InvalidEvent: the run id cannot exist.
        RedisUnavailable: Redis is away, and the run is not published in this process by
            :func:`~holdfast.start_run`.
    """
    from holdfast.streams.publishing.runs import stop_run

    return await stop_run(store or EventStore.from_settings(settings), run_id)


class StopScope:
    """Leaves a block of one task when told to, as ``asyncio.timeout`` leaves one when time is up.

    The task is cancelled once, so that its own cleaning up may wait for something. Enter and leave
    it in the same task.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._inside = True
        self._cancelled = False
        # Cancellations that were asked for before this block are not for it to take back.
        self._before = self._task.cancelling() if self._task else 0

    def stop(self) -> None:
        """Have the block left at what it waits for now. Any thread, any number of times."""
        # The loop may be closed, with whoever was in the block. Never cancelled from here: while
        # the task runs, nobody can say whether it will wait for anything inside the block again.
        with contextlib.suppress(RuntimeError):
            # One round later: whoever waits for the stop itself hears of it, and is cancelled at
            # what it waits for next.
            self._loop.call_soon_threadsafe(self._loop.call_soon, self._cancel)

    def leave(self, error: BaseException | None) -> bool:
        """Note that the block is left with *error*; return whether that is our own cancellation.

        A cancellation from elsewhere that came meanwhile goes on (``Task.uncancel``).
        """
        self._inside = False
        if not self._cancelled or self._task is None:
            return False
        alone = self._task.uncancel() <= self._before
        return alone and isinstance(error, asyncio.CancelledError)

    def _cancel(self) -> None:
        if self._inside and not self._cancelled and self._task is not None:
            self._cancelled = True
            self._task.cancel()


class StopBell:
    """Wakes whoever waits for a stop, on whatever event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def ring(self) -> None:
        """Wake everybody. Any thread."""
        for loop, future in list(self._waiting):
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, future)

    async def wait(self, rung: Callable[[], bool]) -> None:
        """Wait until *rung* is true; it is true before :meth:`ring` is called."""
        loop = asyncio.get_running_loop()
        waiting = loop, loop.create_future()
        self._waiting.append(waiting)
        try:
            # Looked at after it can be woken, or a ring in between would be lost.
            if not rung():
                await waiting[1]
        finally:
            self._waiting.remove(waiting)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
