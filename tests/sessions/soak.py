"""Thousands of sessions in traffic while their Redis is killed and started again, and a checker.

``python -m tests.sessions.soak`` takes Redis (AOF, ``appendfsync always``) from 10,000 sessions for
30 seconds; ``--sessions N`` and ``--seconds S`` make it smaller, ``--outages N`` has it happen more
than once, and ``--room N`` has the process keep no more than N sessions meanwhile. One process
serves in ``local`` mode. The checker knows what the clients were told, and reads their answers and
Redis alone: nobody is logged out, nobody comes back from a logout, no acknowledged write is
missing. Of whom it is otherwise, the whole history is told, and what Redis holds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.process import ServerProcess, uvicorn_command
from tests.support.wire import Wire

from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.wire import Told

    from holdfast.settings import Settings
    from holdfast.testing import RedisServer

CLIENTS = 40
ENV = {
    "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
    "HOLDFAST_SESSION_ON_OUTAGE": "local",
    "HOLDFAST_STREAM_ACCESS": "open",
}
_PATIENCE = 90.0
_ROOM = "SOAK_ROOM"
_BETWEEN = 3.0


def small_store(settings: Settings) -> FallbackSessionStore:
    """Return the store of a server that has no more room in an outage than it is told."""
    return FallbackSessionStore(settings, max_sessions=int(os.environ[_ROOM]))


@dataclass
class Visitor:
    """One session, as its browser knows it.

    Attributes:
        user: who it is.
        cookie: what the browser holds.
        told: by key, the value that was acknowledged last.
        doubted: by key, values of requests that were not acknowledged, and may be there.
        old: cookies that a logout has ended.
        doubtful: a logout was not acknowledged, and may have been done.
        past: all that it did: when, what, and what it was told.
    """

    user: str
    cookie: str = ""
    told: dict[str, str] = field(default_factory=dict)
    doubted: dict[str, set[str]] = field(default_factory=dict)
    old: list[str] = field(default_factory=list)
    leaving: bool = False
    doubtful: bool = False
    past: list[tuple[float, str, str]] = field(default_factory=list)


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        wrong: what is not as it must be, in words; empty where all is well.
        stories: of whom it is so: what they did, and what Redis holds.
        statuses: how often each was answered while Redis was away.
    """

    sessions: int
    wrong: list[str] = field(default_factory=list)
    stories: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    requests: int = 0
    writes: int = 0
    logouts: int = 0
    born: int = 0
    away: float = 0.0

    def __str__(self) -> str:
        told = "nothing was lost" if not self.wrong else f"WRONG in {len(self.wrong)} ways"
        answers = ", ".join(
            f"{count:,} x {status}" for status, count in sorted(self.statuses.items())
        )
        return (
            f"{told}: {self.sessions:,} sessions in traffic, Redis away for {self.away:.1f} s; "
            f"meanwhile {self.logouts:,} logged out, {self.born:,} logged in, and the answers were "
            f"{answers}; {self.requests:,} requests and {self.writes:,} acknowledged writes in all"
        )


