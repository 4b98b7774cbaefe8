"""A Redis that comes back without what it had acknowledged: written again, or told.

The loss is made by hand, as a replica that lagged shows it; ``tests/outages`` has real failovers.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.redis_stores import data_of, opened, until

from holdfast.link import Script, supervisor
from holdfast.streams.cursor import Cursor
from holdfast.streams.event import EventId, decode_data
from holdfast.streams.fanout.hub import Hub
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.frames import Frame
from holdfast.streams.stores import outbox
from holdfast.streams.stores.lost import read

if TYPE_CHECKING:
    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import FaultProxy, RedisServer

pytestmark = pytest.mark.anyio
RUN = "run"


@pytest.fixture(autouse=True)
def short_hold_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HOLD_DOWN", 0.05)


def lose(redis: RedisServer, store: RedisEventStore, keep: int) -> None:
    """Take from Redis what *store* has written to the run after its first *keep* events."""
    keys = store.keys(RUN)
    entries: Any = redis.execute("XRANGE", keys.stream, "-", "+")
    for at, _ in entries[keep:]:
        redis.execute("XDEL", keys.stream, at)
    last = entries[keep - 1][0]
    redis.execute("HSET", keys.meta, "n", keep, "last", last, f"s:{store.producer}", keep)
    redis.execute("HDEL", keys.meta, "end")


async def shows(subscription: Subscription, *expected: Any) -> None:
    """Wait until a reader is shown just this: data, or what a break is called."""
    left = list(expected)
    async with asyncio.timeout(10):
        while left:
            due = await subscription.take()
            for each in due:
                item = each.item
                seen = decode_data(item.entry.data) if isinstance(item, Frame) else item.kind
                assert seen == left.pop(0), f"{seen!r} of {expected}"
            if not due:
                await subscription.wait()


class TestWrittenAgain:
    async def test_what_was_acknowledged_and_lost_is_there_again_once_and_in_order(
        self,
        redis: RedisServer,
        proxy: FaultProxy,
        key_prefix: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async with opened(proxy.url, key_prefix, redis_timeout=5) as store:
            for n in range(5):
                await store.add(RUN, "t", n)
            proxy.refuse()
            await store.add(RUN, "t", 5)
            lose(redis, store, 2)
            with caplog.at_level(logging.WARNING, "holdfast.streams"):
                proxy.heal()
                await until(lambda: store.available and not store.journalled)
            await store.add(RUN, "t", 6)
            assert await data_of(store, RUN) == list(range(7))
            assert "without events that it had stored: 3 are written again" in caplog.text

    async def test_a_lost_end_is_written_again_though_nobody_publishes(
        self, redis: RedisServer, proxy: FaultProxy, key_prefix: str
    ) -> None:
        async with opened(proxy.url, key_prefix, redis_timeout=5) as store:
            await store.add(RUN, "t", 0)
            await store.add(RUN, "workflow_complete", 1)
            proxy.refuse()
            lose(redis, store, 1)
            await store.add("another", "t", 0)
            proxy.heal()
            await until(lambda: store.available and not store.journalled)
            assert await store.status(RUN) == "ended"
            assert await data_of(store, RUN) == [0, 1]

    async def test_a_run_that_is_gone_whole_is_begun_anew_with_all_it_had(
        self, redis: RedisServer, proxy: FaultProxy, key_prefix: str
    ) -> None:
        async with opened(proxy.url, key_prefix, redis_timeout=5) as store:
            for n in range(3):
                await store.add(RUN, "t", n)
            proxy.refuse()
            await store.add(RUN, "t", 3)
            redis.execute("DEL", store.keys(RUN).stream, store.keys(RUN).meta)
            proxy.heal()
            await until(lambda: store.available and not store.journalled)
            assert await data_of(store, RUN) == [0, 1, 2, 3]

    async def test_a_run_that_was_deleted_meanwhile_stays_deleted(
        self, redis: RedisServer, proxy: FaultProxy, key_prefix: str
    ) -> None:
        async with (
            opened(proxy.url, key_prefix, redis_timeout=5) as store,
            opened(redis.url, key_prefix, redis_timeout=5) as other,
        ):
            await store.add(RUN, "t", 0)
            proxy.refuse()
            await store.add("another", "t", 0)
            await other.delete(RUN)
            proxy.heal()
            await until(lambda: store.available and not store.journalled)
            assert await other.status(RUN) == "absent"
            assert await data_of(other, RUN) == []

    async def test_readers_who_had_it_are_told_that_the_run_is_another(
        self, redis: RedisServer, proxy: FaultProxy, key_prefix: str
    ) -> None:
        async with opened(proxy.url, key_prefix, redis_timeout=5) as store:
            hub = Hub(store)
            async with Subscription(hub, RUN, Cursor()) as had:
                for n in range(3):
                    await store.add(RUN, "t", n)
                await shows(had, 0, 1, 2)
                proxy.refuse()
                await store.add(RUN, "t", 3)
                await shows(had, 3)
                lose(redis, store, 2)
                proxy.heal()
                await shows(had, "reset", 0, 1, 2, 3)
            await hub.aclose()


class TestStartedEmpty:
    async def test_readers_of_both_processes_are_told_once_and_get_all_that_is_still_known(
        self, fresh_redis: RedisServer
    ) -> None:
        url = fresh_redis.url
        async with (
            opened(url, "", redis_timeout=5) as here,
            opened(url, "", redis_timeout=5) as there,
        ):
            hubs = Hub(here), Hub(there)
            async with (
                Subscription(hubs[0], RUN, Cursor()) as near,
                Subscription(hubs[1], RUN, Cursor()) as far,
            ):
                for n in range(3):
                    await here.add(RUN, "t", n)
                for each in (near, far):
                    await shows(each, 0, 1, 2)
                fresh_redis.kill()
                await here.add(RUN, "t", 3)
                await shows(near, 3)
                fresh_redis.start()
                for each in (near, far):
                    await shows(each, "reset", 0, 1, 2, 3)
                await there.add(RUN, "t", 4)
                for each in (near, far):
                    await shows(each, 4)
            for hub in hubs:
                await hub.aclose()

    async def test_what_is_no_longer_known_is_covered_by_the_reset(
        self, fresh_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "MAX_RECENT_EVENTS", 1)
        async with opened(fresh_redis.url, "", redis_timeout=5) as store:
            hub = Hub(store)
            async with Subscription(hub, RUN, Cursor()) as reader:
                for n in range(3):
                    await store.add(RUN, "t", n)
                await shows(reader, 0, 1, 2)
                fresh_redis.kill()
                await store.add(RUN, "t", 3)
                await shows(reader, 3)
                fresh_redis.start()
                await shows(reader, "reset", 3)
                await store.add(RUN, "t", 4)
                await shows(reader, 4)
            await hub.aclose()


class TestTold:
    async def test_what_is_no_longer_here_is_told_to_readers_who_never_had_it(
        self,
        redis: RedisServer,
        proxy: FaultProxy,
        key_prefix: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(outbox, "MAX_RECENT_EVENTS", 1)
        async with (
            opened(proxy.url, key_prefix, redis_timeout=5) as store,
            opened(redis.url, key_prefix, redis_timeout=5) as other,
        ):
            for n in range(4):
                await store.add(RUN, "t", n)
            proxy.refuse()
            await store.add("another", "t", 0)
            lose(redis, store, 2)
            hub = Hub(other)
            async with Subscription(hub, RUN, Cursor()) as live:
                await shows(live, 0, 1)
                proxy.heal()
                # At once, though nobody publishes; what is published then follows.
                await shows(live, "gap")
                await store.add(RUN, "t", 4)
                await shows(live, 4)
            async with Subscription(hub, RUN, Cursor()) as late:
                await shows(late, 0, 1, "gap", 4)
            await hub.aclose()

    async def test_a_number_that_is_given_again_hides_nothing(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with (
            opened(redis.url, key_prefix, redis_timeout=5) as here,
            opened(redis.url, key_prefix, redis_timeout=5) as there,
            opened(redis.url, key_prefix, redis_timeout=5) as third,
        ):
            hub = Hub(here)
            async with Subscription(hub, RUN, Cursor()) as live:
                for n in range(5):
                    await there.add(RUN, "t", n)
                await shows(live, 0, 1, 2, 3, 4)
                lose(redis, there, 3)
                # Numbers 4 and 5, which the reader has, and 6, which seems to follow.
                await third.append(RUN, [third.draft("t", word) for word in "ab"])
                await third.append(RUN, [third.draft("t", "c")])
                await shows(live, "reset", 0, 1, 2, "a", "b", "c")
            await hub.aclose()


@pytest.mark.parametrize(
    ("answer", "life", "found"),
    [
        pytest.param([b"0.x", b"7-1", None, b"4"], "0.x", (4, EventId(7, 1)), id="there"),
        pytest.param([b"0.x", b"7-1", None, None], "0.x", (0, EventId(7, 1)), id="others"),
        pytest.param([b"0.y", b"7-1", None, b"4"], "0.x", (4, EventId(7, 1)), id="begun anew"),
        pytest.param([None, None, None, None], "0.x", (0, EventId(0, 0)), id="gone whole"),
        pytest.param([b"1.y", b"7-1", None, b"4"], "0.x", None, id="a later life"),
        pytest.param([b"0.x", b"7-1", b"1", b"4"], "0.x", None, id="deleted"),
        pytest.param([b"0.x", b"seven", None, b"4"], "0.x", None, id="no id"),
        pytest.param(ValueError("WRONGTYPE"), "0.x", None, id="no hash"),
    ],
)
def test_what_redis_says_of_a_run(answer: Any, life: str, found: Any) -> None:
    assert read(answer, life) == found


@pytest.mark.parametrize(
    ("command", "meta"),
    [
        pytest.param(("HSET", "gone", "1"), True, id="deleted"),
        pytest.param(("HSET", "end", "7-0 p 1"), True, id="ended"),
        pytest.param(("HSET", "life", "1.x"), True, id="a later life"),
        pytest.param(("XTRIM", "MAXLEN", 0), False, id="nothing left to follow"),
        pytest.param(("DEL",), True, id="nothing known"),
    ],
)
async def test_no_gap_is_noted_of_a_run_to_which_nothing_follows(
    redis: RedisServer, key_prefix: str, command: tuple[Any, ...], *, meta: bool
) -> None:
    async with opened(redis.url, key_prefix, redis_timeout=5) as store:
        keys = store.keys(RUN)
        await store.add(RUN, "t", 0)
        redis.execute(command[0], keys.meta if meta else keys.stream, *command[1:])
        before = redis.execute("HGETALL", keys.meta)
        source = Script.load("stream_lost").source
        assert redis.execute("EVAL", source, 2, keys.stream, keys.meta, keys.bell, "0") == 0
        assert redis.execute("HGETALL", keys.meta) == before
