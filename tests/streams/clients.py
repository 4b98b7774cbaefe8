"""Clients of event streams as browsers are: they keep their id, come back, and stop when told.

Nothing here knows holdfast; each records what it saw, and the tests judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@dataclass(slots=True)
class Seen:
    """One event as a page would get it."""

    id: str
    type: str
    data: Any


@dataclass(slots=True)
class EventSource:
    """``EventSource`` of a browser (WHATWG HTML 9.2), with a short reconnect delay.

    Attributes:
        events: what was dispatched.
        statuses: the status of each answer, in order.
        comments: how many keep-alives came.
        retries: the delays that were asked for, in milliseconds.
        first_frame: seconds until the first byte of the last connection.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    last_id: str = ""
    events: list[Seen] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    retries: list[int] = field(default_factory=list)
    comments: int = 0
    errors: int = 0
    reconnect: bool = True
    delay: float = 0.05
    closed: bool = False
    on_event: Callable[[EventSource], None] | None = None
    task: asyncio.Task[None] | None = None

    def start(self) -> EventSource:
        self.task = asyncio.create_task(self.run())
        return self

    async def run(self) -> None:
        """Read until the server says stop, as a browser would."""
        async with client() as http:
            while not self.closed:
                try:
                    await self._connect(http)
                except (httpx.HTTPError, OSError):
                    self.errors += 1  # what a browser's network errors are: it comes back
                if not self.reconnect:
                    return
                if not self.closed:
                    await asyncio.sleep(self.delay)

    async def aclose(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def until(self, condition: Callable[[], object], timeout: float = 15) -> None:
        await until(condition, timeout, lambda: f"{self!r}"[:2000])

    @property
    def numbers(self) -> list[int]:
        return [
            event.data["n"]
            for event in self.events
            if isinstance(event.data, dict) and "n" in event.data
        ]

    def of(self, kind: str) -> list[Any]:
        return [event.data for event in self.events if event.type == kind]

    async def _connect(self, http: httpx.AsyncClient) -> None:
        headers = dict(self.headers)
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        async with http.stream("GET", self.url, headers=headers) as answer:
            self.statuses.append(answer.status_code)
            if answer.status_code != 200:
                self.closed = True
                return
            async for block in blocks(answer):
                self._dispatch(block)

    def _dispatch(self, block: list[str]) -> None:
        kind, data = "message", []
        for line in block:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not name:
                self.comments += 1
            elif name == "id":
                self.last_id = value
            elif name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "retry":
                self.retries.append(int(value))
        if data:
            self.events.append(Seen(self.last_id, kind, json.loads("\n".join(data))))
            if self.on_event is not None:
                self.on_event(self)


async def blocks(answer: httpx.Response) -> AsyncIterator[list[str]]:
    """Split a stream into its blocks; the last one, without its blank line, is dropped."""
    rest = b""
    async for chunk in answer.aiter_raw():
        *whole, rest = (rest + chunk).split(b"\n\n")
        for block in whole:
            yield block.decode().split("\n")


def client() -> httpx.AsyncClient:
    # Nothing here speaks TLS, and to read the authorities takes longer than most tests.
    return httpx.AsyncClient(timeout=httpx.Timeout(10, read=60), trust_env=False, verify=False)


async def until(
    condition: Callable[[], object], timeout: float = 15, told: Callable[[], str] = str
) -> None:
    """Wait until *condition* holds; fail with *told* if it does not."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {told()}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def event_source(url: str, **options: Any) -> AsyncIterator[EventSource]:
    source = EventSource(url, **options).start()
    try:
        yield source
    finally:
        await source.aclose()


def raw_request(port: int, target: str, *lines: str, method: str = "GET") -> tuple[int, bytes]:
    """Send a request line exactly as given, which HTTP libraries would tidy up."""
    import socket

    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", "Connection: close", *lines])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode("latin-1") + b"\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split(b" ", 2)[1]), answer
