"""The streams beside an ASGI application, and under which sessions they are read there.

Which application gets what is chosen elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Mount, Router

from holdfast.errors import ConfigurationError
from holdfast.sessions.doors.asgi import HTTPSessionUnavailable, SessionMiddleware, under
from holdfast.sessions.session import Session
from holdfast.startup import StartError, kept_or_raised
from holdfast.streams.app import EventStreamApp
from holdfast.wrapping.located import sessions_inside

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.sessions.doors.door import Door
    from holdfast.settings import Settings
    from holdfast.wrapping.located import Found


_REFUSED = "Every request for an event stream"


class Beside:
    """An ASGI application with the streams mounted beside it: all it does not see is their path.

    Args:
        app: what gets everything else, the lifespan too.
        streams: at *mount*.
        mount: a path, as ``HOLDFAST_STREAM_MOUNT``.
    """

    def __init__(self, app: ASGIApp, streams: ASGIApp, mount: str) -> None:
        self.app = app
        self._mount = mount
        self._streams = Router([Mount(mount, streams)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "lifespan" and self._is_below(scope):
            await self._streams(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_below(self, scope: Scope) -> bool:
        path, root = scope["path"], scope.get("root_path", "")
        if root and path.startswith(root + "/"):
            path = path[len(root) :]
        return bool(path == self._mount or path.startswith(self._mount.rstrip("/") + "/"))


class StreamsBesideASGI:
    """The streams beside an application, under the sessions of ours that it keeps itself.

    How it keeps them is looked up with each request: until the first it may still be configured.
    Where it keeps none of ours, they have sessions by the settings.

    Args:
        app: the application, which may be a WSGI one.
        settings: in place of those of the environment.
        needed: whether it is an error where they cannot work. Else the log says so, and the
            application goes on without them: it may have no use for them.

    Raises:
        ConfigurationError: the settings cannot work, and they are needed.
    """

    def __init__(self, app: Any, settings: Settings | None, *, needed: bool = True) -> None:
        self._app = app
        self._refusing: StartError | None = None
        try:
            self._streams: ASGIApp = EventStreamApp(settings=settings)
            self._usual: ASGIApp = SessionMiddleware(self._streams, settings=settings)
        except ConfigurationError as error:
            if needed:
                raise
            self._streams = self._usual = refusing = StartError(error, _REFUSED)
            refusing.tell()
        self._inside: tuple[Found, ASGIApp] = None, self._usual

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection below the mount."""
        await self._served()(scope, receive, send)

    def _served(self) -> ASGIApp:
        found = kept_or_raised(lambda: sessions_inside(self._app))
        if isinstance(found, StartError):
            # The first, which is told once.
            self._refusing = self._refusing or StartError(found.error, _REFUSED)
            return self._refusing
        known, served = self._inside
        if found != known:
            served = self._usual if found is None else self._under(found)
            self._inside = found, served
        return served

    def _under(self, found: tuple[Door, str]) -> ASGIApp:
        door = found[0].beside(found[1], HTTPSessionUnavailable, Session)
        return under(door, self._streams)
