"""What the tests of capture share: an application to be captured, and clients that come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.streams.asgi import Call

from holdfast import Settings
from holdfast.streams.capture.middleware import StreamCaptureMiddleware

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEY = "a-key-of-sixteen-characters-or-more"


def settings_of(**values: Any) -> Settings:
    """The settings of a captured application."""
    return Settings(
        **{"secret_key": KEY, "stream_capture": "/feed", "stream_heartbeat": 0.05, **values}
    )


class Event(NamedTuple):
    """What a page gets of an event."""

    kind: str
    data: str
    id: str


def events_of(text: str) -> list[Event]:
    """Read an event stream as a browser does (WHATWG HTML 9.2.6)."""
    found, last = [], ""
    for block in text.split("\n\n"):
        kind, data = "message", []
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                last = value
            elif name == "event":
                kind = value
            elif name == "data":
                data.append(value)
        if data:
            found.append(Event(kind, "\n".join(data), last))
    return found


def last_id(text: str) -> str:
    """The last event id that a browser holds after an event stream."""
    ids = [line[4:] for line in text.split("\n") if line.startswith("id: ")]
    return ids[-1] if ids else ""


class Feed:
    """An application whose every call sends what a test says to it.

    Attributes:
        calls: the scope of each call.
        ended: how each call ended, ``None`` for well.
    """

    def __init__(self, *, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.calls: list[Scope] = []
        self.ended: list[BaseException | None] = []
        self.headers = headers or []
        self.status = 200
        self.kind = b"text/event-stream"
        self._said: list[asyncio.Queue[bytes | BaseException | None]] = []
        self._script: list[bytes | BaseException | None] = []

    def script(self, *items: str | bytes | BaseException | None) -> None:
        """Have every later call say this, without being told; ``None`` ends it."""
        self._script = [each.encode() if isinstance(each, str) else each for each in items]

    def say(self, *items: str | bytes | BaseException | None, call: int = -1) -> None:
        """Have one call say more."""
        for each in items:
            self._said[call].put_nowait(each.encode() if isinstance(each, str) else each)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        self.calls.append(scope)
        said: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._said.append(said)
        for each in self._script:
            said.put_nowait(each)
        try:
            await self._answer(said, send)
        except BaseException as error:
            self.ended.append(error)
            raise
        self.ended.append(None)

    async def _answer(self, said: asyncio.Queue[Any], send: Send) -> None:
        headers = [(b"content-type", self.kind), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        while (item := await said.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            await send({"type": "http.response.body", "body": item, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def last_event_id(self, call: int = -1) -> str | None:
        """What one call was told of its client's last event."""
        found = dict(self.calls[call]["headers"]).get(b"last-event-id")
        return None if found is None else found.decode()


class Browser:
    """A client that keeps its cookies, and comes back as ``EventSource`` does."""

    def __init__(self, app: ASGIApp, **headers: str) -> None:
        self.headers = {"host": "site.test", **headers}
        self.cookies: dict[str, str] = {}
        self._app = app

    def get(
        self, path: str = "/feed", *, last: str | None = None, method: str = "GET", **headers: str
    ) -> Call:
        """Open a stream."""
        sent = {**self.headers, **headers}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if last is not None:
            sent["last-event-id"] = last
        call = Call(self._keeping, path, headers=sent)
        call._scope["method"] = method
        return call

    async def _keeping(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            for name, value in message.get("headers", ()):
                if name == b"set-cookie":
                    key, _, rest = value.decode().partition("=")
                    self.cookies[key] = rest.partition(";")[0]
            await send(message)

        await self._app(scope, receive, sending)


def headers_of(call: Call) -> dict[str, str]:
    """The headers of an answer."""
    (start,) = (m for m in call.sent if m["type"] == "http.response.start")
    return {name.decode(): value.decode() for name, value in start["headers"]}


def captured(app: ASGIApp, store: Any, **values: Any) -> StreamCaptureMiddleware:
    """*app* with capture around it."""
    return StreamCaptureMiddleware(app, settings=settings_of(**values), store=store)
