"""The least of an HTTP client: one connection of its own, one cookie, as fast as a test can be."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from types import TracebackType

COOKIE = "session"


class Told(NamedTuple):
    """An answer.

    Attributes:
        status: of it; 0 where none came.
        body: its JSON; ``None`` where it is none.
        set_cookie: the value of our cookie that it sets, ``""`` where it takes it away.
        seconds: it took.
    """

    status: int
    body: Any
    set_cookie: str | None
    seconds: float


class Wire:
    """One keep-alive connection to a server on this machine; opened again where it is lost.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def ask(self, method: str, path: str, cookie: str | None = None) -> Told:
        """Send one request and return what is told."""
        begun = time.perf_counter()
        try:
            status, headers, body = await self._exchange(method, path, cookie)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return Told(0, None, None, time.perf_counter() - begun)
        taken = time.perf_counter() - begun
        return Told(status, _json(body), _cookie(headers), taken)

    async def _exchange(
        self, method: str, path: str, cookie: str | None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        held = f"Cookie: {COOKIE}={cookie}\r\n" if cookie else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{held}\r\n"
        writer.write(head.encode())
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.partition(": ")[::2] for line in lines if line]
        headers = [(name.lower(), value) for name, value in pairs]
        length = next((int(value) for name, value in headers if name == "content-length"), 0)
        return int(first.split(" ")[1]), headers, await reader.readexactly(length)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _cookie(headers: list[tuple[str, str]]) -> str | None:
    for name, value in headers:
        if name == "set-cookie" and value.startswith(f"{COOKIE}="):
            content, _, attributes = value.partition("=")[2].partition(";")
            # Not of the whole line: one value in a hundred thousand has these four characters.
            return "" if "1970" in attributes or content in {"null", '""'} else content
    return None
