"""Sessions and streams around an application that knows nothing of them.

An application that keeps sessions of its own is left alone, and the log says so. What an instance
of a framework is equipped with in place is chosen here too.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware

from holdfast.errors import ConfigurationError
from holdfast.frameworks.litestar import LitestarSessions
from holdfast.runtime import runtime
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.doors.wsgi import WSGISessionMiddleware
from holdfast.streams.app import EventStreamApp
from holdfast.streams.capture.middleware import StreamCaptureMiddleware
from holdfast.streams.wsgi.app import WSGIEventStreamApp
from holdfast.wrapping.beside_asgi import Beside, StreamsBesideASGI
from holdfast.wrapping.beside_wsgi import BesideWSGI, StreamsBesideWSGI
from holdfast.wrapping.bridge import Bridge, Single
from holdfast.wrapping.located import Located, is_django, sessions_inside
from holdfast.wrapping.protocol import is_double

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import WSGIApplication

    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.settings import Settings

logger = logging.getLogger("holdfast")

# As many at once as a server of threads commonly has; a stream of the application's holds one.
_THREADS = 40
_for_asgi: ContextVar[bool] = ContextVar("holdfast.wrapping.for_asgi", default=False)
_OWN = "%s has sessions of its own (%s), which are left to it"


def capturing(app: Any, settings: Settings | None = None) -> ASGIApp:
    """Return *app* with capture where ``HOLDFAST_STREAM_CAPTURE`` names paths.

    Inside an application of Starlette's, so that the sessions that it may have are around it.
    """
    if not runtime(settings).settings.stream_capture:
        found: ASGIApp = app
    elif isinstance(app, Starlette) and app.middleware_stack is None:
        if StreamCaptureMiddleware not in set(_middlewares(app)):
            app.user_middleware.append(Middleware(StreamCaptureMiddleware, settings=settings))
        found = app
    else:
        found = StreamCaptureMiddleware(app, settings=settings)
    return found


def capturing_outside(app: Any, inside: Any, settings: Settings | None = None) -> ASGIApp:
    """Return *app* with capture as :func:`capturing`, told of the sessions that *inside* keeps."""
    made = capturing(app, settings)
    own = runtime(settings).settings
    return made if made is app else Located(made, lambda: sessions_inside(inside), own)


@contextmanager
def for_asgi() -> Iterator[None]:
    """Whatever is wrapped meanwhile, an application that equips itself included, is for ASGI."""
    token = _for_asgi.set(True)
    try:
        yield
    finally:
        _for_asgi.reset(token)


def tell_what_is_not_captured(settings: Settings | None = None) -> None:
    """Put into the log that a variable has no effect on a WSGI server."""
    if runtime(settings).settings.stream_capture and not _for_asgi.get():
        logger.warning(
            "HOLDFAST_STREAM_CAPTURE needs an ASGI server: a WSGI application is captured where "
            "`holdfast serve` or holdfast.asgi:app runs it"
        )


def around_asgi(app: ASGIApp, settings: Settings | None = None) -> ASGIApp:
    """Return *app* with sessions around it, and the streams beside it.

    Raises:
        ConfigurationError: the settings cannot work.
    """
    if _has_extension(app):
        return app
    if is_double(app):
        app = _called_once(app)
    mount = runtime(settings).settings.stream_mount
    inner = capturing_outside(app, app, settings)
    if (given := _given_to_ours(app)) is not None:
        streams = EventStreamApp(settings=settings)
        return Beside(inner, given.cls(streams, *given.args, **given.kwargs), mount)
    if _equipped(app, settings) or has_sessions(app):
        return Beside(inner, StreamsBesideASGI(app, settings), mount)
    if is_a(app, "litestar", "Litestar"):
        inner = LitestarSessions(inner)
    streams = EventStreamApp(settings=settings)
    return SessionMiddleware(Beside(inner, streams, mount), settings=settings)


def around_wsgi(app: WSGIApplication, settings: Settings | None = None) -> WSGIApplication:
    """Return *app* with sessions around it, and the streams beside it.

    Raises:
        ConfigurationError: the settings cannot work.
    """
    if _has_extension(app):
        return app
    tell_what_is_not_captured(settings)
    own = runtime(settings).settings
    own.check_workers()
    mount = own.stream_mount
    if _equipped(app, settings) or has_sessions(app):
        return BesideWSGI(app, StreamsBesideWSGI(app, settings), mount)
    streams = WSGIEventStreamApp(settings=settings)
    return WSGISessionMiddleware(BesideWSGI(app, streams, mount), settings=settings)


def bridged(app: WSGIApplication, settings: Settings | None = None) -> ASGIApp:
    """Return a WSGI application for an ASGI server: in threads, with sessions and streams.

    Raises:
        ConfigurationError: the settings cannot work, or a2wsgi is not installed.
    """
    try:
        from a2wsgi import WSGIMiddleware
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "a WSGI application on an ASGI server needs a2wsgi: pip install 'holdfast[cli]'"
        ) from error
    own = runtime(settings).settings
    own.check_workers()
    inner = app
    if not (_equipped(app, settings) or has_sessions(app)):
        inner = WSGISessionMiddleware(app, settings=settings)
    single: Any = Single(inner)
    threads: Any = WSGIMiddleware(single, workers=_THREADS)
    served = Bridge(threads)
    captured = capturing_outside(served, inner, settings)
    return Beside(captured, StreamsBesideASGI(inner, settings), own.stream_mount)


def _called_once(double: Any) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await double(scope)(receive, send)

    return app


def _given_to_ours(app: Any) -> Any:
    """Return what an application of Starlette's was given our session middleware with, or ``None``.

    It makes that itself, and the one of the streams beside it is made alike.
    """
    ours = (each for each in getattr(app, "user_middleware", ()) if _is_ours(each.cls))
    return next(ours, None)


def _is_ours(middleware: Any) -> bool:
    return isinstance(middleware, type) and issubclass(middleware, SessionMiddleware)


def _has_extension(app: object) -> bool:
    """Whether ``Holdfast(app)`` has been there: in a Flask or a Quart application it says so."""
    return "holdfast" in getattr(app, "extensions", ())


def _equipped(app: Any, settings: Settings | None) -> bool:
    """Give a Flask or a Quart application our sessions in place of its cookie's."""
    for framework, name, usual in (
        ("flask", "FlaskSessionInterface", "SecureCookieSessionInterface"),
        ("quart", "QuartSessionInterface", "SecureCookieSessionInterface"),
    ):
        if not is_a(app, framework, framework.title()):
            continue
        if type(app.session_interface).__name__ == usual:
            ours = getattr(import_module(f"holdfast.{framework}"), name)
            app.session_interface = ours(settings, key_needed=False)
        elif not type(app.session_interface).__module__.startswith("holdfast."):
            logger.warning(_OWN, app, type(app.session_interface).__name__)
        return True
    return False


