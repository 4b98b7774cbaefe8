"""The hub: one reader for all, which loses nothing at the join and keeps nothing afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import re
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.clients import until
from tests.streams.patchy import PatchyStore

from holdfast import RunPublisher, Settings
from holdfast.errors import CorruptData, RedisUnavailable
from holdfast.link import Link
from holdfast.streams.cursor import TAIL, Cursor
from holdfast.streams.event import ZERO, EventId, decode_data
from holdfast.streams.fanout.hub import AUDIT_SLICE, READS_AT_ONCE, Hub
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.frames import Frame
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.store import Known
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.streams.stores.redis import RedisEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams.store import EventStore, RunInfo
    from holdfast.testing import RedisServer


@contextlib.asynccontextmanager
async def redis_stores(url: str, prefix: str, count: int) -> AsyncIterator[list[RedisEventStore]]:
    """As many processes as asked for, as far as Redis can see: a link and a producer each."""
    settings = Settings(redis_url=url, key_prefix=prefix, redis_timeout=5)
    links = [Link(settings) for _ in range(count)]
    try:
        yield [RedisEventStore(link, settings) for link in links]
    finally:
        for link in links:
            await link.aclose()


async def read_all(hub: Hub, run: str = "r") -> list[tuple[int, int]]:
    """Read a run to its end; return number and payload of each event, as they came."""
    seen = []
    async with Subscription(hub, run, Cursor()) as subscription:
        while not subscription.done:
            due = await subscription.take()
            for each in due:
                assert isinstance(each.item, Frame), each
                seen.append((each.item.entry.n, decode_data(each.item.entry.data)))
            if not due and not subscription.done:
                await subscription.wait()
    return seen


@pytest.mark.slow
async def test_two_hundred_joins_at_random_moments_lose_and_double_nothing(
    redis: RedisServer, key_prefix: str
) -> None:
    """Two processes write at full speed, so half of all events are foreign to the hub."""
    async with redis_stores(redis.url, key_prefix, 2) as (here, there):
        hub = Hub(here)
        total = 1600

        async def write(store: RedisEventStore, first: int) -> None:
            for n in range(first, total, 2):
                await store.add("r", "t", n)

        async def join() -> list[tuple[int, int]]:
            await asyncio.sleep(random.random())
            return await read_all(hub)

        joins = [asyncio.create_task(join()) for _ in range(200)]
        await asyncio.gather(write(here, 0), write(there, 1))
        await here.add("r", "workflow_complete", total)
        for seen in await asyncio.gather(*joins):
            assert [n for n, _ in seen] == list(range(1, total + 2))
            for process in (0, 1):
                mine = [data for _, data in seen[:-1] if data % 2 == process]
                assert mine == list(range(process, total, 2))
        assert repr(hub) == "<Hub 0 runs, 0 subscribers>"
        await hub.aclose()


@pytest.mark.parametrize("backend", ["memory", "redis"])
async def test_each_event_is_encoded_once_for_all_live_readers(
    redis: RedisServer, key_prefix: str, backend: str
) -> None:
    async with redis_stores(redis.url, key_prefix, 1) as (redis_store,):
        store: EventStore = redis_store if backend == "redis" else MemoryEventStore()
        hub = Hub(store)
        await store.add("r", "t", 0)
        readers = [asyncio.create_task(read_all(hub)) for _ in range(50)]
        await until(lambda: len(hub.subscribers) == 50 and "r" in hub._rings)
        ring = hub._rings["r"]
        async with RunPublisher("r", store=store) as publisher:
            for n in range(1, 11):
                await publisher.emit("t", n)
        results = await asyncio.gather(*readers)
        assert all(len(seen) == 12 for seen in results)
        assert ring.encoded <= 11
        await hub.aclose()


async def test_same_millisecond_ids_across_page_borders(
    redis: RedisServer, key_prefix: str
) -> None:
    async with redis_stores(redis.url, key_prefix, 1) as (store,):
        for n in range(1, 1300):
            redis.execute("XADD", f"{key_prefix}run:r:events", f"77-{n}", "type", "t", "data", n)
        redis.execute("XADD", f"{key_prefix}run:r:events", "78-0", "type", "run_lost")
        hub = Hub(store)
        seen = await read_all(hub)
        assert [data for _, data in seen[:-1]] == list(range(1, 1300))
        await hub.aclose()


async def test_ring_and_bell_are_gone_with_the_last_reader() -> None:
    store = MemoryEventStore()
    hub = Hub(store)
    async with Subscription(hub, "r", TAIL), Subscription(hub, "r", TAIL):
        assert repr(hub) == "<Hub 1 runs, 2 subscribers>"
    await until(lambda: not store._bells._listeners)
    assert repr(hub) == "<Hub 0 runs, 0 subscribers>"
    await hub.aclose()


async def test_reader_who_leaves_while_the_run_is_opened_leaves_nothing_behind() -> None:
    store = PatchyStore()
    store.gate.clear()
    hub = Hub(store)
    leaving = asyncio.create_task(hub.join("r"))
    staying = asyncio.create_task(hub.join("r"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    store.gate.set()
    hub.leave(await staying)
    assert repr(hub) == "<Hub 0 runs, 0 subscribers>"
    store.gate.clear()
    gone = asyncio.create_task(Subscription(hub, "r", TAIL).__aenter__())
    await asyncio.sleep(0)
    assert repr(hub) == "<Hub 0 runs, 1 subscribers>"
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    store.gate.set()
    await until(lambda: not store.bells._listeners and not hub._opening)
    assert repr(hub) == "<Hub 0 runs, 0 subscribers>"
    await hub.aclose()


@pytest.mark.parametrize("turns", range(6))
async def test_reader_who_is_about_to_join_keeps_the_ring_of_one_who_leaves(turns: int) -> None:
    store = PatchyStore()
    store.gate.clear()
    hub = Hub(store)
    first = asyncio.create_task(hub.join("r"))
    for _ in range(5):
        await asyncio.sleep(0)
    store.gate.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    hub.leave(await hub.join("r"))
    ring = await first
    store.other(bell=True)
    await until(lambda: ring.last == store.last)
    hub.leave(ring)
    await until(lambda: not store.bells._listeners)
    await hub.aclose()


async def test_run_that_cannot_be_read_leaves_nothing_behind() -> None:
    store = PatchyStore()
    store.corrupt = True
    hub = Hub(store)
    with pytest.raises(CorruptData):
        await hub.join("r")
    await until(lambda: not store.bells._listeners)
    assert not hub._opening
    await hub.aclose()


async def test_unreadable_run_is_told_and_the_hub_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = PatchyStore()
    hub = Hub(store)
    async with Subscription(hub, "r", TAIL) as subscription:
        store.corrupt = True
        store.other(bell=True)
        await until(lambda: "cannot be read" in caplog.text)
        store.corrupt = False
        store.other(bell=True)
        await subscription.wait()
        assert len(await subscription.take()) == 2
    await hub.aclose()


class Roused:
    """Notes that there was news."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()

    def rouse(self) -> bool:
        self.heard.set()
        return False


