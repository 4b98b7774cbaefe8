"""One request spoken as ASGI messages, for what no HTTP client lets a test say or see."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Self

from tests.streams.clients import until

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Call:
    """A request to *app*, open while the ``async with`` block runs.

    Attributes:
        sent: every message that the app has sent.
    """

    def __init__(
        self, app: ASGIApp, path: str, *, kind: str = "http", headers: dict[str, str] | None = None
    ) -> None:
        path, _, query = path.partition("?")
        self.sent: list[Message] = []
        self._app = app
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._scope: dict[str, Any] = {
            "type": kind,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
            "root_path": "",
            "state": {},
        }
        if kind == "http":
            self._scope["method"] = "GET"
            self._inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        else:
            self._inbox.put_nowait({"type": "websocket.connect"})

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.task.done():
            self.leave()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.task, 2)
        if kind is None:
            assert self.task.done(), "it goes on although the client left"
            self.task.result()

    async def _run(self) -> None:
        async def send(message: Message) -> None:
            self.sent.append(message)

        await self._app(self._scope, self._inbox.get, send)

    def leave(self) -> None:
        kind = self._scope["type"]
        self._inbox.put_nowait({"type": f"{kind}.disconnect", "code": 1001})

    async def ended(self) -> None:
        await until(self.task.done, 5, lambda: f"{self.sent}")
        self.task.result()

    @property
    def status(self) -> int | None:
        starts = [m for m in self.sent if m["type"] == "http.response.start"]
        return starts[0]["status"] if starts else None

    @property
    def text(self) -> str:
        bodies = [m["body"] for m in self.sent if m["type"] == "http.response.body"]
        return b"".join(bodies).decode()

    @property
    def complete(self) -> bool:
        last = self.sent[-1]
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Type and data of each event."""
        found = []
        for block in self.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
            if "data" in fields:
                found.append((fields.get("event", "message"), json.loads(fields["data"])))
        return found

    @property
    def frames(self) -> list[Any]:
        """What a WebSocket was sent."""
        return [json.loads(m["text"]) for m in self.sent if m["type"] == "websocket.send"]

    @property
    def close_code(self) -> int | None:
        codes = [m["code"] for m in self.sent if m["type"] == "websocket.close"]
        return codes[0] if codes else None


def taking(app: ASGIApp, count: int) -> ASGIApp:
    """Return *app* for a client that takes *count* messages and no more, and stays connected."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        left = count

        async def send_some(message: Message) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                await asyncio.get_running_loop().create_future()
            await send(message)

        await app(scope, receive, send_some)

    return serve
