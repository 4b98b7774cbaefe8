"""Listening to Pub/Sub: one connection per event loop, kept alive, made again after each loss.

Messages sent while there was no connection are gone: Redis keeps none. So each (re)connect says
that there may be a gap, and whoever listens looks at the log itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import hiredis

from holdfast.errors import RedisUnavailable
from holdfast.jitter import between
from holdfast.link.client import Stream, connect
from holdfast.link.lane import CONNECT_DEADLINES, NOT_YET, disown, new_reader, pack
from holdfast.link.state import LinkState, LinkStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from holdfast.link.link import Link

log = logging.getLogger("holdfast.link")

PING_INTERVAL = 3.0
SLICE = 500
RETRY = 0.2


class Subscription(asyncio.Protocol):
    """One connection in subscribe mode.

    Args:
        on_message: called with channel and payload of each message.
        on_subscribed: called with each channel that Redis has confirmed.
    """

    def __init__(
        self, on_message: Callable[[bytes, bytes], None], on_subscribed: Callable[[bytes], None]
    ) -> None:
        self.lost = asyncio.Event()
        self.heard = False
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._reader = new_reader()
        self._asked: Counter[bytes] = Counter()
        self._transport: asyncio.Transport | None = None
        self._stream: Stream | None = None

    async def adopt(self, stream: Stream) -> None:
        """Take the connection over from the driver."""
        self._stream = stream
        early = await stream.hand_over(self)
        if early:
            self.data_received(early)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not NOT_YET:
                self._take(reply)
        except hiredis.HiredisError:
            self.close()

    def _take(self, reply: Any) -> None:
        match reply:
            case [b"message", channel, payload]:
                self._on_message(channel, payload)
            case [b"subscribe", channel, _]:
                self._asked[channel] -= 1
                # With a later one under way, this confirms what has been discarded in between.
                if not self._asked[channel]:
                    del self._asked[channel]
                    self._on_subscribed(channel)
            case Exception():
                self.close()

    def subscribe(self, channels: list[bytes]) -> None:
        """Ask for *channels*; each is confirmed by itself."""
        self._asked.update(channels)
        self.send("SUBSCRIBE", *channels)

    def send(self, *args: str | bytes) -> None:
        """Send one command; its answer arrives as a message."""
        if self._transport is not None:
            self._transport.write(pack(args))

    def close(self) -> None:
        """Close the connection now."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self.lost.set()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection without touching it."""
        if self._transport is not None:
            disown(self._transport)


