"""Streams against what they stand on: an emit against a raw XADD, fan-out against bare ASGI.

Run it as ``python -m tests.benchmarks.streams [rounds] [subscribers]``. Rounds are interleaved, so
that a slow moment of the machine falls on every contender alike; ratios are taken within a round.
The subscribers read over raw sockets in this process; what serves them is a uvicorn of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import selectors
import socket
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from tests.support.process import ServerProcess

from holdfast import EventStreamApp, RunPublisher
from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.streams.redis import RedisEventStore
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.testing import RedisServer

KIND = "node_output"
DATA = {"node": "writer", "output": "x" * 160}
PAYLOAD = json.dumps(DATA, separators=(",", ":"))
BLOCK = 250
FRAMES, INTERVAL = 40, 0.05
Results: TypeAlias = dict[str, list[tuple[float, ...]]]


# --- an emit --------------------------------------------------------------------------------------


def tuned(url: str) -> Redis:
    """redis-py at its best: no socket timeout (a task per command on 3.11), a short handshake."""
    return Redis.from_url(
        url,
        protocol=2,
        socket_timeout=None,
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        retry=Retry(NoBackoff(), 0),
        max_connections=200,
    )


async def timed(
    work: Callable[[int], Awaitable[object]], in_flight: int, calls: int
) -> tuple[float, float]:
    """Have *in_flight* tasks make *calls* calls together: microseconds and CPU us of each call."""

    async def caller(name: int) -> None:
        for _ in range(calls // in_flight):
            await work(name)

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller(name) for name in range(in_flight)))
    took, used = time.perf_counter() - start, time.process_time() - cpu
    return took / calls * 1e6, used / calls * 1e6


async def emits(url: str, rounds: int) -> None:
    """Measure an emit one at a time, from 100 tasks into one run, and into 100 runs."""
    async with AsyncExitStack() as stack:
        client = tuned(url)
        stack.push_async_callback(client.aclose)
        settings = Settings(redis_url=url)
        link = Link(settings)
        stack.push_async_callback(link.aclose)
        store = RedisEventStore(link, settings)
        one = RunPublisher("one", store=store)
        many = [RunPublisher(f"many-{name}", store=store) for name in range(100)]

        async def xadd(name: int) -> object:
            return await client.xadd("raw", {"type": KIND, "data": PAYLOAD}, maxlen=10_000)

        async def emit(name: int) -> object:
            return await one.emit(KIND, DATA)

        async def emit_to_many(name: int) -> object:
            return await many[name].emit(KIND, DATA)

        for title, in_flight, works in (
            ("one at a time", 1, {"raw XADD": xadd, "emit": emit}),
            ("100 tasks", 100, {"raw XADD": xadd, "emit": emit, "emit, 100 runs": emit_to_many}),
        ):
            results: Results = defaultdict(list)
            for _ in range(rounds + 1):
                blocks: Results = defaultdict(list)
                for _ in range(8):
                    for name, work in works.items():
                        blocks[name].append(await timed(work, in_flight, max(BLOCK, 4 * in_flight)))
                for name, found in blocks.items():
                    results[name].append(_medians(found))
            report(f"an emit, {title}", ["us", "CPU us"], results, warm_up=1)


# --- fan-out: the server --------------------------------------------------------------------------


class Bare:
    """The least an ASGI app can do: a shared list of frames, an integer cursor for each reader."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.sleepers: set[asyncio.Future[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send every frame from now on, until the client leaves."""
        sleeper = asyncio.get_running_loop().create_future()
        left = False

        async def listen() -> None:
            nonlocal left
            while (await receive())["type"] != "http.disconnect":
                pass
            left = True
            if not sleeper.done():
                sleeper.set_result(None)

        listening = asyncio.get_running_loop().create_task(listen())
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(_body(b"retry: 2000\n\n"))
        cursor = len(self.frames)
        while not left:
            while cursor < len(self.frames):
                await send(_body(self.frames[cursor]))
                cursor += 1
            sleeper = asyncio.get_running_loop().create_future()
            self.sleepers.add(sleeper)
            await sleeper
        self.sleepers.discard(sleeper)
        await listening

    def publish(self, data: dict[str, Any]) -> None:
        """Give a frame to everybody: the same bytes as holdfast's."""
        at = f"{time.time_ns() // 1_000_000}-0"
        body = json.dumps(data, separators=(",", ":"))
        self.frames.append(f"id: {at}\nevent: {KIND}\ndata: {body}\n\n".encode())
        sleepers, self.sleepers = self.sleepers, set()
        for sleeper in sleepers:
            if not sleeper.done():
                sleeper.set_result(None)


class Served:
    """Both contenders behind one server, and a control to have one of them publish."""

    def __init__(self) -> None:
        self.bare = Bare()
        self.streams: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve ``/bare``, holdfast's own paths, and ``/publish/<which>/<run>``."""
        if scope["type"] != "http":
            return
        if self.streams is None:
            self.streams = EventStreamApp()
            _many_files()
        if scope["path"] == "/bare":
            await self.bare(scope, receive, send)
        elif scope["path"].startswith("/publish/"):
            _, _, which, run_id = scope["path"].split("/")
            used = await self.publish(which, run_id)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send(_body(f"{used:.6f}".encode(), more=False))
        else:
            await self.streams(scope, receive, send)

    async def publish(self, which: str, run_id: str) -> float:
        """Publish ``FRAMES`` events, evenly, and return the CPU seconds that this took."""
        run = RunPublisher(run_id)
        await run.emit("hello")
        await asyncio.sleep(0.2)
        cpu = time.process_time()
        for _ in range(FRAMES):
            data = {"t": time.monotonic_ns(), **DATA}
            if which == "bare":
                self.bare.publish(data)
            else:
                await run.emit(KIND, data)
            await asyncio.sleep(INTERVAL)
        return time.process_time() - cpu


