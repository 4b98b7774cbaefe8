"""What the tests of the doors begin with: a store of each kind, and one that does as it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.streams.patchy import PatchyStore
from tests.streams.redis_stores import opened

from holdfast.streams.select import close_hubs
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast import EventStore
    from holdfast.testing import RedisServer


@pytest.fixture(params=["memory", "redis"])
async def store(
    request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str
) -> AsyncIterator[EventStore]:
    if request.param == "memory":
        memory = MemoryEventStore()
        yield memory
        await close_hubs(memory)
        return
    async with opened(redis.url, key_prefix) as kept:
        yield kept
        await close_hubs(kept)


@pytest.fixture
async def patchy() -> AsyncIterator[PatchyStore]:
    store = PatchyStore()
    yield store
    await close_hubs(store)
