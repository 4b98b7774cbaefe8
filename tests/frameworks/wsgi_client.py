"""A browser for WSGI applications, and the way by which the suite of middlewares reaches them."""

from __future__ import annotations

import inspect
import io
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import anyio.to_thread

from holdfast.sessions.sync_session import EnvironSession, SyncSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.sessions.outage.fallback import FallbackSessionStore
    from holdfast.testing.session_middleware import Handle


@dataclass
class Answer:
    """What a WSGI server would have sent."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)

    @property
    def code(self) -> int:
        return int(self.status.split()[0])

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def one(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def set_cookie(self) -> str | None:
        return self.one("set-cookie")


def environ_of(path: str = "/", cookie: str | None = None, **more: Any) -> WSGIEnvironment:
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTP_USER_AGENT": "a browser",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if cookie is not None:
        environ["HTTP_COOKIE"] = cookie
    return environ | more


def answer_of(app: WSGIApplication, environ: WSGIEnvironment, *, take: int | None = None) -> Answer:
    """Have *app* answer, as a server does; *take*: the client leaves after that many parts."""
    answer = Answer()

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        if exc_info is not None and answer.parts:
            raise exc_info[1]
        assert exc_info is not None or not answer.status
        answer.status, answer.headers = status, headers
        return answer.parts.append

    body = app(environ, start_response)
    try:
        for part in body:
            assert answer.status, "a part before the head"
            answer.parts.append(part)
            if take is not None and len(answer.parts) >= take:
                break
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return answer


def settle(store: FallbackSessionStore) -> None:
    """Wait until the first recovery is over to its end, which empties the copies once more."""
    assert store.link.ready_sync()
    deadline = time.monotonic() + 20
    while store._recovery.replayed:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@dataclass
class Browser:
    """One browser in front of a WSGI application; it keeps cookies as told."""

    app: WSGIApplication
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str = "/", *, take: int | None = None, **more: Any) -> Answer:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items()) or None
        answer = answer_of(self.app, environ_of(path, cookie, **more), take=take)
        for line in answer.all("set-cookie"):
            pair, _, rest = line.partition(";")
            name, _, value = pair.partition("=")
            if "1970" in rest:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return answer


class AwaitedSession(EnvironSession):
    """As handlers of the suite take it, which await."""

    async def save(self) -> None:  # type: ignore[override]
        SyncSession.save(self)


def session_wsgi_app(
    handle: Handle, session_of: Callable[[WSGIEnvironment], Any]
) -> WSGIApplication:
    """Return a WSGI application that has *handle* use the session and answers what it returned."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        result = awaited(handle, session_of(environ))
        start_response("200 OK", [])
        return [json.dumps(result).encode()]

    return app


def awaited(handle: Handle, session: Any) -> Any:
    """Return what *handle* returns, from a worker thread of an event loop."""
    if type(session) is EnvironSession:
        session.__class__ = AwaitedSession

    async def handled() -> Any:
        result = handle(session)
        return await result if inspect.isawaitable(result) else result

    return anyio.from_thread.run(handled)


def asgi_of(app: WSGIApplication) -> ASGIApp:
    """Return *app* for who speaks ASGI; each request in a thread of its own."""

    async def bridge(scope: Scope, receive: Receive, send: Send) -> None:
        cookies = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
        environ = environ_of(scope["path"], cookies[0] if cookies else None)
        answer = await anyio.to_thread.run_sync(
            answer_of, app, environ, limiter=anyio.CapacityLimiter(1)
        )
        headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in answer.headers]
        await send({"type": "http.response.start", "status": answer.code, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    return bridge
