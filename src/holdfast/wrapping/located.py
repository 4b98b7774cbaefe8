"""Which sessions of ours an application keeps inside, and which one of them a request names.

The latter for a capture that stands outside of the sessions, by the signed cookie. The store is
asked once for each answer that is captured, because nothing outlives its session.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from holdfast.errors import CorruptData, SessionUnavailable
from holdfast.sessions.cookie import Presented, candidates
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.doors.bond import bound_by
from holdfast.sessions.doors.wsgi import WSGISessionMiddleware
from holdfast.sessions.request.exchange import Exchange
from holdfast.sessions.store import Missing
from holdfast.startup import StartError
from holdfast.streams.capture.binding import NAMED
from holdfast.streams.capture.match import RUN_HEADER, captures

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from holdfast.sessions.doors.door import Door
    from holdfast.settings import Settings
    from holdfast.streams.capture.register import Headers

    Found = tuple[Door, str] | None


class Located:
    """A captured application whose capture is told which session a request belongs to.

    Args:
        app: with the capture, and the sessions inside of it.
        find: returns how the sessions are configured and what their cookie is called; ``None``:
            there are none of ours.
        settings: say what is captured.
    """

    def __init__(self, app: ASGIApp, find: Callable[[], Found], settings: Settings) -> None:
        self._app = app
        self._find = find
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        own = self._settings
        if not captures(scope, own.stream_capture, own.stream_mount):
            await self._app(scope, receive, send)
            return
        # An application changes its scope: that of a mount has another root.
        asked = {**scope}
        given = self._presented(asked, [])
        # Before the log answers: the cookie of a session that has ended opens nothing of it.
        seen = None if given is None else await _seen(*given)

        def named(_: Scope, answered: Headers) -> str | None:
            found = self._presented(asked, answered)
            if found is None or (found == given and isinstance(seen, Missing)):
                return None
            return found[1].credential.key.id_hash

        async def opened(start: Message) -> Exchange | None:
            answered = list(start.get("headers", ()))
            if not any(name == RUN_HEADER for name, _ in answered):
                return None
            found = self._presented(asked, answered)
            if found is None:
                return None
            look = seen if found == given else await _seen(*found)
            return None if isinstance(look, Missing) else look

        scope[NAMED] = named
        await bound_by(opened, self._app)(scope, receive, send)

    def _presented(self, scope: Scope, answered: Headers) -> tuple[Door, Presented] | None:
        """Return the session of a request, as its answer leaves the cookie."""
        found = self._find()
        if found is None or found[0].excludes(scope):
            return None
        door, cookie = found[0], found[1].encode("latin-1")
        given = [
            (b"cookie", value.partition(b";")[0])
            for name, value in answered
            if name.lower() == b"set-cookie"
        ]
        values = candidates(given, cookie) or candidates(scope["headers"], cookie)
        answer = door.setup.signer.choose(values)
        return (door, answer) if isinstance(answer, Presented) else None


async def _seen(door: Door, presented: Presented) -> Exchange | Missing | None:
    """Return the session as it is stored, or that there is none; ``None`` where nobody can say.

    It is the application that tells what it finds wrong with it.
    """
    setup, key = door.setup, presented.credential.key
    try:
        record = await setup.store.load(key, idle_timeout=setup.terms.idle_timeout)
        if isinstance(record, Missing):
            return record
        setup.decoder.decode(key.id_hash, record.fields)
    except (SessionUnavailable, CorruptData):
        return None
    exchange = Exchange(setup, presented)
    exchange.open(presented, record)
    return exchange


def sessions_inside(app: Any) -> Found:
    """Return the sessions of ours that an application keeps by itself, ``None`` for none.

    Raises:
        ConfigurationError: its settings cannot work.
    """
    if isinstance(app, SessionMiddleware | WSGISessionMiddleware):
        door = app._door  # noqa: SLF001 - its configuration
        return None if isinstance(door, StartError) else (door, door.setup.attributes.name)
    if is_django(app):
        engine = _django_engine()
        return engine.sessions_of_site() if engine is not None else None
    interface = getattr(app, "session_interface", None)
    if interface is None or not hasattr(interface, "door") or not interface.has_key(app):
        return None
    return interface.door(app), interface.get_cookie_name(app)


def is_django(app: Any) -> bool:
    """Whether *app* is what Django serves a site by."""
    return type(app).__module__.startswith("django.core.handlers.")


def _django_engine() -> Any:
    """Return how our engine is configured; it is imported where Django has it."""
    if "holdfast.django" not in sys.modules:
        return None
    from holdfast.frameworks import django

    return django
