"""What a session and a run take of the memory of Redis.

Run it as ``python -m tests.benchmarks.sizes``; it also puts the tables into their page. Many of
each kind are made through the doors that an application uses, in a Redis that holds nothing else;
what its memory grew by is divided by their number. A busy machine changes nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.sessions.browser import Browser

from holdfast import RunPublisher, SessionMiddleware, Settings, aclose, get_session
from holdfast.testing import RedisServer, redis_server

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PAGE = Path(__file__).resolve().parents[2] / "docs/production/sizing.md"
BEGIN, END = "<!-- sizes -->\n", "<!-- /sizes -->\n"
SESSIONS = 2000
AGENT = b"Mozilla/5.0 (X11; Linux x86_64; rv:148.0) Gecko/20100101 Firefox/148.0"
EVENT = {"text": "x" * 188}  # 200 bytes as JSON

Work = Callable[[int], Awaitable[Any]]


def visit(settings: Settings, data: dict[str, Any], *, logs_out: bool = False) -> Work:
    """One visitor, who gets a session of *data*, and ends it where *logs_out*."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        if scope["path"] == "/logout":
            session.invalidate()
        else:
            named = {"user_id": scope["path"]} if "user_id" in data else {}
            session.update(data | named)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    door = SessionMiddleware(app, settings=settings)

    async def come(number: int) -> None:
        browser = Browser(door)
        await browser.get(f"/user-{number}", headers=((b"user-agent", AGENT),))
        if logs_out:
            await browser.get("/logout")

    return come


def publish(settings: Settings, events: int) -> Work:
    """One run of *events* and its end."""

    async def run(number: int) -> None:
        async with RunPublisher(f"run-{events:04x}{number:012x}", settings=settings) as publisher:
            for _ in range(events):
                await publisher.emit("token", EVENT)

    return run


def used(redis: RedisServer) -> int:
    """Return the bytes of memory that Redis has in use."""
    return int(told(redis, "INFO", "memory").partition("used_memory:")[2].split()[0])


def told(redis: RedisServer, *command: str) -> str:
    """Return what Redis answers, as text."""
    reply = redis.execute(*command)
    if not isinstance(reply, bytes):
        raise TypeError(f"{command} was answered {reply!r}")
    return reply.decode()


async def grown(redis: RedisServer, work: Work, times: int) -> float:
    """Return the bytes that each of *times* adds."""
    await work(times)  # what the first one brings along is nobody's
    before = used(redis)
    for number in range(times):
        await work(number)
    return (used(redis) - before) / times


async def measure(redis: RedisServer) -> list[str]:
    """Return the lines of the page."""
    settings = Settings(redis_url=redis.url, secret_key="a-key-of-sixteen-characters-or-more")
    cart = {"cart": ["rope", "knife", "lamp"], "theme": "dark"}
    large = {f"key{n}": "x" * 190 for n in range(10)}
    sessions = {
        "one key, nobody logged in": visit(settings, {"theme": "dark"}),
        "three keys, and a user in the index": visit(settings, {**cart, "user_id": ""}),
        "the same and 2 kB more in ten keys": visit(settings, {**cart, **large, "user_id": ""}),
        "logged out: what keeps it so for an hour": visit(settings, cart, logs_out=True),
    }
    lines = ["| a session | bytes in Redis |", "|---|---|"]
    for name, work in sessions.items():
        lines.append(f"| {name} | {await grown(redis, work, SESSIONS):,.0f} |")
    lines += ["", "| a run that has ended | bytes in Redis | for each event |", "|---|---|---|"]
    for events, times in ((1, 1000), (10, 1000), (100, 200), (1000, 20)):
        took = await grown(redis, publish(settings, events), times)
        lines.append(f"| {events:,} of 200 bytes | {took:,.0f} | {took / events:,.0f} |")
    await aclose()
    return lines


def main() -> None:
    """Measure on a server of our own, and put the tables into their page."""
    with redis_server("--save", "", "--appendonly", "no") as redis:
        lines = asyncio.run(measure(redis))
    print("\n".join(lines))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
