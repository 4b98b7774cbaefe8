"""The ASGI door to sessions: when to load, when to commit, and which headers leave.

Pure ASGI, for HTTP and WebSocket. What is decided lies in ``lifecycle.py``, what is carried out in
``exchange.py``; here is only the order of messages. The rule that pays for itself: a request
without our cookie that does not look at its session costs a header scan and nothing else.
"""

from __future__ import annotations

import enum
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

import anyio
from starlette.exceptions import HTTPException

from holdfast.errors import ConfigurationError, SessionUnavailable
from holdfast.runtime import runtime
from holdfast.sessions.bond import Bond, running_task
from holdfast.sessions.choice import default_store
from holdfast.sessions.cookie import (
    CookieAttributes,
    CookieSigner,
    NoCredential,
    Presented,
    SameSite,
    candidates,
)
from holdfast.sessions.encryption import encrypted
from holdfast.sessions.events import SessionRefused, announcer
from holdfast.sessions.exchange import Exchange, Setup
from holdfast.sessions.imports.importer import importer_of
from holdfast.sessions.lifecycle import DEFAULT_LIFETIME, Terms
from holdfast.sessions.session import Session
from holdfast.sessions.tidings import Tidings
from holdfast.sessions.users import user_index
from holdfast.startup import (
    RETRY_AFTER_SECONDS,
    Requirement,
    StartError,
    kept_or_raised,
    pass_lifespan,
    refusal,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from holdfast.runtime import Runtime
    from holdfast.sessions.store import SessionStore
    from holdfast.settings import Settings

logger = logging.getLogger("holdfast.sessions")

# For what must be written although the request is over; the store's own deadline is far below.
_LAST_WORD_SECONDS = 5.0
_BODY = b"Service Unavailable: the session cannot be reached at the moment.\n"


class _Unset(enum.Enum):
    UNSET = enum.auto()

    def __repr__(self) -> str:
        return "<from the settings>"


UNSET = _Unset.UNSET


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
        session_cookie: str | _Unset = UNSET,
        max_age: int | _Unset | None = UNSET,
        path: str | _Unset = UNSET,
        same_site: SameSite | _Unset = UNSET,
        https_only: bool | _Unset = UNSET,
        domain: str | _Unset | None = UNSET,
        partitioned: bool | _Unset = UNSET,
        *,
        settings: Settings | None = None,
        store: SessionStore | None = None,
    ) -> None:
        self.app: ASGIApp = app
        arguments = {
            "secret_key": _plain_keys(secret_key),
            "session_cookie": session_cookie,
            "session_path": path,
            "session_same_site": same_site,
            "session_https_only": https_only,
            "session_domain": domain,
            "session_partitioned": partitioned,
        }
        given = {name: value for name, value in arguments.items() if value is not UNSET}
        door = kept_or_raised(lambda: _Door(settings, given, max_age, store))
        self._door = door
        #: Whether the short way of requests without a cookie is closed.
        self._always = isinstance(door, StartError) or bool(
            door.excluded_paths or door.importer or not door.required.met
        )
        if isinstance(door, StartError):
            self.app = door
        else:
            self._name = door.cookie_name
            self._fresh: type[_FreshSession] = type(
                "Session", (_FreshSession,), {"_setup": door.setup}
            )

    async def __call__(  # noqa: C901 - one frame: each more is paid by every anonymous request
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or "session" in scope or self._always:
            await self._choose(scope, receive, send)
            return
        name = self._name
        for header, line in scope["headers"]:
            if header == b"cookie" and name in line:
                await self._choose(scope, receive, send)
                return

        # No cookie of ours.
        session = scope["session"] = self._fresh()
        conversation: _Conversation | None = None

        # Not a coroutine function: an untouched response passes without a frame of ours.
        def passing(message: Message) -> Awaitable[None]:
            nonlocal conversation
            if conversation is None and message["type"] == "http.response.start":
                if session.accessed:
                    conversation = _Conversation(session.exchange, scope, send)
                else:
                    session.late = True
            return send(message) if conversation is None else conversation.send(message)

        try:
            await self.app(scope, receive, passing)
        except BaseException as error:
            if not session.accessed:
                raise
            await (conversation or _Conversation(session.exchange, scope, send)).failed(error)
        else:
            if session.accessed:
                await (conversation or _Conversation(session.exchange, scope, send)).finish()

    async def _choose(self, scope: Scope, receive: Receive, send: Send) -> None:
        door, kind = self._door, scope["type"]
        if isinstance(door, StartError) or (kind == "lifespan" and door.own_store):
            await self.app(scope, receive, send)
        elif kind == "lifespan":
            await pass_lifespan(self.app, door.runtime, scope, receive, send)
            await door.setup.store.flush()
        elif kind not in _KINDS or isinstance(scope.get("session"), Session):
            # Mounted twice, the outer one is in charge.
            await self.app(scope, receive, send)
        elif door.required.met or await door.required.holds():
            await self._serve(door, scope, receive, send)
        else:
            for message in refusal(scope, _BODY, RETRY_AFTER_SECONDS):
                await send(message)

    async def _serve(self, door: _Door, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = await door.open(scope)
        scope["session"] = exchange.session
        websocket = scope["type"] == "websocket"
        kind = _Socket if websocket else _Conversation
        conversation = kind(exchange, scope, send, running_task())
        receive = conversation.watch(receive) if isinstance(conversation, _Socket) else receive
        try:
            await self.app(scope, receive, conversation.send)
        except BaseException as error:  # noqa: BLE001 - raised again unless it is our own 503
            await conversation.failed(error)
        else:
            await conversation.finish()


_KINDS = frozenset({"http", "websocket"})


class _Door:
    """The configuration of one middleware, checked."""

    def __init__(
        self,
        settings: Settings | None,
        given: dict[str, Any],
        max_age: int | _Unset | None,
        store: SessionStore | None,
    ) -> None:
        self.runtime: Runtime = runtime(settings)
        self.required = Requirement(self.runtime)
        own = self.runtime.settings
        if given:
            own = own.override(**given)
        cookie_max_age, lifetime = _lifetimes(own.session_max_age, max_age)
        attributes = CookieAttributes(
            name=own.session_cookie,
            max_age=cookie_max_age,
            path=own.session_path,
            domain=own.session_domain,
            same_site=own.session_same_site,
            https_only=own.session_https_only,
            partitioned=own.session_partitioned,
        )
        self.cookie_name = attributes.name.encode("latin-1")
        self.excluded_paths = own.session_exclude
        self.own_store = store is not None
        chosen = default_store(self.runtime) if store is None else encrypted(store, own)
        self.setup = Setup(
            store=chosen,
            signer=CookieSigner(own.signing_keys()),
            attributes=attributes,
            terms=Terms.of(own, lifetime),
            unavailable=HTTPSessionUnavailable,
            tidings=Tidings(
                announcer(self.runtime, own),
                user_index(chosen),
                address=own.session_index_address,
            ),
        )
        self.importer = importer_of(own, self.runtime.link, self.setup)

    async def open(self, scope: Scope) -> Exchange:
        """Return the session of a connection, loaded."""
        setup, headers = self.setup, scope["headers"]
        if self.excludes(scope):
            return Exchange(setup, NoCredential.NO_COOKIE, excluded=True)
        answer = setup.signer.choose(candidates(headers, self.cookie_name))
        if answer is NoCredential.AMBIGUOUS:
            logger.warning("a request came with two different session cookies: none is believed")
            setup.tidings.tell(SessionRefused(id_hash=None, reason="two cookies"))
        elif isinstance(answer, NoCredential) and self.importer is not None:
            opened = await self.importer.open(headers, scope)
            if opened is not None:
                return opened
        if answer is NoCredential.INVALID:
            setup.tidings.tell(SessionRefused(id_hash=None, reason="forged cookie"))
        exchange = Exchange(setup, answer)
        if isinstance(answer, Presented):
            await exchange.load(answer)
        return exchange

    def excludes(self, scope: Scope) -> bool:
        """Whether the path is below one of ``SESSION_EXCLUDE``, by whole segments."""
        if not self.excluded_paths:
            return False
        path, root = scope["path"], scope.get("root_path", "")
        if root and (path == root or path.startswith(root + "/")):
            path = path[len(root) :]
        return any(
            path == prefix or path.startswith(prefix.rstrip("/") + "/")
            for prefix in self.excluded_paths
        )


def _plain_keys(given: Any) -> Any:
    # Starlette's own Secret shows its value by str() alone; pydantic's must stay as it is.
    if given is UNSET or isinstance(given, str) or hasattr(given, "get_secret_value"):
        return given
    if isinstance(given, (list, tuple)):
        return tuple(_plain_keys(each) for each in given)
    return str(given)


def _lifetimes(setting: int, argument: int | _Unset | None) -> tuple[int | None, float]:
    """Return the cookie's Max-Age and the server's lifetime, in seconds."""
    if argument is UNSET:
        return (setting, setting) if setting else (None, DEFAULT_LIFETIME)
    if argument is None:
        return None, DEFAULT_LIFETIME
    if isinstance(argument, bool) or not isinstance(argument, int):
        raise ConfigurationError(f"max_age must be whole seconds or None, not {argument!r}")
    return argument, argument


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


class _Conversation:
    """One HTTP response on its way: commits before it starts, and again at its end.

    Args:
        exchange: the session.
        scope: the connection.
        send: the server's.
        task: what runs the application, where it may be cancelled with its session.
    """

    def __init__(
        self,
        exchange: Exchange,
        scope: Scope,
        send: Send,
        task: asyncio.Task[object] | None = None,
    ) -> None:
        self._exchange = exchange
        exchange.scope = self._scope = scope
        self._send = send
        self._task = task
        self._bond: Bond | None = None
        self._replaced = False
        self._spoiled = False

    def send(self, message: Message) -> Awaitable[None]:
        """Pass *message* on, after the commit where it starts the response."""
        if self._replaced:
            return _nothing()
        if self._bond is not None and self._bond.over:
            return _left()
        if message["type"] == "http.response.start" and not self._exchange.started:
            return self._start(message)
        return self._send(message)

    async def finish(self) -> None:
        """Store what was written after the start; the application has returned."""
        if self._bond is not None:
            await self._bond.finish()
        if self._replaced or self._spoiled:
            return
        try:
            await self._exchange.apply()
        except SessionUnavailable as error:
            # The answer is out, so nobody else is left to be told.
            logger.error("what was written after the response had started is lost: %s", error)  # noqa: TRY400

    async def failed(self, error: BaseException) -> None:
        """Deal with what the application raised: it is raised again, unless it is answered here."""
        if self._bond is not None:
            ended = self._bond.caused(error)
            await self._bond.finish()
            if ended:
                await self.finish()
                return
        gone = self._client_gone(error)
        with anyio.CancelScope(shield=True), anyio.move_on_after(_LAST_WORD_SECONDS):
            if gone:
                await self.finish()
            elif self._exchange.doomed is not None or self._exchange.wants_new_id:
                await self._obey()
        if isinstance(error, SessionUnavailable) and await self._refuse(error):
            return
        raise error

    async def _obey(self) -> None:
        try:
            await self._exchange.apply(failed=True)
        except SessionUnavailable as error:
            logger.error("a session that was to be destroyed may live on: %s", error)  # noqa: TRY400

    def _client_gone(self, error: BaseException) -> bool:
        # A stream that ends because nobody reads it any more is an end, not a failure.
        if not self._exchange.started:
            return False
        return isinstance(error, (OSError, anyio.get_cancelled_exc_class()))

    async def _start(self, message: Message) -> None:
        if await self._commit():
            self._exchange.started = True
            await self._send(self._dressed(message))
            if self._exchange.session.accessed and _is_event_stream(message):
                self._bind()

    def _bind(self) -> None:
        """End what is served from now on with the session."""
        self._bond = Bond(self._exchange, self._part, self._task)
        self._bond.begin()

    async def _part(self) -> None:
        # An EventSource comes back by itself, and meets the session as it is then.
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _commit(self) -> bool:
        """Commit; false where the response had to be replaced."""
        try:
            # After a commit that raised, what comes is the answer that tells of it.
            await self._exchange.apply(failed=self._spoiled)
        except SessionUnavailable as error:
            await self._refuse(error)
            return False
        except BaseException:
            self._spoiled = True
            raise
        return True

    def _dressed(self, message: Message) -> Message:
        cookie = self._exchange.set_cookie()
        vary = self._exchange.session.accessed
        if cookie is None and not vary:
            return message
        name = self._exchange.setup.attributes.name
        return {**message, "headers": response_headers(message, name, cookie, vary=vary)}

    async def _refuse(self, error: SessionUnavailable) -> bool:
        """Answer 503 in place of the application; false where its own answer has started."""
        if self._exchange.started or self._replaced:
            return self._replaced
        self._replaced = True
        for message in refusal(self._scope, _BODY, error.retry_after):
            await self._send(message)
        return True


class _Socket(_Conversation):
    """One WebSocket: the handshake's answer is its start, and a disconnect its end."""

    def __init__(
        self,
        exchange: Exchange,
        scope: Scope,
        send: Send,
        task: asyncio.Task[object] | None = None,
    ) -> None:
        super().__init__(exchange, scope, send, task)
        self._accepted = False
        self._disconnected = False

    def watch(self, receive: Receive) -> Receive:
        """Return *receive*, watched for the client's leaving."""

        async def watching() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._disconnected = True
            return message

        return watching

    def send(self, message: Message) -> Awaitable[None]:
        """Pass *message* on; a denial after the handshake becomes a close."""
        if self._replaced:
            return _nothing()
        if self._bond is not None and self._bond.over:
            return _left()
        kind = message["type"]
        if kind == "websocket.accept" and not self._accepted:
            return self._accept(message)
        if kind == "websocket.http.response.start":
            # A framework answers our 503 the only way it knows, also on a socket long open.
            return self._close_later() if self._accepted else self._start(message)
        return self._send(message)

    async def _accept(self, message: Message) -> None:
        if not await self._commit():
            return
        self._accepted = self._exchange.started = True
        cookie = self._exchange.set_cookie()
        if cookie is not None:
            headers = [*message.get("headers", ()), (b"set-cookie", cookie)]
            message = {**message, "headers": headers}
        await self._send(message)
        if self._exchange.session.accessed:
            self._bind()

    async def _part(self) -> None:
        # RFC 6455, section 7.4.1: 1008, a policy is violated.
        await self._send(
            {"type": "websocket.close", "code": 1008, "reason": "the session has ended"}
        )

    async def _close_later(self) -> None:
        self._replaced = True
        # RFC 6455, section 7.4.1 and the IANA registry: 1013, try again later.
        await self._send({"type": "websocket.close", "code": 1013, "reason": "try again later"})

    async def _refuse(self, error: SessionUnavailable) -> bool:
        if self._accepted and not self._replaced:
            await self._close_later()
            return True
        return await super()._refuse(error)

    def _client_gone(self, error: BaseException) -> bool:
        return self._disconnected or super()._client_gone(error)


async def _nothing() -> None:
    """Swallow a message of a response that was replaced."""


async def _left() -> None:
    """Say what a server says of a client that has left."""
    raise OSError("the session has ended, and what was served under it")


def _is_event_stream(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message.get("headers", ())
    )


def response_headers(
    message: Message, name: str, cookie: bytes | None, *, vary: bool
) -> list[tuple[bytes, bytes]]:
    """Return the headers of ``http.response.start`` with ours among them.

    Args:
        message: the application's.
        name: of our cookie.
        cookie: the value of our ``Set-Cookie``, ``None`` for none.
        vary: the answer depends on the cookie (CVE-2023-30861: else a cache gives it to others).
    """
    headers = list(message.get("headers", ()))
    if cookie is not None:
        # RFC 6265, section 4.1.1: at most one Set-Cookie of a name in a response.
        ours = name.encode("latin-1") + b"="
        headers = [
            (key, value)
            for key, value in headers
            if key.lower() != b"set-cookie" or not value.startswith(ours)
        ]
        headers.append((b"set-cookie", cookie))
        caching = b",".join(value for key, value in headers if key.lower() == b"cache-control")
        if not caching:
            headers.append((b"cache-control", b"no-store"))
        elif b"public" in caching.lower():
            logger.warning("a response that sets the session cookie says Cache-Control: public")
    if vary:
        _add_vary(headers)
    return headers


def _add_vary(headers: list[tuple[bytes, bytes]]) -> None:
    first = None
    for position, (key, value) in enumerate(headers):
        if key.lower() == b"vary":
            names = {each.strip().lower() for each in value.split(b",")}
            if names & {b"*", b"cookie"}:
                return
            first = position if first is None else first
    if first is None:
        headers.append((b"vary", b"Cookie"))
    else:
        key, value = headers[first]
        headers[first] = (key, value + b", Cookie")
