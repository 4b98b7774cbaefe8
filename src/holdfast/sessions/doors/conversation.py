"""One answer on its way: the commit before it starts, and again at its end.

The order of messages alone, for HTTP and WebSocket. What is decided and stored lies in
``commit.py``, which headers leave in ``headers.py``.
"""

from __future__ import annotations

import logging
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from holdfast.errors import SessionUnavailable
from holdfast.sessions.doors.bond import (
    ENDED,
    SOCKET_ENDED,
    Bond,
    end_of_stream,
    is_event_stream,
    on_access,
)
from holdfast.sessions.doors.headers import MORE_HEADERS, add_others, response_headers
from holdfast.sessions.request.commit import apply, asked_to_end, conclude, planned
from holdfast.startup import refusal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from starlette.types import Message, Receive, Scope, Send

    from holdfast.sessions.request.commit import Plan
    from holdfast.sessions.request.exchange import Exchange

logger = logging.getLogger("holdfast.sessions")

# For what must be written although the request is over; the store's own deadline is far below.
_LAST_WORD_SECONDS = 5.0
#: The body of our own 503.
UNREACHABLE = b"Service Unavailable: the session cannot be reached at the moment.\n"


class Conversation:
    """One HTTP response on its way: commits before it starts, and again at its end.

    Args:
        exchange: the session.
        scope: the connection.
        send: the server's.
        task: what runs the application, where it may be cancelled with its session.
    """

    def __init__(
        self,
        exchange: Exchange,
        scope: Scope,
        send: Send,
        task: asyncio.Task[object] | None = None,
    ) -> None:
        self._exchange = exchange
        exchange.scope = self._scope = scope
        self._send = send
        self._task = task
        self._bond: Bond | None = None
        self._replaced = False
        self._spoiled = False
        self._answered = False
        self._lasts = False

    def send(self, message: Message) -> Awaitable[None]:
        """Pass *message* on, after the commit where it starts the response."""
        if self._replaced:
            return _nothing()
        if self._bond is not None and self._bond.over:
            return _left()
        if message["type"] == "http.response.start" and not self._exchange.started:
            return self._start(message)
        if message.get("more_body", False):
            self._lasts = True
        elif self._lasts and message["type"] == "http.response.body":
            return self._store_and_end(message)
        return self._send(message)

    def over(self) -> bool:
        """Whether nothing is left to be done by :meth:`finish`, as after most requests."""
        if self._bond is not None:
            return False
        if self._replaced or self._spoiled:
            return True
        plan = planned(self._exchange)
        if plan.decision.commands:
            return False
        conclude(self._exchange, plan.decision)
        return True

    async def finish(self) -> None:
        """Store what was written after the start; the application has returned."""
        self._answered = True
        if self._bond is not None:
            await self._bond.finish()
        if self._replaced or self._spoiled:
            return
        try:
            await apply(self._exchange)
        except SessionUnavailable as error:
            # The answer is out, so nobody else is left to be told.
            logger.error("what was written after the response had started is lost: %s", error)  # noqa: TRY400

    async def failed(self, error: BaseException) -> None:
        """Deal with what the application raised: it is raised again, unless it is answered here."""
        self._answered = True
        if self._bond is not None:
            ended = self._bond.caused(error)
            await self._bond.finish()
            if ended:
                await self.finish()
                return
        gone = self._client_gone(error)
        with anyio.CancelScope(shield=True), anyio.move_on_after(_LAST_WORD_SECONDS):
            if gone:
                await self.finish()
            elif asked_to_end(self._exchange, error):
                await self._end_as_asked()
        if isinstance(error, SessionUnavailable) and await self._refuse(error):
            return
        raise error

    async def _end_as_asked(self) -> None:
        try:
            await apply(self._exchange, failed=True)
        except SessionUnavailable as error:
            logger.error("a session that was to be destroyed may live on: %s", error)  # noqa: TRY400

    def _client_gone(self, error: BaseException) -> bool:
        # That a stream ends because nobody reads it any more is no failure of the handler.
        if not self._exchange.started:
            return False
        return isinstance(error, (OSError, anyio.get_cancelled_exc_class()))

    def _start(self, message: Message) -> Awaitable[None]:
        # No coroutine function: where nothing has to be stored, no frame of ours is waited for.
        plan = self._planned()
        if plan.decision.commands:
            return self._store_and_start(plan, message)
        conclude(self._exchange, plan.decision)
        return self._begin(message)

    async def _store_and_start(self, plan: Plan, message: Message) -> None:
        if await self._stored(plan):
            await self._begin(message)

    async def _store_and_end(self, message: Message) -> None:
        """End a body of several parts: who has the last of it may ask anew at once."""
        self._lasts = False
        if not self._spoiled:
            # It is tried again when the application has returned, and then told.
            with suppress(Exception):
                await apply(self._exchange)
        await self._send(message)

    def _begin(self, message: Message) -> Awaitable[None]:
        self._exchange.started = True
        dressed = self._dressed(message)
        if is_event_stream(message):
            self._send = self._until_over(self._send)
            if self._exchange.session.accessed:
                return self._send_and_bind(dressed)
            self._bind_on_access()
        return self._send(dressed)

    async def _send_and_bind(self, message: Message) -> None:
        await self._send(message)
        await self._bind().catch_up()

    def _until_over(self, send: Send) -> Send:
        # Weakly: this object holds what is returned, and a cycle would keep the session too.
        held = weakref.WeakMethod(self._unbind)

        def sending(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                unbind = held()
                if unbind is not None:
                    unbind()
            return send(message)

        return sending

    def _unbind(self) -> None:
        """End nothing with the session from now on: the answer is out, or nobody reads it any more.

        What the application does after it, as in a background task, is its own affair.
        """
        self._answered = True
        if self._bond is not None:
            self._bond.leave()

    def _bind(self) -> Bond:
        """End what is served from now on with the session."""
        self._bond = bond = Bond(self._exchange, self._part, self._task)
        bond.begin()
        return bond

    def _bind_on_access(self) -> None:
        """Do so once the handler looks at the session, if it ever does."""
        # No bond before that: most streams never look, and a bond and this hold each other.
        on_access(self._exchange, self._task, self._accessed)

    def _accessed(self) -> None:
        if self._bond is None and not self._answered and self._exchange.scope is not None:
            self._bind()

    async def _part(self) -> None:
        await self._send(end_of_stream())

    def _planned(self) -> Plan:
        try:
            # After a commit that raised, this is the application's answer that tells of it.
            return planned(self._exchange, failed=self._spoiled)
        except BaseException:
            self._spoiled = True
            raise

    async def _stored(self, plan: Plan) -> bool:
        """Carry *plan* out; false where the response had to be replaced."""
        try:
            await apply(self._exchange, plan, failed=self._spoiled)
        except SessionUnavailable as error:
            await self._refuse(error)
            return False
        except BaseException:
            self._spoiled = True
            raise
        return True

    def _dressed(self, message: Message) -> Message:
        cookie = self._exchange.set_cookie()
        vary = self._exchange.session.accessed
        if cookie is None and not vary:
            return message
        name, more = self._exchange.setup.attributes.name, self._scope.get(MORE_HEADERS, ())
        headers = response_headers(message, name, cookie, vary=vary, more=more)
        return {**message, "headers": headers}

    async def _refuse(self, error: SessionUnavailable) -> bool:
        """Answer 503 in place of the application; false where its own answer has started."""
        if self._exchange.started or self._replaced:
            return self._replaced
        self._replaced = True
        for message in refusal(self._scope, UNREACHABLE, error.retry_after):
            await self._send(message)
        return True


class Socket(Conversation):
    """One WebSocket: the handshake's answer is its start, and a disconnect its end."""

    def __init__(
        self,
        exchange: Exchange,
        scope: Scope,
        send: Send,
        task: asyncio.Task[object] | None = None,
    ) -> None:
        super().__init__(exchange, scope, send, task)
        self._accepted = False
        self._disconnected = False

    def watch(self, receive: Receive) -> Receive:
        """Return *receive*, watched for the client's leaving."""

        async def watching() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._disconnected = True
                self._unbind()
            return message

        return watching

    def send(self, message: Message) -> Awaitable[None]:
        """Pass *message* on; a denial after the handshake becomes a close."""
        if self._replaced:
            return _nothing()
        if self._bond is not None and self._bond.over:
            return _left()
        kind = message["type"]
        if kind == "websocket.accept" and not self._accepted:
            return self._accept(message)
        if kind == "websocket.http.response.start":
            # A framework answers our 503 the only way it knows, also on a socket long open.
            return self._close_later() if self._accepted else self._start(message)
        if kind == "websocket.close":
            self._unbind()
        return self._send(message)

    async def _accept(self, message: Message) -> None:
        if not await self._stored(self._planned()):
            return
        self._accepted = self._exchange.started = True
        cookie = self._exchange.set_cookie()
        more = self._scope.get(MORE_HEADERS, ())
        if cookie is not None or more:
            headers = list(message.get("headers", ()))
            add_others(headers, more)
            if cookie is not None:
                headers.append((b"set-cookie", cookie))
            message = {**message, "headers": headers}
        await self._send(message)
        if self._exchange.session.accessed:
            self._bind()
        else:
            self._bind_on_access()

    async def _part(self) -> None:
        code, reason = SOCKET_ENDED
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _close_later(self) -> None:
        self._replaced = True
        # RFC 6455, section 7.4.1 and the IANA registry: 1013, try again later.
        await self._send({"type": "websocket.close", "code": 1013, "reason": "try again later"})

    async def _refuse(self, error: SessionUnavailable) -> bool:
        if self._accepted and not self._replaced:
            await self._close_later()
            return True
        return await super()._refuse(error)

    def _client_gone(self, error: BaseException) -> bool:
        return self._disconnected or super()._client_gone(error)


async def _nothing() -> None:
    """Swallow a message of a response that was replaced."""


async def _left() -> None:
    """Say what a server says of a client that has left."""
    raise OSError(ENDED)
