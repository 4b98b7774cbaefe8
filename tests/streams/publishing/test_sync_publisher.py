"""Publishing from threads and forked workers: verbs, order, shared round trips, outages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.redis_stores import data_of, entries_of, opened_sync
from tests.support.threads import no_threads

from holdfast.errors import (
    CorruptData,
    EventTooLarge,
    InvalidEvent,
    JournalFull,
    RedisUnavailable,
    RunEnded,
    RunStopped,
)
from holdfast.link import supervisor
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.publishing.sync_publisher import SyncRunPublisher
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.streams.stores.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from holdfast.streams.store import EventStore
    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import FaultProxy, RedisServer

RUN = "run"


@pytest.fixture(params=["memory", "redis"])
def store(
    request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str
) -> Iterator[EventStore]:
    if request.param == "memory":
        yield MemoryEventStore()
    else:
        with opened_sync(redis.url, key_prefix) as made:
            yield made


@pytest.fixture
def shared(redis: RedisServer, key_prefix: str) -> Iterator[RedisEventStore]:
    """A store of Redis, as one process has it."""
    with opened_sync(redis.url, key_prefix) as made:
        yield made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link tries again at once after an outage, not after two seconds."""
    monkeypatch.setattr(supervisor, "HOLD_DOWN", 0.05)
    monkeypatch.setattr(supervisor, "PROBE_INTERVAL", 0.05)


def told(store: EventStore) -> list[tuple[str, Any]]:
    events = asyncio.run(store.get_events(RUN, limit=100_000))
    return [(event.type, event.data) for event in events]


def data(store: EventStore) -> list[Any]:
    return patiently(lambda: data_of(store, RUN))


def patiently(read: Callable[[], Coroutine[Any, Any, list[Any]]]) -> list[Any]:
    """Read what is stored, though a store of little patience finds a busy machine's Redis late."""
    last = time.monotonic() + 20
    while True:
        try:
            return asyncio.run(read())
        except RedisUnavailable:
            assert time.monotonic() < last, "it is not back"
            time.sleep(0.05)