app = Served()


def _body(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


# --- fan-out: the readers -------------------------------------------------------------------------

_FRAME = re.compile(rb'data: \{"t":(\d+)')


class Measured(NamedTuple):
    """One contender in one round: CPU us of the server a delivery, latencies in milliseconds."""

    cpu_us: float
    p50: float
    p95: float


class Readers:
    """Subscribers over raw sockets, all in one selector."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self.latencies: list[float] = []
        self._selector = selectors.DefaultSelector()
        self._rest: dict[socket.socket, bytes] = {}
        for _ in range(count):
            self._rest[self._open(port, path)] = b""

    def _open(self, port: int, path: str) -> socket.socket:
        reader = request(port, path)
        answer = b""
        while b"retry: " not in answer:
            answer += reader.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        reader.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ)
        return reader

    def read(self, expected: int) -> None:
        """Read until *expected* events were taken by all readers together."""
        deadline = time.monotonic() + 60
        while len(self.latencies) < expected and time.monotonic() < deadline:
            for key, _ in self._selector.select(1):
                reader: Any = key.fileobj
                self._take(reader, reader.recv(1 << 20))

    def _take(self, reader: socket.socket, data: bytes) -> None:
        now = time.monotonic_ns()
        text = self._rest[reader] + data
        whole = text.rfind(b"\n\n") + 2 if b"\n\n" in text else 0
        self._rest[reader] = text[whole:]
        for found in _FRAME.finditer(text, 0, whole):
            self.latencies.append((now - int(found[1])) / 1e6)

    def close(self) -> None:
        """Hang up."""
        for reader in self._rest:
            reader.close()
        self._selector.close()


def request(port: int, path: str) -> socket.socket:
    """Send a GET and return the connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return connection


def fan_out(port: int, which: str, run_id: str, subscribers: int) -> Measured:
    """Have *subscribers* readers take what is published to them."""
    path = "/bare" if which == "bare" else f"/runs/{run_id}/events/stream"
    readers = Readers(port, path, subscribers)
    control = request(port, f"/publish/{which}/{run_id}")
    readers.read(FRAMES * subscribers)
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"0"):
        answer += control.recv(65536)
    control.close()
    readers.close()
    got = len(readers.latencies)
    assert got == FRAMES * subscribers, f"{which}: {got} of {FRAMES * subscribers} were delivered"
    found = re.search(rb"\r\n(\d+\.\d+)\r\n", answer)
    assert found
    tiles = statistics.quantiles(readers.latencies, n=20)
    return Measured(float(found[1]) / got * 1e6, tiles[9], tiles[18])


@contextmanager
def served(redis: RedisServer) -> Iterator[ServerProcess]:
    """A uvicorn of one process with both contenders."""
    command = ["-m", "uvicorn", f"{__spec__.name}:app", "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--loop", "asyncio", "--http", "httptools", "--log-level", "warning"]
    env = {"HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_STREAM_ACCESS": "open"}
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess([*command, "--no-access-log"], Path(folder) / "log", env)
        try:
            server.start()
            yield server
        finally:
            server.close()


def fan_outs(redis: RedisServer, rounds: int, subscribers: int) -> None:
    """Measure SSE to *subscribers* readers of one run against the same bytes from a bare app."""
    _many_files()
    results: Results = defaultdict(list)
    with served(redis) as server:
        for number in range(rounds + 1):
            for which in ("bare", "holdfast"):
                found = fan_out(server.port, which, f"fan-out-{number}", subscribers)
                results[which].append(found)
                time.sleep(0.5)  # until the server has noticed that they left
    columns = ["CPU us/delivery", "P50 ms", "P95 ms"]
    report(f"an event to {subscribers} SSE subscribers", columns, results, warm_up=1)


def _many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))


# --- telling --------------------------------------------------------------------------------------


def report(title: str, columns: list[str], results: Results, warm_up: int) -> None:
    """Print medians and spreads, and each contender as a multiple of the first."""
    names = list(results)
    rounds = len(results[names[0]]) - warm_up
    print(f"\n{title}, median (least to most) of {rounds} rounds")
    for index, column in enumerate(columns):
        for name in names:
            told = _spread([each[index] for each in results[name][warm_up:]])
            print(f"  {name:20}{told:>34} {column}")
        for name in names[1:]:
            pairs = zip(results[name][warm_up:], results[names[0]][warm_up:], strict=True)
            ratios = [mine[index] / theirs[index] for mine, theirs in pairs]
            print(f"  {name + ' / ' + names[0]:30}{_spread(ratios, 2):>24} {column}")


def _spread(values: list[float], digits: int = 1) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def _medians(found: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(statistics.median(column) for column in zip(*found, strict=True))


def main() -> None:
    """Measure on servers of our own."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    subscribers = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        asyncio.run(emits(redis.url, rounds))
        fan_outs(redis, rounds, subscribers)


if __name__ == "__main__":
    main()
