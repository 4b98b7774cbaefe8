"""Sessions for Flask, at ``flask.session``.

Thin: what a session is lies in ``frameworks/tagged.py``, how it is configured and saved in
``frameworks/pallets.py``. Here is what Flask alone does: it cannot await, and it may stream.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import flask
from flask.sessions import SessionInterface
from werkzeug.wsgi import ClosingIterator

from holdfast.errors import SessionError, SessionUnavailable
from holdfast.frameworks.pallets import HTTPSessionUnavailable, PalletsInterface, held_by
from holdfast.frameworks.tagged import TaggedSession, tagged, untagged
from holdfast.sessions.doors.wsgi import connection_of, may_serve
from holdfast.sessions.session import ENVIRON_KEY, Session
from holdfast.sessions.stores.sync import driven
from holdfast.sessions.sync_session import SyncSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from flask import Flask, Request, Response
    from flask.sessions import SessionMixin

    from holdfast.sessions.doors.door import Door
    from holdfast.sessions.request.exchange import Exchange

__all__ = ["FlaskSession", "FlaskSessionInterface", "HTTPSessionUnavailable", "get_session"]


class FlaskSession(TaggedSession):
    """``flask.session``, where its interface is ours: loaded when a view first looks at it."""

    _held: SyncSession

    def save(self) -> None:
        """See :meth:`SyncSession.save`."""
        self._for_a_verb("")
        self._held.save()

    def incr(self, key: str, by: float = 1) -> int | float:
        """See :meth:`SyncSession.incr`."""
        self._for_a_verb(key)
        return self._held.incr(key, by)

    def update_with(self, key: str, function: Callable[[Any], Any]) -> Any:
        """See :meth:`SyncSession.update_with`."""
        self._for_a_verb(key)
        return untagged(self._held.update_with(key, lambda raw: tagged(function(untagged(raw)))))


class FlaskSessionInterface(PalletsInterface, SessionInterface):
    """Server-side sessions for one Flask application: ``app.session_interface = ...``.

    Flask's ``SECRET_KEY``, ``SECRET_KEY_FALLBACKS``, ``SESSION_COOKIE_*``,
    ``PERMANENT_SESSION_LIFETIME`` and ``SESSION_REFRESH_EACH_REQUEST`` are honoured; a variable of
    holdfast that is set comes before them, and where both differ the log says so.

    Args:
        settings: in place of those of the environment.
        store: in place of what ``HOLDFAST_SESSION_STORE`` names.
        key_needed: whether a missing secret key is told as Flask does, at the first write; else,
            without Redis, one is made up for this process. Default true.

    Raises:
        ConfigurationError: the settings cannot work; raised by the first request at the latest.
    """

    def open_session(self, app: Flask, request: Request) -> FlaskSession | None:
        """Return the session of *request*, unopened unless its age depends on each request.

        ``None`` without a secret key, from which Flask makes a session that tells of it.
        """
        if not self.has_key(app):
            return None
        door = self.door(app)
        session = FlaskSession(partial(self._open, app, door, request))
        if self.counts_each_request(door):
            # Who needs it is told when it is looked at: raised from here it would be a 500.
            with suppress(SessionUnavailable):
                session.held  # noqa: B018 - opened by a look
        return session

    def _open(self, app: Flask, door: Door, request: Request) -> Exchange:
        outer = request.environ.get(ENVIRON_KEY)
        if isinstance(outer, SyncSession):
            # A WSGISessionMiddleware is around the application, and stores it.
            return outer._bound()  # noqa: SLF001 - the two halves of one thing
        if not may_serve(door, request.environ):
            raise HTTPSessionUnavailable("the session cannot be reached")
        connection = connection_of(request.environ)
        exchange = driven(door.open(connection, self.get_cookie_name(app).encode("latin-1")))
        exchange.scope = connection
        return exchange

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Store what the view did, and set the cookie where the browser needs one."""
        if session is None:
            # open_session raised, and Flask is answering with that.
            return
        if not isinstance(session, FlaskSession):
            raise SessionError(f"this is no session of holdfast's: {type(session).__name__}")
        if isinstance(flask.request.environ.get(ENVIRON_KEY), Session):
            session.write_back()
            return
        driven(self.store_session(app, session, response))
        if response.is_streamed:
            response.call_on_close(lambda: self._finish(session))
            # A file is the server's to send.
            if not response.direct_passthrough:
                response.response = self._to_its_end(session, response.response)
        else:
            session.release()

    def _to_its_end(self, session: FlaskSession, parts: Iterable[Any]) -> Iterable[Any]:
        """Return *parts*, with which what they write is stored: who has all may ask anew at once.

        The response is closed only after that, and by a test's own client seldom.
        """

        def end() -> Iterator[Any]:
            # It is tried again when the response is closed, and then told.
            with suppress(Exception):
                driven(self.store_more(session))
            yield from ()

        return ClosingIterator(chain(parts, end()), getattr(parts, "close", None))

    def _finish(self, session: FlaskSession) -> None:
        try:
            driven(self.store_rest(session))
        finally:
            session.release()


def get_session() -> FlaskSession:
    """Return ``flask.session`` with its type, wherever a method of ours is called.

    Raises:
        SessionError: the application's session interface is not ours.
        RuntimeError: there is no request.
    """
    return held_by(flask.session, FlaskSession, "FlaskSessionInterface")
