"""The sub-app: what a user mounts, and which door serves which kind of scope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.startup import StartError, kept_or_raised, pass_lifespan
from holdfast.streams.doors.http_door import http_door
from holdfast.streams.doors.service import Service
from holdfast.streams.doors.websocket_door import WebSocketDoor

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.settings import Settings
    from holdfast.streams.store import EventStore


class EventStreamApp:
    """An ASGI app that serves the events of runs; mount it anywhere.

    =================================== ================================================
    ``GET runs/{run_id}/events``        pages of history, as JSON
    ``POST runs/{run_id}/events``       publish events
    ``POST runs/{run_id}/stop``         ask the run to stop
    ``GET runs/{run_id}/events/stream`` history, then live, as Server-Sent Events
    ``WS runs/{run_id}/events/ws``      the same over a WebSocket
    ``GET events/stream``               many runs over one stream
    ``WS events/ws``                    many runs over one WebSocket
    ``GET livez``, ``GET readyz``       health
    ``GET openapi.json``, ``GET docs``  all of this for programs, and as a page
    ``GET holdfast.js``                 the browser's client, and its ``holdfast.d.ts``
    =================================== ================================================

    Args:
        settings: the configuration. Default: the environment.
        store: where the events are. Default: the process's own store.

    Raises:
        ConfigurationError: a variable cannot work. While an event loop runs the error is kept
            instead: requests are answered 503, and the log says why, once.
    """

    def __init__(
        self, *, settings: Settings | None = None, store: EventStore | None = None
    ) -> None:
        made = kept_or_raised(lambda: _Doors(Service(settings, store)))
        if isinstance(made, StartError):
            made.tell()
        self._app: ASGIApp = made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        await self._app(scope, receive, send)

    def close(self) -> None:
        """Let every reader go now, to come back at another process; for good, and from any thread.

        For a program that stops its server by itself: SIGTERM and SIGINT do the same. Call it when
        the server is told to stop; ``readyz`` answers 503 from then on.
        """
        if isinstance(self._app, _Doors):
            self._app.service.close()


class _Doors:
    """The app behind the name, once its configuration is known to work."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._http = http_door(service)
        self._websocket = WebSocketDoor(service)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Not awaited here: each function on the way costs every open stream a frame.
        if scope["type"] == "lifespan":
            return pass_lifespan(_lifespan, self.service.runtime, scope, receive, send)
        if scope["type"] == "websocket":
            return self._websocket(scope, receive, send)
        return self._http(scope, receive, send)


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Served by itself, the app has nothing to start; at the end it closes what it used."""
    from holdfast.runtime import aclose

    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await aclose()
    await send({"type": "lifespan.shutdown.complete"})
