"""The WSGI door to sessions: the commit before an answer's first byte, and again at its end.

PEP 3333 alone: whom a cookie lets in lies in ``door.py``, what is decided and stored in
``commit.py``, all of it driven in the server's thread. No event loop runs here.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.endings import BOND_KEY
from holdfast.errors import ConfigurationError, SessionUnavailable
from holdfast.sessions.doors.bond import bound
from holdfast.sessions.doors.conversation import UNREACHABLE
from holdfast.sessions.doors.door import UNSET, Door, Unset, given_of
from holdfast.sessions.doors.headers import MORE_HEADERS, response_headers
from holdfast.sessions.request.commit import apply, asked_to_end, conclude, planned
from holdfast.sessions.session import ENVIRON_KEY, Session
from holdfast.sessions.stores.sync import driven
from holdfast.sessions.sync_session import EnvironSession
from holdfast.startup import RETRY_AFTER_SECONDS, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeAlias
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from holdfast.sessions.cookie import SameSite
    from holdfast.sessions.request.exchange import Exchange
    from holdfast.sessions.store import SessionStore
    from holdfast.settings import Settings

    Headers: TypeAlias = list[tuple[str, str]]

logger = logging.getLogger("holdfast.sessions")

_REFUSED = "503 Service Unavailable"


class WSGISessionMiddleware:
    """Server-side sessions at ``environ["holdfast.session"]``, for any WSGI application.

    A handler finds a :class:`SyncSession` there, by itself or by ``get_session(environ)``. It is
    stored, and its cookie set, when the first part of the answer leaves; what is written while the
    rest of it is made is stored at its end.

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
        ConfigurationError: the settings or arguments cannot work.
    """

    def __init__(  # noqa: PLR0913 - as SessionMiddleware
        self,
        app: WSGIApplication,
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
        self.app = app
        given = given_of(
            secret_key,
            cookie=session_cookie,
            path=path,
            same_site=same_site,
            https_only=https_only,
            domain=domain,
            partitioned=partitioned,
        )
        self._door = Door(settings, given, max_age, store, SessionUnavailable, EnvironSession)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if isinstance(environ.get(ENVIRON_KEY), Session):
            # Mounted twice, the outer one is in charge.
            return self.app(environ, start_response)
        return under(self._door, self.app, environ, start_response)


def under(
    door: Door, app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Have *app* serve a request with the session that *door* opens for it."""
    if not may_serve(door, environ):
        return refuse(start_response, RETRY_AFTER_SECONDS)
    connection = connection_of(environ)
    exchange = driven(door.open(connection))
    exchange.scope = connection
    environ[ENVIRON_KEY] = exchange.session
    environ[BOND_KEY] = partial(bound, exchange)
    return Answer(exchange, start_response).of(app, environ)


def connection_of(environ: WSGIEnvironment) -> dict[str, Any]:
    """Return what the door and the index ask of a connection, as an ASGI scope has it."""
    headers = []
    for name, key in ((b"cookie", "HTTP_COOKIE"), (b"user-agent", "HTTP_USER_AGENT")):
        value = environ.get(key)
        if value:
            # PEP 3333 has bytes as characters; a test's client may say more, and none is ours.
            headers.append((name, value.encode("latin-1", "replace")))
    root, path = environ.get("SCRIPT_NAME", ""), environ.get("PATH_INFO", "")
    if not (root.isascii() and path.isascii()):
        root, path = _text(root), _text(path)
    address = environ.get("REMOTE_ADDR")
    return {
        "headers": headers,
        "path": root + path,
        "root_path": root,
        "client": (address, 0) if address else None,
    }


def _text(path: str) -> str:
    # PEP 3333: the bytes of the path, each as one character.
    return path.encode("latin-1").decode("utf-8", "replace")


def may_serve(door: Door, environ: WSGIEnvironment) -> bool:
    """Whether requests may be served, as far as the configuration goes; the log says why not."""
    if environ.get("wsgi.multiprocess") and not door.own_store:
        try:
            door.runtime.settings.check_workers(2)
        except ConfigurationError as error:
            door.required.tell(error)
            return False
    return door.required.met or door.required.holds_sync()


