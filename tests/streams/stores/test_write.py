"""Events written now or not at all, and once for each key: in memory and in a real Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.redis_stores import data_of, opened, until

from holdfast.errors import (
    CorruptData,
    IdempotencyKeyReused,
    InvalidEvent,
    RedisUnavailable,
)
from holdfast.streams.store import Draft, Once
from holdfast.streams.stores import replies
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams.store import EventStore, News
    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
RUN = "run"
FIRST, SECOND = Once("key", "first"), Once("key", "second")


def drafts(*data: Any) -> list[Draft]:
    return [Draft("t", str(each).encode()) for each in data]


END = Draft("workflow_complete", b"null")


async def test_nothing_to_write_creates_no_run(store: EventStore) -> None:
    assert await store.write(RUN, [], once=FIRST) == []
    assert await store.status(RUN) == "absent"
    with pytest.raises(InvalidEvent):
        await store.write("{}", drafts(1))


async def test_readers_of_this_process_hear_of_it_at_once_and_once(store: EventStore) -> None:
    heard: list[News] = []
    bell = store.doorbell(lambda _, news: heard.append(news), lambda: None)
    await bell.add(RUN)
    (entry,) = await store.write(RUN, drafts(1), once=FIRST)
    assert [list(news.entries) for news in heard if news.entries] == [[entry]]
    await store.write(RUN, drafts(1), once=FIRST)
    assert len([news for news in heard if news.entries]) == 1
    await bell.aclose()


@pytest.fixture(params=["memory", "redis"])
async def small(
    request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str
) -> AsyncIterator[EventStore]:
    if request.param == "memory":
        yield MemoryEventStore(maxlen=3)
    else:
        async with opened(redis.url, key_prefix, stream_maxlen=3) as made:
            yield made


async def test_as_many_keys_are_remembered_as_events(small: EventStore) -> None:
    for number in range(5):
        await small.write(RUN, drafts(number), once=Once(f"key-{number}", "x"))
    before = (await small.describe(RUN)).n
    for number in range(2, 5):
        await small.write(RUN, drafts(number), once=Once(f"key-{number}", "x"))
    assert (await small.describe(RUN)).n == before
    await small.write(RUN, drafts(0), once=Once("key-0", "x"))
    assert (await small.describe(RUN)).n == before + 1


@pytest.fixture(params=["memory", "redis"])
async def live(
    request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str
) -> AsyncIterator[EventStore]:
    if request.param == "memory":
        yield MemoryEventStore(enabled=False)
    else:
        async with opened(redis.url, key_prefix, stream_enabled=False) as made:
            yield made


async def test_a_run_that_keeps_no_events_still_knows_its_keys(live: EventStore) -> None:
    first = await live.write(RUN, drafts(1, 2), once=FIRST)
    again = await live.write(RUN, drafts(1, 2), once=FIRST)
    assert [each.id for each in again] == [each.id for each in first]
    assert (await live.describe(RUN)).n == 2
    with pytest.raises(IdempotencyKeyReused):
        await live.write(RUN, drafts(3), once=SECOND)


class TestRedis:
    """What only a real Redis shows."""

    @pytest.fixture
    async def store(self, redis: RedisServer, key_prefix: str) -> AsyncIterator[RedisEventStore]:
        async with opened(redis.url, key_prefix) as made:
            yield made

    async def test_of_duplicates_in_two_processes_one_writes(
        self, redis: RedisServer, store: RedisEventStore, key_prefix: str
    ) -> None:
        async with opened(redis.url, key_prefix) as other:
            answers = await asyncio.gather(
                *(each.write(RUN, drafts(*range(100)), once=FIRST) for each in [store, other] * 5)
            )
        assert len({tuple(entry.id for entry in answer) for answer in answers}) == 1
        assert await data_of(store, RUN) == [*range(100)]

    async def test_the_answer_of_a_thousand_events_takes_little_room(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        first = await store.write(RUN, drafts(*range(1000)), once=FIRST)
        await store.write(RUN, drafts(1), once=Once("other", "x"))
        again = await store.write(RUN, drafts(*range(1000)), once=FIRST)
        assert [each.id for each in again] == [each.id for each in first]
        kept = redis.execute("HGET", store.keys(RUN).meta, "k:key")
        assert isinstance(kept, bytes)
        assert len(kept) < 1000
        assert not [name for name in _fields(redis, store) if name.startswith(b"s:")]

    async def test_what_was_kept_without_a_form_is_good_for_any(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        one, listed = Once("key", "x.one"), Once("key", "x.list")
        (written,) = await store.write(RUN, drafts(1), once=one)
        with pytest.raises(IdempotencyKeyReused):
            await store.write(RUN, drafts(1), once=listed)
        # As a version that knew no forms has it, and as it reads what this one keeps: by its front.
        front = f"x {written.public_id}*1".encode()
        meta = store.keys(RUN).meta
        assert redis.execute("HGET", meta, "k:key") == front + b" .one"
        redis.execute("HSET", meta, "k:key", front)
        for once in (one, listed):
            (again,) = await store.write(RUN, drafts(1), once=once)
            assert again.id == written.id
        with pytest.raises(IdempotencyKeyReused):
            await store.write(RUN, drafts(1), once=Once("key", "y.one"))

    async def test_a_deleted_run_keeps_no_key(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        for number in range(3):
            await store.write(RUN, drafts(1), once=Once(f"key-{number}", "x"))
        await store.delete(RUN)
        assert not {b"k:key-0", b"q:1", b"k:key-2", b"q:3", b"keys"} & set(_fields(redis, store))

    async def test_a_lost_answer_is_told_and_asked_for_again_writes_nothing_twice(
        self, redis: RedisServer, store: RedisEventStore, key_prefix: str
    ) -> None:
        with FaultProxy("127.0.0.1", redis.port) as proxy:
            async with opened(proxy.url, key_prefix, redis_timeout=1) as away:
                await away.write(RUN, drafts(1))
                proxy.blackhole("replies")
                with pytest.raises(RedisUnavailable):
                    await away.write(RUN, drafts(2), once=FIRST)
                assert away.journalled == 0
                with pytest.raises(RedisUnavailable):
                    await away.write(RUN, drafts(3))
                proxy.cut()
                proxy.heal()
                await until(lambda: away.available)
                await away.write(RUN, drafts(2), once=FIRST)
        assert await data_of(store, RUN) == [1, 2]

    @pytest.mark.parametrize(
        "reply", [[], [b"ok", b"1.x", 1, b"0-0", 0], [b"ok", b"1.x", 1, b"?", 0, b"x"]]
    )
    def test_an_answer_of_another_form_is_told(self, reply: list[Any]) -> None:
        with pytest.raises(CorruptData):
            replies.written(RUN, drafts(1), reply)


def _fields(redis: RedisServer, store: RedisEventStore) -> list[bytes]:
    names = redis.execute("HKEYS", store.keys(RUN).meta)
    assert isinstance(names, list)
    return [name for name in names if isinstance(name, bytes)]