class Soak:
    """The visitors of one server.

    Args:
        port: of the server.
        sessions: how many there are at the start.
        seed: of what they do.
    """

    def __init__(self, port: int, sessions: int, seed: int) -> None:
        self.port = port
        self.outcome = Outcome(sessions)
        self.visitors = [Visitor(f"u{number}") for number in range(sessions)]
        self.away = False
        #: What happened to Redis, and when.
        self.events: list[tuple[float, str]] = []
        self._suspects: dict[str, Visitor] = {}
        self._chance = random.Random(seed)
        self._over = asyncio.Event()
        self._numbers = iter(range(10**9))

    async def log_all_in(self) -> None:
        """Begin every session, and write a key of each."""

        async def some(client: int) -> None:
            async with Wire(self.port) as wire:
                for visitor in self.visitors[client::CLIENTS]:
                    await self._log_in(wire, visitor)
                    await self._write(wire, visitor)
                    if not visitor.cookie:
                        self._blame(visitor, f"{visitor.user} could not log in")

        await asyncio.gather(*map(some, range(CLIENTS)))

    async def live(self) -> None:
        """Go on until :meth:`stop`: read, write, log in and, while Redis is away, log out."""
        # Each visitor is one client's own, so that what is told has one order.
        await asyncio.gather(*map(self._client, range(CLIENTS)))

    def stop(self) -> None:
        self._over.set()

    async def _client(self, client: int) -> None:
        mine = self.visitors[client::CLIENTS]
        async with Wire(self.port) as wire:
            while not self._over.is_set():
                visitor = self._chance.choice(mine)
                dice = self._chance.random()
                if visitor.leaving:
                    await asyncio.sleep(0)
                    if self.away and not visitor.old:
                        await self._log_out(wire, visitor)
                elif dice < 0.02 and self.away:
                    newcomer = await self._newcomer(wire)
                    if newcomer.cookie:
                        mine.append(newcomer)
                elif dice < 0.5:
                    await self._write(wire, visitor)
                else:
                    await self._read(wire, visitor)

    async def _newcomer(self, wire: Wire) -> Visitor:
        visitor = Visitor(f"n{next(self._numbers)}")
        await self._log_in(wire, visitor)
        if visitor.cookie:
            self.visitors.append(visitor)
            self.outcome.born += 1
        return visitor

    async def _ask(self, wire: Wire, method: str, path: str, visitor: Visitor) -> Told:
        begun = time.monotonic()
        told = await wire.ask(method, path, visitor.cookie)
        news = "" if told.set_cookie is None else f", the cookie {_shortened(told.set_cookie)!r}"
        visitor.past.append((begun, f"{method} {path}", f"{told.status}{news}"))
        self.outcome.requests += 1
        if self.away:
            self.outcome.statuses[told.status] += 1
        return told

    async def _log_in(self, wire: Wire, visitor: Visitor) -> None:
        told = await self._ask(wire, "POST", f"/login/{visitor.user}", visitor)
        if told.status == 200 and told.set_cookie:
            visitor.cookie = told.set_cookie
        elif told.status == 200:
            self._blame(visitor, f"{visitor.user} logged in and was given no cookie")

    async def _write(self, wire: Wire, visitor: Visitor) -> None:
        key, value = f"k{self._chance.randrange(4)}", str(next(self._numbers))
        if not visitor.cookie:
            return
        told = await self._ask(wire, "POST", f"/write/{key}/{value}", visitor)
        if told.status == 200:
            visitor.told[key] = value
            visitor.doubted.pop(key, None)
            self.outcome.writes += 1
        else:
            visitor.doubted.setdefault(key, set()).add(value)
        self._look_at_cookie("a write", told, visitor)

    async def _read(self, wire: Wire, visitor: Visitor) -> None:
        if visitor.cookie:
            told = await self._ask(wire, "GET", "/me", visitor)
            if told.status == 200:
                self._compare("a read", told.body, visitor)
            self._look_at_cookie("a read", told, visitor)

    async def _log_out(self, wire: Wire, visitor: Visitor) -> None:
        told = await self._ask(wire, "POST", "/logout", visitor)
        if told.status == 200:
            self.outcome.logouts += 1
            visitor.old.append(visitor.cookie)
        else:
            visitor.doubtful = True

    def _blame(self, visitor: Visitor, text: str) -> None:
        self.outcome.wrong.append(text)
        self._suspects[visitor.user] = visitor

    def _look_at_cookie(self, deed: str, told: Told, visitor: Visitor) -> None:
        if told.set_cookie is not None:
            cookie = _shortened(told.set_cookie)
            self._blame(visitor, f"{deed} of {visitor.user} set the cookie {cookie!r}")

    def _compare(self, where: str, body: Any, visitor: Visitor) -> None:
        if not body["available"]:
            return  # nobody says that it is not there
        data = body["data"]
        if data.get("user_id") != visitor.user:
            if not (visitor.doubtful and not data):
                self._blame(visitor, f"{where}: {visitor.user} is logged out")
            return
        for key, value in visitor.told.items():
            if data.get(key) not in {value, *visitor.doubted.get(key, ())}:
                found = f"was told {key}={value}, and finds {data.get(key)}"
                self._blame(visitor, f"{where}: {visitor.user} {found}")

    async def check(self, port: int) -> None:
        """Look at every session, as a visitor of the server at *port*, with Redis there."""

        async def some(client: int) -> None:
            async with Wire(port) as wire:
                for visitor in self.visitors[client::CLIENTS]:
                    for cookie in visitor.old or filter(None, [visitor.cookie]):
                        told = await wire.ask("GET", "/me", cookie)
                        if told.status != 200 or not told.body["available"]:
                            self._blame(visitor, f"{visitor.user} is answered {told.status}")
                        elif not visitor.old:
                            self._compare("at the end", told.body, visitor)
                        elif told.body["data"]:
                            self._blame(visitor, f"{visitor.user} is back from a logout")

        await asyncio.gather(*map(some, range(CLIENTS)))

    def tell(self, redis: RedisServer) -> None:
        """Write the stories of those with whom something is wrong."""
        for visitor in list(self._suspects.values())[:20]:
            lines = [(at, f"-- {text}") for at, text in self.events]
            lines += [(at, f"{what} -> {told}") for at, what, told in visitor.past]
            first = self.events[0][0] if self.events else 0.0
            text = "\n".join(f"    {at - first:+9.3f}  {line}" for at, line in sorted(lines))
            self.outcome.stories.append(f"{visitor.user}:\n{text}\n{_held(redis, visitor)}")