class Answer:
    """One response on its way: commits before its first byte leaves, and again at its end.

    Args:
        exchange: the session.
        start_response: the server's.
    """

    def __init__(self, exchange: Exchange, start_response: StartResponse) -> None:
        self._exchange = exchange
        self._server = start_response
        self._head: tuple[str, Headers, Any] | None = None
        self._write: Callable[[bytes], object] | None = None
        self._parts: Iterable[bytes] = ()
        self._next: Iterator[bytes] = iter(())
        self._refused = False
        self._failed = False
        self._environ: WSGIEnvironment = {}

    def of(self, app: WSGIApplication, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Return the body that *app* answers with."""
        self._environ = environ
        try:
            parts = self._parts = app(environ, self.start_response)
            if self._head is not None and _is_whole(parts, environ):
                parts = parts if self._begin() else [UNREACHABLE]
                self._exchange.release()
                return parts
            self._next = iter(parts)
        except BaseException as error:
            body = self._fail(error)
            self.close()
            if body is None:
                raise
            return [body]
        return self

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        """Keep the head back until the first byte: until then the session may be written."""
        if self._exchange.started:
            # Too late to change it: the server raises what is in exc_info.
            return self._server(status, headers, exc_info)
        if self._head is not None and exc_info is None:
            raise AssertionError("start_response() was called twice, and without exc_info")
        self._head = status, list(headers), exc_info
        return self.write

    def write(self, data: bytes) -> None:
        """Send *data*, as the old way of PEP 3333 has it."""
        if self._begin() and self._write is not None:
            self._write(data)

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> bytes:
        """Return the next part; the first one after the commit."""
        if self._refused:
            raise StopIteration
        try:
            part = next(self._next)
        except StopIteration:
            if self._exchange.started:
                self._store_more()
            elif self._head is not None and not self._begin():
                return UNREACHABLE
            raise
        except BaseException as error:
            body = self._fail(error)
            if body is None:
                raise
            return body
        # Without a head it is the server that complains.
        return part if self._head is None or self._begin() else UNREACHABLE

    def close(self) -> None:
        """Store what was written after the first byte; the server is done, or the client gone."""
        try:
            close = getattr(self._parts, "close", None)
            if close is not None:
                close()
        finally:
            self._finish()
            self._exchange.release()

    def _store_more(self) -> None:
        """Store what the body wrote: who has the last of it may ask anew before it is closed."""
        # It is tried again at the close, and then told.
        with suppress(Exception):
            driven(apply(self._exchange))

    def _finish(self) -> None:
        if self._refused or self._failed or not self._exchange.started:
            return
        try:
            driven(apply(self._exchange))
        except SessionUnavailable as error:
            # The answer is out, so nobody else is left to be told.
            logger.error("what was written after the response had started is lost: %s", error)  # noqa: TRY400

    def _begin(self) -> bool:
        """Commit and send the head, unless that was done; false where it had to be replaced."""
        if self._exchange.started or self._head is None:
            return not self._refused
        try:
            committed(self._exchange)
        except SessionUnavailable as error:
            self._refuse(error)
            return False
        except BaseException:
            self._failed = True
            raise
        self._exchange.started = True
        status, headers, exc_info = self._head
        self._write = self._server(status, self._dressed(headers), exc_info)
        return True

    def _dressed(self, headers: Headers) -> Headers:
        cookie, vary = self._exchange.set_cookie(), self._exchange.session.accessed
        if cookie is None and not vary:
            return headers
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        name = self._exchange.setup.attributes.name
        more = self._environ.get(MORE_HEADERS, ())
        dressed = response_headers({"headers": raw}, name, cookie, vary=vary, more=more)
        return [
            (canonical(name.decode("latin-1")), value.decode("latin-1")) for name, value in dressed
        ]

    def _fail(self, error: BaseException) -> bytes | None:
        """Deal with what the application raised; return the body where it is answered here."""
        exchange = self._exchange
        self._failed = True
        if asked_to_end(exchange, error):
            try:
                driven(apply(exchange, failed=True))
            except SessionUnavailable as away:
                logger.error("a session that was to be destroyed may live on: %s", away)  # noqa: TRY400
        if isinstance(error, SessionUnavailable) and not exchange.started and not self._refused:
            self._refuse(error)
            return UNREACHABLE
        return None

    def _refuse(self, error: SessionUnavailable) -> None:
        """Answer 503 in place of the application."""
        self._refused = True
        refuse(self._server, error.retry_after)


def _is_whole(parts: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Whether nothing of the application runs after it, so that the server may count or map it."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(parts, (list, tuple)) or (
        isinstance(wrapper, type) and isinstance(parts, wrapper)
    )


def committed(exchange: Exchange) -> None:
    """Bring the store to what the handler did so far, in this thread.

    Raises:
        SessionUnavailable, SessionTooLarge, TypeError: as ``Session.save``.
    """
    plan = planned(exchange)
    if plan.decision.commands:
        driven(apply(exchange, plan))
    else:
        conclude(exchange, plan.decision)


def canonical(name: str) -> str:
    """Return a header's name as people write it, where ASGI has it in lower case."""
    return _NAMES.get(name, name)


_NAMES = {"set-cookie": "Set-Cookie", "vary": "Vary", "cache-control": "Cache-Control"}


def refuse(start_response: StartResponse, retry_after: int) -> list[bytes]:
    """Answer 503 in place of an application."""
    start, _ = refusal({"type": "http"}, UNREACHABLE, retry_after)
    headers = [(name.decode().title(), value.decode()) for name, value in start["headers"]]
    start_response(_REFUSED, headers)
    return [UNREACHABLE]
