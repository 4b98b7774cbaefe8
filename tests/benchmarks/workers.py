"""Publishing from threads against redis-py's blocking client: an emit against a raw XADD.

Run it as ``python -m tests.benchmarks.workers [rounds]``. Rounds are interleaved, so that a slow
moment of the machine falls on every contender alike; ratios are taken within a round. The client of
redis-py has a connection for each thread, as holdfast has.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from redis import Redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from tests.benchmarks.measures import spread

from holdfast import SyncRunPublisher
from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.streams.stores.redis import RedisEventStore
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable

KIND = "node_output"
DATA = {"node": "writer", "output": "x" * 160}
PAYLOAD = json.dumps(DATA, separators=(",", ":"))
THREADS, CALLS = (1, 50), 3000
RAW = "redis-py, XADD"


class Measure(NamedTuple):
    """One contender in one round: calls a second, CPU of this process and time of each call."""

    per_second: float
    cpu_us: float
    latency_us: float


def tuned(url: str) -> Redis:
    """redis-py without what an XADD does not need: no retries, a short handshake."""
    return Redis.from_url(
        url,
        protocol=2,
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        retry=Retry(NoBackoff(), 0),
        max_connections=200,
    )


def timed(work: Callable[[int], object], threads: int, calls: int) -> Measure:
    """Have *threads* threads make *calls* calls together."""
    start = threading.Barrier(threads + 1)

    def caller(name: int) -> None:
        start.wait()
        for _ in range(calls // threads):
            work(name)

    callers = [threading.Thread(target=caller, args=(name,)) for name in range(threads)]
    for each in callers:
        each.start()
    start.wait()
    begun, cpu = time.perf_counter(), time.process_time()
    for each in callers:
        each.join()
    took, used = time.perf_counter() - begun, time.process_time() - cpu
    return Measure(calls / took, used / calls * 1e6, took / calls * threads * 1e6)


def contest(url: str, rounds: int) -> dict[tuple[str, int], list[Measure]]:
    """Measure every contender in turn, *rounds* times."""
    settings = Settings(redis_url=url)
    link, client = Link(settings), tuned(url)
    store = RedisEventStore(link, settings)
    one = SyncRunPublisher("one", store=store)
    many = [SyncRunPublisher(f"many-{name}", store=store) for name in range(max(THREADS))]
    works: dict[str, Callable[[int], object]] = {
        RAW: lambda name: client.xadd("raw", {"type": KIND, "data": PAYLOAD}, maxlen=10_000),
        "emit, one run": lambda name: one.emit(KIND, DATA),
        "emit, a run each": lambda name: many[name].emit(KIND, DATA),
    }
    results: dict[tuple[str, int], list[Measure]] = {}
    for threads in THREADS:
        for work in works.values():
            timed(work, threads, CALLS // 4)
        for _ in range(rounds):
            for name, work in works.items():
                results.setdefault((name, threads), []).append(timed(work, threads, CALLS))
    link.close()
    client.close()
    return results


def report(results: dict[tuple[str, int], list[Measure]]) -> None:
    """Print a table, then what holdfast is worth as ratios."""
    print(f"{'':18}{'threads':>8}{'events/s':>34}{'CPU us':>30}{'latency us':>34}")
    for (name, threads), found in results.items():
        columns = [spread([each[n] for each in found]) for n in range(3)]
        print(f"{name:18}{threads:8}{columns[0]:>34}{columns[1]:>30}{columns[2]:>34}")
    for (name, threads), found in results.items():
        if name == RAW:
            continue
        raw = results[RAW, threads]
        words = [
            spread([ours[n] / theirs[n] for ours, theirs in zip(found, raw, strict=True)], 2)
            for n in range(3)
        ]
        print(
            f"{name}, {threads} threads / {RAW}: events/s x {words[0]}, CPU x {words[1]}, "
            f"latency x {words[2]}"
        )


def main() -> None:
    """Measure on a server of our own."""
    with redis_server() as server:
        report(contest(server.url, int(sys.argv[1]) if len(sys.argv) > 1 else 7))


if __name__ == "__main__":
    main()
