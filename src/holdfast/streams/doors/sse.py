"""One run as an event stream (WHATWG HTML 9.2): a sender and a listener, and nothing that grows.

Where this departs from a framework's streaming response: it listens for ``http.disconnect`` itself
(a ``send`` after a disconnect is silent on every server measured), and it never ends a live stream
as if the run had ended.
"""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from holdfast.errors import HoldfastError
from holdfast.jitter import between
from holdfast.streams import frames, problems
from holdfast.streams.access import note_waiting
from holdfast.streams.doors.opening import (
    Opening,
    Permit,
    await_right,
    await_start,
    decide,
    judge,
    look,
)
from holdfast.streams.doors.stand_in import as_coroutine_function, begin_as, failed, this_task
from holdfast.streams.fanout.pulse import Expiry, Pulse, listening
from holdfast.streams.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.types import Message, Receive, Scope, Send

    from holdfast.streams.cursor import Position
    from holdfast.streams.doors.stand_in import Rest
    from holdfast.streams.fanout.hub import Hub
    from holdfast.streams.fanout.subscription import Due, Subscription
    from holdfast.streams.store import EventStore

log = logging.getLogger("holdfast.streams")

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",
    "referrer-policy": "no-referrer",
    "vary": "Accept",
}

LEAVE_ALONE = "holdfast.capture"
"""Where whoever captures event streams puts into a scope how to have this one left alone.

A function, which is False where it is captured already; and no method: some middleware copies a
scope with all that is in it.
"""

WAIT_AT_MOST = "holdfast.wait"
"""Where a scope says how many seconds a request may wait, whatever it asks for.

So it is where the server does nothing else meanwhile.
"""

_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

_TO_COME = {Opening.ABSENT, Opening.DENIED}
_ANSWERS = {Opening.ABSENT: problems.RUN_NOT_FOUND, Opening.EXPIRED: problems.RUN_EXPIRED}


@dataclass(frozen=True, slots=True)
class Terms:
    """How one stream is served.

    Attributes:
        wait: seconds to wait for a run that nobody has started.
        heartbeat: seconds of silence after which a comment is sent.
        retry: seconds after which clients are told to come back, each around this.
        until: when the permission to read ends, in seconds since 1970.
        envelope: send every event as ``message`` with the WebSocket frame as data.
    """

    wait: float
    heartbeat: float
    retry: float
    until: float | None = None
    envelope: bool = False

    @property
    def over(self) -> bool:
        """Whether the permission has ended."""
        return self.until is not None and time.time() >= self.until


async def serve(
    hub: Hub,
    subscription: Subscription,
    position: Position,
    terms: Terms,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    permit: Permit | None = None,
    refusal: Callable[[], Response] | None = None,
) -> None:
    """Answer one request for the stream of a run.

    It ends with the run, the client, the right or the process.

    Args:
        subscription: of the run; it may have joined already, before the run that the request
            begins.
        permit: given where it could not be decided yet whether the reader is allowed.
        refusal: given with it where the reader was refused, and may be the owner of a run that has
            not begun: made and answered when that has been waited for.
    """
    leave_alone(scope)
    wait = min(terms.wait, scope.get(WAIT_AT_MOST, terms.wait))
    async with subscription, listening(receive, subscription):
        opening = Opening.UNDECIDED
        if permit is None:
            waiting = partial(note_waiting, scope)
            opening = await await_start(hub.store, subscription, position, wait, waiting)
        elif refusal is not None:
            decision = await await_right(hub.store, subscription, position, permit, wait)
            opening = decision.opening
        if subscription.left:
            return
        if opening in {Opening.SERVE, Opening.UNDECIDED}:
            stream = _Stream(hub, subscription, terms, send)
            try:
                # One after the other: each function on the way costs every open stream a frame.
                if await stream.begin(position, permit, decided=opening is Opening.SERVE):
                    await stream.relay()
                await stream.end()
            finally:
                stream.cancel()
        elif opening in _TO_COME and (hub.stopping or terms.over or wait < terms.wait):
            # A 404 would stop the browser for good. Another instance or request may see the run
            # begin, and who comes back without a permission is told so.
            await come_back(terms.retry)(scope, receive, send)
        elif opening is Opening.DENIED and refusal is not None:
            await refusal()(scope, receive, send)
        else:
            await answer(opening)(scope, receive, send)


