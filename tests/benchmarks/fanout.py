"""One event to many readers: what a delivery costs, how late it is, and who is held up.

Run it as ``python -m tests.benchmarks.fanout [rounds] [subscribers] [--only PART] [--loop LOOP]``.
Rounds are interleaved, so that a slow moment of the machine falls on every contender alike; ratios
are taken within a round. The subscribers read over raw sockets in this process, on another core
than the uvicorn that serves them. Measured are ``deliveries``, ``fifty``, ``rates``, ``stalls``:

* the CPU time of a delivery: a bare ASGI app sending the same bytes, holdfast, and sse-starlette
  with an ``XREAD`` for each client;
* latency against the publisher's clock at fifty events a second of one run, beside the bare app's,
  and what a reader waits from the moment at which an event was due: a publisher who shares a loop
  with a server that is busy is late, and a late one does not see that its readers wait;
* the same at rising rates, and where the CPU time goes;
* the latency of a hundred readers and the memory of the server while one of them takes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import select
import socket
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from tests.benchmarks.measures import tuned
from tests.benchmarks.streams import DATA, KIND, Results, report
from tests.support.process import ServerProcess

from holdfast import EventStreamApp, RunPublisher
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.testing import RedisServer

FRAMES, INTERVAL = 40, 0.05


# --- the server -----------------------------------------------------------------------------------


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


class Polled:
    """sse-starlette's ``EventSourceResponse`` with an XREAD for each client."""

    def __init__(self) -> None:
        self._client = tuned(os.environ["HOLDFAST_REDIS_URL"], max_connections=20_000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send every entry from now on, until the client leaves."""
        from sse_starlette import EventSourceResponse

        answer = EventSourceResponse(self._entries("polled"), sep="\n")
        await answer(scope, receive, send)

    async def _entries(self, key: str) -> AsyncIterator[dict[str, Any]]:
        yield {"retry": 2000}
        last = "$"
        while True:
            found: Any = await self._client.xread({key: last}, block=10_000)
            for _, entries in found or ():
                for at, fields in entries:
                    last = at.decode()
                    event, data = fields[b"type"].decode(), fields[b"data"].decode()
                    yield {"id": last, "event": event, "data": data}

    async def publish(self, data: dict[str, Any]) -> None:
        """Append an entry."""
        fields: Any = {"type": KIND, "data": json.dumps(data, separators=(",", ":"))}
        await self._client.xadd("polled", fields, maxlen=10_000)


class Served:
    """All contenders behind one server, and a control to have one of them publish."""

    def __init__(self) -> None:
        self.bare = Bare()
        self.polled: Polled | None = None
        self.streams: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve ``/bare``, ``/polled``, holdfast's own paths, and ``/publish/<which>/<run>``."""
        if scope["type"] != "http":
            return
        if self.streams is None or self.polled is None:
            self.streams, self.polled = EventStreamApp(), Polled()
            many_files()
        if scope["path"] == "/bare":
            await self.bare(scope, receive, send)
        elif scope["path"] == "/polled":
            await self.polled(scope, receive, send)
        elif scope["path"].startswith("/publish/"):
            _, _, which, run_id = scope["path"].split("/")
            query = {k: float(v) for k, v in parse_qsl(scope["query_string"].decode())}
            used = await self.publish(which, run_id, **query)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send(_body("{:.6f} {:.6f}".format(*used).encode(), more=False))
        else:
            await self.streams(scope, receive, send)

    async def publish(
        self,
        which: str,
        run_id: str,
        frames: float = FRAMES,
        interval: float = INTERVAL,
        fill: float = 0,
    ) -> tuple[float, float]:
        """Publish *frames* events evenly; return the CPU seconds of it, ours and the kernel's."""
        run = RunPublisher(run_id)
        await run.emit("hello")
        await asyncio.sleep(0.2)
        filling = {"fill": "x" * int(fill)} if fill else {}
        before, due = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        for _ in range(int(frames)):
            now = time.monotonic_ns()
            data = {"t": now, "late": now - int(due * 1e9), **DATA, **filling}
            if which == "bare":
                self.bare.publish(data)
            elif which == "polled" and self.polled is not None:
                await self.polled.publish(data)
            else:
                await run.emit(KIND, data)
            due += interval
            await asyncio.sleep(max(due - time.monotonic(), 0))
        # What was published last is still on its way to some.
        await asyncio.sleep(0.3)
        after = resource.getrusage(resource.RUSAGE_SELF)
        return after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


app = Served()


def _body(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


# --- the readers ----------------------------------------------------------------------------------

_DATA, _LATE = b'data: {"t":', b',"late":'

LOOK = 0.0005
"""Seconds between two looks of the readers. Were one asleep until there is something, the server's
kernel would wake it at nearly every event, which it does not do for readers on other machines."""


class Measured(NamedTuple):
    """One contender in one round: CPU us of the server a delivery, latencies in milliseconds."""

    cpu_us: float
    p50: float
    p95: float


class Readers:
    """Subscribers over raw sockets, all in one epoll.

    Taking an event must cost less than the server takes to send it, or it is this that is measured.
    """

    def __init__(self, port: int, path: str, count: int) -> None:
        self.latencies: list[float] = []
        # The same from when each event was due.
        self.since_due: list[float] = []
        self.reads = 0
        self._epoll = select.epoll()
        self._buffer = bytearray(1 << 18)
        # What of an event came without its end, by socket; nearly always nothing.
        self._rest: dict[int, bytes] = {}
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(count):
            reader = self._open(port, path)
            self._sockets[reader.fileno()] = reader

    def _open(self, port: int, path: str) -> socket.socket:
        reader = request(port, path)
        answer = b""
        while b"retry: " not in answer:
            answer += reader.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        reader.setblocking(False)
        self._epoll.register(reader, select.EPOLLIN)
        return reader

    def read(self, expected: int) -> None:
        """Read until *expected* events were taken by all readers together."""
        deadline = time.monotonic() + 60
        sockets, buffer, clock = self._sockets, self._buffer, time.monotonic_ns
        while len(self.latencies) < expected and time.monotonic() < deadline:
            time.sleep(LOOK)
            for number, _ in self._epoll.poll(0):
                size = sockets[number].recv_into(buffer)
                self._take(number, clock(), size)

    def _take(self, number: int, now: int, size: int) -> None:
        """Note when each event came."""
        data, rest = self._buffer, self._rest.pop(number, b"")
        if rest:
            data = bytearray(rest + data[:size])
            size = len(data)
        at = data.find(_DATA, 0, size)
        self.reads += at >= 0
        while at >= 0 and (more := data.find(_LATE, at, size)) >= 0:
            end = data.find(b",", more + len(_LATE), size)
            if end < 0:
                break
            waited = (now - int(data[at + len(_DATA) : more])) / 1e6
            self.latencies.append(waited)
            self.since_due.append(waited + int(data[more + len(_LATE) : end]) / 1e6)
            at = data.find(_DATA, end, size)
        if at >= 0:
            self._rest[number] = bytes(data[at:size])  # its time is not here yet
        elif not data.endswith(b"\n", 0, size):
            self._rest[number] = bytes(data[max(size - len(_DATA), 0) : size])

    def close(self) -> None:
        """Hang up."""
        for reader in self._sockets.values():
            reader.close()
        self._epoll.close()


def request(port: int, path: str) -> socket.socket:
    """Send a GET and return the connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return connection


class Told(NamedTuple):
    """What a round told.

    Attributes:
        user, kernel: CPU seconds of the server, its own and the kernel's.
        seconds: how long it took.
        latencies: of each event to each reader, in milliseconds.
        since_due: the same from when the event was due.
        together: how many events came at once, on average.
    """

    user: float
    kernel: float
    seconds: float
    latencies: list[float]
    since_due: list[float]
    together: float

    @property
    def cpu(self) -> float:
        """CPU seconds of the server."""
        return self.user + self.kernel


def deliver(
    port: int, which: str, run_id: str, subscribers: int, how: Mapping[str, float], stalled: int = 0
) -> Told:
    """Have *subscribers* readers take what is published to them, and *stalled* more not."""
    path = f"/runs/{run_id}/events/stream" if which == "holdfast" else f"/{which}"
    # A stream of a run that nobody has begun would not begin either.
    publish(port, which, run_id, frames=0)
    readers = Readers(port, path, subscribers)
    idlers = [request(port, path) for _ in range(stalled)]
    expected = int(how.get("frames", FRAMES)) * subscribers
    began = time.monotonic()
    control = request(port, _publishing(which, run_id, how))
    readers.read(expected)
    (user, kernel), seconds = _cpu_told(control), time.monotonic() - began
    for connection in (control, *idlers):
        connection.close()
    readers.close()
    got = len(readers.latencies)
    assert got == expected, f"{which}: {got} of {expected} were delivered"
    time.sleep(0.5)  # until the server has noticed that they left
    together = got / readers.reads
    return Told(user, kernel, seconds, readers.latencies, readers.since_due, together)


def publish(port: int, which: str, run_id: str, **how: float) -> None:
    """Have *which* publish."""
    with request(port, _publishing(which, run_id, how)) as control:
        _cpu_told(control)


def _publishing(which: str, run_id: str, how: Mapping[str, float]) -> str:
    query = "&".join(f"{name}={value}" for name, value in how.items())
    return f"/publish/{which}/{run_id}?{query}"


def _cpu_told(control: socket.socket) -> tuple[float, float]:
    answer = b""
    while not (found := re.search(rb"\r\n(\d+\.\d+) (\d+\.\d+)\r\n", answer)):
        more = control.recv(65536)
        assert more, answer
        answer += more
    return float(found[1]), float(found[2])


def quantile(values: list[float], part: float) -> float:
    """Return the value below which *part* of them are."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


@contextmanager
def served(redis: RedisServer, loop: str = "asyncio") -> Iterator[ServerProcess]:
    """A uvicorn of one process with all contenders, on a core of its own where there are two.

    The readers and Redis are on the others.
    """
    command = ["-m", "uvicorn", "tests.benchmarks.fanout:app", "--host", "0.0.0.0"]
    command += ["--port", "{port}", "--backlog", "4096", "--loop", loop]
    command += ["--http", "httptools", "--log-level", "warning"]
    env = {"HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_STREAM_ACCESS": "open"}
    env["HOLDFAST_STREAM_MAX_SUBSCRIBERS"] = "20000"
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess([*command, "--no-access-log"], Path(folder) / "log", env)
        try:
            server.start()
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(server.pid, cores[:1])
            for other in (0, redis.pid):
                os.sched_setaffinity(other, cores[1:] or cores)
            yield server
        finally:
            for other in (0, redis.pid):
                os.sched_setaffinity(other, cores)
            server.close()


def fan_outs(redis: RedisServer, rounds: int, subscribers: int) -> None:
    """Measure SSE to *subscribers* readers of one run against the same bytes by other means."""
    results: Results = defaultdict(list)
    with served(redis) as server:
        for number in range(rounds + 1):
            for which in ("bare", "holdfast", "polled"):
                told = deliver(server.port, which, f"fan-out-{number}", subscribers, {})
                cpu = told.cpu / len(told.latencies) * 1e6
                quantiles = (quantile(told.latencies, part) for part in (0.5, 0.95))
                results[which].append((cpu, *quantiles))
    columns = ["CPU us/delivery", "P50 ms", "P95 ms"]
    report(f"an event to {subscribers} SSE subscribers", columns, results, warm_up=1)


def fifties(redis: RedisServer, rounds: int, subscribers: int, loop: str) -> None:
    """Measure the latency at fifty events a second of one run, against the bare app's."""
    how = {"frames": 200, "interval": 0.02}
    results: Results = defaultdict(list)
    with served(redis, loop) as server:
        for number in range(rounds + 1):
            for which in ("bare", "holdfast"):
                told = deliver(server.port, which, f"fifty-{number}", subscribers, how)
                cpu = told.cpu / len(told.latencies) * 1e6
                quantiles = (quantile(told.latencies, part) for part in (0.5, 0.95))
                since_due = quantile(told.since_due, 0.95)
                results[which].append((cpu, *quantiles, since_due))
    columns = ["CPU us/delivery", "P50 ms", "P95 ms", "P95 ms since it was due"]
    report(f"50 events/s to {subscribers} SSE subscribers on {loop}", columns, results, warm_up=1)


def rates(redis: RedisServer, subscribers: int, loop: str, seconds: float = 4.0) -> None:
    """Measure the latency at rising rates, until the 95th percentile stays above 100 ms."""
    told_of = f"{subscribers} SSE subscribers on {loop}"
    print(f"\none run to {told_of}, latency against the publisher's clock")
    print("  events/s    P50    P95    P99 ms   own + kernel, of a core   events at once")
    late = 0
    with served(redis, loop) as server:
        for rate in (5, 25, 50, 75, 100, 150, 250, 500, 1000, 2000):
            how = {"frames": int(rate * seconds), "interval": 1 / rate}
            told = deliver(server.port, "holdfast", f"rate-{rate}", subscribers, how)
            p50, p95, p99 = (quantile(told.latencies, part) for part in (0.5, 0.95, 0.99))
            user, kernel = told.user / told.seconds, told.kernel / told.seconds
            print(
                f"  {rate:8} {p50:6.1f} {p95:6.1f} {p99:6.1f}"
                f"      {user:4.0%} + {kernel:3.0%} {told.together:22.1f}",
                flush=True,
            )
            late = late + 1 if p95 > 100 else 0
            if late == 2:
                break


def stalls(redis: RedisServer, rounds: int) -> None:
    """Measure a hundred readers, alone and beside one who takes nothing, of 6 MB in 5 seconds."""
    how = {"frames": 250, "interval": 0.02, "fill": 25_000}
    results: Results = defaultdict(list)
    with served(redis) as server:
        for number in range(rounds + 1):
            for name, stalled in (("100 readers", 0), ("and one stalled", 1)):
                before = resident(server.pid)
                run_id = f"stall-{number}-{stalled}"
                told = deliver(server.port, "holdfast", run_id, 100, how, stalled)
                p50, p99 = (quantile(told.latencies, part) for part in (0.5, 0.99))
                grown = (resident(server.pid) - before) / 1024
                results[name].append((p50, p99, max(grown, 0.1)))
    report("a reader who takes nothing", ["P50 ms", "P99 ms", "MB grown"], results, warm_up=1)


def resident(pid: int) -> int:
    """Return the kilobytes of memory that process *pid* has now."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)
    assert found
    return int(found[1])


def many_files() -> None:
    """Let this process have as many connections as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))


def main() -> None:
    """Measure on a server of our own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=7)
    parser.add_argument("subscribers", type=int, nargs="?", default=1000)
    parser.add_argument("--only", choices=("deliveries", "fifty", "rates", "stalls"))
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    asked = parser.parse_args()
    many_files()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        if asked.only in {None, "deliveries"}:
            fan_outs(redis, asked.rounds, asked.subscribers)
        if asked.only in {None, "fifty"}:
            fifties(redis, asked.rounds, asked.subscribers, asked.loop)
        if asked.only in {None, "rates"}:
            rates(redis, asked.subscribers, asked.loop)
        if asked.only in {None, "stalls"}:
            stalls(redis, asked.rounds)


if __name__ == "__main__":
    main()
