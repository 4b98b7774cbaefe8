"""Leases on a real Redis: who died is told as lost, and nobody who lives is."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from tests.streams.redis_stores import opened, ttls, until

from holdfast.errors import CorruptData, RedisUnavailable, RunEnded
from holdfast.link import LinkState
from holdfast.streams.hold import Hold
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.stores import keeper, redis_holds
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
RUN = "run"
LEASE = 0.4


@pytest.fixture(autouse=True)
def _judged_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis counts as settled after one lease, however short: no other process comes back here."""
    monkeypatch.setattr(redis_holds, "SETTLED", 0.0)


@pytest.fixture
async def store(redis: RedisServer, key_prefix: str) -> AsyncIterator[RedisEventStore]:
    async with opened(redis.url, key_prefix, stream_lease=LEASE) as made:
        yield made


@pytest.fixture
async def other(redis: RedisServer, key_prefix: str) -> AsyncIterator[RedisEventStore]:
    """The store of another process."""
    async with opened(redis.url, key_prefix, stream_lease=LEASE) as made:
        await made.status(RUN)
        yield made


def a_hold(run_id: str = RUN) -> Hold:
    return Hold(run_id, lambda: None)


async def lost(store: RedisEventStore, run_id: str = RUN, seconds: float = 15) -> bool:
    """Look at a run until it has ended or *seconds* are over."""
    last = time.monotonic() + seconds
    while await store.status(run_id) == "open":
        if time.monotonic() > last:
            return False
        await asyncio.sleep(0.02)
    return [event.type for event in await store.get_events(run_id)][-1:] == ["run_lost"]


def lease_of(redis: RedisServer, store: RedisEventStore) -> str:
    found = redis.execute("HGET", store.keys(RUN).meta, "lease")
    return found.decode() if isinstance(found, bytes) else ""


async def has_status(store: RedisEventStore, run_id: str, status: str) -> bool:
    return await store.status(run_id) == status