def leave_alone(scope: Scope) -> None:
    """Have what captures event streams leave this one alone: it is resumable already."""
    is_captured(scope)


def is_captured(scope: Mapping[str, Any]) -> bool:
    """Whether an answer is captured; one whose head has not been sent is left alone from now on."""
    return LEAVE_ALONE in scope and not scope[LEAVE_ALONE]()


def answer(opening: Opening) -> Response:
    """Return what is said in place of a stream; 204 is what stops ``EventSource`` for good."""
    problem = _ANSWERS.get(opening)
    found = problem.response() if problem else Response(None, 204, problems.PRIVATE_HEADERS)
    found.headers["vary"] = HEADERS["vary"]
    return found


async def head(store: EventStore, run_id: str, position: Position, *, decided: bool) -> Response:
    """Answer a HEAD request as GET would be without waiting for the run, and open no stream.

    Args:
        decided: whether it is known that the reader is allowed; else nothing is told of the run.
    """
    opening = decide(await look(store, run_id), position) if decided else Opening.UNDECIDED
    if opening in {Opening.SERVE, Opening.UNDECIDED}:
        return opened()
    return answer(opening)


def start() -> Message:
    """Return the message that begins a stream.

    A new one for each answer: a middleware around writes its cookie into it, and the next visitor
    would get it.
    """
    return {"type": "http.response.start", "status": 200, "headers": list(_HEADERS)}


def opened() -> Response:
    """Answer a HEAD request where a GET would open a stream."""
    found = Response(headers=HEADERS)
    # It would be the length of what a GET gets, which has none (RFC 9110 section 8.6).
    del found.headers["content-length"]
    return found


def come_back(retry: float) -> Response:
    """What a reader is told who cannot be served here and now.

    It is a stream that ends: a 503 would stop ``EventSource`` for good.
    """
    return Response(frames.retry(retry_ms(retry)), headers=HEADERS)


def retry_ms(seconds: float) -> int:
    """A reconnect delay of one client, so that all of them do not come back at once."""
    return max(int(seconds * 1000 * between(0.5, 1.5)), 1)


