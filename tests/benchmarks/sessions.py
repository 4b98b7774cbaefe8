"""Sessions against redis-py by hand and against starsessions: speed, and CPU on both sides.

Run it as ``python -m tests.benchmarks.sessions [rounds] [redis-url]``. Rounds are interleaved, so
that a slow moment of the machine falls on every contender alike; ratios are taken within a round.
What servers of their own make of it over HTTP is in ``sessions_http.py``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starsessions import SessionAutoloadMiddleware
from starsessions import SessionMiddleware as Starsessions
from starsessions.stores.redis import RedisStore
from tests.benchmarks.measures import ratio, spread, tuned
from tests.sessions.browser import Browser

from holdfast import SessionMiddleware
from holdfast.runtime import runtime
from holdfast.sessions.choice import default_store
from holdfast.sessions.cookie import new_credential
from holdfast.sessions.record import decode_fields, encode_value
from holdfast.sessions.store import Change, Record
from holdfast.sessions.stores.calls import Calls
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.settings import Settings
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

Work = Callable[[], Awaitable[object]]
Page = Callable[["Request"], Awaitable[PlainTextResponse]]
KEY = "a key of more than sixteen characters"


class Measure(NamedTuple):
    """One contender in one round."""

    per_second: float
    client_us: float
    server_us: float


@dataclass
class Contest:
    """Contenders at the same task; the first is holdfast."""

    title: str
    contenders: dict[str, Work]
    results: dict[tuple[str, int], list[Measure]] = field(default_factory=dict)

    async def run(self, redis: Redis, rounds: int, loads: tuple[tuple[int, int], ...]) -> None:
        """Measure each in turn, *rounds* times, for each (in flight, operations) of *loads*."""
        for in_flight, operations in loads:
            for work in self.contenders.values():
                await measure(redis, work, in_flight, in_flight * 20)
            for _ in range(rounds):
                for name, work in self.contenders.items():
                    found = await measure(redis, work, in_flight, operations)
                    self.results.setdefault((name, in_flight), []).append(found)

    def report(self) -> None:
        """Print a table, then holdfast's share of the others' as ratios."""
        print(f"\n{self.title}")
        for (name, in_flight), found in self.results.items():
            columns = [spread([each[n] for each in found]) for n in range(3)]
            print(f"  {name:32}{in_flight:3} {columns[0]:>32}{columns[1]:>26}{columns[2]:>24}")
        ours = next(iter(self.contenders))
        for (name, in_flight), found in self.results.items():
            if name != ours:
                pairs = list(zip(self.results[ours, in_flight], found, strict=True))
                told = [ratio([mine[n] / theirs[n] for mine, theirs in pairs]) for n in range(3)]
                print(
                    f"  against {name}, {in_flight} in flight: x {told[0]} operations/s, "
                    f"x {told[1]} client CPU, x {told[2]} server CPU"
                )


async def server_cpu(redis: Redis) -> float:
    """Return the seconds of CPU that the server has used."""
    used = await redis.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


async def measure(redis: Redis, work: Work, in_flight: int, operations: int) -> Measure:
    """Have *in_flight* tasks do *operations* together."""

    async def caller() -> None:
        for _ in range(operations // in_flight):
            await work()

    server = await server_cpu(redis)
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[caller() for _ in range(in_flight)])
    took, used = time.perf_counter() - start, time.process_time() - cpu
    server = await server_cpu(redis) - server
    return Measure(operations / took, used / operations * 1e6, server / operations * 1e6)


def session_of(size: int) -> dict[str, Any]:
    """Return ten keys of about *size* bytes together."""
    part = size // 10
    return {f"key{n}": {"text": "x" * (part - 30), "n": n} for n in range(10)}


async def stores(redis: Redis, settings: Settings, rounds: int, size: int) -> list[Contest]:
    """The store's read and write against the same by hand."""
    store, key = default_store(runtime(settings)), new_credential().key
    calls = Calls()
    name = calls.name(key.id_hash)
    data = session_of(size)
    fields = {k: encode_value(k, v) for k, v in data.items()}
    await store.create(key, fields, max_age=3600)
    await redis.hset("by-hand", mapping={key: str(raw, "utf-8") for key, raw in fields.items()})
    counter = iter(range(10**9))

    async def read() -> object:
        found = await store.load(key)
        return decode_fields(found.fields) if isinstance(found, Record) else None

    async def read_by_hand() -> object:
        found = await redis.hgetall("by-hand")
        return {str(k, "utf-8"): json.loads(v) for k, v in found.items()}  # type: ignore[arg-type]

    def changed() -> bytes:
        return encode_value("key0", data["key0"] | {"n": next(counter)})

    async def write() -> object:
        return await store.save(key, Change({"key0": changed()}))

    other = RedisStore(connection=redis)
    await other.write("read", json.dumps(data).encode(), lifetime=3600, ttl=3600)

    async def read_starsessions() -> object:
        return json.loads(await other.read("read", lifetime=3600))

    call = calls.save(key, Change({"key0": b""}), idle_timeout=0)
    sha = await redis.script_load(call.script.source)
    position = call.args.index("key0") + 1

    async def write_by_hand() -> object:
        args = list(call.args)
        args[position] = changed()
        return await redis.evalsha(sha, 2, *call.keys, *args)

    async def overwrite() -> object:
        whole = json.dumps(data | {"key0": {"n": next(counter)}})
        return await redis.set("whole", whole, ex=3600)

    reading = Contest(
        f"read a session of {size} bytes (HGETALL, decoded)",
        {
            "holdfast": read,
            "redis-py by hand": read_by_hand,
            "starsessions (GET), redis-py tuned": read_starsessions,
        },
    )
    writing = Contest(
        f"write one key of a session of {size} bytes (guarded)",
        {
            "holdfast": write,
            "redis-py, the same script": write_by_hand,
            "redis-py, SET of the whole": overwrite,
        },
    )
    for contest in (reading, writing):
        await contest.run(redis, rounds, ((1, 2000), (50, 10_000)))
    await redis.delete("by-hand", "whole", name, "starsessions.read")
    return [reading, writing]


