"""Publishing while Redis falls and comes back: order kept, nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.redis_stores import data_of, entries_of, opened, opened_sync, until

from holdfast.errors import JournalFull, RunEnded
from holdfast.runtime import runtime
from holdfast.settings import Settings
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.publishing.sync_publisher import SyncRunPublisher
from holdfast.streams.store import EventStore
from holdfast.testing import FaultProxy, redis_server

if TYPE_CHECKING:
    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
RUN = "run"


async def flushed(store: RedisEventStore) -> None:
    await until(lambda: store.available and not store.journalled)


class TestAway:
    async def test_a_publisher_goes_on_without_redis_and_waits_for_nothing(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        async with opened(proxy.url, key_prefix, redis_timeout=1) as store:
            run = RunPublisher(RUN, store=store)
            first = await run.emit("t", 0)
            proxy.blackhole()
            begun = time.monotonic()
            lost = await run.emit("t", 1)
            assert time.monotonic() - begun < 5
            # Afterwards nobody asks the network at all: it would be 50 s.
            begun = time.monotonic()
            events = [await run.emit("t", n) for n in range(2, 200)]
            assert time.monotonic() - begun < 10
            assert lost.id == f"{first.id}~{store.producer}.2"
            assert events[-1].id == f"{first.id}~{store.producer}.200"
            assert store.pending(RUN) is not None
            assert repr(store).count("199 events wait") == 1
            proxy.heal()
            await flushed(store)
            assert await data_of(store, RUN) == list(range(200))
            assert store.pending(RUN) is None

    async def test_redis_that_never_was_there_gets_everything_when_it_comes(
        self, key_prefix: str
    ) -> None:
        with redis_server() as server:
            server.kill()
            async with opened(server.url, key_prefix, redis_timeout=5) as store:
                run = RunPublisher(RUN, owner="user:1", store=store)
                events = [await run.emit("t", n) for n in range(1200)]
                await run.workflow_complete("done")
                assert events[0].id == f"0-0~{store.producer}.1"
                with pytest.raises(RunEnded):
                    await RunPublisher(RUN, store=store).emit("t", "late")
                server.start()
                begun = time.monotonic()
                await flushed(store)
                assert time.monotonic() - begun < 5
                assert (await data_of(store, RUN))[:-1] == list(range(1200))
                info = await store.describe(RUN)
                assert (info.status, info.owner, info.n) == ("ended", "user:1", 1201)

    @pytest.mark.slow
    async def test_a_crash_in_the_middle_of_two_thousand_events(self, key_prefix: str) -> None:
        with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
            async with opened(server.url, key_prefix, redis_timeout=5) as store:
                run = RunPublisher(RUN, store=store)
                for number in range(2000):
                    await run.emit("t", number)
                    if number == 700:
                        server.kill()
                    if number == 1400:
                        server.start()
                await flushed(store)
                await run.workflow_complete()
                entries = await entries_of(store, RUN)
                data = await data_of(store, RUN)
                assert data == [*range(2000), {"output": None}]
                assert [entry.seq for entry in entries] == list(range(1, 2002))
                assert [entry.n for entry in entries] == list(range(1, 2002))

    @pytest.mark.slow
    async def test_a_crash_under_many_publishers_of_many_runs(self, key_prefix: str) -> None:
        with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
            async with opened(server.url, key_prefix, redis_timeout=5) as store:
                crash = asyncio.Event()

                async def worker(name: int) -> None:
                    run = RunPublisher(f"run-{name % 5}", store=store)
                    for number in range(100):
                        await run.emit("t", [name, number])
                        if number == 40:
                            crash.set()

                workers = asyncio.gather(*(worker(name) for name in range(20)))
                await crash.wait()
                server.kill()
                await workers
                server.start()
                await flushed(store)
                for index in range(5):
                    data = await data_of(store, f"run-{index}")
                    assert len(data) == 400
                    for name in range(index, 20, 5):
                        assert [d for d in data if d[0] == name] == [[name, n] for n in range(100)]

    async def test_a_hiccup_loses_doubles_and_stalls_nothing(self, key_prefix: str) -> None:
        with redis_server("--enable-debug-command", "yes") as server:
            async with opened(server.url, key_prefix, redis_timeout=1) as store:
                run = RunPublisher(RUN, store=store)
                await run.emit("t", 0)
                sleeps = threading.Thread(target=server.execute, args=("DEBUG", "SLEEP", "2"))
                sleeps.start()
                number = 0
                last = time.monotonic() + 3
                while time.monotonic() < last:
                    number += 1
                    await run.emit("t", number)
                    await asyncio.sleep(0.001)
                sleeps.join()
                await flushed(store)
                assert await data_of(store, RUN) == list(range(number + 1))
                assert [entry.seq for entry in await entries_of(store, RUN)] == list(
                    range(1, number + 2)
                )

    async def test_replies_that_come_late_double_nothing(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        async with opened(proxy.url, key_prefix, redis_timeout=0.5) as store:
            run = RunPublisher(RUN, store=store)
            await run.emit("t", 0)
            for number in range(1, 40):
                if number % 10 == 0:
                    proxy.delay(1.2)
                if number % 10 == 5:
                    proxy.heal()
                await run.emit("t", number)
            proxy.heal()
            await flushed(store)
            assert await data_of(store, RUN) == list(range(40))

    async def test_what_ended_elsewhere_meanwhile_refuses_the_journal_and_says_so(
        self,
        redis: RedisServer,
        proxy: FaultProxy,
        key_prefix: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async with (
            opened(proxy.url, key_prefix, redis_timeout=5) as cut_off,
            opened(redis.url, key_prefix) as other,
        ):
            await cut_off.add(RUN, "t", 1)
            proxy.refuse()
            await cut_off.add(RUN, "t", 2)
            await cut_off.add(RUN, "t", 3)
            await other.add(RUN, "workflow_complete", None)
            with caplog.at_level(logging.WARNING, "holdfast.streams"):
                proxy.heal()
                await flushed(cut_off)
            assert "2 of 2 events that waited for Redis were refused" in caplog.text
            assert await data_of(other, RUN) == [1, None]
            with pytest.raises(RunEnded):
                await cut_off.add(RUN, "t", 4)

    async def test_a_key_that_holds_something_else_by_then_refuses_only_its_run(
        self,
        redis: RedisServer,
        proxy: FaultProxy,
        key_prefix: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async with opened(proxy.url, key_prefix, redis_timeout=5) as store:
            await store.add(RUN, "t", 1)
            proxy.refuse()
            for run_id in ("spoilt", RUN):
                await store.add(run_id, "t", 2)
            redis.execute("SET", store.keys("spoilt").stream, "x", "EX", 60)
            proxy.heal()
            await flushed(store)
            assert "were refused for the run 'spoilt'" in caplog.text
            assert await data_of(store, RUN) == [1, 2]

    @pytest.mark.slow
    async def test_two_processes_that_were_both_cut_off_lose_nothing_to_a_reader(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        with (
            FaultProxy("127.0.0.1", redis.port) as to_one,
            FaultProxy("127.0.0.1", redis.port) as to_two,
        ):
            async with (
                opened(to_one.url, key_prefix, redis_timeout=5) as one,
                opened(to_two.url, key_prefix, redis_timeout=5) as two,
                opened(redis.url, key_prefix) as reader,
            ):
                await one.add(RUN, "t", "first")
                to_one.refuse()
                to_two.refuse()
                a = [await one.add(RUN, "t", f"a{n}") for n in range(3)]
                b = [await two.add(RUN, "t", f"b{n}") for n in range(3)]
                to_two.heal()
                await flushed(two)
                to_one.heal()
                await flushed(one)
                assert await data_of(reader, RUN) == ["first", "b0", "b1", "b2", "a0", "a1", "a2"]
                # Whoever saw a0 and a1 from the one process while it was cut off, and asks another.
                rest = await reader.get_events_after(RUN, a[1].id)
                assert [event.data for event in rest] == ["b0", "b1", "b2", "a2"]
                page = await reader.get_events_after(RUN, a[2].id, 3)
                assert [event.data for event in page] == ["b0", "b1", "b2"]
                # Of the second process nothing before its first event was known there.
                rest = await reader.get_events_after(RUN, b[2].id)
                assert [event.data for event in rest] == ["first", "a0", "a1", "a2"]

    async def test_a_full_journal_is_said_and_keeps_what_it_accepted(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        values: dict[str, Any] = {"redis_timeout": 5, "stream_journal": 10}
        async with opened(proxy.url, key_prefix, **values) as store:
            await store.add(RUN, "t", 0)
            proxy.refuse()
            for number in range(1, 11):
                await store.add(RUN, "t", number)
            for run_id in (RUN, "another"):
                with pytest.raises(JournalFull, match="HOLDFAST_STREAM_JOURNAL"):
                    await store.add(run_id, "t", "too much")
            proxy.heal()
            await flushed(store)
            await store.add(RUN, "t", 11)
            assert await data_of(store, RUN) == list(range(12))

    async def test_a_journal_that_is_full_of_bytes_is_said_to_publishers_of_both_kinds(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        # A run's budget in Redis bounds what waits in this process too.
        values: dict[str, Any] = {"redis_timeout": 5, "stream_max_run_bytes": 4096}
        large = "x" * 1022
        async with opened(proxy.url, key_prefix, **values) as store:
            run, other = RunPublisher(RUN, store=store), SyncRunPublisher("other", store=store)
            await run.emit("t", 0)
            proxy.refuse()
            for _ in range(2):
                await run.emit("t", large)
                await asyncio.to_thread(other.emit, "t", large)
            with pytest.raises(JournalFull, match="HOLDFAST_STREAM_MAX_RUN_BYTES 4096"):
                await run.emit("t", 1)
            with pytest.raises(JournalFull, match="4 events wait for it already"):
                await asyncio.to_thread(other.emit, "t", 1)
            # Nobody is told twice: what was refused was not accepted, and may be tried again.
            proxy.heal()
            await flushed(store)
            await run.emit("t", 1)
            assert await data_of(store, RUN) == [0, large, large, 1]
            assert await data_of(store, "other") == [large, large]

    async def test_a_batch_under_way_when_the_journal_has_no_room_is_told_so(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        values: dict[str, Any] = {"redis_timeout": 1, "stream_journal": 5}
        async with opened(proxy.url, key_prefix, **values) as store:
            await store.add(RUN, "t", 0)
            proxy.blackhole("requests")
            outcomes = await asyncio.gather(
                *(store.add(RUN, "t", n) for n in range(1, 9)), return_exceptions=True
            )
            assert [isinstance(each, JournalFull) for each in outcomes] == [False] * 5 + [True] * 3
            proxy.cut()
            proxy.heal()
            await flushed(store)
            assert await data_of(store, RUN) == list(range(6))

    async def test_a_process_that_ends_with_a_journal_says_so(
        self, free_port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = Settings(redis_url=f"redis://127.0.0.1:{free_port}/0", redis_timeout=5)
        store = EventStore.from_settings(settings)
        assert EventStore.from_settings(settings) is store
        await store.add(RUN, "t", 1)
        with caplog.at_level(logging.WARNING, "holdfast.streams"):
            await runtime(settings).flush()
            await runtime(settings).flush()  # two middlewares, one process
            await runtime(settings).aclose()
        assert caplog.text.count("1 events that wait for Redis end with this process") == 1


class TestLoops:
    async def test_a_cancelled_emit_is_written_and_holds_up_nobody(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        async with opened(proxy.url, key_prefix) as store:
            await store.add(RUN, "t", 0)
            proxy.delay(0.1)
            tasks = [asyncio.create_task(store.add(RUN, "t", n)) for n in range(1, 6)]
            await asyncio.sleep(0.05)  # the first is on its way, the others wait behind it
            tasks[0].cancel()
            tasks[3].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled = [isinstance(each, asyncio.CancelledError) for each in outcomes]
            assert cancelled == [True, False, False, True, False]
            assert "~" not in "".join(each.id for each in outcomes if hasattr(each, "id"))
            assert await data_of(store, RUN) == list(range(6))

    def test_a_loop_that_closed_with_a_batch_on_its_way_does_not_stall_another(
        self, proxy: FaultProxy, key_prefix: str
    ) -> None:
        with opened_sync(proxy.url, key_prefix, redis_timeout=1) as store:
            asyncio.run(_ignored(store.add(RUN, "t", 0)))
            proxy.delay(0.1)

            async def given_up() -> None:
                asyncio.get_running_loop().create_task(store.add(RUN, "t", 1))
                await asyncio.sleep(0.02)

            asyncio.run(given_up())
            begun = time.monotonic()
            asyncio.run(_ignored(store.add(RUN, "t", 2)))
            assert time.monotonic() - begun < 8
            asyncio.run(_ignored(store.add(RUN, "t", 3)))
            assert asyncio.run(data_of(store, RUN)) == [0, 1, 2, 3]

    def test_loops_in_several_threads_publish_to_one_run(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        with opened_sync(redis.url, key_prefix) as store:

            async def worker(name: int) -> None:
                run = RunPublisher(RUN, store=store)
                await asyncio.gather(*(run.emit("t", [name, n]) for n in range(50)))
                for number in range(50, 100):
                    await run.emit("t", [name, number])

            _in_threads([worker(name) for name in range(6)])
            data = asyncio.run(data_of(store, RUN))
            assert len(data) == 600
            for name in range(6):
                assert [each for each in data if each[0] == name] == [[name, n] for n in range(100)]

    def test_threads_go_on_through_an_outage(self, proxy: FaultProxy, key_prefix: str) -> None:
        with opened_sync(proxy.url, key_prefix, redis_timeout=5) as store:

            async def worker(name: int) -> None:
                run = RunPublisher(RUN, store=store)
                for number in range(300):
                    await run.emit("t", [name, number])
                    await asyncio.sleep(0.002)

            def break_and_mend() -> None:
                time.sleep(0.15)
                proxy.refuse()
                time.sleep(0.2)
                proxy.heal()

            breaker = threading.Thread(target=break_and_mend)
            breaker.start()
            _in_threads([worker(name) for name in range(4)])
            breaker.join()

            async def all_of() -> list[Any]:
                await flushed(store)
                return await data_of(store, RUN)

            data = asyncio.run(all_of())
            assert len(data) == 1200
            for name in range(4):
                assert [each for each in data if each[0] == name] == [[name, n] for n in range(300)]


FORKS = """
    import asyncio, os, sys
    from holdfast.link import Link
    from holdfast.settings import Settings
    from holdfast.streams.publishing.publisher import RunPublisher
    from holdfast.streams.stores.redis import RedisEventStore

    settings = Settings(redis_url=sys.argv[1], key_prefix=sys.argv[2], redis_timeout=2)
    link = Link(settings)
    store = RedisEventStore(link, settings)
    run = RunPublisher("run", store=store)
    memory = []

    async def publish(name):
        store.doorbell(lambda *news: None, lambda: None)
        for number in range(20):
            await run.emit("t", [name, number])

    asyncio.run(publish("before"))
    name = store.producer
    store._outbox._lock.acquire()  # as a thread may hold it that no child has
    child = os.fork()
    if child == 0:
        asyncio.run(publish("child"))
        link.close()
        os._exit(0 if store.producer != name else 3)
    store._outbox._lock.release()
    asyncio.run(publish("parent"))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    link.close()
    sys.exit(status or (0 if store.producer == name else 4))
"""


async def test_parent_and_forked_child_publish_under_names_of_their_own(
    redis: RedisServer, key_prefix: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(FORKS), redis.url, key_prefix]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    async with opened(redis.url, key_prefix) as store:
        data = await data_of(store, RUN)
        assert len(data) == 60
        for name in ("before", "child", "parent"):
            assert [each for each in data if each[0] == name] == [[name, n] for n in range(20)]


async def _ignored(awaitable: Any) -> None:
    await awaitable


def _in_threads(works: list[Any]) -> None:
    """Run each of *works* in a loop and a thread of its own; raise what one of them raised."""
    errors: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            asyncio.run(work)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
