"""Something long that is served under a session, and ends with it.

A WebSocket or an event stream whose handler used the session is closed when the session is
destroyed or its secret is killed, in whichever process that happens, and when its lifetime is over.
The client is told at once; the handler is told as by a client that has left, and is cancelled where
it does not take the hint. On event loops other than asyncio nothing is bound.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from holdfast.endings import WAITED
from holdfast.errors import CorruptData, SessionUnavailable
from holdfast.jitter import between
from holdfast.sessions.lifecycle import Standing
from holdfast.sessions.store import Missing, Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from holdfast.sessions.request.exchange import Exchange
    from holdfast.sessions.store import SessionKey

#: Seconds that a handler has to end by itself.
GRACE = 0.5
# How soon a store that could not be asked is asked again.
_AGAIN = 2.0
# Seconds within which all are looked at, after endings may have been missed.
_SPREAD = 0.5
#: What a server says of a client that has left, and so what is said of one that is sent away.
ENDED = "the session has ended, and what was served under it"
#: How a socket is closed whose session has ended. RFC 6455, section 7.4.1: a policy is violated.
SOCKET_ENDED = (1008, "the session has ended")
_LEFT = (OSError, ClientDisconnect, WebSocketDisconnect)


class Bond:
    """One stream or socket, bound to its session.

    Args:
        exchange: the session.
        close: tells the client that it is over.
        task: what runs the handler; ``None``: it is not cancelled.
        hinted: whether *close* tells the handler too, which then has :data:`GRACE` to end by
            itself; else it is cancelled at once.
    """

    def __init__(
        self,
        exchange: Exchange,
        close: Callable[[], Awaitable[None]],
        task: asyncio.Task[object] | None,
        *,
        hinted: bool = True,
    ) -> None:
        self.over = False
        self._exchange = exchange
        self._close = close
        self._task = task
        self._hinted = hinted
        self._cancelled = False
        self._told = asyncio.Event()
        self._unwatch: Callable[[], None] | None = None
        self._finished = False
        self._handled = False
        self._expires_at = 0.0
        self._skew = 0.0
        self._over_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Follow the session from now on, if it is one that can end."""
        held, announcer = self._exchange.credential, self._exchange.setup.tidings.announcer
        if held is None or announcer is None or announcer.endings is None:
            return
        record = self._exchange.record
        if self._exchange.standing is Standing.FOUND and record is not None and _on_asyncio():
            self._reckon(record)
            self._unwatch = announcer.endings.watch(*held.key, self._end, self._doubt)
            # It may have ended between its load and now.
            self._doubt()

    def begin_on_access(self) -> None:
        """Follow the session once the handler looks at it, or from now on if it has."""
        if self._exchange.session.accessed:
            self.begin()
        else:
            on_access(self._exchange, self._task, self._accessed)

    def _accessed(self) -> None:
        if self._unwatch is None and not self._finished:
            self.begin()

    async def catch_up(self) -> None:
        """See whether the session has ended meanwhile, where its request has waited since."""
        if self._unwatch is not None and getattr(self._exchange.session, WAITED, False):
            self._clear_timer()
            await self._look()

    async def finish(self) -> None:
        """The handler is done: follow no longer, but have the client told what was begun."""
        self.leave()
        if self._work is None:
            return
        self._handled = True
        # The handler may end before its client was told.
        try:
            if self.over:
                async with asyncio.timeout(GRACE):
                    await self._told.wait()
        except TimeoutError:
            pass
        finally:
            self._work.cancel()
            self._uncancel()

    def leave(self) -> None:
        """Follow no longer. For who waits for nobody: what was begun goes on by itself."""
        # What :meth:`_look` finds, if it is under way, has no effect any more.
        self._finished = True
        if self._unwatch is not None:
            self._unwatch()
        self._clear_timer()

    def caused(self, error: BaseException) -> bool:
        """Whether *error* is how the handler ended because the session did."""
        if not self.over:
            return False
        if isinstance(error, asyncio.CancelledError):
            # Somebody else may have cancelled it as well.
            return self._cancelled and self._uncancel() == 0
        return isinstance(error, _LEFT)

    def _uncancel(self) -> int:
        if self._cancelled and self._task is not None:
            self._cancelled = False
            return self._task.uncancel()
        return 0

    def _set_timer(self, at: float) -> None:
        """Have the session looked at then, or when it is to be looked at already, if sooner."""
        if self._finished:
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0.0, at - time.time())
        # A doubt that came up during a look is not settled by what that look found.
        if self._timer is not None and self._timer.when() <= when:
            return
        self._clear_timer()
        self._timer = loop.call_at(when, self._due)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        if not self.over:
            self._work = asyncio.get_running_loop().create_task(self._look())

    def _doubt(self) -> None:
        # At random moments: there may be thousands, and Redis has only just come back.
        self._set_timer(time.time() + between(0.0, _SPREAD))

    def _reckon(self, record: Record) -> None:
        """Note when the lifetime is over."""
        self._expires_at, self._skew = record.expires_at, record.skew
        # By the clock of timers, which nobody sets; ours may be by hours (NTP, a resumed machine).
        loop = asyncio.get_running_loop()
        self._over_at = loop.time() + record.expires_at - time.time()

    async def _look(self) -> None:
        """See whether it is really over: other requests may have prolonged it, or ended it."""
        held, idle = self._exchange.credential, self._exchange.setup.terms.idle_timeout
        if held is not None and asyncio.get_running_loop().time() < self._over_at:
            try:
                end = await self._end_now(held.key, idle)
            except SessionUnavailable:
                end = time.time() + _AGAIN
            except CorruptData:
                end = None
            if end is not None:
                self._set_timer(end)
                return
        self._end()

    async def _end_now(self, key: SessionKey, idle: float) -> float | None:
        """Return when the session ends as things stand; ``None``: it has, or for this secret."""
        setup = self._exchange.setup
        found = await setup.store.load(key, idle_timeout=idle)
        if isinstance(found, Record):
            # As it is stored: of its own writes this request knows the end by its own clock alone.
            end = found.expires_at
            self._reckon(found)
            return min(end, found.seen_at + idle) if idle > 0 else end
        if found is Missing.SUPERSEDED:
            return None
        # The store forgets a replaced secret after a while, whether killed or rotated by age.
        stored = await setup.tidings.end_of(key.id_hash, idle, self._expires_at + self._skew)
        end = 0.0 if stored is None else stored - self._skew
        return end if end > time.time() else None

    def _end(self) -> None:
        if not (self.over or self._finished):
            self.over = True
            self._work = asyncio.get_running_loop().create_task(self._wind_up())

    def _cancellations(self) -> int:
        return 0 if self._task is None else self._task.cancelling()

    async def _wind_up(self) -> None:
        before = self._cancellations()
        try:
            # A client that reads nothing must not keep the handler waiting.
            async with asyncio.timeout(GRACE):
                await self._close()
                self._told.set()
                if self._hinted:
                    await asyncio.Event().wait()
        except (TimeoutError, OSError, RuntimeError):
            self._told.set()
        # Where *close* has cancelled the handler, a second time would interrupt its cleaning up.
        hinted = self._cancellations() > before
        # And a handler that has ended by itself is sending the last of its answer.
        if self._task is not None and not (self._task.done() or hinted or self._handled):
            self._cancelled = True
            self._task.cancel()


