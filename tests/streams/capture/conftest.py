"""What the tests of capture begin with: a store of each kind, an application and its browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.streams.capture.calls import Browser, Feed, captured
from tests.streams.redis_stores import opened

from holdfast.streams.publishing import runs
from holdfast.streams.select import close_hubs
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams.store import EventStore
    from holdfast.testing import RedisServer


@pytest.fixture(params=["memory", "redis"])
async def store(
    request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str
) -> AsyncIterator[EventStore]:
    if request.param == "memory":
        made = MemoryEventStore()
        yield made
        await runs.close_runs(made)
        await close_hubs(made)
        return
    async with opened(redis.url, key_prefix) as stored:
        yield stored
        await runs.close_runs(stored)
        await close_hubs(stored)


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def browser(store: EventStore, feed: Feed) -> Browser:
    return Browser(captured(feed, store))
