"""Listening to Pub/Sub from one thread without an event loop; it blocks that thread.

Messages sent while there was no connection are gone: Redis keeps none. So each channel is told as
rung when its subscription is confirmed, the first time and after each loss: look then.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import hiredis

from holdfast.errors import HoldfastError, RedisUnavailable
from holdfast.jitter import between
from holdfast.link.client import SyncStream, connect_sync
from holdfast.link.lane import NOT_YET, new_reader, pack

if TYPE_CHECKING:
    from collections.abc import Collection

    from holdfast.link.link import Link

PING_INTERVAL = 3.0
RETRY = 0.2
RECEIVE_BYTES = 64 * 1024
SLICE = 500


class ThreadListener:
    """Waits for messages on channels. All but :meth:`wake` is for one thread alone.

    Args:
        link: the link whose Redis is listened to.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._connection: _Connection | None = None
        self._retry_at = 0.0
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)

    def wake(self) -> None:
        """End a :meth:`wait` now. Any thread."""
        # A full pipe wakes too, and one that is closed has nobody to wake.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def wait(self, channels: Collection[str], seconds: float) -> set[str]:
        """Wait for a message, a confirmation or a call of :meth:`wake`, at most *seconds*.

        Args:
            channels: what to listen to, from now on and until the next call.

        Returns:
            The channels that rang, and those on which something may have been missed.
        """
        connection = self._connected() if channels else self._connection
        rung: set[str] = set()
        if connection is not None:
            try:
                connection.follow(channels)
                rung = connection.take()
            except (OSError, hiredis.HiredisError, HoldfastError):
                # Whether Redis is away is the supervisor's to say; here it is just tried again.
                self._drop()
                connection = None
        if not rung:
            self._sleep(connection, seconds if connection else min(seconds, self._until_retry()))
        return rung

    def close(self) -> None:
        """Close the connection; nothing is heard any more."""
        self._drop()
        self._waker.close()
        self._woken.close()

    def _connected(self) -> _Connection | None:
        if not self._link.up:
            self._drop()
        elif self._connection is None and time.monotonic() >= self._retry_at:
            try:
                stream = connect_sync(self._link.target, self._link.timeout)
                self._connection = _Connection(stream, self._link.timeout)
            except RedisUnavailable:
                self._drop()
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        # Not at once: a server that accepts and hangs up would be called in a tight circle.
        self._retry_at = time.monotonic() + RETRY * between(0.5, 1.5)

    def _until_retry(self) -> float:
        """While Redis is away nothing is tried: whoever is told that it is back wakes us."""
        return max(self._retry_at - time.monotonic(), 0.001) if self._link.up else 3600.0

    def _sleep(self, connection: _Connection | None, seconds: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if connection is not None:
                selector.register(connection.socket, selectors.EVENT_READ)
                seconds = min(seconds, connection.patience())
            selector.select(max(seconds, 0.0))
        with contextlib.suppress(OSError):
            while self._woken.recv(4096):
                pass


class _Connection:
    """One connection in subscribe mode."""

    def __init__(self, stream: SyncStream, timeout: float) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._timeout = timeout
        self._reader = new_reader()
        self._channels: set[str] = set()
        self._heard = time.monotonic()
        self._asked: float | None = None

    def follow(self, channels: Collection[str]) -> None:
        """Subscribe to exactly *channels*."""
        wanted = set(channels)
        new, old = sorted(wanted - self._channels), sorted(self._channels - wanted)
        for start in range(0, len(new), SLICE):
            self._send("SUBSCRIBE", *new[start : start + SLICE])
        for start in range(0, len(old), SLICE):
            self._send("UNSUBSCRIBE", *old[start : start + SLICE])
        self._channels = wanted

    def take(self) -> set[str]:
        """Return the channels that rang or were confirmed, without waiting.

        Raises:
            OSError: the connection is gone, or did not answer in time.
        """
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            while True:
                data = self.socket.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionResetError
                self._reader.feed(data)
                self._heard, self._asked = time.monotonic(), None
        rung: set[str] = set()
        while (reply := self._reader.gets()) is not NOT_YET:
            rung |= self._channel_of(reply)
        self._keep_alive(time.monotonic())
        return rung & self._channels

    def patience(self) -> float:
        """Seconds after which :meth:`take` has something to say to a silent server."""
        due = self._heard + PING_INTERVAL if self._asked is None else self._asked + self._timeout
        return max(due - time.monotonic(), 0.0)

    def close(self) -> None:
        """Close it."""
        self._stream.close()

    def _channel_of(self, reply: Any) -> set[str]:
        match reply:
            case [b"message" | b"subscribe", channel, _]:
                return {channel.decode()}
            case Exception():
                raise reply
        return set()

    def _keep_alive(self, now: float) -> None:
        if self._asked is not None:
            if now - self._asked > self._timeout:
                raise TimeoutError
        elif now - self._heard >= PING_INTERVAL:
            self._send("PING")
            self._asked = now

    def _send(self, *args: str) -> None:
        self.socket.settimeout(self._timeout)
        self.socket.sendall(pack(args))