class _Stream:
    """The sender of one open stream."""

    # There may be ten thousand of them, and each event visits them all.
    __slots__ = (
        "_context",
        "_envelope",
        "_expiry",
        "_hub",
        "_pulse",
        "_rest",
        "_send",
        "_subscription",
        "_task",
        "_terms",
    )

    def __init__(self, hub: Hub, subscription: Subscription, terms: Terms, send: Send) -> None:
        self._hub = hub
        self._subscription = subscription
        self._terms = terms
        self._envelope = terms.envelope
        self._send = as_coroutine_function(send)
        self._task = this_task()
        # What is left of what was sent while the task slept.
        self._rest: Rest | None = None
        self._pulse = Pulse(hub.rounds, subscription, terms.heartbeat)
        self._expiry = Expiry(subscription, terms.until)

    async def begin(self, position: Position, permit: Permit | None, *, decided: bool) -> bool:
        """Begin the answer; return whether there are events to relay."""
        try:
            await self._deliver(start())
            await self._write(frames.retry(retry_ms(self._terms.retry)))
            return decided or await self._held(position, permit)
        except HoldfastError as error:
            self._break_off(error)
            return False

    async def relay(self) -> None:
        """Send events until the run ends, or the client, the right or the process does."""
        # Not sooner: what a send has set as the answer began is to be found by all that follow.
        self._context = copy_context()
        try:
            subscription, pulse, expiry = self._subscription, self._pulse, self._expiry
            envelope = self._envelope
            while not (subscription.done or subscription.over or expiry.reached):
                # Who then waits keeps nothing of what he was sent.
                if batch := subscription.take_batch():
                    await self._write(batch.event_source(envelope=envelope))
                    batch = None
                elif not subscription.idle:
                    await self._send_due()
                if not subscription.ready:
                    news = subscription.news()
                    subscription.taker = self
                    try:
                        await news
                    except CancelledError as error:
                        # It is told to the send that has begun meanwhile, and may be its own.
                        if self._rest is None:
                            raise
                        await self._resume(self._rest, error)
                    finally:
                        subscription.taker = None
                    if self._rest is not None:
                        await self._resume(self._rest)
                    if pulse.due:
                        await self._beat("" if self._hub.store.available else "waiting")
        except HoldfastError as error:
            self._break_off(error)

    def take_over(self) -> bool:
        """Send what is due while the task sleeps; return whether it may sleep on.

        This is the way of nearly every event to every reader.
        """
        # Spelled out where a call would cost every reader.
        subscription, expiry = self._subscription, self._expiry
        if self._hub.stopping or (expiry.until is not None and expiry.reached):
            return False
        batch = subscription.take_batch()
        if batch is None:
            return False
        try:
            body = None if self._envelope else batch.plain
            if body is None:
                body = batch.event_source(envelope=self._envelope)
            self._pulse.last = monotonic()
            message = {"type": "http.response.body", "body": body, "more_body": True}
            self._rest = begin_as(self._task, self._context, self._send(message))
        except BaseException as error:  # noqa: BLE001 - the batch is taken, and would be a hole
            self._rest = failed(error)
        return self._rest is None

    async def end(self) -> None:
        """End the answer, for whom it may concern."""
        if not self._subscription.left:
            await self._write(b"", more=False)

    def cancel(self) -> None:
        """Look after this stream no more."""
        self._pulse.cancel()
        self._expiry.cancel()

    def _break_off(self, error: HoldfastError) -> None:
        # The answer has begun: what cannot be read is for the log, and for the next request.
        run_id = self._subscription.run_id
        fields = {"run_id": run_id}
        log.warning("the stream of the run %r breaks off: %s", run_id, error, extra=fields)

    async def _held(self, position: Position, permit: Permit | None) -> bool:
        """Hold the stream until it can be decided; a refusal would stop the browser.

        Anything but a run to serve is told when the client comes back, by a status of its own.
        """
        subscription = self._subscription
        while not self._over():
            news = subscription.news()
            subscription.doubt()
            decision = await judge(self._hub.store, subscription.run_id, position, permit)
            if decision.opening is Opening.DENIED:
                await self._write(self._control("denied"))
            if decision.opening is not Opening.UNDECIDED:
                self._expiry.move(decision.until if permit else self._terms.until)
                return decision.opening is Opening.SERVE
            if permit is not None and self._hub.store.available:
                # What this request brought, its session, was loaded while Redis was away and stays
                # as it is. The next request brings a new one.
                return False
            await news
            await self._beat("waiting")
        return False

    def _resume(self, rest: Rest, told: CancelledError | None = None) -> Awaitable[None]:
        self._rest = None
        return self._pulse.watch(rest(told))

    async def _send_due(self) -> None:
        if due := await self._subscription.take():
            await self._write(b"".join(map(self._encode, due)))

    async def _beat(self, text: str = "") -> None:
        if self._pulse.due and not (self._subscription.done or self._over()):
            await self._write(frames.comment(text))

    def _over(self) -> bool:
        return self._subscription.over or self._expiry.reached

    def _encode(self, due: Due) -> bytes:
        item = due.item
        if isinstance(item, Frame):
            return item.event_source(due.cursor, envelope=self._terms.envelope)
        return self._control(item.kind, requested=item.requested, earliest=item.earliest)

    def _control(self, kind: frames.ControlKind, **fields: str | None) -> bytes:
        spell = frames.control_envelope if self._terms.envelope else frames.control_event_source
        return spell(kind, self._subscription.run_id, **fields)

    def _write(self, body: bytes, *, more: bool = True) -> Awaitable[None]:
        return self._deliver(_body(body, more=more))

    def _deliver(self, message: Message) -> Awaitable[None]:
        return self._pulse.watch(self._send(message))


def _body(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
