"""What wakes one open stream: its heartbeat, the end of its permission, its client's leaving.

They only wake the reader; what it then does is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive


SEND_TIMEOUT = 30.0
"""Seconds that a client may take nothing: then it is gone, whatever its connection says."""


class Reader(Protocol):
    """Whoever waits for something to send: a subscription, or several as one."""

    def wake(self) -> None:
        """Look now."""

    def leave(self) -> None:
        """The client is gone."""


class Pulse:
    """Wakes a reader that has been silent; one timer, however often it is touched.

    Args:
        reader: whom to wake.
        interval: seconds of silence.
    """

    def __init__(self, reader: Reader, interval: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = reader.wake
        self._interval = interval
        self._last = self._loop.time()
        self._timer = self._loop.call_later(interval, self._beat)

    @property
    def due(self) -> bool:
        """Whether the reader has been silent for the whole interval."""
        return self._loop.time() - self._last >= self._interval

    def touch(self) -> None:
        """Note that something was sent."""
        self._last = self._loop.time()

    def cancel(self) -> None:
        """Wake nobody any more."""
        self._timer.cancel()

    def _beat(self) -> None:
        left = self._last + self._interval - self._loop.time()
        if left <= 0:
            self._wake()
        self._timer = self._loop.call_later(left if left > 0 else self._interval, self._beat)


class Expiry:
    """Tells when a permission has ended, and wakes its reader then.

    Args:
        reader: whom to wake.
        until: when it ends, in seconds since 1970; ``None`` for never.
    """

    def __init__(self, reader: Reader, until: float | None) -> None:
        self._wake = reader.wake
        self._until = until
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    @property
    def reached(self) -> bool:
        """Whether the permission has ended."""
        return self._until is not None and time.time() >= self._until

    def move(self, until: float | None) -> None:
        """Let it end at another time."""
        self.cancel()
        self._until = until
        self._arm()

    def cancel(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._until is not None:
            left = max(self._until - time.time(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(left, self._end)

    def _end(self) -> None:
        # A timer runs by another clock than the permission, and may be a little early.
        if self.reached:
            self._wake()
        else:
            self._timer = asyncio.get_running_loop().call_later(0.01, self._end)


@contextlib.asynccontextmanager
async def listening(receive: Receive, reader: Reader) -> AsyncIterator[None]:
    """Notice that the client leaves, also while there is nothing to send; what it says is ignored.

    Args:
        receive: of the request or the WebSocket.
        reader: whom to wake.
    """

    async def listen() -> None:
        try:
            while (await receive())["type"] not in {"http.disconnect", "websocket.disconnect"}:
                pass
        finally:
            reader.leave()

    task = asyncio.get_running_loop().create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
