"""The ASGI door to sessions: which connections get one, and by which way.

Pure ASGI, for HTTP and WebSocket. Whom a cookie lets in lies in ``door.py``, the order of messages
in ``conversation.py``. The rule that pays for itself: a request without our cookie that does not
look at its session costs a header scan and nothing else.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from holdfast.errors import SessionUnavailable
from holdfast.sessions.cookie import NoCredential
from holdfast.sessions.doors.bond import running_task
from holdfast.sessions.doors.conversation import UNREACHABLE, Conversation, Socket
from holdfast.sessions.doors.door import UNSET, Door, Unset, given_of
from holdfast.sessions.request.exchange import Exchange
from holdfast.sessions.session import Session
from holdfast.startup import (
    RETRY_AFTER_SECONDS,
    StartError,
    kept_or_raised,
    pass_lifespan,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from holdfast.sessions.cookie import SameSite
    from holdfast.sessions.request.exchange import Setup
    from holdfast.sessions.store import SessionStore
    from holdfast.settings import Settings


class HTTPSessionUnavailable(SessionUnavailable, HTTPException):
    """:class:`SessionUnavailable` as what Starlette and FastAPI answer by 503 by themselves."""

    def __init__(self, message: str = "the session is unavailable", retry_after: int = 2) -> None:
        SessionUnavailable.__init__(self, message, retry_after)
        self.status_code = 503
        self.detail = "Service Unavailable"
        self.headers = {"Retry-After": str(retry_after), "Cache-Control": "no-store"}

    def __str__(self) -> str:
        return str(self.args[0])


class SessionMiddleware:
    """Server-side sessions at ``request.session``, for any ASGI application.

    Takes the arguments of Starlette's middleware of the same name, with their meaning; what is not
    given comes from the settings. One difference: a session's lifetime counts from its creation or
    its last ``regenerate_id()``, and a write does not extend it.

    Args:
        app: the application around which it is put.
        secret_key: one key or several, newest first: the first signs, all verify.
        session_cookie: the cookie's name.
        max_age: seconds; the session's lifetime and the cookie's ``Max-Age``. ``None``: no
            ``Max-Age``, and 14 days on the server. 0 and below: both expire at once.
        path, same_site, https_only, domain, partitioned: the cookie's attributes.
        settings: in place of those of the environment.
        store: in place of what ``HOLDFAST_SESSION_STORE`` names.

    Raises:
        ConfigurationError: the settings or arguments cannot work. While an event loop runs, it is
            kept instead and answers the lifespan, or each request by 503.
    """

    def __init__(  # noqa: PLR0913 - Starlette's signature, so that only the import changes
        self,
        app: ASGIApp,
        secret_key: Any = UNSET,
        session_cookie: str | Unset = UNSET,
        max_age: int | Unset | None = UNSET,
        path: str | Unset = UNSET,
        same_site: SameSite | Unset = UNSET,
        https_only: bool | Unset = UNSET,
        domain: str | Unset | None = UNSET,
        partitioned: bool | Unset = UNSET,
        *,
        settings: Settings | None = None,
        store: SessionStore | None = None,
    ) -> None:
        given = given_of(
            secret_key,
            cookie=session_cookie,
            path=path,
            same_site=same_site,
            https_only=https_only,
            domain=domain,
            partitioned=partitioned,
        )
        self._set_up(
            app,
            kept_or_raised(lambda: Door(settings, given, max_age, store, HTTPSessionUnavailable)),
        )

    def _set_up(self, app: ASGIApp, door: Door | StartError) -> None:
        self.app = app
        self._door = door
        #: Whether the short way of requests without a cookie is closed.
        self._takes_the_long_way = isinstance(door, StartError) or bool(
            door.excluded_paths or door.importer or not door.required.met
        )
        if isinstance(door, StartError):
            self.app = door
        else:
            self._name, self._inner = door.cookie_name, door
            self._fresh: type[_FreshSession] = type(
                "Session", (_FreshSession,), {"_setup": door.setup}
            )

    async def __call__(  # noqa: C901 - one frame: each more is paid by every anonymous request
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or "session" in scope or self._takes_the_long_way:
            await self._choose(scope, receive, send)
            return
        name = self._name
        for header, line in scope["headers"]:
            if header == b"cookie" and name in line:
                await self._serve(self._inner, scope, receive, send)
                return

        # No cookie of ours.
        session = scope["session"] = self._fresh()
        conversation: Conversation | None = None

        # Not a coroutine function: an untouched response passes without a frame of ours.
        def passing(message: Message) -> Awaitable[None]:
            nonlocal conversation
            if conversation is None and message["type"] == "http.response.start":
                if session.accessed:
                    conversation = Conversation(session.exchange, scope, send)
                else:
                    session.late = True
            return send(message) if conversation is None else conversation.send(message)

        try:
            await self.app(scope, receive, passing)
        except BaseException as error:
            # One that cannot be reached may be another's: an index of sessions raises it as well.
            if not (session.accessed or isinstance(error, SessionUnavailable)):
                raise
            await (conversation or Conversation(session.exchange, scope, send)).failed(error)
        else:
            if session.accessed:
                await (conversation or Conversation(session.exchange, scope, send)).finish()
        finally:
            if session.accessed:
                session.exchange.release()

    async def _choose(self, scope: Scope, receive: Receive, send: Send) -> None:
        door, kind = self._door, scope["type"]
        if isinstance(door, StartError) or (kind == "lifespan" and door.own_store):
            await self.app(scope, receive, send)
        elif kind == "lifespan":
            flush = door.setup.store.flush
            await pass_lifespan(self.app, door.runtime, scope, receive, send, flush=flush)
        elif kind not in _KINDS or isinstance(scope.get("session"), Session):
            # Mounted twice, the outer one is in charge.
            await self.app(scope, receive, send)
        elif door.required.met or await door.required.holds():
            await self._serve(door, scope, receive, send)
        else:
            for message in refusal(scope, UNREACHABLE, RETRY_AFTER_SECONDS):
                await send(message)

    async def _serve(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = await door.open(scope)
        scope["session"] = exchange.session
        conversation: Conversation
        if scope["type"] == "websocket":
            conversation = socket = Socket(exchange, scope, send, running_task())
            receive = socket.watch(receive)
        else:
            conversation = Conversation(exchange, scope, send, running_task())
        try:
            await self.app(scope, receive, conversation.send)
        except BaseException as error:  # noqa: BLE001 - raised again unless it is our own 503
            await conversation.failed(error)
        else:
            if not conversation.over():
                await conversation.finish()
        finally:
            exchange.release()


_KINDS = frozenset({"http", "websocket"})


def under(door: Door, app: ASGIApp) -> ASGIApp:
    """Return *app*, served with the sessions that *door* opens."""
    made = SessionMiddleware.__new__(SessionMiddleware)
    made._set_up(app, door)  # noqa: SLF001 - our own
    return made


class _FreshSession(Session):
    """The session of a request without a cookie: its exchange is made when somebody asks."""

    _setup: Setup
    late = False

    @cached_property
    def exchange(self) -> Exchange:
        exchange = Exchange(self._setup, NoCredential.NO_COOKIE, session=self)
        exchange.started = self.late
        # Who asks anything of it, if only its id, has an answer that depends on the cookie.
        self.accessed = True
        return exchange

    @property
    def _exchange(self) -> Exchange:
        return self.exchange

    @_exchange.setter
    def _exchange(self, exchange: Exchange) -> None:
        self.__dict__["exchange"] = exchange
