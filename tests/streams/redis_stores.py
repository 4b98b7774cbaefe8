"""What the tests of stores share: stores that are closed, and ways to look and to wait."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.streams.event import ZERO
from holdfast.streams.publishing import runs
from holdfast.streams.select import close_hubs
from holdfast.streams.stores.redis import RedisEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from holdfast.streams.store import Entry, EventStore
    from holdfast.testing import RedisServer


@contextlib.asynccontextmanager
async def opened(url: str, prefix: str, **values: Any) -> AsyncIterator[RedisEventStore]:
    """A store as one process has it: with a link of its own."""
    settings = Settings(redis_url=url, key_prefix=prefix, **{"redis_timeout": 5, **values})
    link = Link(settings)
    try:
        yield RedisEventStore(link, settings)
    finally:
        await link.aclose()


@contextlib.asynccontextmanager
async def at_rest(store: EventStore) -> AsyncIterator[None]:
    """In the end nothing publishes to *store* or reads from it any more."""
    yield
    await runs.close_runs(store)
    await close_hubs(store)


@contextlib.contextmanager
def opened_sync(url: str, prefix: str, **values: Any) -> Iterator[RedisEventStore]:
    """The same for tests that run loops and threads of their own."""
    settings = Settings(redis_url=url, key_prefix=prefix, **{"redis_timeout": 5, **values})
    link = Link(settings)
    try:
        yield RedisEventStore(link, settings)
    finally:
        link.close()


async def data_of(store: EventStore, run_id: str) -> list[Any]:
    """The data of every event that a run keeps, in order."""
    return [event.data for event in await store.get_events(run_id, limit=1_000_000)]


async def entries_of(store: EventStore, run_id: str) -> list[Entry]:
    """Every entry that a run keeps."""
    return await store.read(run_id, ZERO, None, 1_000_000)


def ttls(redis: RedisServer, store: RedisEventStore, run_id: str) -> list[int]:
    """Milliseconds left to the run's two keys; -1 never ends, -2 is no key."""
    keys = store.keys(run_id)
    found = [redis.execute("PTTL", key) for key in (keys.stream, keys.meta)]
    return [each for each in found if isinstance(each, int)]


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for *condition*."""
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "it did not come about in time"
        await asyncio.sleep(0.005)
