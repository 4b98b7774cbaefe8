"""Before Redis 6 no script may XREAD. Here its user may not: to a script it is the same refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.streams.store import Known
from holdfast.streams.stores.redis import RedisEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(fresh_redis: RedisServer) -> AsyncIterator[RedisEventStore]:
    fresh_redis.execute("ACL", "SETUSER", "old", "on", ">pw", "~*", "&*", "+@all", "-xread")
    url = f"redis://old:pw@127.0.0.1:{fresh_redis.port}"
    settings = Settings(redis_url=url, redis_timeout=5)
    link = Link(settings)
    yield RedisEventStore(link, settings)
    await link.aclose()


async def test_what_another_program_added_is_counted_and_followed(
    store: RedisEventStore, fresh_redis: RedisServer
) -> None:
    stream = store.keys("r").stream
    await store.add("r", "t", 1)
    for n in (2, 3):
        fresh_redis.execute("XADD", stream, "*", "type", "t", "data", n)
    await store.add("r", "t", 4)
    assert (await store.describe("r")).n == 4
    fresh_redis.execute("XADD", stream, "*", "type", "workflow_complete", "data", "{}")
    assert (await store.describe("r")).status == "ended"
    assert [event.data for event in await store.get_events("r", "0", None, 10)] == [1, 2, 3, 4, {}]


async def test_the_short_way_of_a_write_is_tried_once(
    store: RedisEventStore, fresh_redis: RedisServer
) -> None:
    for n in range(5):
        await store.add("r", "t", n)
    fresh_redis.execute("SCRIPT", "FLUSH")
    for n in range(5, 10):
        await store.add("r", "t", n)
    assert fresh_redis.execute("SCRIPT", "EXISTS", store._writes.append.sha) == [0]
    assert [event.data for event in await store.get_events("r")] == list(range(10))


async def test_an_audit_finds_what_has_changed_and_no_more(
    store: RedisEventStore, fresh_redis: RedisServer
) -> None:
    known: list[Known] = []
    for run_id in ("a", "b", "c", "d"):
        await store.add(run_id, "t", 1)
        info = await store.describe(run_id)
        known.append(Known(run_id, info.last, info.n, info.life, False))
    assert await store.changed(known) == []
    fresh_redis.execute("XADD", store.keys("b").stream, "*", "type", "t", "data", 2)
    fresh_redis.execute("DEL", store.keys("d").stream)
    fresh_redis.execute("SET", store.keys("d").stream, "no stream")
    assert await store.changed(known) == ["b", "d"]