async def until_async(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await condition():
            await asyncio.sleep(0.02)


class TestWhoDied:
    async def test_a_run_whose_publisher_is_gone_is_lost(
        self, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        run = RunPublisher(RUN, store=store)
        await run.__aenter__()
        await run.emit("t", 1)
        del run  # and with it who renews the lease

        async def is_found_out() -> bool:
            # Again and again: the thread that renews the lease holds it for the time of that.
            gc.collect()
            return await has_status(other, RUN, "ended")

        await until_async(is_found_out)
        events = await other.get_events(RUN)
        assert [(event.type, event.data) for event in events] == [("t", 1), ("run_lost", {})]

    async def test_also_one_that_had_no_event_yet(
        self, redis: RedisServer, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        await store.claim(a_hold(), start=True)
        assert await lost(other)
        info = await other.describe(RUN)
        assert (info.status, info.n, info.length) == ("ended", 1, 1)
        assert all(ttl > 0 for ttl in ttls(redis, store, RUN))

    async def test_it_is_told_once_by_whoever_looks(
        self, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        await store.claim(a_hold())
        await asyncio.sleep(LEASE + 0.05)
        await asyncio.gather(*(each.describe(RUN) for each in (store, other) * 10))
        assert [event.type for event in await other.get_events(RUN)] == ["run_lost"]

    async def test_its_late_publisher_is_refused(
        self, redis: RedisServer, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        run = RunPublisher(RUN, store=store)
        await run.emit("t", 1)
        hold = a_hold()
        await store.claim(hold)
        assert await lost(other)
        with pytest.raises(RunEnded):
            await run.emit("late", 2)
        # Who renews too late changes nothing either.
        store.attend(hold)
        await asyncio.sleep(LEASE)
        assert lease_of(redis, store) == ""
        assert len(await other.get_events(RUN)) == 2
        store.leave(hold)

    async def test_who_starts_it_again_finds_it_ended(
        self, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        await store.claim(a_hold(), start=True)
        await asyncio.sleep(LEASE + 0.05)
        claim = await other.claim(a_hold(), start=True)
        assert claim.status == "open"
        assert await other.status(RUN) == "ended"
        assert (await other.claim(a_hold(), start=True)).status == "ended"

    async def test_it_is_too_late_to_stop_it(
        self, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        await store.claim(a_hold())
        await asyncio.sleep(LEASE + 0.05)
        assert await other.request_stop(RUN) == "ended"


class TestWhoLives:
    async def test_a_quiet_publisher_keeps_its_run(
        self, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        async with RunPublisher(RUN, store=store):
            assert not await lost(other, seconds=2 * LEASE)
        assert await other.status(RUN) == "ended"

    async def test_also_while_its_loop_is_blocked(
        self, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        async with RunPublisher(RUN, store=store):
            time.sleep(2 * LEASE)
            assert await other.status(RUN) == "open"

    async def test_a_publisher_in_a_thread_keeps_its_run(
        self, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        hold, done = a_hold(), threading.Event()

        def work() -> None:
            store.attend(hold)
            store.claim_sync(hold)
            done.wait()
            store.leave(hold)

        working = asyncio.create_task(asyncio.to_thread(work))
        await until(lambda: hold.life)
        assert not await lost(other, seconds=2 * LEASE)
        done.set()
        await working
        assert await lost(other)

    async def test_bare_publishers_hold_no_lease(
        self, redis: RedisServer, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        run = RunPublisher(RUN, store=store)
        await run.emit("t", 1)
        waiting = asyncio.create_task(run.wait_stop())
        assert not await lost(other, seconds=2 * LEASE)
        assert lease_of(redis, store) == ""
        waiting.cancel()

    async def test_who_takes_the_run_over_keeps_it(
        self, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        await store.claim(a_hold())  # and dies
        async with RunPublisher(RUN, store=store):
            assert not await lost(other, seconds=2 * LEASE)

    async def test_of_two_who_publish_the_second_keeps_what_the_first_leaves(
        self, redis: RedisServer, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        first, second = a_hold(), a_hold()
        await store.claim(first)
        store.attend(first)
        store.attend(second)
        await asyncio.sleep(LEASE)
        assert lease_of(redis, store).split()[0] == first.name
        store.leave(first)
        # Nobody looks while the lease has lapsed and is not yet taken.
        await until(lambda: lease_of(redis, store).split()[0] == second.name)
        store.leave(second)

    async def test_a_process_that_was_asleep_does_not_judge_itself(
        self, redis: RedisServer, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        meta = store.keys(RUN).meta
        async with RunPublisher(RUN, store=store):
            await until(lambda: lease_of(redis, store))
            held = lease_of(redis, store).split()[0]
            await asyncio.sleep(LEASE)
            for _ in range(20):
                redis.execute("HSET", meta, "lease", f"{held} 1")
                assert await store.status(RUN) == "open"
            async with asyncio.timeout(5):
                while await other.status(RUN) == "open":
                    redis.execute("HSET", meta, "lease", f"{held} 1")

    async def test_a_lease_that_was_renewed_in_time_is_judged_by_redis(
        self, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        hold = a_hold()
        await store.claim(hold)
        await asyncio.sleep(LEASE + 0.05)
        info, _ = await other._look(RUN)
        assert info.lapsed == hold.name
        # Between the look and the judgement it comes back.
        await store.claim(hold)
        await other._declare_lost(RUN, hold.name)
        assert await other.status(RUN) == "open"

    async def test_without_a_lease_nobody_is_lost(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with opened(redis.url, key_prefix, stream_lease=0) as store:
            hold = a_hold()
            await store.claim(hold, start=True)
            assert (await store.claim(hold, start=True)).status == "mine"
            assert lease_of(redis, store) == f"{hold.name} 0"
            assert not await lost(store, seconds=2 * LEASE)
            # Who takes no part in leases judges none.
            async with opened(redis.url, key_prefix, stream_lease=LEASE) as leasing:
                await leasing.claim(hold)
            await asyncio.sleep(LEASE + 0.05)
            assert await store.status(RUN) == "open"

    async def test_a_lease_is_given_back_at_the_end(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        async with RunPublisher(RUN, store=store):
            assert lease_of(redis, store)
        assert lease_of(redis, store) == ""


class TestOutages:
    @pytest.mark.slow
    async def test_who_could_not_renew_while_redis_was_away_is_not_lost(
        self, fresh_redis: RedisServer, key_prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        values = {"stream_lease": 2, "redis_timeout": 1}
        async with (
            opened(fresh_redis.url, key_prefix, **values) as store,
            opened(fresh_redis.url, key_prefix, **values) as other,
        ):
            run = RunPublisher(RUN, store=store)
            async with run:
                await run.emit("t", 1)
                assert await other.status(RUN) == "open"
                await store.claim(a_hold("gone"))
                fresh_redis.freeze()
                with pytest.raises(RedisUnavailable):
                    await other.status(RUN)
                await asyncio.sleep(4.5)
                waiting = await run.emit("t", 2)
                assert "~" in waiting.id
                fresh_redis.thaw()
                await until(lambda: other.available and store.available)
                # Both have lapsed; the one who lives renews, and the other is judged in time.
                assert not await lost(other, seconds=3)
                assert await lost(other, "gone")
                assert await other.status(RUN) == "open"
        # It has ended by itself.

    async def test_it_is_not_judged_before_redis_has_been_back_for_a_lease(
        self, redis: RedisServer, store: RedisEventStore, key_prefix: str
    ) -> None:
        await store.claim(a_hold())
        await asyncio.sleep(LEASE + 0.05)
        async with opened(redis.url, key_prefix, stream_lease=LEASE) as late:
            assert await late.status(RUN) == "open"
            assert late._link.status.state is LinkState.UP
            assert await lost(late)

    async def test_it_is_not_judged_while_its_events_wait_here(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        await store.claim(a_hold())
        await asyncio.sleep(LEASE + 0.05)
        draft = store.draft("t", 1)
        store._outbox.put(RUN, [draft], [lambda _: None], sender=1, owner=None, life=None, now_ms=1)
        store._outbox.unavailable(RUN)
        assert await store.status(RUN) == "open"
        store._outbox.done(RUN, store._outbox.head(RUN), [RunEnded("")])
        assert await store.status(RUN) == "ended"

    @pytest.mark.slow
    async def test_a_block_begun_in_an_outage_takes_its_lease_after_it(
        self, fresh_redis: RedisServer, key_prefix: str
    ) -> None:
        values = {"stream_lease": LEASE, "redis_timeout": 5}
        async with opened(fresh_redis.url, key_prefix, **values) as store:
            await store.add("other", "t", 1)
            fresh_redis.kill()
            async with RunPublisher(RUN, store=store) as run:
                await run.emit("t", 1)
                fresh_redis.start()
                await until(lambda: store.available)
                await until(lambda: lease_of(fresh_redis, store))
            assert await store.status(RUN) == "ended"

    async def test_a_stop_is_heard_again_after_the_connection_was_lost(
        self, redis: RedisServer, key_prefix: str, other: RedisEventStore
    ) -> None:
        with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
            async with opened(proxy.url, key_prefix, redis_timeout=5) as store:
                async with RunPublisher(RUN, store=store):
                    await asyncio.sleep(0.1)
                    proxy.refuse()
                    proxy.cut()
                    assert await other.request_stop(RUN) == "requested"
                    proxy.heal()
                    await asyncio.sleep(30)
                await until(lambda: not store.journalled)
        assert [event.type for event in await other.get_events(RUN)] == ["run_stopped"]

    async def test_a_server_that_forgot_the_scripts_is_taught_them(
        self, redis: RedisServer, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        async with RunPublisher(RUN, store=store):
            redis.execute("SCRIPT", "FLUSH")
            assert not await lost(other, seconds=2 * LEASE)
            await other.request_stop(RUN)
            await asyncio.sleep(30)
        assert await other.status(RUN) == "ended"

    async def test_a_key_that_holds_something_else_is_corrupt(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        redis.execute("SET", store.keys(RUN).meta, "x")
        hold = a_hold()
        store.attend(hold)
        with pytest.raises(CorruptData):
            await store.claim(hold)
        with pytest.raises(CorruptData):
            await asyncio.to_thread(store.claim_sync, hold)
        with pytest.raises(CorruptData):
            await store._holds.request_stop(RUN)
        with pytest.raises(CorruptData):
            async with RunPublisher(RUN, store=store):
                pass
        assert not hold.stopping
        store.leave(hold)


class TestMarks:
    async def test_a_stop_is_rung_to_who_listens(
        self, redis: RedisServer, key_prefix: str, other: RedisEventStore
    ) -> None:
        async with opened(redis.url, key_prefix, stream_lease=3600) as store:
            hold, channel = a_hold(), store.keys(RUN).stop
            await store.claim(hold)
            store.attend(hold)
            await until(lambda: redis.execute("PUBSUB", "NUMSUB", channel) == [channel.encode(), 1])
            await asyncio.sleep(0.1)  # it has looked once, since nothing was missed
            assert not hold.stopping
            await other.request_stop(RUN)
            await until(lambda: hold.stopping)
            store.leave(hold)

    async def test_a_stop_waits_an_hour_and_no_longer(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        meta = store.keys(RUN).meta
        await store.request_stop(RUN)
        left = redis.execute("PTTL", meta)
        assert isinstance(left, int)
        assert 3_590_000 < left <= 3_600_000
        old = int((time.time() - 3700) * 1000)
        for begin in ("claim", "append"):
            await store.add(RUN, "t", 1)
            await store.delete(RUN)
            redis.execute("HSET", meta, "stop", old)
            hold = a_hold()
            if begin == "claim":
                await store.claim(hold, start=True)
            (entry,) = await store.append(RUN, [store.draft("t", 1)])
            assert (hold.stopping, entry.stopping) == (False, False)
            assert redis.execute("HGET", meta, "stop") is None

    async def test_what_other_programs_ended_cannot_be_stopped(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        stream = store.keys(RUN).stream
        redis.execute("XADD", stream, "*", "type", "workflow_complete", "data", "1")
        assert await store.request_stop(RUN) == "ended"

    async def test_a_run_that_only_other_programs_write_can_be_entered(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        redis.execute("XADD", store.keys(RUN).stream, "*", "type", "t", "data", "1")
        assert (await store.claim(a_hold(), start=True)).status == "open"
        async with RunPublisher(RUN, store=store) as run:
            await run.emit("t", 2)
        assert all(ttl > 0 for ttl in ttls(redis, store, RUN))
        events = await store.get_events(RUN)
        assert [event.type for event in events] == ["t", "t", "workflow_complete"]

    async def test_nothing_is_kept_for_ever(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        await store.claim(a_hold(), start=True)
        assert ttls(redis, store, RUN)[1] > 0
        await store.delete(RUN)
        await store.request_stop(RUN)
        assert ttls(redis, store, RUN)[1] > 0

    async def test_a_silent_run_does_not_expire_under_its_publisher(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        values = {"stream_lease": LEASE, "stream_retention": 30}
        async with opened(redis.url, key_prefix, **values) as store:
            async with RunPublisher(RUN, store=store) as run:
                await run.emit("t", 1)
                await until(lambda: ttls(redis, store, RUN)[0] > 30_000)
                redis.execute("PEXPIRE", store.keys(RUN).meta, 60_000)
                await until(lambda: ttls(redis, store, RUN)[1] > 60_000)
            assert 0 < ttls(redis, store, RUN)[0] <= 30_000

    async def test_one_run_that_cannot_be_read_costs_no_other_its_lease(
        self,
        redis: RedisServer,
        store: RedisEventStore,
        other: RedisEventStore,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        redis.execute("HSET", store.keys("broken").meta, "life", "0.x", "lease", "nonsense")
        redis.execute("SET", store.keys("corrupt").meta, "x")
        holds = [a_hold(run_id) for run_id in ("broken", "corrupt")]
        for hold in holds:
            store.attend(hold)
        async with RunPublisher(RUN, store=store):
            assert not await lost(other, seconds=2 * LEASE)
        assert holds[0].life == "0.x"
        assert caplog.text.count("could not be looked after") == 0


class TestPubSub:
    async def test_a_run_that_keeps_no_events_is_stopped_and_lost_like_any_other(
        self, redis: RedisServer, key_prefix: str, other: RedisEventStore
    ) -> None:
        values = {"stream_lease": LEASE, "stream_enabled": False}
        async with opened(redis.url, key_prefix, **values) as store:
            async with RunPublisher(RUN, store=store) as run:
                await run.emit("t", 1)
                assert await other.request_stop(RUN) == "requested"
                await asyncio.sleep(30)
            assert await other.request_stop(RUN) == "ended"
            gone = a_hold("gone")
            assert (await store.claim(gone, start=True)).status == "mine"
            await store.append("gone", [store.draft("t", 1)], life=gone.life)
            await until_async(lambda: has_status(other, "gone", "ended"))
            assert (await other.describe("gone")).transport == "pubsub"


class TestTheThread:
    async def test_it_serves_all_runs_and_ends_when_nobody_needs_it(
        self, store: RedisEventStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeper, "LINGER", 0.05)

        def threads() -> int:
            return sum(thread.name == "holdfast-leases" for thread in threading.enumerate())

        await until(lambda: not threads())
        holds = [a_hold(f"run-{n}") for n in range(300)]
        for hold in holds:
            store.attend(hold)
        assert threads() == 1
        assert repr(store._holds) == "<RedisHolds 300 runs>"
        await asyncio.sleep(0.1)
        await asyncio.gather(*(store.request_stop(hold.run_id) for hold in holds))
        await until(lambda: all(hold.stopping for hold in holds))
        holds.clear()
        del hold
        await until(lambda: not threads())
        again = a_hold()
        store.attend(again)
        await store.request_stop(RUN)
        await until(lambda: again.stopping)
        store.leave(again)
        await until(lambda: not threads())

    async def test_it_ends_with_its_link_though_runs_are_held(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        """Who holds one may be in a cycle that is collected much later."""
        hold = a_hold()
        async with opened(redis.url, key_prefix, stream_lease=LEASE) as store:
            store.attend(hold)
            thread = store._holds._keeper._thread
            assert thread is not None
        await until(lambda: not thread.is_alive())

    async def test_a_thread_that_lives_on_in_a_forked_child_ends(
        self, store: RedisEventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As gevent's do, which are greenlets."""
        kept = store._holds._keeper
        store.attend(a_hold())
        parents = kept._thread
        kept.forked()
        theirs = a_hold("theirs")
        store.attend(theirs)
        await until(lambda: parents is not None and not parents.is_alive())
        assert kept._thread is not None
        assert kept._thread.is_alive()
        assert "could not be looked after" not in caplog.text

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    async def test_a_forked_child_leaves_it_to_its_parent(
        self, redis: RedisServer, store: RedisEventStore, other: RedisEventStore
    ) -> None:
        async with RunPublisher(RUN, store=store):
            child = os.fork()
            if not child:
                theirs = a_hold("theirs")
                store.claim_sync(theirs)
                store.attend(theirs)
                alone = repr(store._holds) == "<RedisHolds 1 runs>"
                os._exit(0 if alone else 1)
            code = await asyncio.to_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(code[1]) == 0
            assert not await lost(other, seconds=2 * LEASE)
            assert await lost(other, "theirs")
            await other.request_stop(RUN)
            await asyncio.sleep(30)
        assert await other.status(RUN) == "ended"
