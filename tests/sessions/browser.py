"""A browser for tests: it keeps cookies as told by the headers, and speaks raw ASGI."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.sessions.session import get_session
from holdfast.sessions.stores.memory import MemorySessionStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from holdfast.sessions.store import Change, Missing, Outcome, Record, SessionKey

Handle = Callable[[Any], Any]


@dataclass
class Answer:
    """What came back on one connection."""

    messages: list[Message]

    @property
    def start(self) -> Message:
        return next(m for m in self.messages if m["type"].endswith(("response.start", "accept")))

    @property
    def status(self) -> int:
        status: int = self.start["status"]
        return status

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        headers = self.start.get("headers", ())
        return [v.decode("latin-1") for k, v in headers if k.lower() == name.encode()]

    def one(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def set_cookie(self) -> str | None:
        return self.one("set-cookie")

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages if m["type"].endswith("body"))

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]


@dataclass
class Browser:
    """One browser in front of an ASGI application."""

    app: ASGIApp
    cookies: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str = "/", **options: Any) -> Answer:
        """Send a GET. See :meth:`scope` for the options."""
        return await self.run(self.scope(path, **options), [{"type": "http.request", "body": b""}])

    async def socket(self, path: str = "/", *received: Message, **options: Any) -> Answer:
        """Open a WebSocket on which *received* comes in, then a disconnect."""
        scope = {**self.scope(path, **options), "type": "websocket", "scheme": "ws"}
        incoming = [{"type": "websocket.connect"}, *received]
        return await self.run(scope, [*incoming, {"type": "websocket.disconnect", "code": 1000}])

    def scope(
        self,
        path: str = "/",
        *,
        cookie: bytes | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        root_path: str = "",
        extensions: Mapping[str, Any] | None = None,
    ) -> Scope:
        """Return a connection scope with our cookies, or exactly *cookie* as the header."""
        if cookie is None:
            cookie = "; ".join(f"{k}={v}" for k, v in self.cookies.items()).encode()
        ours = ((b"cookie", cookie),) if cookie else ()
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": root_path,
            "query_string": b"",
            "headers": [(b"host", b"test"), (b"accept", b"*/*"), *headers, *ours],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
            "extensions": {"websocket.http.response": {}} if extensions is None else extensions,
        }

    async def run(self, scope: Scope, incoming: list[Message]) -> Answer:
        """Run the application to its end and keep the cookies that it sets."""
        answer = Answer([])

        async def receive() -> Message:
            return incoming.pop(0) if incoming else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answer.messages.append(message)

        try:
            await self.app(scope, receive, send)
        finally:
            self.keep(answer)
        return answer

    def keep(self, answer: Answer) -> None:
        """Do what the answer's ``Set-Cookie`` says."""
        for message in answer.messages:
            for name, value in message.get("headers", ()):
                if name == b"set-cookie":
                    key, _, rest = value.decode().partition("=")
                    if "1970" in rest:
                        self.cookies.pop(key, None)
                    else:
                        self.cookies[key] = rest.partition(";")[0]


def app_of(handle: Handle, headers: tuple[tuple[bytes, bytes], ...] = ()) -> ASGIApp:
    """Return an application that has *handle* use the session, then answers what it returned."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        result = handle(get_session(scope))
        if inspect.isawaitable(result):
            result = await result
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        await send({"type": "http.response.body", "body": repr(result).encode()})

    return app


class Doing:
    """An application whose handler can be swapped between requests."""

    def __init__(self) -> None:
        self.handle: Handle = dict
        self.headers: tuple[tuple[bytes, bytes], ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await app_of(self.handle, self.headers)(scope, receive, send)


class CountingStore(MemorySessionStore):
    """A memory store that tells which verbs were asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        self.asked.append("load")
        return await super().load(key, idle_timeout=idle_timeout)

    async def create(
        self,
        key: SessionKey,
        fields: Mapping[str, bytes],
        *,
        max_age: float,
        idle_timeout: float = 0.0,
    ) -> Outcome:
        self.asked.append("create")
        return await super().create(key, fields, max_age=max_age, idle_timeout=idle_timeout)

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        self.asked.append(f"save {sorted(change.set)} {sorted(change.removed)}")
        return await super().save(key, change, idle_timeout=idle_timeout)

    async def touch(
        self, key: SessionKey, *, idle_timeout: float, interval: float = 0.0
    ) -> Outcome:
        self.asked.append("touch")
        return await super().touch(key, idle_timeout=idle_timeout, interval=interval)

    async def delete(self, id_hash: str) -> Outcome:
        self.asked.append("delete")
        return await super().delete(id_hash)

    def told(self) -> list[str]:
        """Return what was asked since the last call."""
        asked, self.asked = self.asked, []
        return asked
