"""What a Quart application serves for long by itself, and what of it ends with its session.

Where Quart's own sockets and bodies meet the bond of ``sessions/doors``: which sessions end, when,
and how it is heard of is decided there.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from quart.wrappers.response import ResponseBody

from holdfast.sessions.doors.bond import (
    ENDED,
    GRACE,
    SOCKET_ENDED,
    Bond,
    is_event_stream,
    running_task,
)
from holdfast.sessions.lifecycle import Standing
from holdfast.streams.doors.sse import is_captured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from quart.wrappers import Response, Websocket

    from holdfast.frameworks.tagged import TaggedSession
    from holdfast.sessions.request.exchange import Exchange


def bind_socket(exchange: Exchange, websocket: Websocket) -> None:
    """Have *websocket*, handled by the running task, end with the session that it looks at."""
    task = running_task()
    if task is None or exchange.standing is not Standing.FOUND:
        return

    async def close() -> None:
        await websocket.close(*SOCKET_ENDED)

    async def sending(data: str | bytes) -> None:
        if not bond.over:
            await send(data)
            return
        # Quart tells a handler that its client has left by cancelling it, and drops what it says
        # then. It is about to; who asks for longer would keep from ending what waits for it.
        await asyncio.sleep(0 if task.cancelling() else 2 * GRACE)
        if not task.cancelling():
            raise OSError(ENDED)

    bond, send = Bond(exchange, close, task), websocket.send
    websocket.send = sending  # type: ignore[method-assign]
    bond.begin_on_access()
    # Quart's interface hears nothing of a handler that was cancelled or has failed.
    task.add_done_callback(lambda _: bond.leave())


def bind_stream(session: TaggedSession, response: Response) -> None:
    """Have *response*, if it is an event stream, end with the session that it looks at."""
    exchange = session.exchange
    if exchange is None or exchange.standing is not Standing.FOUND or exchange.scope is None:
        return
    content_type = response.headers.get("Content-Type", "").encode("latin-1", "replace")
    if is_event_stream({"headers": [(b"content-type", content_type)]}):
        captured = partial(is_captured, exchange.scope)
        response.response = BoundBody(session, exchange, captured, response.response)


class BoundBody(ResponseBody):
    """A body that is over when its session is.

    Args:
        session: held, so that a generator's look at it is heard.
        exchange: its own.
        captured: tells whether the capture parts its readers from it, which then goes on to its
            end; asked when the head of the answer has been sent.
        body: what it is without.
    """

    def __init__(
        self,
        session: TaggedSession,
        exchange: Exchange,
        captured: Callable[[], bool],
        body: ResponseBody,
    ) -> None:
        self._session = session
        self._exchange = exchange
        self._captured = captured
        self._body = body
        self._bond: Bond | None = None

    async def __aenter__(self) -> AsyncIterator[Any]:
        body = await self._body.__aenter__()
        if not self._captured():
            # Quart tells a generator that its client has left by cancelling it, and so does this.
            self._bond = Bond(self._exchange, _nothing, running_task(), hinted=False)
            self._bond.begin_on_access()
        return self._parts(body)

    async def _parts(self, body: Any) -> AsyncIterator[Any]:
        async for part in body:
            if self._bond is not None and self._bond.over:
                return
            yield part

    # That Quart's own return nothing is no promise: it asks in an ``async with``.
    async def __aexit__(  # type: ignore[override]
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        bond = self._bond
        ended = error is not None and bond is not None and bond.caused(error)
        try:
            await self._body.__aexit__(kind, error, traceback)  # type: ignore[arg-type]
        finally:
            if bond is not None:
                await bond.finish()
        return ended


async def _nothing() -> None:
    """Tell the client nothing: Quart ends the answer where the body does."""
