"""A browser in front of a middleware whose Redis can be taken away, and the waits for it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import anyio
from tests.sessions.browser import Browser, Doing, app_of

from holdfast.runtime import runtime
from holdfast.sessions.choice import default_store
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.store import Record
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.sessions.store import Missing
    from holdfast.testing import RedisServer

HOUR = 3600.0
KEY = "a key of more than sixteen characters"


def settings_for(redis: RedisServer, **changes: Any) -> Settings:
    # A busy machine is slow, not away.
    values: dict[str, Any] = {"redis_url": redis.url, "secret_key": KEY, "redis_timeout": 5}
    return Settings(**values | changes)


def session_keys(redis: RedisServer) -> list[bytes]:
    found = redis.execute("KEYS", "session:*")
    assert isinstance(found, list)
    return [name for name in found if isinstance(name, bytes)]


def fields_of(found: Record | Missing) -> dict[str, bytes]:
    assert isinstance(found, Record)
    return dict(found.fields)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 10
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        assert time.monotonic() < deadline, "it did not happen in time"
        await anyio.sleep(0.02)


async def away(settings: Settings) -> None:
    link = runtime(settings).link
    assert link is not None
    with contextlib.suppress(Exception):
        await link.execute("PING")
    await until(lambda: not link.up)


async def back(settings: Settings) -> None:
    link = runtime(settings).link
    assert link is not None
    await until(lambda: link.up)


class Outage:
    """A browser in front of a middleware, whose Redis can be taken away."""

    def __init__(self, redis: RedisServer, **changes: Any) -> None:
        self.redis = redis
        self.settings = settings_for(redis, **changes)
        self.doing = Doing()
        self.app = SessionMiddleware(self.doing, settings=self.settings)
        self.browser = Browser(self.app)

    async def log_in(self) -> None:
        self.doing.handle = lambda session: session.update(user_id=7, cart=[1])
        await self.browser.get()
        self.doing.handle = dict
        assert (await self.browser.get()).body == b"{'cart': [1], 'user_id': 7}"

    async def begin(self) -> None:
        self.redis.kill()
        await away(self.settings)

    async def end(self) -> None:
        self.redis.start()
        await back(self.settings)

    async def do(self, handle: Any, browser: Browser | None = None) -> bytes:
        self.doing.handle = handle
        answer = await (browser or self.browser).get()
        assert answer.status == 200
        return answer.body

    @property
    def store(self) -> FallbackSessionStore:
        store = default_store(runtime(self.settings))
        assert isinstance(store, FallbackSessionStore)
        return store

    async def seen_by_another_process(self) -> bytes:
        """Return what a process that was not there sees with our cookie."""
        other = RedisSessionStore(self.settings)
        app = SessionMiddleware(app_of(dict), settings=self.settings, store=other)
        return (await Browser(app, dict(self.browser.cookies)).get()).body