def in_threads(*works: Callable[[], object]) -> None:
    """Run *works* at once, each in a thread of its own; raise what one of them raised."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        start.wait(10)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(run, work) for work in works]:
            future.result(60)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "it did not come about in time"
        time.sleep(0.002)


def many(run: SyncRunPublisher, name: int, count: int) -> Callable[[], None]:
    def work() -> None:
        for number in range(count):
            run.emit("t", [name, number])

    return work


def each_in_order(found: list[Any], names: int, count: int) -> bool:
    return len(found) == names * count and all(
        [number for by, number in found if by == name] == list(range(count))
        for name in range(names)
    )


class TestVerbs:
    def test_they_write_what_those_of_tasks_do(self, store: EventStore) -> None:
        run = SyncRunPublisher(RUN, owner="user:7", store=store)
        first = run.emit("ping")
        run.node_output("writer", {"text": "x"})
        last = run.workflow_complete([1])
        assert told(store) == [
            ("ping", None),
            ("node_output", {"node": "writer", "output": {"text": "x"}}),
            ("workflow_complete", {"output": [1]}),
        ]
        events = asyncio.run(store.get_events(RUN))
        assert (events[0], events[-1]) == (first, last)
        assert asyncio.run(store.describe(RUN)).owner == "user:7"
        assert repr(run) == "<SyncRunPublisher 'run' ended>"
        with pytest.raises(RunEnded):
            run.emit("late")
        with pytest.raises(RunEnded):
            SyncRunPublisher(RUN, store=store).emit("late")

    def test_an_error_is_told_by_type_and_message_alone(self, store: EventStore) -> None:
        SyncRunPublisher(RUN, store=store).workflow_error(KeyError("secret.py"))
        ((_, error),) = told(store)
        assert error == {"error": {"type": "KeyError", "message": "'secret.py'"}}

    def test_a_refused_event_leaves_the_run_as_it_was(self, store: EventStore) -> None:
        run = SyncRunPublisher(RUN, store=store)
        run.emit("t", 1)
        with pytest.raises(InvalidEvent):
            run.emit("run_lost", 1)
        with pytest.raises(EventTooLarge):
            run.emit("t", "x" * 2_000_000)
        run.emit("t", 2)
        assert data(store) == [1, 2]

    @pytest.mark.parametrize(("run_id", "owner"), [("", None), ("r", "alice")])
    def test_a_wrong_run_or_owner_is_refused_at_once(self, run_id: str, owner: str | None) -> None:
        with pytest.raises(InvalidEvent):
            SyncRunPublisher(run_id, owner=owner, store=MemoryEventStore())

    def test_without_a_store_it_publishes_to_the_default_one(self) -> None:
        from holdfast import EventStore

        event = SyncRunPublisher(RUN).emit("t", 1)
        assert asyncio.run(EventStore.from_settings().get_events(RUN)) == [event]

    def test_for_another_process_it_says_what_to_hand_over(self, store: EventStore) -> None:
        for run in SyncRunPublisher(RUN, store=store), RunPublisher(RUN, store=store):
            with pytest.raises(TypeError, match=r"hand over its run id \('run'\)"):
                pickle.dumps(run)

    def test_nothing_written_is_nothing_waited_for(self, store: EventStore) -> None:
        assert store.append_sync(RUN, []) == []
        assert asyncio.run(store.status(RUN)) == "absent"

    def test_a_list_is_written_whole(self, store: EventStore) -> None:
        entries = store.append_sync(RUN, [store.draft("t", number) for number in range(3)])
        assert [entry.data for entry in entries] == [b"0", b"1", b"2"]
        with pytest.raises(RunEnded):
            store.append_sync(
                RUN, [store.draft("workflow_complete", None), store.draft("t", "after")]
            )

    def test_where_an_event_loop_runs_it_is_refused(self, store: EventStore) -> None:
        entered: list[bool] = []

        async def misuse() -> None:
            with pytest.raises(RuntimeError, match="RunPublisher"):
                SyncRunPublisher(RUN, store=store).emit("t")
            with (
                pytest.raises(RuntimeError, match="to_thread"),
                SyncRunPublisher(RUN, store=store),
            ):
                entered.append(True)
            assert not entered
            await asyncio.to_thread(SyncRunPublisher(RUN, store=store).emit, "t", 1)

        asyncio.run(misuse())
        assert data(store) == [1]


class TestBlocks:
    def test_one_that_ends_well_completes_its_run(self, store: EventStore) -> None:
        with SyncRunPublisher(RUN, store=store) as run:
            run.emit("t", 1)
        assert told(store) == [("t", 1), ("workflow_complete", {"output": None})]

    def test_one_whose_run_is_ended_adds_nothing(self, store: EventStore) -> None:
        with SyncRunPublisher(RUN, store=store) as run:
            run.workflow_complete("mine")
        assert told(store) == [("workflow_complete", {"output": "mine"})]

    def test_one_whose_run_another_ended_adds_nothing(self, store: EventStore) -> None:
        with SyncRunPublisher(RUN, store=store):
            SyncRunPublisher(RUN, store=store).workflow_complete("theirs")
        assert told(store) == [("workflow_complete", {"output": "theirs"})]

    def test_an_exception_ends_the_run_with_an_error_and_passes(self, store: EventStore) -> None:
        with pytest.raises(ZeroDivisionError), SyncRunPublisher(RUN, store=store):
            _ = 1 / 0
        assert told(store)[-1][1]["error"]["type"] == "ZeroDivisionError"

    def test_what_happened_in_it_is_what_its_caller_hears_of(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        tiny = MemoryEventStore(max_event_bytes=10)
        with (
            pytest.raises(ZeroDivisionError),
            caplog.at_level(logging.ERROR, "holdfast.streams"),
            SyncRunPublisher(RUN, store=tiny),
        ):
            _ = 1 / 0
        assert "the run 'run' could not be ended" in caplog.text
        with pytest.raises(EventTooLarge), SyncRunPublisher("other", store=tiny):
            pass


def stop(store: EventStore, run_id: str = RUN) -> None:
    assert asyncio.run(store.request_stop(run_id)) == "requested"


class TestStop:
    @pytest.fixture
    def elsewhere(
        self, store: EventStore, redis: RedisServer, key_prefix: str
    ) -> Iterator[EventStore]:
        """The store as another process has it, where there can be one."""
        if isinstance(store, MemoryEventStore):
            yield store
        else:
            with opened_sync(redis.url, key_prefix) as made:
                yield made

    def test_the_next_event_is_refused_and_the_block_left_quietly(
        self, store: EventStore, elsewhere: EventStore
    ) -> None:
        with SyncRunPublisher(RUN, store=store) as run:
            assert not run.stop_requested
            run.emit("t", 1)
            stop(elsewhere)
            until(lambda: run.stop_requested)
            run.emit("t", 2)
            raise AssertionError("the event must be refused")
        assert told(elsewhere) == [("t", 1), ("run_stopped", {})]
        with pytest.raises(RunEnded):
            run.emit("t", 3)

    def test_a_stop_before_the_run_begins_is_for_this_run(
        self, store: EventStore, elsewhere: EventStore
    ) -> None:
        stop(elsewhere)
        with SyncRunPublisher(RUN, store=store) as run:
            run.emit("t", 1)
        assert told(elsewhere) == [("run_stopped", {})]

    def test_work_that_ends_by_itself_ends_a_stopped_run(
        self, store: EventStore, elsewhere: EventStore
    ) -> None:
        with SyncRunPublisher(RUN, store=store) as run:
            stop(elsewhere)
            assert run.wait_stop(5)
        assert told(elsewhere) == [("run_stopped", {})]

    def test_an_error_of_the_work_is_told_and_passes_all_the_same(
        self, store: EventStore, elsewhere: EventStore
    ) -> None:
        def work(run: SyncRunPublisher) -> None:
            stop(elsewhere)
            assert run.wait_stop(5)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), SyncRunPublisher(RUN, store=store) as publisher:
            work(publisher)
        assert [kind for kind, _ in told(elsewhere)] == ["workflow_error"]

    def test_without_a_block_the_answer_to_an_event_tells_it_and_nobody_ends_the_run(
        self, store: EventStore, elsewhere: EventStore
    ) -> None:
        run = SyncRunPublisher(RUN, store=store)
        run.emit("t", 1)
        stop(elsewhere)
        run.emit("t", 2)
        with pytest.raises(RunStopped, match="'run' has been asked to stop") as caught:
            run.emit("t", 3)
        assert caught.value.run_id == RUN
        run.workflow_complete("stopped")
        assert told(elsewhere)[2:] == [("workflow_complete", {"output": "stopped"})]

    def test_without_a_block_whoever_asks_again_and_again_is_told(
        self, store: EventStore, elsewhere: EventStore
    ) -> None:
        run = SyncRunPublisher(RUN, store=store)
        assert not run.stop_requested
        stop(elsewhere)
        until(lambda: run.stop_requested)

    def test_a_thread_can_wait_for_it(self, store: EventStore, elsewhere: EventStore) -> None:
        run = SyncRunPublisher(RUN, store=store)
        run.emit("t", 1)
        assert not run.wait_stop(0.01)
        waiter = threading.Thread(target=run.wait_stop)
        waiter.start()
        stop(elsewhere)
        waiter.join(15)
        assert not waiter.is_alive()
        assert run.stop_requested

    def test_who_found_no_thread_to_listen_keeps_nobody_else_from_it(
        self, shared: RedisEventStore
    ) -> None:
        run = SyncRunPublisher(RUN, store=shared)
        run.emit("t", 1)
        with no_threads():
            for _ in range(2):
                with pytest.raises(RuntimeError, match="thread"):
                    run.wait_stop(0)
            with pytest.raises(RuntimeError, match="thread"), SyncRunPublisher(RUN, store=shared):
                raise AssertionError("there is nobody to renew its lease")
        stop(shared)
        assert run.wait_stop(15)

    def test_who_comes_later_hears_of_it_too(
        self, store: EventStore, elsewhere: EventStore
    ) -> None:
        first, second = (SyncRunPublisher(RUN, store=store) for _ in range(2))
        first.emit("t", 1)
        assert not first.wait_stop(0.2)
        stop(elsewhere)
        assert first.wait_stop(5)
        assert second.wait_stop(3)

    def test_the_stop_of_another_run_is_no_concern_of_the_block(self, store: EventStore) -> None:
        stop(store, "other")
        other = SyncRunPublisher("other", store=store)
        other.emit("t", 1)
        with pytest.raises(RunStopped), SyncRunPublisher(RUN, store=store):
            other.emit("t", 2)
        assert [kind for kind, _ in told(store)] == ["workflow_error"]

    def test_a_run_that_is_over_is_begun_by_nobody(self, store: EventStore) -> None:
        SyncRunPublisher(RUN, store=store).workflow_complete()
        with pytest.raises(RunEnded), SyncRunPublisher(RUN, store=store) as run:
            run.emit("t", 1)
        assert len(told(store)) == 1


class TestLease:
    def lease(self, redis: RedisServer, store: RedisEventStore) -> tuple[bytes, int]:
        """Who holds the run, and until when."""
        found = redis.execute("HGET", store.keys(RUN).meta, "lease")
        assert isinstance(found, bytes)
        holder, _, until_ms = found.partition(b" ")
        return holder, int(until_ms)

    def test_a_block_holds_it_and_renews_it(self, redis: RedisServer, key_prefix: str) -> None:
        with (
            opened_sync(redis.url, key_prefix, stream_lease=0.3) as store,
            SyncRunPublisher(RUN, store=store),
        ):
            holder, first = self.lease(redis, store)
            until(lambda: self.lease(redis, store)[1] > first + 300)
            assert self.lease(redis, store)[0] == holder

    def test_a_publisher_without_a_block_holds_none(
        self, redis: RedisServer, shared: RedisEventStore
    ) -> None:
        run = SyncRunPublisher(RUN, store=shared)
        run.emit("t", 1)
        run.wait_stop(0.05)
        assert redis.execute("HGET", shared.keys(RUN).meta, "lease") is None

    def test_a_block_whose_run_cannot_be_read_is_not_entered(
        self, redis: RedisServer, shared: RedisEventStore
    ) -> None:
        redis.execute("SET", shared.keys(RUN).meta, "no hash")
        entered: list[bool] = []
        with pytest.raises(CorruptData), SyncRunPublisher(RUN, store=shared):
            entered.append(True)
        assert not entered
        with pytest.raises(CorruptData):
            SyncRunPublisher(RUN, store=shared).emit("t", 1)
        assert not len(shared._holds._keeper)

    def test_a_block_entered_while_redis_is_away_takes_it_when_redis_is_back(
        self, redis: RedisServer, proxy: FaultProxy, key_prefix: str, soon: None
    ) -> None:
        proxy.refuse()
        with (
            opened_sync(proxy.url, key_prefix, redis_timeout=5) as store,
            SyncRunPublisher(RUN, store=store) as run,
        ):
            run.emit("t", 1)
            proxy.heal()
            until(lambda: redis.execute("HGET", store.keys(RUN).meta, "lease"))
            assert not run.stop_requested

    @pytest.mark.slow
    def test_the_run_of_a_worker_that_was_killed_is_lost(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        program = """
            import os, signal, sys
            from holdfast.settings import Settings
            from holdfast.streams.publishing.sync_publisher import SyncRunPublisher
            settings = Settings(redis_url=sys.argv[1], key_prefix=sys.argv[2], stream_lease=1)
            with SyncRunPublisher("run", settings=settings) as run:
                run.emit("t", 1)
                os.kill(os.getpid(), signal.SIGKILL)
        """
        with opened_sync(redis.url, key_prefix, stream_lease=1) as store:
            command = [sys.executable, "-c", textwrap.dedent(program), redis.url, key_prefix]
            done = subprocess.run(command, check=False, timeout=60)
            assert done.returncode == -signal.SIGKILL
            until(lambda: asyncio.run(store.status(RUN)) == "ended")
            assert [kind for kind, _ in told(store)] == ["t", "run_lost"]


class TestManyThreads:
    def test_one_publisher_keeps_the_order_of_each(self, store: EventStore) -> None:
        run = SyncRunPublisher(RUN, store=store)
        in_threads(*(many(run, name, 40) for name in range(20)))
        assert each_in_order(data(store), 20, 40)

    def test_threads_and_loops_feed_one_run(self, store: EventStore) -> None:
        async def task(name: int) -> None:
            run = RunPublisher(RUN, store=store)
            for number in range(30):
                await run.emit("t", [name, number])

        async def tasks(names: range) -> None:
            await asyncio.gather(*(task(name) for name in names))

        in_threads(
            *(many(SyncRunPublisher(RUN, store=store), name, 30) for name in range(8)),
            lambda: asyncio.run(tasks(range(8, 14))),
            lambda: asyncio.run(tasks(range(14, 20))),
        )
        assert each_in_order(data(store), 20, 30)

    def test_a_run_is_numbered_once_over_all_of_them(self, shared: RedisEventStore) -> None:
        in_threads(*(many(SyncRunPublisher(RUN, store=shared), name, 25) for name in range(8)))
        entries = asyncio.run(entries_of(shared, RUN))
        assert [entry.seq for entry in entries] == list(range(1, 201))
        assert {entry.producer for entry in entries} == {shared.producer}

    def test_they_share_round_trips(self, fresh_redis: RedisServer) -> None:
        with opened_sync(fresh_redis.url, "") as store:
            run = SyncRunPublisher(RUN, store=store)
            in_threads(*(many(run, name, 20) for name in range(50)))
            stats = fresh_redis.execute("INFO", "commandstats")
            assert isinstance(stats, bytes)
            (line,) = [each for each in stats.split() if each.startswith(b"cmdstat_evalsha:")]
            calls = int(line.partition(b"calls=")[2].partition(b",")[0])
            assert calls < 1000 / 3
            assert each_in_order(data(store), 50, 20)

    def test_of_many_that_end_a_run_one_does(self, store: EventStore) -> None:
        came: Counter[str] = Counter()

        def end() -> None:
            try:
                SyncRunPublisher(RUN, store=store).workflow_complete()
                came["ended"] += 1
            except RunEnded:
                came["refused"] += 1

        in_threads(*([end] * 10))
        assert came == {"ended": 1, "refused": 9}
        assert len(told(store)) == 1


class TestAway:
    def test_events_wait_and_are_written_in_order_without_any_loop(
        self, proxy: FaultProxy, key_prefix: str, soon: None
    ) -> None:
        with opened_sync(proxy.url, key_prefix, redis_timeout=5) as store:
            run = SyncRunPublisher(RUN, store=store)
            first = run.emit("t", [0, 0])
            proxy.refuse()
            proxy.cut()
            begun = time.monotonic()
            waiting = [run.emit("t", [0, number]) for number in range(1, 20)]
            assert time.monotonic() - begun < 4
            assert waiting[0].id == f"{first.id}~{store.producer}.2"
            in_threads(*(many(run, name, 10) for name in range(1, 9)))
            assert store.journalled == 99
            proxy.heal()
            until(lambda: store.available and not store.journalled)
            found = data(store)
            assert [number for name, number in found if name == 0] == list(range(20))
            for name in range(1, 9):
                assert [number for by, number in found if by == name] == list(range(10))

    def test_a_redis_that_was_never_there_is_written_to_once_it_is(
        self, proxy: FaultProxy, key_prefix: str, soon: None
    ) -> None:
        proxy.refuse()
        with opened_sync(proxy.url, key_prefix, redis_timeout=5) as store:
            with SyncRunPublisher(RUN, store=store) as run:
                event = run.emit("t", 1)
            assert event.id == f"0-0~{store.producer}.1"
            with pytest.raises(RunEnded):
                SyncRunPublisher(RUN, store=store).emit("t", 2)
            proxy.heal()
            until(lambda: store.available and not store.journalled)
            assert [kind for kind, _ in told(store)] == ["t", "workflow_complete"]

    def test_the_end_of_a_run_that_waits_is_told_while_somebody_can(
        self, proxy: FaultProxy, key_prefix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with opened_sync(proxy.url, key_prefix, redis_timeout=5) as store:
            SyncRunPublisher("stored", store=store).workflow_complete()
            proxy.refuse()
            proxy.cut()
            with SyncRunPublisher(RUN, store=store) as run:
                run.emit("t")
        told = [each for each in caplog.records if "wait in this process" in each.getMessage()]
        assert [vars(each)["run_id"] for each in told] == [RUN]

    def test_a_lost_reply_doubles_nothing(
        self, proxy: FaultProxy, key_prefix: str, soon: None
    ) -> None:
        with opened_sync(proxy.url, key_prefix, redis_timeout=5) as store:
            run = SyncRunPublisher(RUN, store=store)
            stop = threading.Event()

            def cut() -> None:
                while not stop.wait(0.02):
                    proxy.cut()

            cutter = threading.Thread(target=cut)
            cutter.start()
            try:
                in_threads(*(many(run, name, 100) for name in range(8)))
            finally:
                stop.set()
                cutter.join()
            until(lambda: store.available and not store.journalled)
            assert each_in_order(data(store), 8, 100)

    def test_a_full_journal_refuses_and_keeps_what_it_took(
        self, proxy: FaultProxy, key_prefix: str, soon: None
    ) -> None:
        values: dict[str, Any] = {"redis_timeout": 5, "stream_journal": 3}
        with opened_sync(proxy.url, key_prefix, **values) as store:
            run = SyncRunPublisher(RUN, store=store)
            run.emit("t", 0)
            proxy.refuse()
            proxy.cut()
            for number in range(1, 4):
                run.emit("t", number)
            with pytest.raises(JournalFull):
                run.emit("t", "too much")
            proxy.heal()
            until(lambda: store.available and not store.journalled)
            run.emit("t", 4)
            assert data(store) == [0, 1, 2, 3, 4]

    def test_without_a_journal_nothing_is_accepted_while_redis_is_known_to_be_away(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        proxy.refuse()
        values: dict[str, Any] = {"redis_timeout": 5, "stream_journal": 0}
        with opened_sync(proxy.url, key_prefix, **values) as store:
            for _ in range(2):
                with pytest.raises(JournalFull):
                    SyncRunPublisher(RUN, store=store).emit("t")
            assert store.journalled == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_threads_and_loops_get_through_outages_of_every_kind(
        self, proxy: FaultProxy, key_prefix: str, soon: None, seed: int
    ) -> None:
        chance, stop = random.Random(seed), threading.Event()
        stores: list[RedisEventStore] = []

        def trouble() -> None:
            faults = [proxy.cut, proxy.refuse, proxy.reset, proxy.blackhole]
            while not stop.wait(chance.uniform(0.0, 0.1)):
                fault = chance.choice(faults)
                fault()
                if fault != proxy.cut:
                    proxy.cut()
                stop.wait(chance.uniform(0.0, 0.3))
                proxy.heal()

        async def task(name: int) -> None:
            run = RunPublisher(RUN, store=stores[0])
            for number in range(150):
                await run.emit("t", [name, number])
                await asyncio.sleep(chance.uniform(0.0, 0.02))

        async def tasks(names: range) -> None:
            await asyncio.gather(*(task(name) for name in names))

        def thread(name: int) -> None:
            run = SyncRunPublisher(RUN, store=stores[0])
            for number in range(150):
                run.emit("t", [name, number])
                time.sleep(chance.uniform(0.0, 0.02))

        with opened_sync(proxy.url, key_prefix, redis_timeout=0.5) as store:
            stores.append(store)
            troublemaker = threading.Thread(target=trouble)
            troublemaker.start()
            try:
                in_threads(
                    *(partial(thread, name) for name in range(8)),
                    lambda: asyncio.run(tasks(range(8, 12))),
                    lambda: asyncio.run(tasks(range(12, 16))),
                )
            finally:
                stop.set()
                troublemaker.join()
                proxy.heal()
            until(lambda: store.available and not store.journalled)
            assert each_in_order(data(store), 16, 150)
            entries = patiently(lambda: entries_of(store, RUN))
            assert [entry.seq for entry in entries] == list(range(1, 2401))

    @pytest.mark.parametrize("closed", [False, True])
    def test_a_process_that_ends_says_once_what_ends_with_it(
        self, free_port: int, closed: bool
    ) -> None:
        program = f"""
            import asyncio
            from holdfast import SyncRunPublisher, aclose
            run = SyncRunPublisher("run")
            for _ in range(3):
                run.emit("t")
            if {closed}:
                asyncio.run(aclose())
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**os.environ, "HOLDFAST_REDIS_URL": f"redis://127.0.0.1:{free_port}"},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr.count("3 events that wait for Redis end with this process") == 1


