"""Many readers of event streams on raw sockets: a thousand of them cost a test next to nothing.

Each behaves as ``EventSource`` (WHATWG HTML 9.2) but for its delay, and goes to the next of its
addresses whenever it was let go, as behind a load balancer. What it saw, the tests judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.streams.clients import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


@dataclass(slots=True)
class Reader:
    """One reader of one run.

    Attributes:
        ports: where to connect, in turn.
        path: the stream.
        delay: seconds before it comes back, at most; whatever the server asks for.
        come_back: whether it does; else it reads once.
        numbers: the ``n`` of each event.
        producers: the ``p`` of each, beside it.
        statuses: of each answer.
        whole: answers that ended as HTTP says they must (RFC 9112 7.1), not by a cut.
        retries: the delays that were asked for, in milliseconds.
        others: the types of what else came.
        cuts: connections that failed, or ended in the middle.
        over: it was told by a status that nothing follows.
        digest: of the data of all events.
    """

    ports: Sequence[int]
    path: str
    delay: float = 0.05
    come_back: bool = True
    last_id: str = ""
    numbers: list[int] = field(default_factory=list)
    producers: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    retries: list[int] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    whole: int = 0
    cuts: int = 0
    over: bool = False
    digest: Any = field(default_factory=hashlib.sha256)
    task: asyncio.Task[None] | None = None

    def start(self) -> Reader:
        self.task = asyncio.create_task(self._follow())
        return self

    async def aclose(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    @property
    def done(self) -> bool:
        return self.task is not None and self.task.done()

    async def _follow(self) -> None:
        turn = 0
        while not self.over:
            try:
                await self._connect(self.ports[turn % len(self.ports)])
            except (OSError, EOFError):
                self.cuts += 1
            if not self.come_back:
                return
            turn += 1
            await asyncio.sleep(self.delay * random.random())

    async def _connect(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            seen = f"Last-Event-ID: {self.last_id}\r\n" if self.last_id else ""
            head = f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{seen}\r\n"
            writer.write(head.encode())
            status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
            self.statuses.append(status)
            if status != 200:
                self.over = True
                return
            async for block in _blocks(reader):
                self._dispatch(block)
            self.whole += 1
        finally:
            writer.transport.abort()

    def _dispatch(self, block: bytes) -> None:
        kind, data, seen = "message", b"", None
        for line in block.split(b"\n"):
            name, _, value = line.partition(b": ")
            if name == b"id":
                seen = value.decode()
            elif name == b"event":
                kind = value.decode()
            elif name == b"data":
                data = value
            elif name == b"retry":
                self.retries.append(int(value))
        if seen is not None:
            self.last_id = seen
        if not data:
            return
        if kind == "t":
            body = json.loads(data)
            # On a stream of many runs the data is a frame around it.
            body = body["data"] if "kind" in body else body
            self.numbers.append(body["n"])
            self.producers.append(body.get("p", ""))
            self.digest.update(data)
        else:
            self.others.append(kind)


async def _blocks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Take the chunks apart (RFC 9112 7.1), and what they carry into blocks."""
    rest = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        *whole, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n\n")
        for block in whole:
            yield block


@contextlib.asynccontextmanager
async def crowd(
    count: int, ports: Sequence[int], path: str, **options: Any
) -> AsyncIterator[list[Reader]]:
    """Have *count* readers, spread over *ports*; they leave at the end."""
    readers = []
    for n in range(count):
        turned = [*ports[n % len(ports) :], *ports[: n % len(ports)]]
        readers.append(Reader(turned, path, **options).start())
        if n % 100 == 99:  # a backlog of connections is the kernel's to refuse
            await asyncio.sleep(0.05)
    try:
        yield readers
    finally:
        for reader in readers:
            await reader.aclose()


async def all_of(
    readers: Sequence[Reader], condition: Callable[[Reader], object], timeout: float = 15
) -> None:
    """Wait until *condition* holds for each reader."""

    def told() -> str:
        missing = [reader for reader in readers if not condition(reader)]
        return f"{len(missing)} of {len(readers)}, such as {missing[0]!r}"[:2000]

    await until(lambda: all(map(condition, readers)), timeout, told)