def _shortened(cookie: str) -> str:
    return f"{cookie[:6]}… of {len(cookie)} characters" if cookie else cookie


def _held(redis: RedisServer, visitor: Visitor) -> str:
    """Return what Redis holds of a session."""
    if not visitor.cookie:
        return "    it has no cookie"
    name = f"session:{hashlib.sha256(visitor.cookie.partition('.')[0].encode()).hexdigest()}"
    data, ttl = redis.execute("HGETALL", name), redis.execute("PTTL", name)
    gone = redis.execute("PTTL", f"{{{name}}}:gone")
    return f"    {name}: {data!r}, for {ttl!r} ms; its tombstone for {gone!r} ms"


async def soak(
    sessions: int,
    seconds: float,
    folder: Path,
    seed: int = 0,
    *,
    outages: int = 1,
    room: int | None = None,
) -> Outcome:
    """Take Redis from *sessions* sessions for *seconds*, and see who has lost what.

    Args:
        folder: an empty one, for logs.
        seed: of what the visitors do.
        outages: how often it is taken.
        room: how many sessions the server keeps meanwhile; by default as many as it does.
    """
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:
        servers = [_server(redis, folder / f"{name}.log", room) for name in ("first", "second")]
        try:
            servers[0].start()
            visitors = Soak(servers[0].port, sessions, seed)
            await visitors.log_all_in()
            # One in ten, of every client.
            for visitor in random.Random(seed).sample(visitors.visitors, sessions // 10):
                visitor.leaving = True
            traffic = asyncio.create_task(visitors.live())
            for _ in range(outages):
                await asyncio.sleep(min(_BETWEEN, seconds / 2))
                await _outage(redis, visitors, seconds)
            visitors.stop()
            await traffic
            # Who was not there sees in Redis what is in Redis alone.
            servers[1].start()
            for server in servers:
                await visitors.check(server.port)
            visitors.tell(redis)
        finally:
            for server in servers:
                server.close()
    for server in servers:
        if "Traceback" in server.log():
            visitors.outcome.wrong.append(f"a server complains:\n{server.log()[-2000:]}")
    visitors.outcome.stories += [f"the log of the first:\n{servers[0].log()}"]
    return visitors.outcome


def _server(redis: RedisServer, log: Path, room: int | None) -> ServerProcess:
    command = uvicorn_command(
        "tests.matrix.app:create_app",
        ["--factory", "--log-level", "warning", "--no-access-log"],
    )
    env = {**ENV, "HOLDFAST_REDIS_URL": redis.url}
    if room is not None:
        env |= {_ROOM: str(room), "HOLDFAST_SESSION_STORE": "tests.sessions.soak:small_store"}
    return ServerProcess(command, log, env)


async def _outage(redis: RedisServer, visitors: Soak, seconds: float) -> None:
    """Kill Redis for *seconds*, and return when the server has it back."""

    def note(text: str) -> None:
        visitors.events.append((time.monotonic(), text))

    begun = time.monotonic()
    note("Redis is killed")
    await asyncio.to_thread(redis.kill)
    visitors.away = True
    await asyncio.sleep(seconds)
    note("Redis is started")
    await asyncio.to_thread(redis.start)
    note("Redis answers")
    deadline = time.monotonic() + _PATIENCE
    probe = next(each for each in visitors.visitors if not each.leaving)
    async with Wire(visitors.port) as wire:
        while True:
            told = await wire.ask("GET", "/me", probe.cookie)
            if told.status == 200 and told.body["available"] and not told.body["degraded"]:
                break
            if time.monotonic() > deadline:
                visitors.outcome.wrong.append(f"Redis is back, and nobody notices: {told}")
                break
            await asyncio.sleep(0.05)
    visitors.away = False
    note("the server has it back")
    visitors.outcome.away += time.monotonic() - begun


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and say what came of it; the exit status is 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--outages", type=int, default=1)
    parser.add_argument("--room", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(
            soak(
                given.sessions,
                given.seconds,
                Path(folder),
                given.seed,
                outages=given.outages,
                room=given.room,
            )
        )
    print(f"{outcome} (--seed {given.seed})")
    for line in outcome.wrong[:20]:
        print(" ", line)
    for story in outcome.stories if outcome.wrong else ():
        print(story)
    print(json.dumps({"wrong": len(outcome.wrong), "logouts": outcome.logouts}))
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