def on_access(
    exchange: Exchange, task: asyncio.Task[object] | None, act: Callable[[], object]
) -> None:
    """Have *act* called once, on the loop of *task*, when the session is next looked at.

    *act* is a method of what lives as long as what is served. Without a *task*, or without a stored
    session, it is never called.
    """
    if task is None or exchange.standing is not Standing.FOUND:
        return
    # From a plain generator the session is looked at in another thread.
    soon = task.get_loop().call_soon_threadsafe
    # Weakly: it holds what was served, which an application that keeps the session would keep.
    held = weakref.WeakMethod(act)

    def look() -> None:
        exchange.session._on_access = None  # noqa: SLF001 - ours
        acting = held()
        if acting is not None:
            # The loop may be closed: then nothing is served on it.
            with suppress(RuntimeError):
                soon(acting)

    exchange.session._on_access = look  # noqa: SLF001 - ours


def bound(exchange: Exchange, app: ASGIApp) -> ASGIApp:
    """Return *app*, whose answer, if it is an event stream, ends with the session of *exchange*.

    For an app on an event loop under a door that has none. What it sends is stored by that door.
    """

    async def found(start: Message) -> Exchange | None:
        return exchange if is_event_stream(start) and exchange.session.accessed else None

    return bound_by(found, app)


def end_of_stream() -> Message:
    """Return what ends a stream, new each time: a middleware around may write into a message."""
    # An EventSource comes back by itself, and meets the session as it is then.
    return {"type": "http.response.body", "body": b"", "more_body": False}


def bound_by(found: Callable[[Message], Awaitable[Exchange | None]], app: ASGIApp) -> ASGIApp:
    """Return *app*, whose answer ends with the session that is *found* for its start, if any.

    It is looked for when the start has been sent, and before anything else is.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        bond: Bond | None = None

        async def part() -> None:
            await send(end_of_stream())

        async def sending(message: Message) -> None:
            nonlocal bond
            if bond is not None and bond.over:
                raise OSError(ENDED)
            await send(message)
            if message["type"] == "http.response.start":
                exchange = await found(message)
                if exchange is not None:
                    bond = Bond(exchange, part, running_task())
                    bond.begin()
                    await bond.catch_up()

        try:
            await app(scope, receive, sending)
        except BaseException as error:
            if bond is None or not bond.caused(error):
                raise
        finally:
            if bond is not None:
                await bond.finish()

    return serve


def is_event_stream(message: Message) -> bool:
    """Whether *message* begins an answer that lasts."""
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message.get("headers", ())
    )


def running_task() -> asyncio.Task[object] | None:
    """Return the running asyncio task, ``None`` on another kind of loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
