"""An event loop in a thread of its own, for processes whose threads block.

Begun when somebody first asks for it, and anew in a forked child; nobody is served here.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

from holdfast.forks import watch_forks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class LoopThread:
    """The one event loop of threads that have none; safe for threads, greenlets and forks.

    Args:
        closing: awaited on the loop by :meth:`aclose`, before it ends.
    """

    def __init__(self, closing: Callable[[], Awaitable[None]]) -> None:
        self._closing = closing
        self._running: dict[str, Life] = {}
        # Kept, not dropped: a loop that ends with its last name closes what the parent uses.
        self._inherited: list[object] = []
        watch_forks(self)

    def forked(self) -> None:
        """In a forked child: the thread and its loop are the parent's."""
        self._inherited.append(self._running)
        self._running = {}

    def life(self) -> Life:
        """Return the one that goes on now; it is begun where none does."""
        running = self._running.get("now")
        if running is None:
            # No lock: one that was made before gevent patched the process would stop the greenlet
            # that is to release it. This is one step, and both of two get the same.
            made = Life()
            running = self._running.setdefault("now", made)
            if running is made:
                try:
                    made.start()
                except BaseException:
                    # The system has no thread left, or no file; the next request asks again.
                    self._running.pop("now", None)
                    raise
        return running

    async def aclose(self) -> None:
        """End the loop and its thread. Who asks for it later begins another."""
        running = self._running.pop("now", None)
        if running is None:
            return
        ending = asyncio.run_coroutine_threadsafe(self._end(running), running.loop())
        await asyncio.wrap_future(ending)
        # Looked at, not joined: a join would hold up the loop or cost it another thread.
        while not running.ended:  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    async def _end(self, running: Life) -> None:
        try:
            await self._closing()
        finally:
            running.stop()


class Life:
    """One life of the thread.

    Attributes:
        over: what comes to the loop from now on may never be done.
        ended: its thread has ended.
        waiting: told when it has, in that thread: threads wait for what they do.
    """

    def __init__(self) -> None:
        self.over = self.ended = False
        self.waiting: dict[Callable[[], None], None] = {}
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin the thread, and its loop. It ends with the process, and keeps that from nothing.

        Raises:
            RuntimeError: there is no thread to be had, or nothing to make a loop of.
        """
        try:
            self._start()
            self.loop()
        except BaseException:
            self._begun.set()
            raise

    def _start(self) -> None:
        monkey = sys.modules.get("gevent.monkey")
        if monkey is not None and monkey.is_module_patched("threading"):
            # What it calls a thread is a greenlet. A loop in one would be found running by every
            # other, and each of them refused to block.
            monkey.get_original("_thread", "start_new_thread")(self._run, ())
        else:
            threading.Thread(target=self._run, name="holdfast-loop", daemon=True).start()

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, once it runs.

        Raises:
            RuntimeError: it could not begin.
        """
        self._begun.wait()
        if self._loop is None:
            raise RuntimeError("the thread of the streams could not begin")
        return self._loop

    def stop(self) -> None:
        """Have the loop end; called on it."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            # The loop is closed: who comes now is refused by it, and who came before is here.
            for tell in list(self.waiting):
                tell()
            self.ended = True
            # Where no loop could be made, as with no file left to open, nobody is to wait for it.
            self._begun.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._begun.set()
        await self._stopped.wait()
        self.over = True
