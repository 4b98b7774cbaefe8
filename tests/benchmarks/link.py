"""The link against redis-py's own asyncio client: commands a second, CPU a command, latency.

Run it as ``python -m tests.benchmarks.link [rounds] [redis-url]``. Rounds are interleaved, so that
a slow moment of the machine falls on every contender alike; ratios are taken within a round.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

from redis.asyncio import Redis
from tests.benchmarks.measures import tuned

from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.testing import redis_server

VALUE = b"x" * 1024
KEY = "holdfast:benchmark"
Get = Callable[[], Awaitable[object]]


class Measure(NamedTuple):
    """One contender in one round."""

    per_second: float
    cpu_us: float
    latency_us: float


async def measure(get: Get, in_flight: int, commands: int) -> Measure:
    """Have *in_flight* tasks make *commands* calls together."""

    async def caller() -> None:
        for _ in range(commands // in_flight):
            await get()

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[caller() for _ in range(in_flight)])
    took, used = time.perf_counter() - start, time.process_time() - cpu
    return Measure(commands / took, used / commands * 1e6, took / commands * in_flight * 1e6)


def plain(url: str) -> Redis:
    """redis-py as it comes."""
    return Redis.from_url(url)


async def contest(url: str, rounds: int) -> dict[tuple[str, int], list[Measure]]:
    """Measure every contender in turn, *rounds* times, with 50, 10 and one command in flight."""
    results: dict[tuple[str, int], list[Measure]] = {}
    async with AsyncExitStack() as stack:
        clients = {"redis-py": plain(url), "redis-py, tuned": tuned(url)}
        for client in clients.values():
            stack.push_async_callback(client.aclose)
        link = Link(Settings(redis_url=url))
        stack.push_async_callback(link.aclose)
        await link.execute("SET", KEY, VALUE)
        gets: dict[str, Get] = {
            name: lambda client=client: client.get(KEY)  # type: ignore[misc]
            for name, client in clients.items()
        }
        gets["holdfast"] = lambda: link.execute("GET", KEY)
        for in_flight, commands in ((50, 20_000), (10, 10_000), (1, 3_000)):
            for get in gets.values():
                await measure(get, in_flight, in_flight * 20)
            for _ in range(rounds):
                for name, get in gets.items():
                    found = await measure(get, in_flight, commands)
                    results.setdefault((name, in_flight), []).append(found)
        await link.execute("DEL", KEY)
    return results


def spread(values: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):9.1f}  ({min(values):.1f} to {max(values):.1f})"


def report(results: dict[tuple[str, int], list[Measure]]) -> None:
    """Print a table, then what the link is worth as ratios."""
    print(f"{'':24}{'commands/s':>34}{'CPU us/command':>30}{'latency us':>34}")
    for (name, in_flight), found in results.items():
        columns = [spread([each[n] for each in found]) for n in range(3)]
        print(f"{name:18}{in_flight:4}  {columns[0]:>34}{columns[1]:>30}{columns[2]:>34}")
    for (name, in_flight), found in results.items():
        if name == "holdfast":
            continue
        ours = results["holdfast", in_flight]
        ratios = [
            [mine[n] / theirs[n] for mine, theirs in zip(ours, found, strict=True)]
            for n in range(3)
        ]
        words = [
            f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in ratios
        ]
        print(
            f"holdfast / {name}, {in_flight} in flight: "
            f"commands/s x {words[0]}, CPU x {words[1]}, latency x {words[2]}"
        )


def main() -> None:
    """Measure on a server of our own, or on the one named."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    if len(sys.argv) > 2:
        report(asyncio.run(contest(sys.argv[2], rounds)))
        return
    with redis_server() as server:
        report(asyncio.run(contest(server.url, rounds)))


if __name__ == "__main__":
    main()
