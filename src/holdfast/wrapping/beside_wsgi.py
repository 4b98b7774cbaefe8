"""The streams beside a WSGI application, and under which sessions they are read there.

Which application gets what is chosen elsewhere.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigurationError, SessionUnavailable
from holdfast.runtime import runtime
from holdfast.sessions.doors.wsgi import WSGISessionMiddleware, refuse, under
from holdfast.sessions.session import ENVIRON_KEY, Session
from holdfast.sessions.sync_session import EnvironSession
from holdfast.startup import RETRY_AFTER_SECONDS
from holdfast.streams import shutdown
from holdfast.streams.wsgi.app import WSGIEventStreamApp
from holdfast.wrapping.located import sessions_inside

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from holdfast.sessions.doors.door import Door
    from holdfast.settings import Settings
    from holdfast.wrapping.located import Found

logger = logging.getLogger("holdfast")


class BesideWSGI:
    """A WSGI application with another mounted beside it: all it does not see is the other's path.

    Args:
        app: what gets everything else.
        streams: at *mount*.
        mount: a path, as ``HOLDFAST_STREAM_MOUNT``.
    """

    def __init__(self, app: WSGIApplication, streams: WSGIApplication, mount: str) -> None:
        self.app = app
        self._streams = streams
        # PEP 3333: the bytes of a path, each as one character.
        self._mount = mount.rstrip("/").encode().decode("latin-1")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        path, mount = environ.get("PATH_INFO", ""), self._mount
        if not (path + "/").startswith(mount + "/"):
            return self.app(environ, start_response)
        script = environ.get("SCRIPT_NAME", "") + mount
        below = {**environ, "SCRIPT_NAME": script, "PATH_INFO": path[len(mount) :]}
        return self._streams(below, start_response)


class StreamsBesideWSGI:
    """The streams beside a WSGI application, under the sessions of ours that it keeps itself.

    They are made with the first request: until then the application may still be configured. Where
    it keeps none of ours, they have sessions by the settings.

    Args:
        app: the application.
        settings: in place of those of the environment.
    """

    def __init__(self, app: Any, settings: Settings | None) -> None:
        self._app = app
        self._settings = settings
        self._made: dict[str, tuple[WSGIApplication, WSGIApplication]] = {}
        self._inside: tuple[Found, Door | None] = None, None
        self._told = False
        if runtime(settings).settings.stream_handle_signals:
            # Here, where a server's main thread loads the application: it may serve none of it.
            shutdown.listen()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request below the mount."""
        try:
            alone, with_sessions = self._made.get("") or self._make()
            door = self._door()
        except ConfigurationError as error:
            # The application goes on: it may have no use for them.
            if not self._told:
                self._told = True
                logger.error("Every request for an event stream is answered 503: %s", error)  # noqa: TRY400
            return refuse(start_response, RETRY_AFTER_SECONDS)
        if isinstance(environ.get(ENVIRON_KEY), Session):
            # A middleware around the application is in charge.
            return alone(environ, start_response)
        if door is not None:
            return under(door, alone, environ, start_response)
        return with_sessions(environ, start_response)

    def _make(self) -> tuple[WSGIApplication, WSGIApplication]:
        alone: Any = WSGIEventStreamApp(settings=self._settings)
        made = alone, WSGISessionMiddleware(alone, settings=self._settings)
        # One step: of two first requests both get the same, and with it one loop.
        return self._made.setdefault("", made)

    def _door(self) -> Door | None:
        """Return what lets in, as the application is configured now."""
        found, (known, door) = sessions_inside(self._app), self._inside
        if found != known:
            door = found and found[0].beside(found[1], SessionUnavailable, EnvironSession)
            self._inside = found, door
        return door