async def test_slow_run_does_not_hold_up_another() -> None:
    class OneSlow(PatchyStore):
        async def _answer(self) -> None:
            if self.slow:
                self.slow = False
                await asyncio.Event().wait()

        slow = False

    store = OneSlow()
    hub = Hub(store)
    slow, quick = await hub.join("r"), await hub.join("other")
    await until(lambda: not hub._refreshing)
    store.slow = True
    hub.look("r")
    await asyncio.sleep(0)
    reader = Roused()
    quick.sleep(reader)
    hub.look("other")
    await asyncio.wait_for(reader.heard.wait(), 10)
    hub.leave(slow)
    hub.leave(quick)
    await hub.aclose()


class Counting(PatchyStore):
    """Counts how many questions are on their way at once."""

    now = most = 0

    async def _answer(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1


async def test_thousand_readers_who_come_back_together_ask_in_turn() -> None:
    store = Counting()
    store.own(count=20)
    store.own(kind="workflow_complete")
    hub = Hub(store)
    results = await asyncio.gather(*(read_all(hub) for _ in range(1000)))
    assert all(len(seen) == 21 for seen in results)
    assert store.most <= READS_AT_ONCE + 2
    await hub.aclose()


async def test_a_hub_is_closed_though_its_audit_is_called_just_then() -> None:
    for turns in range(6):
        store = PatchyStore()
        store.own()
        hub = Hub(store)
        async with Subscription(hub, "r", TAIL):
            await asyncio.sleep(0)
        for missed in store.missed:
            missed()
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(hub.aclose())
        done, _ = await asyncio.wait({closing}, timeout=10)
        assert done, turns


async def test_a_reader_who_awaited_a_page_and_found_the_ring_first_waits_again() -> None:
    store = PatchyStore()
    store.own(count=3)
    hub = Hub(store)
    async with Subscription(hub, "r", TAIL) as tail:
        there = store.other().id  # where two readers stand whom the ring does not know yet
        async with (
            Subscription(hub, "r", Cursor(there)) as first,
            Subscription(hub, "r", Cursor(there)) as second,
        ):
            store.gate.clear()
            reading = asyncio.create_task(first.take())
            await asyncio.sleep(0)
            assert await second.take() == []
            store.other(bell=True)
            store.gate.set()
            await reading
            # Now the ring has it: who was at the end of the run has heard of both.
            while tail.cursor.base != store.last:
                await tail.wait()
                await tail.take()
            assert [due.cursor for due in await second.take()] == [str(store.last)]
            assert not second.ready
    await hub.aclose()


async def test_readers_who_stand_at_many_places_ask_in_turn() -> None:
    store = Counting()
    places = [store.other().id for _ in range(100)]
    hub = Hub(store)

    async def first(after: EventId) -> int:
        async with Subscription(hub, "r", Cursor(after)) as subscription:
            while not (due := await subscription.take()):
                await subscription.wait()
            assert isinstance(due[0].item, Frame)
            return due[0].item.entry.n

    found = await asyncio.gather(*map(first, places[:-1]))
    assert found == list(range(2, 101))
    assert 2 < store.most <= READS_AT_ONCE + 2
    await hub.aclose()


async def some_turns() -> None:
    """Let the event loop do what nobody else has to be waited for."""
    for _ in range(10):
        await asyncio.sleep(0)


class Asked(PatchyStore):
    """Counts how often it was asked what a run is, and answers when its gate is open."""

    asked = 0

    async def describe(self, run_id: str) -> RunInfo:
        self.asked += 1
        await self.gate.wait()
        return await super().describe(run_id)


async def test_all_who_ask_at_once_share_one_question_and_who_comes_later_asks_anew() -> None:
    store = Asked()
    store.own()
    hub = Hub(store)
    store.gate.clear()
    first = [asyncio.ensure_future(hub.describe("r")) for _ in range(100)]
    await some_turns()
    assert store.asked == 1
    later = asyncio.ensure_future(hub.describe("r"))
    await some_turns()
    assert store.asked == 2
    first[0].cancel()
    store.own(kind="workflow_complete")
    store.gate.set()
    assert [(await each).n for each in first[1:]] == [2] * 99
    assert (await later).status == "ended"
    assert first[0].cancelled()
    await hub.aclose()


async def test_outage_is_told_to_all_who_asked() -> None:
    store = PatchyStore()
    store.away = True
    hub = Hub(store)
    told = await asyncio.gather(*(hub.describe("r") for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [RedisUnavailable] * 3
    await hub.aclose()


async def test_stop_wakes_every_reader_from_any_thread() -> None:
    hub = Hub(MemoryEventStore())
    async with Subscription(hub, "r", TAIL) as subscription:
        waiting = asyncio.create_task(subscription.wait())
        await asyncio.sleep(0)
        thread = threading.Thread(target=hub.stop_soon)
        thread.start()
        await asyncio.wait_for(waiting, 2)
        assert subscription.over
        thread.join()
    await hub.aclose()


def test_events_reach_readers_on_two_loops_in_two_threads() -> None:
    store = MemoryEventStore()
    results: list[list[tuple[int, int]]] = []
    ready = threading.Barrier(3)

    async def read() -> None:
        hub = Hub(store)
        async with Subscription(hub, "r", TAIL):
            await asyncio.to_thread(ready.wait)
            results.append(await read_all(hub))
        await hub.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(read(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait()

    async def write() -> None:
        async with RunPublisher("r", store=store) as publisher:
            for n in range(1, 501):
                await publisher.emit("t", n)

    asyncio.run(write())
    for thread in threads:
        thread.join(10)
    assert [[n for n, _ in seen] for seen in results] == [list(range(1, 502))] * 2


def test_news_for_a_loop_that_is_gone_harm_nobody() -> None:
    store = MemoryEventStore()
    hubs: list[Hub] = []

    async def watch() -> None:
        hubs.append(Hub(store))
        await hubs[0].join("r")

    asyncio.run(watch())
    asyncio.run(store.append("r", [store.draft("t", 1)]))
    hubs[0].stop_soon()
    hubs[0].release()
    assert not store._bells._listeners


async def test_failing_audit_is_told_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(PatchyStore):
        failures = 1

        @property
        def available(self) -> bool:
            self.failures -= 1
            if self.failures == 0:
                raise ZeroDivisionError
            return True

    store = Failing()
    hub = Hub(store)
    async with Subscription(hub, "r", TAIL) as subscription:
        hub._on_missed()
        await until(lambda: "audit failed" in caplog.text)
        store.other()
        await asyncio.wait_for(subscription.wait(), 4)
    await hub.aclose()


@pytest.mark.parametrize("field", [("n", "x"), ("life", b"\xff"), ("end", "1-0 x")])
async def test_run_whose_bookkeeping_is_broken_holds_up_no_other(
    redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture, field: tuple[str, Any]
) -> None:
    async with redis_stores(redis.url, key_prefix, 2) as (store, another):
        hub = Hub(store)
        await store.append("broken", [store.draft("t", 1)])
        async with Subscription(hub, "broken", TAIL), Subscription(hub, "whole", TAIL) as whole:
            redis.execute("HSET", store.keys("broken").meta, *field)
            with pytest.raises(CorruptData):
                await store.describe("broken")
            for _ in range(2):
                hub._on_missed()
                await until(lambda: not hub._audit_now.is_set())
            await until(lambda: "cannot be looked at" in caplog.text)
            await another.append("whole", [another.draft("t", 1)])
            await asyncio.wait_for(whole.wait(), 5)
        assert caplog.text.count("cannot be looked at") == 1
        await hub.aclose()


async def test_audit_asks_about_many_idle_runs_at_once(redis: RedisServer, key_prefix: str) -> None:
    async with redis_stores(redis.url, key_prefix, 2) as (store, another):
        hub = Hub(store)
        runs = [f"r{number}" for number in range(AUDIT_SLICE + 50)]
        await asyncio.gather(*(another.append(run, [another.draft("t", 1)]) for run in runs))
        rings = [await hub.join(run) for run in runs]
        await until(lambda: not hub._refreshing)
        redis.execute("CONFIG", "RESETSTAT")
        hub._on_missed()
        await until(lambda: not hub._audit_now.is_set())
        await store.describe("r0")
        stats = redis.execute("INFO", "commandstats")
        text = stats.decode() if isinstance(stats, bytes) else str(stats)
        found = re.search(r"cmdstat_evalsha\W+calls\W+(\d+)", text)
        assert found, text
        # Two slices, the look above, and one more round of the audit at most.
        assert int(found[1]) <= 5
        for ring in rings:
            hub.leave(ring)
        await hub.aclose()


@pytest.mark.parametrize("how", ["foreign", "deleted", "ended", "lapsed"])
async def test_audit_finds_what_no_bell_told(redis: RedisServer, key_prefix: str, how: str) -> None:
    async with redis_stores(redis.url, key_prefix, 2) as (store, another):
        await store.append("r", [store.draft("t", 1)])
        info = await store.describe("r")
        known = Known("r", info.last, info.n, info.life, ended=False)
        keys = store.keys("r")
        assert await store.changed([known, Known("none", ZERO, 0, None, ended=False)]) == []
        if how == "foreign":
            redis.execute("XADD", keys.stream, "*", "type", "t", "data", "1")
        elif how == "deleted":
            await another.delete("r")
        elif how == "ended":
            await another.append("r", [another.draft("workflow_complete", None)])
        else:
            redis.execute("HSET", keys.meta, "lease", "somebody 1")
        assert await store.changed([known]) == ["r"]


async def test_audit_of_a_slice_with_a_run_that_is_none_looks_closer_at_all(
    redis: RedisServer, key_prefix: str
) -> None:
    async with redis_stores(redis.url, key_prefix, 1) as (store,):
        redis.execute("SET", store.keys("odd").stream, "x")
        runs = [Known(run, ZERO, 0, None, ended=False) for run in ("odd", "absent")]
        assert await store.changed(runs) == ["odd", "absent"]


async def test_store_that_nobody_holds_any_more_goes_with_its_hub() -> None:
    store = MemoryEventStore()
    hub = hub_of(store)
    async with Subscription(hub, "r", TAIL):
        await store.add("r", "t", 1)
    assert hub_of(store) is hub
    await close_hubs(store)
    assert hub_of(store) is not hub  # and this one nobody closes
    gone = weakref.ref(store)
    del hub, store
    await until(lambda: gc.collect() >= 0 and gone() is None)


def ranges_of(redis: RedisServer) -> int:
    """How often a stream has been read on *redis*."""
    stats = redis.execute("INFO", "commandstats")
    assert isinstance(stats, bytes)
    found = re.search(rb"cmdstat_xrange:calls=(\d+)", stats)
    return int(found[1]) if found else 0


async def test_a_small_event_of_another_process_is_not_read_but_heard(
    redis: RedisServer, key_prefix: str
) -> None:
    async with redis_stores(redis.url, key_prefix, 2) as (here, there):
        hub = Hub(here)
        await there.add("r", "t", 0)
        async with Subscription(hub, "r", Cursor()) as subscription:
            ring = hub._rings["r"]
            await subscription.take()
            await until(lambda: not hub._refreshing)
            before = ranges_of(redis)
            for n in range(1, 11):
                await there.add("r", "t", n)
            await until(lambda: ring.last_n == 11)
            assert ranges_of(redis) == before
            await there.add("r", "t", "x" * 5000)
            await until(lambda: ring.last_n == 12)
            assert ranges_of(redis) > before
        await hub.aclose()