async def browser_with_session(app: ASGIApp) -> Work:
    browser = Browser(app)
    await browser.get()
    await browser.get()

    async def visit() -> object:
        answer = await browser.get()
        assert answer.status == 200
        return answer

    return visit


async def reading(request: Request) -> PlainTextResponse:
    """Read one key of a session of ten."""
    if "key1" not in request.session:
        request.session.update(session_of(2000))
    return PlainTextResponse(str(request.session["key1"]["n"]))


async def writing(request: Request) -> PlainTextResponse:
    """Read one key and write it."""
    request.session["n"] = request.session.get("n", 0) + 1
    return await reading(request)


async def middlewares(
    redis: Redis, plain: Redis, settings: Settings, rounds: int, title: str, page: Page
) -> Contest:
    """One application behind each package's middleware.

    Same Redis, same data. starsessions writes the whole, unguarded; it is measured with redis-py as
    its pages show it, and with redis-py at its best.
    """
    app = Starlette(routes=[Route("/", page)])

    def other(connection: Redis) -> ASGIApp:
        store = RedisStore(connection=connection)
        inner = SessionAutoloadMiddleware(app)
        return Starsessions(inner, store=store, lifetime=3600, cookie_https_only=False)

    contest = Contest(
        f"a request that {title} a session of 2000 bytes, in process",
        {
            "holdfast": await browser_with_session(SessionMiddleware(app, settings=settings)),
            "starsessions": await browser_with_session(other(plain)),
            "starsessions, redis-py tuned": await browser_with_session(other(redis)),
        },
    )
    await contest.run(redis, rounds, ((1, 1000), (50, 4000)))
    return contest


async def anonymous(redis: Redis, rounds: int) -> Contest:
    """A route that uses no session, with and without the middleware around it."""

    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    bare = Starlette(routes=[Route("/", page)])
    settings = Settings(secret_key=KEY)
    around = SessionMiddleware(bare, settings=settings, store=MemorySessionStore())

    contest = Contest(
        "a request without a cookie, in process, no server around it",
        {"holdfast": Browser(around).get, "bare Starlette": Browser(bare).get},
    )
    await contest.run(redis, rounds, ((1, 5000),))
    return contest


async def contests(url: str, rounds: int) -> None:
    """Run and report all."""
    # A busy machine is slow, not away.
    settings = Settings(redis_url=url, secret_key=KEY, redis_timeout=10)
    async with AsyncExitStack() as stack:
        redis, plain = tuned(url), Redis.from_url(url)
        stack.push_async_callback(redis.aclose)
        stack.push_async_callback(plain.aclose)
        stack.push_async_callback(runtime(settings).aclose)
        print("operations/s, client CPU us, server CPU us an operation: median (least to most)")
        for size in (2000, 32_000):
            for contest in await stores(redis, settings, rounds, size):
                contest.report()
        for title, page in (("reads", reading), ("reads and writes", writing)):
            (await middlewares(redis, plain, settings, rounds, title, page)).report()
        (await anonymous(redis, rounds)).report()


def main() -> None:
    """Measure on a server of our own, or on the one named."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    if len(sys.argv) > 2:
        asyncio.run(contests(sys.argv[2], rounds))
        return
    with redis_server() as server:
        asyncio.run(contests(server.url, rounds))


if __name__ == "__main__":
    main()
