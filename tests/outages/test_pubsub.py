"""Runs on Pub/Sub while Redis is away: nobody's publishing fails, and what was missed is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.streams.asgi import Call
from tests.streams.clients import until
from tests.streams.redis_stores import opened
from tests.streams.test_pubsub import REST, SSE, app_of, names, reading

from holdfast.streams.select import close_hubs
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer


@pytest.fixture
async def other(redis: RedisServer, key_prefix: str) -> AsyncIterator[RedisEventStore]:
    """A process that Redis never leaves."""
    async with opened(redis.url, key_prefix, stream_enabled=False) as made:
        yield made
        await close_hubs(made)


async def test_publishing_goes_on_and_everybody_is_told_the_truth(
    redis: RedisServer, key_prefix: str, other: RedisEventStore
) -> None:
    with FaultProxy("127.0.0.1", redis.port) as proxy:
        values = {"stream_enabled": False, "redis_timeout": 5}
        async with opened(proxy.url, key_prefix, **values) as away:
            async with reading(away) as here, reading(other) as there:
                await away.add("r", "t", 1)
                await until(lambda: here.events and there.events)
                proxy.refuse()
                proxy.cut()
                event = await away.add("r", "t", 2)
                assert "~" in event.id
                await until(lambda: len(here.events) == 2)
                assert "\nid" not in here.text
                async with Call(app_of(away), REST) as history:
                    await history.ended()
                assert (history.status, json.loads(history.text)["code"]) == (404, "NO_HISTORY")
                # What the others say meanwhile does not come here, and cannot be asked for later.
                await other.add("r", "t", "missed")
                proxy.heal()
                await until(lambda: not away.journalled, 20)
                await until(lambda: len(there.events) == 3, 20)
                await away.add("r", "t", 3)
                await other.add("r", "workflow_complete", 4)
                await here.ended()
                await there.ended()
            await close_hubs(away)
    assert [data for name, data in here.events if name != "holdfast.gap"] == [1, 2, 3, 4]
    assert names(here).count("holdfast.gap") == 1
    assert [data for _, data in there.events] == [1, "missed", 2, 3, 4]


async def test_a_run_that_begins_and_ends_without_redis_is_published_when_it_is_back(
    redis: RedisServer, key_prefix: str, other: RedisEventStore
) -> None:
    with FaultProxy("127.0.0.1", redis.port) as proxy:
        values = {"stream_enabled": False, "redis_timeout": 5}
        async with opened(proxy.url, key_prefix, **values) as away, reading(other) as there:
            await away.status("elsewhere")
            proxy.refuse()
            proxy.cut()
            for n in range(3):
                await away.add("r", "t", n)
            async with Call(app_of(away), SSE) as held:
                await until(lambda: held.status == 200)
            await away.add("r", "workflow_complete", 3)
            proxy.heal()
            await there.ended()
            await close_hubs(away)
    assert [data for _, data in there.events] == [0, 1, 2, 3]
    assert await other.status("r") == "ended"
