"""Detached runs: begun once, published beyond their request, ended whatever becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.streams.redis_stores import opened, until

import holdfast
from holdfast import (
    EventStore,
    EventStreamApp,
    RunPublisher,
    Settings,
    request_stop,
    start_run,
    stream_token,
)
from holdfast.errors import (
    InvalidEvent,
    RedisUnavailable,
    RunEnded,
    RunExpired,
    RunNotYours,
)
from holdfast.streams.publishing import runs
from holdfast.streams.select import close_hubs
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
RUN = "run"


async def told(store: EventStore) -> list[tuple[str, Any]]:
    return [(event.type, event.data) for event in await store.get_events(RUN)]


async def two(run: RunPublisher) -> None:
    await run.emit("t", 1)
    await asyncio.sleep(0)
    await run.emit("t", 2)


async def for_ever(run: RunPublisher) -> None:
    await run.emit("t", 1)
    await asyncio.sleep(30)


class Source:
    """An iterator that tells what became of it."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.closed = 0

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        if not self.items:
            raise StopAsyncIteration
        return self.items.pop(0)

    async def aclose(self) -> None:
        self.closed += 1


class TestBeginning:
    async def test_a_run_is_published_and_ended(self, store: EventStore) -> None:
        run = await start_run(RUN, two, owner="user:1", store=store)
        assert (run.run_id, run.started, repr(run)) == (RUN, True, "<Run 'run' started>")
        end = await run.wait()
        assert (end.type, end.data) == ("workflow_complete", {"output": None})
        assert [kind for kind, _ in await told(store)] == ["t", "t", "workflow_complete"]
        assert (await store.describe(RUN)).owner == "user:1"

    async def test_it_is_there_before_its_first_event(self, store: EventStore) -> None:
        async def wait(run: RunPublisher) -> None:
            await gate.wait()

        gate = asyncio.Event()
        run = await start_run(RUN, wait, store=store)
        assert await store.status(RUN) == "open"
        gate.set()
        await run.wait()

    async def test_an_iterator_is_published(self, store: EventStore) -> None:
        source = Source("a", ("b", 2), {"c": 3})
        await (await start_run(RUN, source, store=store)).wait()
        events = await told(store)
        assert events[:-1] == [("message", "a"), ("b", 2), ("message", {"c": 3})]
        assert source.closed == 1

    async def test_text_of_an_event_stream_is_published(self, store: EventStore) -> None:
        source = Source("event: a\nda", "ta: 1\n\n")
        await (await start_run(RUN, source, media_type="text/event-stream", store=store)).wait()
        assert (await told(store))[0] == ("a", 1)

    async def test_nobody_else_need_remember_it(self, store: EventStore) -> None:
        async def wait(run: RunPublisher) -> None:
            await asyncio.sleep(0.05)
            await run.emit("t", 1)

        await start_run(RUN, wait, store=store)
        gc.collect()
        await until(lambda: not runs._here.of(store))
        assert (await told(store))[0] == ("t", 1)

    async def test_who_asked_may_leave_in_the_middle(self, store: EventStore) -> None:
        asking = asyncio.create_task(start_run(RUN, two, store=store))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(5):
            while await store.status(RUN) != "ended":
                await asyncio.sleep(0.005)
        assert len(await told(store)) == 3

    async def test_without_a_store_it_is_in_the_default_one(self) -> None:
        await (await start_run(RUN, two)).wait()
        assert len(await told(EventStore.from_settings())) == 3


