"""The Redis store is held to the published suite, on a real Redis, and leaves no key for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.redis_stores import opened

from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.streams.store import Known
from holdfast.streams.stores.redis import RedisEventStore
from holdfast.testing import EventStoreSuite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams.store import EventStore
    from holdfast.testing import RedisServer


class TestRedis(EventStoreSuite):
    @pytest.fixture(autouse=True)
    async def _server(self, redis: RedisServer, key_prefix: str) -> AsyncIterator[None]:
        self._redis, self._prefix, self._links = redis, key_prefix, list[Link]()
        yield
        for link in self._links:
            await link.aclose()
        without_expiry = [key for key in keys_of(redis, key_prefix) if ttl(redis, key) == -1]
        assert not without_expiry

    async def make_store(
        self,
        *,
        maxlen: int = 10_000,
        max_run_bytes: int = 134_217_728,
        retention: float = 86_400,
    ) -> EventStore:
        settings = Settings(
            redis_url=self._redis.url,
            redis_timeout=5,
            key_prefix=self._prefix,
            stream_maxlen=maxlen,
            stream_max_run_bytes=max_run_bytes,
            stream_retention=int(retention),
        )
        self._links.append(Link(settings))
        return RedisEventStore(self._links[-1], settings)

    async def test_what_is_published_before_the_first_verdict_comes_first(self) -> None:
        store = await self.make_store()
        link = self._links[-1]

        async def publish_once_up() -> None:
            while not link.up:
                await asyncio.sleep(0)
            await store.add("early", "t", 20)

        early = [store.add("early", "t", number) for number in range(20)]
        await asyncio.gather(publish_once_up(), *early)
        assert [event.data for event in await store.get_events("early")] == [*range(21)]


async def test_an_audit_finds_a_run_that_has_expired_without_an_end(
    redis: RedisServer, key_prefix: str
) -> None:
    async with opened(redis.url, key_prefix) as store:
        known: list[Known] = []
        for run_id, last in (("a", "t"), ("b", "t"), ("ended", "workflow_complete")):
            await store.add(run_id, last, 1)
            info = await store.describe(run_id)
            known.append(Known(run_id, info.last, info.n, info.life, last != "t"))
        assert await store.changed(known) == []
        for run_id in ("b", "ended"):
            redis.execute("DEL", store.keys(run_id).stream)
        assert await store.changed(known) == ["b"]


def keys_of(redis: RedisServer, prefix: str) -> list[bytes]:
    """The keys of one test: a meta key begins with a brace."""
    found: list[Any] = []
    cursor: Any = b"0"
    while True:
        reply: Any = redis.execute("SCAN", cursor, "MATCH", f"*{prefix}*", "COUNT", 1000)
        cursor, page = reply
        found += page
        if cursor == b"0":
            return found


def ttl(redis: RedisServer, key: bytes) -> int:
    reply = redis.execute("PTTL", key)
    assert isinstance(reply, int)
    return reply
