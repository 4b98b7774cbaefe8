"""Streams against what they stand on: an emit against a raw XADD, a history against XRANGE.

Run it as ``python -m tests.benchmarks.streams [rounds]``. Rounds are interleaved, so that a slow
moment of the machine falls on every contender alike; ratios are taken within a round. What readers
cost is in ``fanout`` and ``idle``.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

from tests.benchmarks.measures import spread, tuned

from holdfast import EventStreamApp, RunPublisher
from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.streams.select import close_hubs
from holdfast.streams.stores.redis import RedisEventStore
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis
    from starlette.types import ASGIApp, Message

KIND = "node_output"
DATA = {"node": "writer", "output": "x" * 160}
PAYLOAD = json.dumps(DATA, separators=(",", ":"))
BLOCK = 250
TOGETHER = 2000
"""Events of a hundred tasks: twenty of each, so that how they begin does not decide."""
EVENTS = 10_000
Results: TypeAlias = dict[str, list[tuple[float, ...]]]


# --- an emit --------------------------------------------------------------------------------------


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


async def emits(url: str, rounds: int) -> None:  # noqa: C901 - each contender is a function
    """Measure an emit one at a time, from 100 tasks into one run, and into 100 runs."""
    async with AsyncExitStack() as stack:
        client = tuned(url, max_connections=200)
        stack.push_async_callback(client.aclose)
        settings = Settings(redis_url=url)
        link = Link(settings)
        stack.push_async_callback(link.aclose)
        store = RedisEventStore(link, settings)
        one = RunPublisher("one", store=store)
        many = [RunPublisher(f"many-{name}", store=store) for name in range(100)]

        async def xadd(name: int) -> object:
            return await client.xadd("raw", {"type": KIND, "data": PAYLOAD}, maxlen=10_000)

        async def xadds(name: int) -> object:
            pipeline = client.pipeline(transaction=False)
            for _ in range(100):
                pipeline.xadd("raw", {"type": KIND, "data": PAYLOAD}, maxlen=10_000)
            return await pipeline.execute()

        async def emit(name: int) -> object:
            return await one.emit(KIND, DATA)

        async def emit_to_many(name: int) -> object:
            return await many[name].emit(KIND, DATA)

        alone: Results = defaultdict(list)
        together: Results = defaultdict(list)
        for _ in range(rounds + 1):
            one_by_one: Results = defaultdict(list)
            at_once: Results = defaultdict(list)
            for _ in range(8):
                for name, work in {"raw XADD": xadd, "emit": emit}.items():
                    one_by_one[name].append(await timed(work, 1, BLOCK))
                # A pipeline of a hundred is one call of a hundred writes.
                took = await timed(xadds, 1, 4)
                at_once["pipeline of XADD"].append((took[0] / 100, took[1] / 100))
                for name, work in {"emit": emit, "emit, 100 runs": emit_to_many}.items():
                    at_once[name].append(await timed(work, 100, TOGETHER))
            for name, found in one_by_one.items():
                alone[name].append(_medians(found))
            for name, found in at_once.items():
                together[name].append(_medians(found))
        report("an emit, one at a time", ["us", "CPU us"], alone, warm_up=1)
        report("an emit, 100 tasks at once", ["us", "CPU us"], together, warm_up=1)
        both = zip(alone["emit"], together["emit"], strict=True)
        gains = [one[0] / many[0] for one, many in both][1:]
        print(f"  {'one at a time / 100 at once':30}{spread(gains, 2):>24} us")


# --- catching up ----------------------------------------------------------------------------------


async def catch_ups(url: str, rounds: int) -> None:
    """Measure ``EVENTS`` events of history as a stream against reading and encoding by hand."""
    async with AsyncExitStack() as stack:
        client = tuned(url, max_connections=200)
        stack.push_async_callback(client.aclose)
        settings = Settings(redis_url=url, stream_access="open", stream_maxlen=2 * EVENTS)
        link = Link(settings)
        stack.push_async_callback(link.aclose)
        store = RedisEventStore(link, settings)
        stack.push_async_callback(close_hubs, store)
        for _ in range(EVENTS // 500):
            await store.append("history", [store.draft(KIND, DATA)] * 500)
        app = EventStreamApp(settings=settings, store=store)
        stream = store.keys("history").stream
        results: Results = defaultdict(list)
        for _ in range(rounds + 1):
            results["XRANGE + JSON"].append(await timed(lambda _: _by_hand(client, stream), 1, 1))
            results["stream"].append(await timed(lambda _: _by_stream(app), 1, 1))
        report(f"a history of {EVENTS} events", ["us", "CPU us"], results, warm_up=1)


async def _by_hand(client: Redis, stream: str) -> None:
    start, size = "-", 0
    while True:
        page: Any = await client.xrange(stream, start, "+", 500)
        if not page:
            break
        for at, fields in page:
            event = {"type": fields[b"type"].decode(), "data": json.loads(fields[b"data"])}
            size += len(f"id: {at.decode()}\ndata: {json.dumps(event)}\n\n".encode())
        start = f"({page[-1][0].decode()}"
    assert size > EVENTS * len(PAYLOAD)


async def _by_stream(app: ASGIApp) -> None:
    seen = 0
    done = asyncio.Event()

    async def receive() -> Message:
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal seen
        seen += message.get("body", b"").count(b"\ndata: ")
        if seen == EVENTS:
            done.set()

    path = "/runs/history/events/stream"
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode()}
    await app({**scope, "query_string": b"", "headers": [], "root_path": ""}, receive, send)
    assert seen == EVENTS


# --- telling --------------------------------------------------------------------------------------


def report(title: str, columns: list[str], results: Results, warm_up: int) -> None:
    """Print medians and spreads, and each contender as a multiple of the first."""
    names = list(results)
    rounds = len(results[names[0]]) - warm_up
    print(f"\n{title}, median (least to most) of {rounds} rounds")
    for index, column in enumerate(columns):
        for name in names:
            told = spread([each[index] for each in results[name][warm_up:]])
            print(f"  {name:20}{told:>34} {column}")
        for name in names[1:]:
            pairs = zip(results[name][warm_up:], results[names[0]][warm_up:], strict=True)
            ratios = [mine[index] / theirs[index] for mine, theirs in pairs]
            print(f"  {name + ' / ' + names[0]:30}{spread(ratios, 2):>24} {column}")


def _medians(found: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(statistics.median(column) for column in zip(*found, strict=True))


def main() -> None:
    """Measure on a server of our own."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with redis_server() as redis:
        asyncio.run(emits(redis.url, rounds))
        asyncio.run(catch_ups(redis.url, rounds))


if __name__ == "__main__":
    main()
