"""Telling a wrong start to the person who starts the server, and to nobody else.

What the ASGI doors of sessions and streams share: a configuration error kept until the server
asks, and the lifespan in which Redis gives its first verdict. Nothing here knows what a session
or a stream is.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

import anyio

from holdfast.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from holdfast.link import Link
    from holdfast.runtime import Runtime

T = TypeVar("T")

logger = logging.getLogger("holdfast")

RETRY_AFTER_SECONDS = 10
_BODY = b"Service Unavailable: the server is not configured; its log says what to change.\n"


class StartError:
    """An ASGI application in the place of one that could not be configured.

    A lifespan is answered by ``lifespan.startup.failed`` with the message, so that the server
    refuses to start and prints it, and then raises the error, as Starlette's own lifespan does:
    a test client waits for that, for ever. Where a server asks for no lifespan, HTTP is answered
    503, a WebSocket is refused, and the message goes to the log once. Clients are never told the
    cause.

    Args:
        error: what was wrong with the configuration.
        refused: what is not served for it, as the log says it.
    """

    def __init__(self, error: ConfigurationError, refused: str = "Every request") -> None:
        self.error = error
        self._refused = refused
        self._told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer any scope; the application behind is never called.

        Raises:
            ConfigurationError: after a lifespan has been answered.
        """
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(self.error)})
            raise self.error
        self.tell()
        if scope["type"] == "websocket":
            await receive()
        for message in refusal(scope, _BODY, RETRY_AFTER_SECONDS):
            await send(message)

    def tell(self) -> None:
        """Put the message into the log, once."""
        if not self._told:
            self._told = True
            logger.error("%s is answered 503: %s", self._refused, self.error)


def kept_or_raised(make: Callable[[], T]) -> T | StartError:
    """Return what *make* returns, or its :class:`ConfigurationError` as a :class:`StartError`.

    A server that builds its middleware while a loop runs (Starlette does, at the first scope)
    would show an exception as one failed request or, under ``lifespan auto``, as an application
    without a lifespan: there the error is kept and answers the scopes. Without a running loop
    a person is at the call.

    Raises:
        ConfigurationError: *make* raised it and no event loop runs.
    """
    try:
        return make()
    except ConfigurationError as error:
        if not _loop_runs():
            raise
        return StartError(error)


async def pass_lifespan(
    app: ASGIApp,
    runtime: Runtime,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    flush: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Hand a lifespan scope to *app*, once Redis (if configured) has given its first verdict.

    With ``HOLDFAST_REDIS_REQUIRED`` and no Redis the start is refused, and *app* is not called.
    What waits to be written, by *flush* and in *runtime*, is written before the server hears that
    the shutdown is complete: it may end the process at that word.

    Raises:
        ConfigurationError: the start was refused, and the server has been told.
    """
    try:
        await await_redis(runtime)
    except ConfigurationError as error:
        await StartError(error)(scope, receive, send)

    async def sending(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            for last in (flush, runtime.flush):
                if last is not None:
                    await _logged(last)
        await send(message)

    await app(scope, receive, sending)


async def _logged(flush: Callable[[], Awaitable[None]]) -> None:
    try:
        await flush()
    except Exception:
        logger.exception("something that waited could not be written at the shutdown")


async def await_redis(runtime: Runtime) -> None:
    """Start the link of *runtime* and wait, at most ``REDIS_TIMEOUT``, for its first verdict.

    Raises:
        ConfigurationError: ``HOLDFAST_REDIS_REQUIRED`` is set, and Redis does not answer or is
            not configured at all.
    """
    link = _named_link(runtime)
    if link is not None and not await link.ready():
        _tell_away(runtime, link)


def await_redis_sync(runtime: Runtime) -> None:
    """As :func:`await_redis`, in a thread without an event loop."""
    link = _named_link(runtime)
    if link is not None and not link.ready_sync():
        _tell_away(runtime, link)


def _named_link(runtime: Runtime) -> Link | None:
    if runtime.link is None and runtime.settings.redis_required:
        raise ConfigurationError(
            "HOLDFAST_REDIS_REQUIRED is true, but no Redis is named: set HOLDFAST_REDIS_URL."
        )
    return runtime.link


def _tell_away(runtime: Runtime, link: Link) -> None:
    if runtime.settings.redis_required:
        raise ConfigurationError(
            f"HOLDFAST_REDIS_REQUIRED is true, but Redis is unavailable ({link.status.reason}): "
            "start it, or correct HOLDFAST_REDIS_URL; without HOLDFAST_REDIS_REQUIRED the "
            "application starts and moves to Redis when it comes up."
        )


class Requirement:
    """``HOLDFAST_REDIS_REQUIRED`` where the server asks for no lifespan, or a mount hears of none.

    Args:
        runtime: whose Redis must have answered once before anything is served.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.met = not runtime.settings.redis_required
        self._runtime = runtime
        self._told = False

    async def holds(self) -> bool:
        """Whether requests may be served; if not, the log says why, once."""
        try:
            if not self.met:
                await await_redis(self._runtime)
        except ConfigurationError as error:
            self.tell(error)
        else:
            self.met = True
        return self.met

    def holds_sync(self) -> bool:
        """As :meth:`holds`, in a thread without an event loop."""
        try:
            if not self.met:
                await_redis_sync(self._runtime)
        except ConfigurationError as error:
            self.tell(error)
        else:
            self.met = True
        return self.met

    def tell(self, error: ConfigurationError) -> None:
        """Put into the log why nothing is served, once."""
        if not self._told:
            self._told = True
            logger.error("Every request is answered 503: %s", error)


def refusal(scope: Scope, body: bytes, retry_after: int) -> list[Message]:
    """Return the messages that answer *scope* (HTTP, or a WebSocket not yet accepted) with 503.

    A server without the WebSocket denial extension can only refuse the handshake by closing it.

    Args:
        scope: the scope to answer.
        body: plain text that names neither host nor cause.
        retry_after: seconds, for ``Retry-After``.
    """
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            return [{"type": "websocket.close", "code": 1013, "reason": ""}]
        prefix = "websocket."
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"retry-after", str(retry_after).encode()),
    ]
    return [
        {"type": f"{prefix}http.response.start", "status": 503, "headers": headers},
        {"type": f"{prefix}http.response.body", "body": body},
    ]


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return True
    try:
        anyio.get_current_task()  # asyncio does not see trio
    except RuntimeError:
        return False
    return True