class Torn(BaseException):
    """What a time limit raises in the middle of anything."""


@contextlib.contextmanager
def torn_after(seconds: float) -> Iterator[None]:
    """Raise :class:`Torn` in the main thread, as a worker's time limit does."""

    def tear(number: int, frame: object) -> None:
        raise Torn

    before = signal.signal(signal.SIGALRM, tear)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def torn_while_another_sends(
    store: RedisEventStore, proxy: FaultProxy
) -> tuple[SyncRunPublisher, threading.Thread]:
    """Publish 0; have a thread send 1, slowly, and be torn away while waiting with 2."""
    run = SyncRunPublisher(RUN, store=store)
    run.emit("t", 0)
    proxy.delay(0.2)
    sender = threading.Thread(target=run.emit, args=("t", 1))
    sender.start()
    until(lambda: store._outbox._lanes[RUN].sender is not None)
    with pytest.raises(Torn), torn_after(0.05):
        run.emit("t", 2)
    return run, sender


class TestTurns:
    def test_a_sender_that_is_torn_away_holds_nobody_up(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        with opened_sync(proxy.url, key_prefix, redis_timeout=5) as store:
            run = SyncRunPublisher(RUN, store=store)
            run.emit("t", 0)
            proxy.delay(0.3)
            with pytest.raises(Torn), torn_after(0.05):
                run.emit("t", 1)
            proxy.heal()
            begun = time.monotonic()
            run.emit("t", 2)
            assert time.monotonic() - begun < 4  # nobody waited for the one that had gone
            assert data(store) == [0, 1, 2]

    def test_one_that_waits_and_is_torn_away_gives_up_its_turn(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        with opened_sync(proxy.url, key_prefix, redis_timeout=5) as store:
            run, sender = torn_while_another_sends(store, proxy)
            third = threading.Thread(target=run.emit, args=("t", 3))
            third.start()
            proxy.heal()
            sender.join(15)
            third.join(15)
            assert not third.is_alive()
            assert data(store) == [0, 1, 2, 3]

    def test_what_the_last_one_left_behind_is_sent_by_who_is_done(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        with opened_sync(proxy.url, key_prefix, redis_timeout=5) as store:
            _, sender = torn_while_another_sends(store, proxy)
            sender.join(15)
            assert data(store) == [0, 1, 2]

    def test_a_thread_goes_on_where_a_loop_left_its_batch(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        with opened_sync(proxy.url, key_prefix, redis_timeout=1) as store:

            async def leave() -> None:
                run = RunPublisher(RUN, store=store)
                await run.emit("t", 0)
                proxy.delay(0.2)
                task = asyncio.ensure_future(run.emit("t", 1))
                until_sent = asyncio.get_running_loop().time() + 0.05
                while asyncio.get_running_loop().time() < until_sent:
                    await asyncio.sleep(0.01)
                task.cancel()

            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(leave())
            proxy.heal()
            SyncRunPublisher(RUN, store=store).emit("t", 2)
            assert data(store) == [0, 1, 2]

    def test_a_turn_given_before_anybody_waits_is_not_lost(self) -> None:
        turn = Turn(1)
        assert turn.give()
        begun = time.monotonic()
        turn.wait(5)
        assert time.monotonic() - begun < 4
        turn.asked = False
        turn.callbacks()[0](RunEnded("over"))
        turn.wait(5)
        assert time.monotonic() - begun < 4
        with pytest.raises(RunEnded):
            turn.entries()

    def test_one_that_has_gone_says_so(self) -> None:
        turn = Turn(1)
        turn.gone = True
        assert not turn.give()


FORKS = """
    import os, sys, threading
    from holdfast.link import Link
    from holdfast.settings import Settings
    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.streams.publishing.sync_publisher import SyncRunPublisher

    settings = Settings(redis_url=sys.argv[1], key_prefix=sys.argv[2], redis_timeout=5)
    link = Link(settings)
    store = RedisEventStore(link, settings)
    children = []
    with SyncRunPublisher("run", store=store) as run:
        def publish(name, count=20):
            for number in range(count):
                run.emit("t", [name, number])

        busy = threading.Thread(target=publish, args=[0, 200])
        busy.start()
        names = {store.producer}
        for name in (1, 2, 3):
            children.append(os.fork())
            if not children[-1]:
                assert store.producer not in names
                assert not run._hold.name  # the lease is the parent's
                threads = [threading.Thread(target=publish, args=[name])]
                threads[0].start()
                threads[0].join()
                break
            publish(3 + name)
        else:
            busy.join()
            for child in children:
                assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # with threads: the point here
class TestForks:
    def test_parent_and_children_publish_and_the_block_ends_once(
        self, redis: RedisServer, key_prefix: str, shared: RedisEventStore
    ) -> None:
        command = [sys.executable, "-c", textwrap.dedent(FORKS), redis.url, key_prefix]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        found = data(shared)
        assert found.pop() == {"output": None}
        counts = Counter(name for name, _ in found)
        assert counts == {0: 200, **dict.fromkeys(range(1, 7), 20)}
        for name, count in counts.items():
            assert [number for by, number in found if by == name] == list(range(count))
        entries = asyncio.run(entries_of(shared, RUN))
        assert len({entry.producer for entry in entries}) == 4

    def test_what_waits_is_the_parents_to_write(
        self, proxy: FaultProxy, key_prefix: str, soon: None
    ) -> None:
        proxy.refuse()
        with opened_sync(proxy.url, key_prefix, redis_timeout=5) as store:
            run = SyncRunPublisher(RUN, store=store)
            run.emit("t", "parent")
            child = os.fork()
            if child == 0:
                # Whatever else is closed here is the parent's.
                os._exit(0 if store.journalled == 0 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            proxy.heal()
            until(lambda: store.available and not store.journalled)
            assert data(store) == ["parent"]