class Listener:
    """Subscribes to channels on the running loop until it is closed. Never raises for an outage.

    Args:
        link: the link whose Redis is listened to.
        on_message: called on the loop with channel and payload of each message.
        on_gap: called on the loop after each (re)connect when messages may have been missed.
    """

    def __init__(
        self,
        link: Link,
        on_message: Callable[[bytes, bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._link = link
        self._on_message = on_message
        self._on_gap = on_gap
        self._channels: dict[bytes, asyncio.Event] = {}
        self._relied_on: set[bytes] = set()
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False

    async def add(self, *channels: str) -> None:
        """Subscribe to *channels*, in one command; adding one twice is adding it once.

        Returns once Redis has confirmed them, or at once while Redis is away: then it is made as
        soon as Redis is back, and ``on_gap`` is called.
        """
        names = [channel.encode() for channel in channels]
        fresh = [name for name in names if name not in self._channels]
        self._channels.update((name, asyncio.Event()) for name in fresh)
        if fresh and self._subscription is not None:
            self._subscription.subscribe(fresh)
        confirmed = [self._channels[name] for name in names]
        self._begin()
        if self._link.up or await self._link.ready():
            await self._confirmation(confirmed)
        self._relied_on.update(name for name in names if name in self._channels)

    async def _confirmation(self, confirmed: Iterable[asyncio.Event]) -> None:
        subscription = self._subscription
        if await _within(self._link.timeout, _all(confirmed)):
            return
        # Unanswered on an established connection: it is dead, and all that it carries with it.
        if subscription is not None and subscription is self._subscription:
            subscription.close()

    async def discard(self, channel: str) -> None:
        """Unsubscribe from *channel*; a channel that was never added is left alone."""
        name = channel.encode()
        self._relied_on.discard(name)
        confirmed = self._channels.pop(name, None)
        if confirmed is None:
            return
        # Nobody waits any longer for what will not be confirmed.
        confirmed.set()
        if self._subscription is not None:
            self._subscription.send("UNSUBSCRIBE", channel)

    async def aclose(self) -> None:
        """Close the connection and forget every channel."""
        self._closed = True
        self._channels.clear()
        self._relied_on.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection without touching it."""
        if self._subscription is not None:
            self._subscription.abandon()

    def _begin(self) -> None:
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._run(), name="holdfast-listener")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pid = os.getpid()

        def notice(status: LinkStatus) -> None:
            # In a forked child the loop is the parent's; and a closed loop takes no more calls.
            if os.getpid() == pid:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._follow, status)

        unsubscribe = self._link.on_transition(notice)
        self._link.start()
        self._link.adopt(self)
        try:
            while True:
                await self._until_up()
                await self._serve()
                # Not at once: a server that accepts and hangs up would be called in a tight circle.
                await asyncio.sleep(RETRY * between(0.5, 1.5))
        finally:
            unsubscribe()

    def _follow(self, status: LinkStatus) -> None:
        self._changed.set()
        if status.state is LinkState.DOWN and self._subscription is not None:
            self._subscription.close()

    async def _until_up(self) -> None:
        while not self._link.up:
            self._changed.clear()
            if not self._link.up:
                await self._changed.wait()

    async def _serve(self) -> None:
        """One connection, from connect to loss."""
        subscription = Subscription(self._message, self._confirm)
        try:
            async with asyncio.timeout(CONNECT_DEADLINES * self._link.timeout):
                stream = await connect(self._link.target)
                await subscription.adopt(stream)
            await self._attend(subscription)
        except (RedisUnavailable, TimeoutError, ConnectionError):
            # Whether Redis is away is the supervisor's to say; here it is just tried again.
            return
        except Exception:
            log.exception("the Pub/Sub listener failed, and goes on")
        finally:
            self._subscription = None
            subscription.close()
            for confirmed in self._channels.values():
                confirmed.clear()

    async def _attend(self, subscription: Subscription) -> None:
        self._subscription = subscription
        missed = bool(self._relied_on)
        for names in _slices(self._channels):
            subscription.subscribe(names)
        if missed:
            # Not told earlier: what is sent between a look at the log and the subscription is lost.
            if not await self._all_confirmed():
                return
            self._gap()
        while not subscription.lost.is_set():
            subscription.heard = False
            subscription.send("PING")
            await _within(PING_INTERVAL, subscription.lost.wait())
            if not subscription.heard:
                # Our own loop may be the late one: let it read before the connection is given up.
                await _within(self._link.timeout, subscription.lost.wait())
            if not subscription.heard:
                return

    async def _all_confirmed(self) -> bool:
        confirmed = list(self._channels.values())
        return await _within(self._link.timeout, _all(confirmed))

    def _confirm(self, channel: bytes) -> None:
        confirmed = self._channels.get(channel)
        if confirmed is not None:
            confirmed.set()

    def _message(self, channel: bytes, payload: bytes) -> None:
        try:
            self._on_message(channel, payload)
        except Exception:
            log.exception("a subscriber failed on a message")

    def _gap(self) -> None:
        try:
            self._on_gap()
        except Exception:
            log.exception("a subscriber failed on a gap")


async def _all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


async def _within(seconds: float, waiting: Coroutine[None, None, object]) -> bool:
    """Whether *waiting* ends in time; it is given up if it does not."""
    task = asyncio.create_task(waiting)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
    return bool(done)


def _slices(channels: Iterable[bytes]) -> Iterable[list[bytes]]:
    names = list(channels)
    for start in range(0, len(names), SLICE):
        yield names[start : start + SLICE]
