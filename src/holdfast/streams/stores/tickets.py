"""How a task waits for what it publishes.

State only. A thread without an event loop waits by its ``turns``.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.streams.store import Entry
    from holdfast.streams.stores.replies import Result


class Ticket:
    """What one publisher waits with; it is told in whatever thread the answers are found.

    Args:
        loop: where it waits.
        size: how many answers are to come; they come in order.
    """

    __slots__ = ("_found", "_future", "_loop", "_size")

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self._size = size
        self._loop = loop
        self._found: list[Result] = []
        self._future: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Whether every answer is there."""
        return len(self._found) >= self._size

    def tell(self, result: Result) -> None:
        """Take the next answer, in any thread."""
        self._found.append(result)
        if len(self._found) < self._size:
            return
        # Read after the last was put down, as future() looks for that after the future was: one of
        # the two sees the other.
        future = self._future
        if future is None:
            return
        if _running_loop() is self._loop:
            _wake(future)
        else:
            # The loop may have been closed, with whoever waited.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_wake, future)

    def future(self) -> asyncio.Future[None]:
        """Return what is done with the last answer."""
        self._future = self._loop.create_future()
        if self.done:
            _wake(self._future)
        return self._future

    def entries(self) -> list[Entry]:
        """Return the answers, once every one is there.

        Raises:
            HoldfastError: the first refusal among them.
        """
        for each in self._found:
            if isinstance(each, HoldfastError):
                raise each
        return cast("list[Entry]", self._found)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