def is_a(app: object, module: str, name: str) -> bool:
    """Whether *app* is of class *name* of a framework, which is not imported for that."""
    # Who has made an application of a framework has imported it.
    framework = getattr(sys.modules.get(module), name, None)
    return framework is not None and isinstance(app, framework)


def has_sessions(app: Any) -> bool:
    """Whether sessions are kept by *app* itself, as far as that can be seen."""
    if isinstance(app, SessionMiddleware | WSGISessionMiddleware) or _given_to_ours(app):
        return True
    if is_django(app):
        if sessions_inside(app) is None:
            logger.warning(
                "Django keeps its sessions by SESSION_ENGINE; for ours: SESSION_ENGINE = "
                '"holdfast.django"'
            )
        return True
    for each in _middlewares(app):
        name = getattr(each, "__name__", "")
        if name.endswith("SessionMiddleware"):
            logger.warning(_OWN, app, f"{each.__module__}.{name}")
            return True
    return False


def _middlewares(app: Any) -> Iterator[Any]:
    """Return the classes of what is around the routes of *app*, as far as that can be seen."""
    # As Starlette and FastAPI keep what add_middleware() was given.
    yield from (each.cls for each in getattr(app, "user_middleware", ()))
    if is_a(app, "litestar", "Litestar"):
        # All of them, also those of one route, stand at its handlers.
        for handler in (handler for route in app.routes for handler in _handlers(route)):
            yield from (getattr(each, "middleware", each) for each in handler.resolve_middleware())


def _handlers(route: Any) -> Iterable[Any]:
    return getattr(route, "route_handlers", None) or (route.route_handler,)
