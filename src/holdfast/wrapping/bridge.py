"""A WSGI application in threads of an ASGI server, and how they end where a request ends first.

Nothing of sessions or streams. The bridge itself is a2wsgi's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("holdfast")

_PASSAGE = "holdfast.passage"


class Single:
    """A WSGI application that is told of one process, and ends an answer that nobody takes.

    What the bridge says of every server, that it has several processes, is not known to it.

    Args:
        app: the application.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, in a thread."""
        environ["wsgi.multiprocess"] = False
        passage = environ["asgi.scope"].pop(_PASSAGE)
        return _while_taken(self._app(environ, start_response), passage)


def _while_taken(parts: Iterable[bytes], passage: _Passage) -> Iterator[bytes]:
    try:
        for part in parts:
            if passage.over:
                break
            yield part
    finally:
        getattr(parts, "close", lambda: None)()


class Bridge:
    """What bridges, with room for the threads to end in when a request is cancelled.

    Such a thread hands its parts to a task. Were that cancelled with the request, the thread would
    wait for it for ever, and the end of the process for the thread.

    Args:
        served: the bridge around a :class:`Single`.
    """

    def __init__(self, served: ASGIApp) -> None:
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._served(scope, receive, send)
            return
        passage = _Passage(send)
        serving = asyncio.ensure_future(
            _serve(self._served, {**scope, _PASSAGE: passage}, receive, passage)
        )
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            passage.end()
            serving.add_done_callback(_tell)
            raise


async def _serve(served: ASGIApp, scope: Scope, receive: Receive, passage: _Passage) -> None:
    await served(scope, receive, passage.send)
    if passage.error is not None:
        raise passage.error


class _Passage:
    """Where the parts of one answer pass; once it is over, they are taken and dropped.

    Attributes:
        over: nobody takes them any more.
        error: of the server's, for which it is over.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sending: asyncio.Future[None] | None = None
        self.over = False
        self.error: BaseException | None = None

    async def send(self, message: Message) -> None:
        """Pass *message* on."""
        if self.over:
            return
        # Of its own, so that it can be given up without the task that comes with the next part.
        self._sending = sending = asyncio.ensure_future(_sent(self._send, message))
        try:
            await asyncio.wait((sending,))
        finally:
            # Where the bridge gives it up, for an application that has failed.
            sending.cancel()
        if not sending.cancelled() and (error := sending.exception()) is not None:
            self.over, self.error = True, error

    def end(self) -> None:
        """Nobody takes what comes from now on."""
        self.over = True
        if self._sending is not None:
            self._sending.cancel()


async def _sent(send: Send, message: Message) -> None:
    await send(message)


def _tell(serving: asyncio.Future[Any]) -> None:
    if not serving.cancelled() and (error := serving.exception()) is not None:
        logger.error("the application failed after its request was cancelled", exc_info=error)
