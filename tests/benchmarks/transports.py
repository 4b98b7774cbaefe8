"""Streams against Pub/Sub, each with the raw Redis below it: latency, throughput and memory.

Run it as ``python -m tests.benchmarks.transports [--rounds N] [--write]``; ``--write`` makes
the page ``docs/reference/streams-vs-pubsub.md`` and its charts anew. It takes under four minutes.

A publisher in this process, a reader in another, a redis-server of our own. Contenders take turns
within a round, so that a slow moment of the machine falls on each alike; ratios are of one round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.benchmarks.measures import tuned
from tests.support.charts import bars

from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.streams.cursor import Cursor
from holdfast.streams.event import decode_data
from holdfast.streams.fanout.hub import Hub
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.frames import Frame
from holdfast.streams.stores.redis import RedisEventStore
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.testing import RedisServer

RUNS = (1, 10, 100, 500)
CONTENDERS = ("XADD + XREAD", "PUBLISH + SUBSCRIBE", "holdfast, Pub/Sub", "holdfast, Streams")
PACED, PACE = 300, 0.005
BURST = 3000
FILL = "x" * 160
ROOT = Path(__file__).resolve().parents[2]


class Measured(NamedTuple):
    """One contender with one number of runs, in one round.

    Attributes:
        publish_us, publish_p95_us: until the publisher had its answer, at 200 events a second.
        delivery_us, delivery_p95_us: until the reader had the event, at that rate.
        per_second: events delivered, published as fast as each run allows.
        redis_bytes: memory that an event leaves in Redis.
        reader_mb: memory of the reader's process.
    """

    publish_us: float
    publish_p95_us: float
    delivery_us: float
    delivery_p95_us: float
    per_second: float
    redis_bytes: float
    reader_mb: float


Results = dict[tuple[str, int], list[Measured]]


def settings_of(url: str, contender: str) -> Settings:
    """Return the settings of one of holdfast's contenders."""
    return Settings(redis_url=url, redis_timeout=5, stream_enabled=contender.endswith("Streams"))


# --- the reader: a process of its own -------------------------------------------------------------


class Tally:
    """What the reader has taken: latencies of the paced events, and when the last one came."""

    def __init__(self, expected: int) -> None:
        self.left = expected
        self.latencies: list[int] = []
        self.done = asyncio.Event()

    def take(self, data: Any) -> None:
        """Count one event."""
        now = time.monotonic_ns()
        if data["paced"]:
            self.latencies.append(now - data["t"])
        self.left -= 1
        if not self.left:
            self.last = now
            self.done.set()


async def read(url: str, contender: str, names: list[str]) -> None:
    """Take all that is published to *names*; say when ready, and what there was."""
    tally = Tally(PACED + BURST)
    async with AsyncExitStack() as stack:
        if contender.startswith("holdfast"):
            ready = await follow_holdfast(stack, url, contender, names, tally)
        else:
            ready = await follow_raw(stack, url, contender, names, tally)
        await ready()
        print("ready", flush=True)
        await asyncio.wait_for(tally.done.wait(), 60)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"latencies": tally.latencies, "last": tally.last, "rss": rss}), flush=True)


async def follow_holdfast(
    stack: AsyncExitStack, url: str, contender: str, names: list[str], tally: Tally
) -> Callable[[], Awaitable[None]]:
    settings = settings_of(url, contender)
    link = Link(settings)
    stack.push_async_callback(link.aclose)
    hub = Hub(RedisEventStore(link, settings))
    stack.push_async_callback(hub.aclose)
    joined = asyncio.Semaphore(0)

    async def follow(name: str) -> None:
        async with Subscription(hub, name, Cursor()) as subscription:
            joined.release()
            while True:
                for due in await subscription.take():
                    if not isinstance(due.item, Frame):
                        sys.exit(f"{contender}: {name}: {due}")
                    tally.take(decode_data(due.item.entry.data))
                await subscription.wait()

    tasks = [asyncio.create_task(follow(name)) for name in names]
    stack.callback(lambda: [task.cancel() for task in tasks])

    async def ready() -> None:
        for _ in names:
            await joined.acquire()

    return ready


async def follow_raw(
    stack: AsyncExitStack, url: str, contender: str, names: list[str], tally: Tally
) -> Callable[[], Awaitable[None]]:
    client = tuned(url, max_connections=200)
    stack.push_async_callback(client.aclose)
    subscribed = asyncio.Event()

    async def by_channel() -> None:
        pubsub: Any = client.pubsub()
        await pubsub.subscribe(*names)
        confirmed = 0
        async for message in pubsub.listen():
            if message["type"] == "subscribe":
                confirmed += 1
                if confirmed == len(names):
                    subscribed.set()
            else:
                tally.take(json.loads(message["data"])["data"])

    async def by_stream() -> None:
        last: dict[Any, Any] = dict.fromkeys(names, "0")
        subscribed.set()
        while True:
            reply: Any = await client.xread(last, block=1000)
            for key, entries in reply or ():
                for at, fields in entries:
                    tally.take(json.loads(fields[b"data"]))
                    last[key.decode()] = at

    task = asyncio.create_task(by_stream() if "XREAD" in contender else by_channel())
    stack.callback(task.cancel)

    async def ready() -> None:
        await subscribed.wait()

    return ready


