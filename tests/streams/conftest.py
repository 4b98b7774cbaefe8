"""What the tests of streams begin with: a store of each kind, and a Redis that may fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.streams.redis_stores import at_rest, opened

from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from holdfast.streams.store import EventStore
    from holdfast.testing import RedisServer


@pytest.fixture(params=["memory", "redis"])
async def store(
    request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str
) -> AsyncIterator[EventStore]:
    if request.param == "memory":
        memory = MemoryEventStore()
        async with at_rest(memory):
            yield memory
    else:
        async with opened(redis.url, key_prefix) as stored, at_rest(stored):
            yield stored


@pytest.fixture
def proxy(redis: RedisServer) -> Iterator[FaultProxy]:
    """What stands before Redis, and may fail."""
    with FaultProxy("127.0.0.1", redis.port) as made:
        yield made
