"""One run as an event stream (WHATWG HTML 9.2): a sender and a listener, and nothing that grows.

Where this departs from a framework's streaming response: it listens for ``http.disconnect`` itself
(a ``send`` after a disconnect is silent on every server measured), and it never ends a live stream
as if the run had ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.responses import Response

from holdfast.streams import frames, problems
from holdfast.streams.frames import Frame
from holdfast.streams.opening import Opening, await_start, decide, look
from holdfast.streams.subscription import Due, Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from starlette.types import Receive, Scope, Send

    from holdfast.streams.cursor import Position
    from holdfast.streams.hub import Hub

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",
    "referrer-policy": "no-referrer",
}

_ANSWERS = {Opening.ABSENT: problems.RUN_NOT_FOUND, Opening.EXPIRED: problems.RUN_EXPIRED}


@dataclass(frozen=True, slots=True)
class Terms:
    """How one stream is served.

    Attributes:
        wait: seconds to wait for a run that nobody has started.
        heartbeat: seconds of silence after which a comment is sent.
        retry: seconds after which clients are told to come back; each client gets its own, around
        this.
        until: when the permission to read ends, in seconds since 1970.
        envelope: send every event as ``message`` with the WebSocket frame as data.
    """

    wait: float
    heartbeat: float
    retry: float
    until: float | None = None
    envelope: bool = False

    @property
    def retry_ms(self) -> int:
        """A reconnect delay of one client, so that all of them do not come back at once."""
        return max(int(self.retry * 1000 * random.uniform(0.5, 1.5)), 1)  # noqa: S311 - spreads load

    @property
    def expired(self) -> bool:
        """Whether the permission has ended."""
        return self.until is not None and time.time() >= self.until


class Pulse:
    """Wakes a reader that has been silent; one timer, however often it is touched.

    Args:
        wake: what to call.
        interval: seconds of silence.
        until: a moment, in seconds since 1970, at which to wake in any case.
    """

    def __init__(self, subscription: Subscription, interval: float, until: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = subscription.wake
        self._interval = interval
        self._last = self._loop.time()
        self._timer = self._loop.call_later(interval, self._beat)
        self._ends = (
            self._loop.call_later(max(until - time.time(), 0), self._wake) if until else None
        )

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
        if self._ends is not None:
            self._ends.cancel()

    def _beat(self) -> None:
        left = self._last + self._interval - self._loop.time()
        if left <= 0:
            self._wake()
        self._timer = self._loop.call_later(left if left > 0 else self._interval, self._beat)


async def serve(
    hub: Hub,
    run_id: str,
    position: Position,
    terms: Terms,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Answer one request for the stream of a run, until the run, the client, the right or the process ends."""
    async with (
        Subscription(hub, run_id, position) as subscription,
        _listening(receive, subscription),
    ):
        info = await await_start(hub.store, subscription, terms.wait)
        opening = decide(info, position)
        if opening in {Opening.SERVE, Opening.UNDECIDED}:
            stream = _Stream(hub, subscription, terms, send)
            await stream.run(position, decided=opening is Opening.SERVE)
        elif not subscription.left:
            await answer(opening)(scope, receive, send)


def answer(opening: Opening) -> Response:
    """Return what is said in place of a stream; 204 is what stops ``EventSource`` for good."""
    problem = _ANSWERS.get(opening)
    if problem is not None:
        return problem.response()
    return Response(status_code=204, headers=problems.PRIVATE_HEADERS)


def head() -> Response:
    """What a HEAD request is told: that there is a stream, without opening it."""
    return Response(headers=HEADERS)


def come_back(retry: float) -> Response:
    """What one reader too many is told: a 503 would stop ``EventSource`` for good, so it is a stream that ends."""
    terms = Terms(wait=0, heartbeat=0, retry=max(retry * 5, 10))
    return Response(frames.retry(terms.retry_ms), headers=HEADERS)


class _Stream:
    """The sender of one open stream."""

    def __init__(self, hub: Hub, subscription: Subscription, terms: Terms, send: Send) -> None:
        self._hub = hub
        self._subscription = subscription
        self._terms = terms
        self._send = send

    async def run(self, position: Position, *, decided: bool) -> None:
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(frames.retry(self._terms.retry_ms))
        pulse = Pulse(self._subscription, self._terms.heartbeat, self._terms.until)
        try:
            if decided or await self._held(position, pulse):
                await self._relay(pulse)
        finally:
            pulse.cancel()
        if not self._subscription.left:
            await self._write(b"", more=False)

    async def _held(self, position: Position, pulse: Pulse) -> bool:
        """Hold the stream until the store can say whether the run exists; a refusal would stop the browser."""
        while not self._over():
            info = await look(self._hub.store, self._subscription.run_id)
            if info is not None:
                # Anything but a run to serve is told when the client comes back, by a status of its
                # own.
                return decide(info, position) is Opening.SERVE
            await self._subscription.wait()
            await self._beat(pulse, "waiting")
        return False

    async def _relay(self, pulse: Pulse) -> None:
        subscription = self._subscription
        while not (subscription.done or self._over()):
            due = await subscription.take()
            if due:
                await self._write(self._encode(due))
                pulse.touch()
            elif not subscription.done:
                await subscription.wait()
                await self._beat(pulse)

    async def _beat(self, pulse: Pulse, text: str = "") -> None:
        if pulse.due and not self._over():
            await self._write(frames.comment(text))
            pulse.touch()

    def _over(self) -> bool:
        return self._subscription.over or self._terms.expired

    def _encode(self, due: Iterable[Due]) -> bytes:
        return b"".join(self._encode_one(each) for each in due)

    def _encode_one(self, due: Due) -> bytes:
        item = due.item
        if isinstance(item, Frame):
            return item.event_source(due.cursor, envelope=self._terms.envelope)
        control = frames.control_envelope if self._terms.envelope else frames.control_event_source
        return control(
            item.kind, self._subscription.run_id, requested=item.requested, earliest=item.earliest
        )

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


@contextlib.asynccontextmanager
async def _listening(receive: Receive, subscription: Subscription) -> AsyncIterator[None]:
    """Notice that the client leaves, also while there is nothing to send."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        subscription.leave()

    task = asyncio.get_running_loop().create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