# --- the publisher --------------------------------------------------------------------------------


def publisher(
    stack: AsyncExitStack, url: str, contender: str
) -> Callable[[str, Any], Awaitable[object]]:
    """Return what publishes one event, and returns when Redis has it."""
    if contender.startswith("holdfast"):
        settings = settings_of(url, contender)
        link = Link(settings)
        stack.push_async_callback(link.aclose)
        store = RedisEventStore(link, settings)
        return lambda name, data: store.add(name, "t", data)
    client = tuned(url, max_connections=200)
    stack.push_async_callback(client.aclose)

    gate = asyncio.Semaphore(100)  # a connection for each call in flight

    async def publish(name: str, data: Any) -> object:
        text = json.dumps({"run_id": name, "type": "t", "data": data}, separators=(",", ":"))
        async with gate:
            return await client.publish(name, text)

    async def xadd(name: str, data: Any) -> object:
        text = json.dumps(data, separators=(",", ":"))
        async with gate:
            return await client.xadd(name, {"type": "t", "data": text}, maxlen=10_000)

    return xadd if "XADD" in contender else publish


async def measure(redis: RedisServer, contender: str, runs: int, label: str) -> Measured:
    """Publish to *runs* runs at an even pace, then as fast as each of them allows."""
    names = [f"{label}-{number}" for number in range(runs)]
    command = [sys.executable, "-m", __spec__.name, "--read", redis.url, contender, *names]
    reader = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, limit=1 << 24, cwd=ROOT
    )
    assert reader.stdout is not None
    async with AsyncExitStack() as stack:
        publish = publisher(stack, redis.url, contender)
        assert await reader.stdout.readline() == b"ready\n"
        before, answers = used_memory(redis), []
        for number in range(PACED):
            start = time.monotonic_ns()
            data = {"t": start, "paced": True, "x": FILL}
            await publish(names[number % runs], data)
            answers.append((time.monotonic_ns() - start) / 1000)
            await asyncio.sleep(PACE)
        start = time.monotonic_ns()
        await asyncio.gather(*(burst(publish, name, BURST // runs) for name in names))
        result = json.loads(await reader.stdout.readline())
        grown = max(used_memory(redis) - before, 0)
    await reader.wait()
    delivered = [nanoseconds / 1000 for nanoseconds in result["latencies"]]
    return Measured(
        statistics.median(answers),
        statistics.quantiles(answers, n=20)[18],
        statistics.median(delivered),
        statistics.quantiles(delivered, n=20)[18],
        BURST / (result["last"] - start) * 1e9,
        grown / (PACED + BURST),
        result["rss"],
    )


async def burst(publish: Callable[[str, Any], Awaitable[object]], name: str, count: int) -> None:
    for _ in range(count):
        await publish(name, {"t": 0, "paced": False, "x": FILL})


def used_memory(redis: RedisServer) -> int:
    info = redis.execute("INFO", "memory")
    assert isinstance(info, bytes)
    return int(info.partition(b"used_memory:")[2].split(b"\r")[0])


async def measure_all(redis: RedisServer, rounds: int) -> Results:
    """Return all rounds; one before them is for warming up, and is left out."""
    results: Results = defaultdict(list)
    for number in range(rounds):
        for runs in RUNS:
            for contender in CONTENDERS:
                label = f"{number}-{CONTENDERS.index(contender)}-{runs}"
                found = await measure(redis, contender, runs, label)
                results[contender, runs].append(found)
                print(f"round {number + 1}: {contender}, {runs} runs: {_short(found)}", flush=True)
            redis.execute("FLUSHALL")
    return results


# --- telling --------------------------------------------------------------------------------------

CHARTS = (
    ("publish_us", "Publishing one event, median", "us"),
    ("delivery_us", "From publishing to the reader, median", "us"),
    ("delivery_p95_us", "From publishing to the reader, P95", "us"),
    ("per_second", "Delivered events a second, as fast as it goes", "1/s"),
    ("redis_bytes", "Memory that an event leaves in Redis", "bytes"),
)


def middle(results: Results, contender: str, runs: int, field: str) -> float:
    """The median over the rounds."""
    found: list[float] = [getattr(each, field) for each in results[contender, runs]]
    return statistics.median(found)


def ratio(results: Results, field: str, runs: int) -> float:
    """Streams as a multiple of holdfast's own Pub/Sub: the median of the rounds' ratios."""
    pairs = zip(results[CONTENDERS[3], runs], results[CONTENDERS[2], runs], strict=True)
    found: list[float] = [getattr(a, field) / getattr(b, field) for a, b in pairs]
    return statistics.median(found)


def charts(results: Results) -> dict[str, str]:
    """The charts by file name."""
    groups = [f"{runs} run" + "s" * (runs > 1) for runs in RUNS]
    found = {}
    for field, title, unit in CHARTS:
        rows: dict[str, list[float | None]] = {}
        for contender in CONTENDERS:
            values = [middle(results, contender, runs, field) for runs in RUNS]
            rows[contender] = [value if value >= 1 else None for value in values]
        name = f"transports-{field.removesuffix('_us').replace('_', '-')}.svg"
        found[name] = bars(title, unit, groups, rows)
    return found


def table(results: Results, field: str) -> str:
    """One quantity as a Markdown table."""
    lines = ["| |" + "".join(f" {runs} |" for runs in RUNS), "|---|" + "---|" * len(RUNS)]
    for contender in CONTENDERS:
        cells = (f" {middle(results, contender, runs, field):,.0f} |" for runs in RUNS)
        lines.append(f"| {contender} |" + "".join(cells))
    if field != "redis_bytes":
        cells = (f" {ratio(results, field, runs):.2f} |" for runs in RUNS)
        lines.append("| *Streams / Pub/Sub* |" + "".join(cells))
    return "\n".join(lines)


PAGE = """\
# Streams against Pub/Sub

What it costs that every event is kept: holdfast on Redis Streams against holdfast on Pub/Sub
(`HOLDFAST_STREAM_ENABLED=false`), each beside the raw Redis below it, through redis-py. What it
buys is in [Moving from Pub/Sub](../streams/migration/from-pubsub.md).

Measured {date} on {machine}.
{versions}.
Medians of {rounds} rounds in which the contenders take turns; a publisher and a reader in processes
of their own, 160 bytes of payload. Ratios are taken within a round.

This page is made by `python -m tests.benchmarks.transports --write`: yours will differ in its
times, less in its ratios.

## Publishing

Microseconds until the publisher has its answer, at 200 events a second over all runs.

![Publishing](../images/transports-publish.svg)

{publish_us}

## Delivery

Microseconds from the publishing call to the hands of the reader, at the same rate. An event of up
to 4 kB rides on the bell that tells of it, so that a reader who is up to date reads nothing more.

![Delivery, median](../images/transports-delivery.svg)

{delivery_us}

At the 95th percentile:

![Delivery, P95](../images/transports-delivery-p95.svg)

{delivery_p95_us}

## Throughput

Events a second that arrive when each run publishes one after the other, as fast as it is answered,
all runs at once. holdfast sends what several runs say in one turn of the event loop together.

![Throughput](../images/transports-per-second.svg)

{per_second}

## Memory

Bytes that each event leaves in Redis, run and all. On Pub/Sub only what is known of the run stays.

![Memory in Redis](../images/transports-redis-bytes.svg)

{redis_bytes}

Megabytes of the reader's process at its largest:

{reader_mb}
"""


def page(results: Results, rounds: int, machine: str, versions: str, date: str) -> str:
    """The page in docs/reference."""
    tables = {field: table(results, field) for field in Measured._fields}
    facts = {"rounds": str(rounds), "machine": machine, "versions": versions, "date": date}
    return PAGE.format(**tables, **facts)


def machine() -> str:
    """What it ran on, without a name of it."""
    model = "an unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} cores ({model}), {platform.system()} {kernel}"


def versions(redis: RedisServer) -> str:
    """The programs that took part."""
    info = redis.execute("INFO", "server")
    assert isinstance(info, bytes)
    server = info.partition(b"redis_version:")[2].split(b"\r")[0].decode()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis"))
    return f"CPython {platform.python_version()}, redis-server {server} on loopback, {libraries}"


def _short(found: Measured) -> str:
    return (
        f"publish {found.publish_us:.0f} us, delivery {found.delivery_us:.0f} us"
        f" (P95 {found.delivery_p95_us:.0f}), {found.per_second:.0f}/s,"
        f" {found.redis_bytes:.0f} B, {found.reader_mb:.0f} MB"
    )


def main() -> None:
    """Measure on a server of our own, print, and write the page if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--read", nargs="+", metavar=("URL", "WHAT"))
    asked = parser.parse_args()
    if asked.read:
        url, contender, *names = asked.read
        asyncio.run(read(url, contender, names))
        return
    with redis_server() as redis:
        results = asyncio.run(measure_all(redis, asked.rounds))
        told = versions(redis)
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    text = page(results, asked.rounds, machine(), told, date)
    print(text)
    if asked.write:
        (ROOT / "docs/reference/streams-vs-pubsub.md").write_text(text)
        for name, chart in charts(results).items():
            (ROOT / "docs/images" / name).write_text(chart)


if __name__ == "__main__":
    main()
