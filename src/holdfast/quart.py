"""Sessions for Quart, at ``quart.session``.

Thin: what a session is lies in ``frameworks/tagged.py``, how it is configured and saved in
``frameworks/pallets.py``. Here is what Quart alone does: it awaits, and it has WebSockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Never, cast

import quart
from quart.sessions import SessionInterface
from quart.wrappers import Response, Websocket

from holdfast.errors import SessionError
from holdfast.frameworks.lasting import bind_socket, bind_stream
from holdfast.frameworks.pallets import HTTPSessionUnavailable, PalletsInterface, held_by
from holdfast.frameworks.tagged import TaggedSession, tagged, untagged
from holdfast.sessions.request.verbs import maybe_await
from holdfast.sessions.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from quart import Quart
    from quart.sessions import SessionMixin
    from quart.wrappers.base import BaseRequestWebsocket
    from starlette.types import Scope
    from werkzeug.wrappers import Response as WerkzeugResponse

__all__ = ["HTTPSessionUnavailable", "QuartSession", "QuartSessionInterface", "get_session"]


class QuartSession(TaggedSession):
    """``quart.session``, where its interface is ours."""

    async def save(self) -> None:
        """See :meth:`Session.save`."""
        await self._for_a_verb("").save()

    async def incr(self, key: str, by: float = 1) -> int | float:
        """See :meth:`Session.incr`."""
        return await self._for_a_verb(key).incr(key, by)

    async def update_with(self, key: str, function: Callable[[Any], Any]) -> Any:
        """See :meth:`Session.update_with`."""

        async def remake(raw: Any) -> Any:
            return tagged(await maybe_await(function(untagged(raw))))

        return untagged(await self._for_a_verb(key).update_with(key, remake))


class QuartSessionInterface(PalletsInterface, SessionInterface):
    """Server-side sessions for one Quart application: ``app.session_interface = ...``.

    Quart's ``SECRET_KEY``, ``SECRET_KEY_FALLBACKS``, ``SESSION_COOKIE_*``,
    ``PERMANENT_SESSION_LIFETIME`` and ``SESSION_REFRESH_EACH_REQUEST`` are honoured; a variable of
    holdfast that is set comes before them, and where both differ the log says so.

    A request without our cookie asks the store nothing; with one, it is loaded before the view. In
    a WebSocket an existing session is read and written; none is begun there, because the handshake
    is over. A WebSocket or an event stream that looked at its session ends with it.

    Args:
        settings: in place of those of the environment.
        store: in place of what ``HOLDFAST_SESSION_STORE`` names.
        key_needed: whether a missing secret key is told as Quart does, at the first write; else,
            without Redis, one is made up for this process. Default true.

    Raises:
        ConfigurationError: the settings cannot work; raised by the first request at the latest.
    """

    held_class = Session

    async def open_session(self, app: Quart, request: BaseRequestWebsocket) -> QuartSession | None:
        """Return the session of *request*, loaded.

        ``None`` without a secret key, from which Quart makes a session that tells of it.
        """
        if not self.has_key(app):
            return None
        door, scope = self.door(app), cast("Scope", request.scope)
        if not (door.required.met or await door.required.holds()):
            return QuartSession(_refuse)
        exchange = await door.open(scope, self.get_cookie_name(app).encode("latin-1"))
        exchange.scope = scope
        session = QuartSession(lambda: exchange)
        session.sent = scope["type"] == "websocket"
        session.held  # noqa: B018 - opened by a look
        if isinstance(request, Websocket):
            bind_socket(exchange, request)
        return session

    async def save_session(
        self, app: Quart, session: SessionMixin, response: Response | WerkzeugResponse | None
    ) -> None:
        """Store what the view did, and set the cookie where the browser needs one."""
        if not isinstance(session, QuartSession):
            raise SessionError(f"this is no session of holdfast's: {type(session).__name__}")
        await self.store_session(app, session, response)
        if isinstance(response, Response):
            bind_stream(session, response)
        session.release()


def _refuse() -> Never:
    # In the view, whose errors Quart answers; one from open_session would be a 500.
    raise HTTPSessionUnavailable("the session cannot be reached")


def get_session() -> QuartSession:
    """Return ``quart.session`` with its type, wherever a method of ours is called.

    Raises:
        SessionError: the application's session interface is not ours.
        RuntimeError: there is no request.
    """
    return held_by(quart.session, QuartSession, "QuartSessionInterface")
