"""``Holdfast(app)``: the one line that gives an application sessions and streams.

It only chooses what of ours the application gets, and how: an instance of a framework is equipped
in place, anything else is wrapped. No framework is imported for another's sake.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.routing import Mount

from holdfast.runtime import runtime
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.streams.app import EventStreamApp
from holdfast.wrapping.around import (
    around_asgi,
    around_wsgi,
    capturing,
    capturing_outside,
    has_sessions,
    is_a,
    tell_what_is_not_captured,
)
from holdfast.wrapping.beside_asgi import Beside, StreamsBesideASGI
from holdfast.wrapping.beside_wsgi import BesideWSGI, StreamsBesideWSGI
from holdfast.wrapping.protocol import protocol_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from starlette.types import Receive, Scope, Send

    from holdfast.settings import Settings
    from holdfast.wrapping.protocol import Protocol

logger = logging.getLogger("holdfast")


class Holdfast:
    """Sessions and event streams for one application, or, by :meth:`init_app`, for several.

    | the application                | what becomes of it                                      |
    |--------------------------------|---------------------------------------------------------|
    | Starlette, FastAPI             | equipped in place: the middleware, the streams mounted  |
    | Flask                          | equipped in place: the session interface, the streams   |
    | Quart                          | equipped in place: the session interface, the streams   |
    | any other ASGI application     | wrapped: sessions around it, the streams beside it      |
    | any other WSGI application     | wrapped: sessions around it, the streams beside it      |

    The object can be served itself, by the protocol of its application, whether that was equipped
    or wrapped; each request passes ours once either way. The streams are at
    ``HOLDFAST_STREAM_MOUNT``; on an ASGI server the application's own event streams are resumable
    where ``HOLDFAST_STREAM_CAPTURE`` names their paths. Without Redis and without a secret key one
    is made up for this process, and the log says so. Flask and Quart find it at
    ``app.extensions["holdfast"]``.

    Args:
        app: the application; ``None``: it comes by :meth:`init_app`.
        settings: in place of those of the environment.
        protocol: ``"asgi"`` or ``"wsgi"``, where it cannot be seen.

    Raises:
        ConfigurationError: the settings cannot work, or the protocol cannot be seen.
    """

    _served: Any

    def __init__(
        self,
        app: Any = None,
        *,
        settings: Settings | None = None,
        protocol: Protocol | None = None,
    ) -> None:
        self._settings = settings
        self._protocol = protocol
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Any) -> None:
        """Equip or wrap *app*; what is served from now on is this one. Raises as the constructor.

        An application that was equipped before is left as it is.
        """
        # A wrong variable is told here, where a person sees it, and not by the first request.
        runtime(self._settings)
        equip = self._equipment(app)
        if equip is not None:
            equip(app)
            self._served, speaks = app, "wsgi" if is_a(app, "flask", "Flask") else "asgi"
        else:
            speaks = self._protocol or protocol_of(app)
            around: Any = around_asgi if speaks == "asgi" else around_wsgi
            self._served = around(app, self._settings)
        # A server tells a protocol by the class's own method: see protocol_of().
        self.__class__ = _OfASGI if speaks == "asgi" else _OfWSGI

    def _equipment(self, app: Any) -> Callable[[Any], None] | None:
        if isinstance(app, Starlette):
            return self._equip_starlette
        if is_a(app, "flask", "Flask"):
            return self._equip_flask
        if is_a(app, "quart", "Quart"):
            return self._equip_quart
        return None

    def _equip_starlette(self, app: Starlette) -> None:
        mount = runtime(self._settings).settings.stream_mount
        if any(isinstance(each, _Streams) for each in app.router.routes):
            return
        # First, so that no route of the application's that takes everything hides it.
        app.router.routes.insert(0, _Streams(mount, EventStreamApp(settings=self._settings)))
        if capturing(app, self._settings) is not app:
            logger.warning(
                "%s serves already: nothing of it is captured. Give it to Holdfast before", app
            )
        if not has_sessions(app):
            app.add_middleware(SessionMiddleware, settings=self._settings)

    def _equip_flask(self, app: Any) -> None:
        from holdfast.flask import FlaskSessionInterface

        if "holdfast" not in app.extensions:
            own = runtime(self._settings).settings
            own.check_workers()
            _tell_what_is_replaced(app)
            app.session_interface = FlaskSessionInterface(self._settings, key_needed=False)
            tell_what_is_not_captured(self._settings)
            streams = StreamsBesideWSGI(app, self._settings)
            app.wsgi_app = BesideWSGI(app.wsgi_app, streams, own.stream_mount)
            app.extensions["holdfast"] = self

    def _equip_quart(self, app: Any) -> None:
        from holdfast.quart import QuartSessionInterface

        if "holdfast" not in app.extensions:
            own = runtime(self._settings).settings
            own.check_workers()
            _tell_what_is_replaced(app)
            app.session_interface = QuartSessionInterface(self._settings, key_needed=False)
            streams = StreamsBesideASGI(app, self._settings, needed=False)
            captured = capturing_outside(app.asgi_app, app, self._settings)
            app.asgi_app = Beside(captured, streams, own.stream_mount)
            app.extensions["holdfast"] = self


def _tell_what_is_replaced(app: Any) -> None:
    given = type(app.session_interface).__name__
    if given != "SecureCookieSessionInterface":
        logger.warning("%s had another session interface (%s): ours is in its place", app, given)


class _Streams(Mount):
    """The mount that shows that an application was equipped."""


class _OfASGI(Holdfast):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._served(scope, receive, send)


class _OfWSGI(Holdfast):
    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        served: Iterable[bytes] = self._served(environ, start_response)
        return served
