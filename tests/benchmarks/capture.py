"""What capture costs an endpoint: its events with and without, to one reader, by the application.

Run it as ``python -m tests.benchmarks.capture [rounds]``; without a number it also puts the table
into its page. An ASGI application is called in this process, by no server: what is measured is the
CPU time and the time of an event from the application's ``send`` to the client's, beside the same
application bare. Rounds are interleaved, so that a slow moment of the machine falls on both.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast import StreamCaptureMiddleware
from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.streams.publishing.runs import close_runs
from holdfast.streams.select import close_hubs
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.streams.stores.redis import RedisEventStore
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/benchmarks.md"
BEGIN, END = "<!-- capture -->\n", "<!-- /capture -->\n"
EVENTS = 2000
EVENT = b'event: token\ndata: {"node": "writer", "output": "' + b"x" * 160 + b'"}\n\n'
KEY = "a-key-of-sixteen-characters-or-more"


class Took(NamedTuple):
    """One round of one contender: CPU us of an event, and milliseconds until it is sent."""

    cpu_us: float
    p50_ms: float


class Endpoint:
    """An endpoint that says one event after the other, and when; it lets each one arrive."""

    def __init__(self) -> None:
        self.said: list[float] = []
        self.arrived = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(EVENTS):
            self.arrived.clear()
            self.said.append(time.perf_counter())
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
            await self.arrived.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def measure(endpoint: Endpoint, app: ASGIApp) -> Took:
    """Read one answer of *app*, in which *endpoint* is."""
    heard: list[float] = []

    async def send(message: Message) -> None:
        if b"data:" in message.get("body", b""):
            heard.append(time.perf_counter())
            endpoint.arrived.set()

    inbox: asyncio.Queue[Any] = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    names = {"path": "/feed", "raw_path": b"/feed", "query_string": b"", "root_path": ""}
    scope = {"type": "http", "method": "GET", "headers": [], **names}
    endpoint.said.clear()
    cpu = time.process_time()
    await app(scope, inbox.get, send)
    used = time.process_time() - cpu
    waits = [then - now for now, then in zip(endpoint.said, heard, strict=True)]
    return Took(used / EVENTS * 1e6, statistics.median(waits) * 1e3)


async def run(url: str, rounds: int) -> dict[str, list[Took]]:
    """Measure all contenders in turn."""
    settings = Settings(secret_key=KEY, stream_capture="/feed", redis_url=url)
    link = Link(settings)
    stores = {"memory": MemoryEventStore(), "Redis": RedisEventStore(link, settings)}
    endpoint = Endpoint()
    contenders: dict[str, ASGIApp] = {"bare": endpoint}
    for name, store in stores.items():
        contenders[name] = StreamCaptureMiddleware(endpoint, settings=settings, store=store)
    found: dict[str, list[Took]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, app in contenders.items():
            found[name].append(await measure(endpoint, app))
    for store in stores.values():
        await close_runs(store)
        await close_hubs(store)
    await link.aclose()
    # The first round is the warming up.
    return {name: took[1:] for name, took in found.items()}


def table(found: dict[str, list[Took]]) -> list[str]:
    """Return the lines of the table."""
    head = ["| an event, one at a time | CPU | from the app to its client |", "|---|---|---|"]
    words = {"bare": "bare", "memory": "captured, in memory", "Redis": "captured, in Redis"}
    rows = [
        f"| {words[name]} | {_spread([each.cpu_us for each in took], 0)} µs "
        f"| {_spread([each.p50_ms for each in took], 3)} ms |"
        for name, took in found.items()
    ]
    return head + rows


def _spread(values: Sequence[float], digits: int) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def write(lines: Sequence[str]) -> None:
    """Put the table into its page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after)


def main() -> None:
    """Measure on a server of our own."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else None
    with redis_server() as redis:
        lines = table(asyncio.run(run(redis.url, rounds or 7)))
    print("\n".join(lines))
    if rounds is None:
        write(lines)


if __name__ == "__main__":
    main()