class TestAttaching:
    async def test_of_twenty_at_once_one_publishes(self, store: EventStore) -> None:
        sources = [Source(("t", n)) for n in range(20)]
        found = await asyncio.gather(*(start_run(RUN, each, store=store) for each in sources))
        assert sum(run.started for run in found) == 1
        ends = await asyncio.gather(*(run.wait() for run in found))
        assert len({end.id for end in ends}) == 1
        assert len(await told(store)) == 2
        assert [source.closed for source in sources] == [1] * 20

    async def test_looking_for_a_stop_takes_no_run(self, store: EventStore) -> None:
        """A hold that is attended to may take a free lease, and that is no claim."""
        await RunPublisher(RUN, store=store).emit("t", 1)
        for _ in range(20):
            run = await start_run(RUN, two, store=store)
            assert not run.started
            await asyncio.sleep(0.002)

    async def test_a_finished_run_is_not_run_again(self, store: EventStore) -> None:
        first = await (await start_run(RUN, two, store=store)).wait()
        source = Source(("t", 3))
        again = await start_run(RUN, source, store=store)
        assert (again.started, await again.wait()) == (False, first)
        assert len(source.items) == source.closed == 1
        assert len(await told(store)) == 3

    async def test_a_run_of_bare_publishers_is_attached_to(self, store: EventStore) -> None:
        publisher = RunPublisher(RUN, store=store)
        await publisher.emit("t", 1)
        run = await start_run(RUN, two, store=store)
        waiting = asyncio.create_task(run.wait())
        await publisher.emit("t", 2)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        end = await publisher.workflow_complete()
        assert (run.started, await waiting) == (False, end)

    async def test_an_expired_run_is_refused(self, store: EventStore) -> None:
        await store.add(RUN, "workflow_complete", 1)
        await store.set_expire(RUN, 0.01)
        await asyncio.sleep(0.03)
        source = Source(1)
        with pytest.raises(RunExpired):
            await start_run(RUN, source, store=store)
        assert source.closed == 1
        with pytest.raises(RunExpired):
            await runs.Run(store, RUN, started=False).wait()

    async def test_a_deleted_run_begins_anew(self, store: EventStore) -> None:
        await (await start_run(RUN, two, store=store)).wait()
        await store.delete(RUN)
        with pytest.raises(RunEnded, match="no longer kept"):
            await runs.Run(store, RUN, started=False).wait()
        assert (await start_run(RUN, two, store=store)).started

    @pytest.mark.parametrize("local", [True, False])
    async def test_only_its_owner_attaches(self, store: EventStore, local: bool) -> None:
        if local:
            await start_run(RUN, for_ever, owner="user:1", store=store)
        else:
            await RunPublisher(RUN, owner="user:1", store=store).emit("t", 1)
        assert not (await start_run(RUN, two, owner="user:1", store=store)).started
        for owner in ("user:2", "session:1", None):
            source = Source(1)
            with pytest.raises(RunNotYours):
                await start_run(RUN, source, owner=owner, store=store)
            assert source.closed == 1

    async def test_a_run_without_an_owner_is_everybodys(self, store: EventStore) -> None:
        await start_run(RUN, for_ever, store=store)
        assert not (await start_run(RUN, two, owner="user:2", store=store)).started

    async def test_what_cannot_be_is_refused_before_anything_begins(
        self, store: EventStore
    ) -> None:
        source = Source(1)
        with pytest.raises(InvalidEvent):
            await start_run("", source, store=store)
        with pytest.raises(InvalidEvent):
            await start_run(RUN, source, owner="me", store=store)
        assert source.closed == 2
        with pytest.raises(TypeError):
            await start_run(RUN, [1], store=store)  # type: ignore[arg-type]
        assert await store.status(RUN) == "absent"


