"""The short way of a write: taken by who writes a run alone, it guards what the long one does."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.redis_stores import data_of, entries_of, opened, ttls, until

from holdfast.errors import CorruptData, RunEnded, RunExpired
from holdfast.streams.event import EventId
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.store import Draft, News
from holdfast.streams.stores.outbox import Waiting
from holdfast.streams.stores.replies import Keys
from holdfast.streams.stores.tail import FEW, Tail, after_long, short
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
RUN = "run"
WARM = [0, 1, 2]


@pytest.fixture
async def store(redis: RedisServer, key_prefix: str) -> AsyncIterator[RedisEventStore]:
    async with opened(redis.url, key_prefix) as made:
        yield made


@pytest.fixture
async def run(store: RedisEventStore) -> RunPublisher:
    """A publisher that has the run for itself, and knows its end."""
    publisher = RunPublisher(RUN, store=store)
    for n in WARM:
        await publisher.emit("t", n)
    return publisher


def forget_scripts(redis: RedisServer) -> None:
    redis.execute("SCRIPT", "FLUSH")


def ways(redis: RedisServer, store: RedisEventStore) -> list[str]:
    """The ways that were taken since the server forgot the scripts."""
    scripts = {"long": store._writes.publish, "short": store._writes.append}
    found = redis.execute("SCRIPT", "EXISTS", *(each.sha for each in scripts.values()))
    assert isinstance(found, list)
    return [name for name, there in zip(scripts, found, strict=True) if there]


async def whole(store: RedisEventStore) -> None:
    """Check that what is stored says of itself what it has to."""
    entries = await entries_of(store, RUN)
    assert [entry.n for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.prev for entry in entries] == [EventId(0, 0), *(e.id for e in entries[:-1])]
    info = await store.describe(RUN)
    assert (info.n, info.last) == (len(entries), entries[-1].id)


class TestTheWay:
    async def test_a_run_of_ones_own_is_written_the_short_way(
        self, redis: RedisServer, store: RedisEventStore, run: RunPublisher
    ) -> None:
        forget_scripts(redis)
        assert isinstance((await run.emit("tä", 3)).id, str)
        await asyncio.gather(*(run.emit("t", n) for n in range(4, 4 + FEW)))
        assert ways(redis, store) == ["short"]
        assert await data_of(store, RUN) == list(range(4 + FEW))
        await whole(store)

    async def test_it_leaves_what_the_long_one_does(
        self, redis: RedisServer, key_prefix: str, store: RedisEventStore, run: RunPublisher
    ) -> None:
        meta = store.keys(RUN).meta
        for n in range(3, 6):
            await run.emit("ä", "ö" * n)
        found = redis.execute("HMGET", meta, "n", "last", "bytes", f"s:{store.producer}")
        entries = await entries_of(store, RUN)
        size = sum(len(entry.type.encode()) + len(entry.data) for entry in entries)
        last = str(entries[-1].id).encode()
        assert found == [b"6", last, b"%d" % size, b"6"]
        forget_scripts(redis)
        async with opened(redis.url, key_prefix) as other:
            await other.add(RUN, "t", 6)
            assert ways(redis, store) == ["long"]
        await whole(store)

    async def test_threads_take_it_too(self, redis: RedisServer, store: RedisEventStore) -> None:
        def publish(n: int) -> None:
            store.append_sync(RUN, [store.draft("t", n)])

        for n in WARM:
            await asyncio.to_thread(publish, n)
        forget_scripts(redis)
        await asyncio.to_thread(publish, 3)
        assert ways(redis, store) == ["short"]
        redis.execute("XADD", store.keys(RUN).stream, "*", "type", "t", "data", "4")
        await asyncio.to_thread(publish, 5)
        assert ways(redis, store) == ["long", "short"]
        assert await data_of(store, RUN) == list(range(6))

    async def test_a_run_that_others_write_too_costs_no_second_try(
        self, redis: RedisServer, key_prefix: str, store: RedisEventStore, run: RunPublisher
    ) -> None:
        async with opened(redis.url, key_prefix) as other:
            await other.add(RUN, "t", 3)
            await run.emit("t", 4)
            forget_scripts(redis)
            for n in range(5, 11, 2):
                await other.add(RUN, "t", n)
                await run.emit("t", n + 1)
            assert ways(redis, store) == ["long"]
        assert await data_of(store, RUN) == list(range(11))
        await whole(store)

    async def test_a_bell_carries_a_small_event_all_the_same(
        self, redis: RedisServer, key_prefix: str, run: RunPublisher
    ) -> None:
        heard: list[News] = []
        async with opened(redis.url, key_prefix) as other:
            bell = other.doorbell(lambda run_id, news: heard.append(news), lambda: None)
            await bell.add(RUN)
            await run.emit("t", "small")
            await run.emit("t", "x" * 5000)
            await until(lambda: len(heard) == 2)
            await bell.aclose()
        small, large = heard
        assert (small.n, large.n) == (4, 5)
        assert [entry.data for entry in small.entries] == [b'"small"']
        assert not large.entries


class TestGuards:
    async def test_what_another_program_added_is_counted(
        self, redis: RedisServer, store: RedisEventStore, run: RunPublisher
    ) -> None:
        redis.execute("XADD", store.keys(RUN).stream, "*", "type", "t", "data", "3")
        await run.emit("t", 4)
        assert await data_of(store, RUN) == list(range(5))
        info = await store.describe(RUN)
        assert info.n == 5

    async def test_what_another_process_wrote_is_followed(
        self, redis: RedisServer, key_prefix: str, store: RedisEventStore, run: RunPublisher
    ) -> None:
        async with opened(redis.url, key_prefix) as other:
            await other.add(RUN, "t", 3)
        await run.emit("t", 4)
        assert await data_of(store, RUN) == list(range(5))
        await whole(store)

    async def test_nothing_follows_an_end(
        self, redis: RedisServer, key_prefix: str, run: RunPublisher
    ) -> None:
        async with opened(redis.url, key_prefix) as other:
            await other.add(RUN, "workflow_complete", None)
        with pytest.raises(RunEnded):
            await run.emit("t", 4)

    async def test_nothing_follows_an_end_that_has_no_event(
        self, redis: RedisServer, store: RedisEventStore, run: RunPublisher
    ) -> None:
        last = (await store.describe(RUN)).last
        redis.execute("HSET", store.keys(RUN).meta, "end", f"{last} - 0")
        with pytest.raises(RunEnded):
            await run.emit("t", 4)

    async def test_an_expired_run_stays_expired(
        self, redis: RedisServer, store: RedisEventStore, run: RunPublisher
    ) -> None:
        redis.execute("DEL", store.keys(RUN).stream)
        with pytest.raises(RunExpired):
            await run.emit("t", 4)
        assert redis.execute("EXISTS", store.keys(RUN).stream) == 0

    async def test_a_deleted_run_is_not_written_on(
        self, redis: RedisServer, key_prefix: str, store: RedisEventStore, run: RunPublisher
    ) -> None:
        async with opened(redis.url, key_prefix) as other:
            await other.delete(RUN)
        with pytest.raises(RunEnded):
            await run.emit("t", 4)
        assert (await store.describe(RUN)).status == "absent"

    async def test_another_life_is_not_written_on(
        self, redis: RedisServer, store: RedisEventStore, run: RunPublisher
    ) -> None:
        redis.execute("HSET", store.keys(RUN).meta, "life", "1.other")
        with pytest.raises(RunEnded):
            await run.emit("t", 4)

    async def test_lost_data_begin_a_new_life(
        self, redis: RedisServer, store: RedisEventStore, run: RunPublisher
    ) -> None:
        redis.execute("DEL", store.keys(RUN).stream, store.keys(RUN).meta)
        before = (await run.emit("t", 3)).id
        assert (await run.emit("t", 4)).id > before
        assert await data_of(store, RUN) == [3, 4]
        await whole(store)
        assert -1 not in ttls(redis, store, RUN)

    async def test_a_stop_is_told(self, store: RedisEventStore, run: RunPublisher) -> None:
        await store.request_stop(RUN)
        (entry,) = await store.append(RUN, [store.draft("t", 3)])
        assert entry.stopping

    async def test_the_next_event_undoes_a_shorter_expiry(
        self, redis: RedisServer, store: RedisEventStore, run: RunPublisher
    ) -> None:
        await store.set_expire(RUN, 30)
        await run.emit("t", 3)
        assert min(ttls(redis, store, RUN)) > 3_000_000

    async def test_a_lost_reply_leaves_one_entry(
        self, redis: RedisServer, store: RedisEventStore, key_prefix: str
    ) -> None:
        with FaultProxy("127.0.0.1", redis.port) as proxy:
            async with opened(proxy.url, key_prefix, redis_timeout=1) as away:
                publisher = RunPublisher(RUN, store=away)
                for n in WARM:
                    await publisher.emit("t", n)
                # Or the reply that is lost would be that it is not known.
                redis.execute("SCRIPT", "LOAD", store._writes.append.source)
                proxy.blackhole("replies")
                assert "~" in (await publisher.emit("t", 3)).id
                proxy.cut()
                proxy.heal()
                await until(lambda: not away.journalled)
                await publisher.emit("t", 4)
        assert await data_of(store, RUN) == list(range(5))
        await whole(store)

    async def test_a_key_that_is_something_else_is_told_as_corrupt(
        self, redis: RedisServer, store: RedisEventStore, run: RunPublisher
    ) -> None:
        redis.execute("SET", store.keys(RUN).meta, "x")
        with pytest.raises(CorruptData):
            await run.emit("t", 3)
        redis.execute("DEL", store.keys(RUN).meta)


KEYS = Keys.of("", "s", RUN)
KNOWN = Tail("1.x", EventId(5, 0), "5-0", 7, 100, 50, "5", 10.0, True)


def waiting(kind: str = "t", data: bytes = b"1", life: str | None = None) -> Waiting:
    return Waiting(Draft(kind, data), "p", 8, 0, life, None, None, False, None)


class TestPolicy:
    @pytest.mark.parametrize(
        ("known", "event", "now"),
        [
            (None, waiting(), 0.0),
            (KNOWN._replace(alone=False), waiting(), 0.0),
            (KNOWN, waiting(), 10.0),
            (KNOWN, waiting("workflow_complete"), 0.0),
            (KNOWN, waiting(life="0.y"), 0.0),
            (KNOWN, waiting(data=b"x" * 50), 0.0),
        ],
        ids=["unknown", "others write", "expiry due", "end", "other life", "budget"],
    )
    def test_the_long_way_is_taken(self, known: Tail | None, event: Waiting, now: float) -> None:
        assert short(known, [event], KEYS, "10", now) is None

    @pytest.mark.parametrize(("count", "is_short"), [(FEW, True), (FEW + 1, False)])
    def test_only_few_events_go_the_short_way(self, count: int, is_short: bool) -> None:
        assert (short(KNOWN, [waiting()] * count, KEYS, "10", 0.0) is not None) is is_short

    def test_the_call_says_what_is_known_and_what_will_be(self) -> None:
        write = short(KNOWN, [waiting("ä", b"12", "1.x")], KEYS, "10", 0.0)
        assert write is not None
        assert write.size == 104
        known = ["{s}:bell", "1.x", "5-0", "5", "10", "s:p", "8", "104"]
        args = [*known, "ä", b"12", "8", " 104 p 8"]
        assert write.call == (("s", "{s}:meta"), args)

    @pytest.mark.parametrize(("retention", "step"), [(3_600_000, 1.0), (5_000, 0.05)])
    def test_the_expiry_is_due_a_step_after_it_was_set(self, retention: int, step: float) -> None:
        reply: list[Any] = [b"ok", b"1.x", 7, b"4-0", 0, b"1400-0", [b"100", b"20", b"1000"]]
        found = after_long(None, reply, 130, retention, 50.0)
        assert found is not None
        assert math.isclose(found.due, 50 + step - 0.4)
        assert (found.room, found.alone, found.last, len(reply)) == (50, False, "1400-0", 6)

    @pytest.mark.parametrize(
        ("life", "last", "alone"),
        [("1.x", "4-0", True), ("1.x", "3-0", False), ("0.y", "4-0", False)],
    )
    def test_who_wrote_last_twice_is_alone(self, life: str, last: str, alone: bool) -> None:
        reply: list[Any] = [b"ok", b"1.x", 7, b"4-0", 0, b"5-0", [b"100", b"0", b"5"]]
        known = KNOWN._replace(life=life, last=last)
        found = after_long(known, reply, 130, 1000, 50.0)
        assert found is not None
        assert found.alone is alone
