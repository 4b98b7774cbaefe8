"""What wakes one open stream: its heartbeat, the end of its permission, its client's leaving.

They only wake the reader; what it then does is its own.
"""

from __future__ import annotations

import asyncio
import time
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from holdfast import signals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Message, Receive

    from holdfast.streams.fanout.rounds import Rounds


SEND_TIMEOUT = 30.0
"""Seconds that a client may take nothing: then it is gone, whatever its connection says."""

LAGGING_SEND_TIMEOUT = 10.0
"""The same for one who meanwhile fell behind all that the ring keeps of its run, a mebibyte."""


class Reader(Protocol):
    """Whoever waits for something to send: a subscription, or several as one."""

    def wake(self) -> None:
        """Look now."""

    def leave(self) -> None:
        """The client is gone."""

    def behind(self) -> bool:
        """Whether more has happened than is kept in memory for who is a little slow."""


def patience(*, behind: bool) -> float:
    """Return how many seconds a client may take nothing."""
    return LAGGING_SEND_TIMEOUT if behind else SEND_TIMEOUT


class Pulse:
    """Wakes a reader that has been silent, and gives up one whose client takes nothing.

    A timeout of its own for each send would cost a third of the delivery; this is looked at once
    in a while.

    Args:
        rounds: who looks.
        reader: whom to wake.
        interval: seconds of silence; infinite where nobody need be told.

    Attributes:
        due: the reader has been silent for the whole interval.
        last: when the last send began, by the monotonic clock; to be set by who sends something
            without :meth:`watch`.
    """

    __slots__ = (
        "_given_up",
        "_interval",
        "_reader",
        "_round",
        "_rounds",
        "_sender",
        "_sending",
        "due",
        "last",
    )

    def __init__(self, rounds: Rounds, reader: Reader, interval: float) -> None:
        self.due = False
        self._rounds = rounds
        self._reader = reader
        self._interval = interval
        self._sender: asyncio.Task[Any] | None = None
        self._sending = False
        self._given_up = False
        # That is when the client last took something, or is to.
        self.last = monotonic()
        self._round = rounds.add(self, min(interval, SEND_TIMEOUT))

    async def watch(self, sending: Awaitable[None]) -> None:
        """Wait for a send. Where the client takes nothing for too long, the reader leaves.

        All sends of a reader are one task's.
        """
        self.last = monotonic()
        self.due = False
        self._sender = self._sender or asyncio.current_task()
        self._sending = True
        try:
            await sending
        except asyncio.CancelledError:
            # As asyncio.timeout() has it: what was cancelled from here ends here.
            if not self._given_up or (self._sender and self._sender.uncancel()):
                raise
        finally:
            self._sending = False

    def cancel(self) -> None:
        """Wake nobody any more."""
        self._rounds.discard(self, self._round)

    def look(self) -> None:
        """Do what is due, and ask for the next look."""
        silent = monotonic() - self.last
        if self._sending:
            left = patience(behind=self._reader.behind()) - silent
            if left <= 0:
                self._give_up()
                return
            # He may fall behind meanwhile.
            left = min(left, max(LAGGING_SEND_TIMEOUT - silent, 1.0))
        else:
            if silent >= self._interval:
                self.due = True
                self._reader.wake()
                silent = 0.0
            # A send may begin meanwhile.
            left = min(self._interval - silent, LAGGING_SEND_TIMEOUT, SEND_TIMEOUT)
        self._round = self._rounds.add(self, left)

    def _give_up(self) -> None:
        self._given_up = True
        signals.count("stream_readers_dropped", "behind" if self._reader.behind() else "silent")
        self._reader.leave()
        if self._sender is not None:
            self._sender.cancel()


class Expiry:
    """Tells when a permission has ended, and wakes its reader then.

    Args:
        reader: whom to wake.
        until: when it ends, in seconds since 1970; ``None`` for never.

    Attributes:
        until: the same, as it is now.
    """

    __slots__ = ("_reader", "_timer", "until")

    def __init__(self, reader: Reader, until: float | None) -> None:
        self._reader = reader
        self.until = until
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    @property
    def reached(self) -> bool:
        """Whether the permission has ended."""
        return self.until is not None and time.time() >= self.until

    def move(self, until: float | None) -> None:
        """Let it end at another time."""
        self.cancel()
        self.until = until
        self._arm()

    def cancel(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self.until is not None:
            left = max(self.until - time.time(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(left, self._end)

    def _end(self) -> None:
        # A timer runs by another clock than the permission, and may be a little early.
        if self.reached:
            self._reader.wake()
        else:
            self._timer = asyncio.get_running_loop().call_later(0.01, self._end)


class listening:  # noqa: N801 - used as a context manager, and named as those are
    """Notice that the client leaves, also while there is nothing to send.

    Args:
        receive: of the request or the WebSocket.
        reader: whom to wake.
        hear: given each thing that the client says; the next one is received when it is done.
            Default: all of it is ignored.
    """

    __slots__ = ("_task",)

    def __init__(
        self,
        receive: Receive,
        reader: Reader,
        hear: Callable[[Message], Awaitable[None]] | None = None,
    ) -> None:
        self._task = asyncio.get_running_loop().create_task(_listen(receive, reader, hear))

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _listen(
    receive: Receive, reader: Reader, hear: Callable[[Message], Awaitable[None]] | None
) -> None:
    try:
        while (message := await receive())["type"] not in _DISCONNECTS:
            if hear is not None:
                await hear(message)
            del message
    finally:
        reader.leave()


_DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})