class TestEnding:
    async def test_a_failure_ends_it_and_is_logged(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail(run: RunPublisher) -> None:
            raise ZeroDivisionError("by zero")

        with caplog.at_level(logging.ERROR, "holdfast.streams"):
            end = await (await start_run(RUN, fail, store=store)).wait()
            await until(lambda: not runs._here.of(store))
        assert end.type == "workflow_error"
        assert end.data == {"error": {"type": "ZeroDivisionError", "message": "by zero"}}
        assert "the run 'run' failed" in caplog.text

    async def test_an_event_that_cannot_be_ends_it(self, store: EventStore) -> None:
        source = Source(("t", 1), ("holdfast.gap", 2), ("t", 3))
        end = await (await start_run(RUN, source, store=store)).wait()
        assert (end.type, source.closed) == ("workflow_error", 1)
        assert len(await told(store)) == 2

    async def test_an_end_from_elsewhere_cuts_its_source_off(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def publish(run: RunPublisher) -> None:
            await store.add(RUN, "workflow_complete", 1)
            await run.emit("late")

        with caplog.at_level(logging.WARNING, "holdfast.streams"):
            await (await start_run(RUN, publish, store=store)).wait()
            await until(lambda: not runs._here.of(store))
        assert "the source of the run 'run' was cut off" in caplog.text
        assert len(await told(store)) == 1

    async def test_it_stops_when_it_is_asked_to(self, store: EventStore) -> None:
        run = await start_run(RUN, for_ever, store=store)
        elsewhere = await start_run(RUN, for_ever, store=store)
        assert await elsewhere.stop() == "requested"
        assert (await run.wait()).type == "run_stopped"
        assert await run.stop() == "ended"

    async def test_a_stop_that_came_first_stops_it(self, store: EventStore) -> None:
        await request_stop(RUN, store=store)
        end = await (await start_run(RUN, for_ever, store=store)).wait()
        assert end.type == "run_stopped"

    async def test_it_is_lost_with_its_process(self, store: EventStore) -> None:
        await start_run(RUN, for_ever, store=store)
        await until(lambda: bool(runs._here.of(store)))
        await asyncio.sleep(0.02)
        await runs.close_runs(store)
        assert [kind for kind, _ in await told(store)] == ["t", "run_lost"]
        assert not runs._here.of(store)

    async def test_it_is_lost_also_before_it_has_run_at_all(self, store: EventStore) -> None:
        await start_run(RUN, for_ever, store=store)
        await runs.close_runs(store)
        assert (await told(store))[-1] == ("run_lost", {})

    async def test_one_that_will_not_end_keeps_no_process(
        self, store: EventStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runs, "LAST_WORD", 0.05)

        async def stubborn(run: RunPublisher) -> None:
            while not over.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await over.wait()

        over = asyncio.Event()
        run = await start_run(RUN, stubborn, store=store)
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await runs.close_runs(store)
        assert await store.status(RUN) == "open"
        over.set()
        await run.wait()

    async def test_aclose_ends_those_of_the_default_store(self) -> None:
        store = EventStore.from_settings()
        await start_run(RUN, for_ever)
        await asyncio.sleep(0)
        await holdfast.aclose()
        assert (await told(store))[-1] == ("run_lost", {})

    async def test_those_of_another_loop_are_ended_too(self) -> None:
        store = MemoryEventStore()
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def elsewhere() -> str:
            run = await start_run(RUN, for_ever, store=store)
            loop.call_soon_threadsafe(begun.set)
            return (await run.wait()).type

        ending = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
        await begun.wait()
        await runs.close_runs(store)
        assert await ending == "run_lost"

    async def test_a_process_that_is_told_to_stop_ends_them_from_any_thread(
        self, store: EventStore
    ) -> None:
        run = await start_run(RUN, for_ever, store=store)
        await asyncio.to_thread(runs._here.stop_soon)
        runs._here.stop_soon()
        assert (await run.wait()).type == "run_lost"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    async def test_a_forked_child_publishes_none_of_it(self) -> None:
        store = MemoryEventStore()
        await start_run(RUN, for_ever, store=store)
        child = os.fork()
        if not child:
            os._exit(len(runs._here.of(store)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(runs._here.of(store)) == 1
        await runs.close_runs(store)


class TestWhileRedisIsAway:
    async def test_its_end_is_waited_for(self, fresh_redis: RedisServer, key_prefix: str) -> None:
        async with opened(fresh_redis.url, key_prefix, redis_timeout=5) as store:
            run = await start_run(RUN, for_ever, store=store)
            fresh_redis.kill()
            waiting = asyncio.create_task(run.wait())
            await asyncio.sleep(0.1)
            await run.stop()
            await until(lambda: not runs._here.of(store))
            assert not waiting.done()
            waiting.cancel()
            await close_hubs(store)

    async def test_nothing_begins_that_may_have_begun_elsewhere(
        self, fresh_redis: RedisServer, key_prefix: str
    ) -> None:
        async with opened(fresh_redis.url, key_prefix, redis_timeout=5) as store:
            await store.add("other", "t", 1)
            fresh_redis.kill()
            source = Source(1)
            with pytest.raises(RedisUnavailable):
                await start_run(RUN, source, store=store)
            assert (source.closed, len(source.items)) == (1, 1)

    async def test_a_claim_whose_answer_was_lost_is_claimed_again(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
            async with opened(proxy.url, key_prefix, redis_timeout=1) as store:
                await store.add("other", "t", 1)
                beginning = runs.Beginning(store, RUN, two, owner=None)
                proxy.blackhole("replies")
                with pytest.raises(RedisUnavailable):
                    await beginning.run()
                proxy.heal()
                proxy.cut()
                await until(lambda: store.available)
                assert await store.status(RUN) == "open"
                run = await beginning.run()
                assert run.started
                await run.wait()
                assert len(await told(store)) == 3

    async def test_what_runs_here_is_attached_to_and_stopped(
        self, fresh_redis: RedisServer, key_prefix: str
    ) -> None:
        async with opened(fresh_redis.url, key_prefix, redis_timeout=5) as store:
            await start_run(RUN, for_ever, store=store)
            await asyncio.sleep(0.05)
            fresh_redis.kill()
            again = await start_run(RUN, two, store=store)
            assert not again.started
            assert await again.stop() == "requested"
            await until(lambda: not runs._here.of(store))
            pending = store.pending(RUN)
            assert pending is not None
            assert [entry.type for entry in pending.entries] == ["run_stopped"]

    async def test_a_page_can_stop_what_runs_here(
        self, fresh_redis: RedisServer, key_prefix: str
    ) -> None:
        settings = Settings(secret_key="a-key-of-sixteen-characters-or-more")
        token = stream_token(RUN, actions=["stop"], settings=settings)
        async with (
            opened(fresh_redis.url, key_prefix, redis_timeout=5) as store,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(EventStreamApp(settings=settings, store=store)),
                base_url="http://t",
                headers={"authorization": f"Bearer {token}"},
            ) as page,
        ):
            await start_run(RUN, for_ever, store=store)
            await asyncio.sleep(0.05)
            fresh_redis.kill()
            assert (await page.post(f"/runs/{RUN}/stop")).status_code == 202
            await until(lambda: not runs._here.of(store))
            assert (await page.post(f"/runs/{RUN}/stop")).status_code == 503
            await close_hubs(store)
