"""Asking a run to stop: what the publisher's block does then, whatever else cancels it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.streams.redis_stores import opened

from holdfast import EventStore, request_stop
from holdfast.errors import InvalidEvent, RedisUnavailable
from holdfast.streams.publishing.publisher import RunPublisher

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
RUN = "run"


async def kinds(store: EventStore) -> list[str]:
    return [event.type for event in await store.get_events(RUN)]


async def stop_soon(store: EventStore) -> None:
    """Ask when the task that is tested waits for something."""
    await asyncio.sleep(0)
    assert await request_stop(RUN, store=store) == "requested"


class TestTheBlock:
    async def test_it_is_left_quietly_at_what_it_waits_for(self, store: EventStore) -> None:
        seen: list[Any] = []
        async with RunPublisher(RUN, store=store) as run:
            await run.emit("t", 1)
            stopping = asyncio.create_task(stop_soon(store))
            try:
                await asyncio.sleep(30)
            finally:
                seen.append(run.stop_requested)
            seen.append("never")
        await stopping
        assert seen == [True]
        assert await kinds(store) == ["t", "run_stopped"]
        events = await store.get_events(RUN)
        assert events[-1].data == {}
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    async def test_cleaning_up_may_wait_and_publish(self, store: EventStore) -> None:
        async with RunPublisher(RUN, store=store) as run:
            stopping = asyncio.create_task(stop_soon(store))
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await asyncio.sleep(0.001)
                await run.emit("summary")
                raise
        await stopping
        assert await kinds(store) == ["summary", "run_stopped"]

    async def test_a_stop_that_came_first_is_not_lost(self, store: EventStore) -> None:
        await request_stop(RUN, store=store)
        async with RunPublisher(RUN, store=store) as run:
            assert run.stop_requested
            await run.wait_stop()
            await asyncio.sleep(30)
        assert await kinds(store) == ["run_stopped"]

    async def test_who_waits_for_the_stop_goes_on_to_the_next_wait(self, store: EventStore) -> None:
        seen: list[Any] = []
        async with RunPublisher(RUN, store=store) as run:
            stopping = asyncio.create_task(stop_soon(store))
            await run.wait_stop()
            seen.append(run.stop_requested)
            await asyncio.sleep(30)
            seen.append("never")
        await stopping
        assert seen == [True]
        assert await kinds(store) == ["run_stopped"]

    async def test_a_block_that_waits_for_nothing_is_not_cut(self, store: EventStore) -> None:
        await request_stop(RUN, store=store)
        async with RunPublisher(RUN, store=store):
            reached = True
        assert reached
        assert await kinds(store) == ["run_stopped"]

    async def test_who_leaves_by_himself_has_stopped_too(self, store: EventStore) -> None:
        async with RunPublisher(RUN, store=store) as run:
            with contextlib.suppress(asyncio.CancelledError):
                await request_stop(RUN, store=store)
                while not run.stop_requested:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(30)
        assert await kinds(store) == ["run_stopped"]

    async def test_what_is_raised_while_stopping_is_heard_of(self, store: EventStore) -> None:
        async def publish() -> None:
            async with RunPublisher(RUN, store=store):
                try:
                    await request_stop(RUN, store=store)
                    await asyncio.sleep(30)
                finally:
                    _ = 1 / 0

        with pytest.raises(ZeroDivisionError):
            await publish()
        assert await kinds(store) == ["workflow_error"]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    async def test_an_end_of_its_own_stays(self, store: EventStore) -> None:
        async with RunPublisher(RUN, store=store) as run:
            try:
                await request_stop(RUN, store=store)
                await asyncio.sleep(30)
            finally:
                await run.workflow_complete("half")
        assert await kinds(store) == ["workflow_complete"]

    async def test_a_bare_publisher_learns_it_with_its_next_event(self, store: EventStore) -> None:
        run = RunPublisher(RUN, store=store)
        await run.emit("t", 1)
        await request_stop(RUN, store=store)
        await run.emit("t", 2)
        assert run.stop_requested
        await run.wait_stop()
        assert await kinds(store) == ["t", "t"]

    async def test_a_bare_publisher_that_asks_again_and_again_is_told(
        self, store: EventStore
    ) -> None:
        run = RunPublisher(RUN, store=store)
        await run.emit("t", 1)
        assert not run.stop_requested
        await request_stop(RUN, store=store)
        async with asyncio.timeout(5):
            while not run.stop_requested:
                await asyncio.sleep(0.005)
        assert await kinds(store) == ["t"]

    async def test_a_bare_publisher_can_wait_for_it(self, store: EventStore) -> None:
        run = RunPublisher(RUN, store=store)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(run.wait_stop())
            await asyncio.sleep(0.01)
            await request_stop(RUN, store=store)
        assert await store.status(RUN) == "absent"

    async def test_it_reaches_loops_of_other_threads(self, store: EventStore) -> None:
        entered, seen = threading.Event(), []

        async def publish() -> None:
            async with RunPublisher(RUN, store=store):
                entered.set()
                await asyncio.sleep(30)
            seen.append(await kinds(store))

        thread = threading.Thread(target=lambda: asyncio.run(publish()))
        thread.start()
        await asyncio.to_thread(entered.wait, 5)
        await request_stop(RUN, store=store)
        await asyncio.to_thread(thread.join, 5)
        assert seen == [["run_stopped"]]

    async def test_it_is_known_at_once(self, store: EventStore) -> None:
        async with RunPublisher(RUN, store=store):
            await asyncio.sleep(0.05)
            asked = time.monotonic()
            stopping = asyncio.create_task(stop_soon(store))
            await asyncio.sleep(3)
        await stopping
        # Measured: 1 to 3 ms. The bound is what a loaded machine may need.
        assert time.monotonic() - asked < 1


class TestOtherCancellations:
    """Only our own cancellation is taken back (Task.uncancel, as asyncio.timeout does)."""

    async def test_one_from_elsewhere_goes_on(self, store: EventStore) -> None:
        async def publish() -> None:
            async with RunPublisher(RUN, store=store):
                entered.set()
                await asyncio.sleep(30)

        entered = asyncio.Event()
        task = asyncio.create_task(publish())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await kinds(store) == ["workflow_error"]

    async def test_one_that_comes_with_the_stop_goes_on(self, store: EventStore) -> None:
        async def publish() -> None:
            async with RunPublisher(RUN, store=store) as run:
                entered.set()
                try:
                    await asyncio.sleep(30)
                finally:
                    assert run.stop_requested
                    task.cancel()

        entered = asyncio.Event()
        task = asyncio.create_task(publish())
        await entered.wait()
        await request_stop(RUN, store=store)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert await kinds(store) == ["run_stopped"]

    async def test_a_group_inside_is_cancelled_with_it(self, store: EventStore) -> None:
        ends: list[Any] = []

        async def child() -> None:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        async with RunPublisher(RUN, store=store):
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(child())
                group.create_task(stop_soon(store))
            ends.append("never")
        assert ends == ["cancelled"] * 3
        assert await kinds(store) == ["run_stopped"]

    async def test_a_group_around_is_left_alone(self, store: EventStore) -> None:
        async def publish() -> None:
            async with RunPublisher(RUN, store=store):
                await asyncio.sleep(30)
            went_on.append(1)

        went_on: list[int] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            await asyncio.sleep(0.02)
            await request_stop(RUN, store=store)
        assert went_on == [1]

    async def test_the_failure_of_a_sibling_is_not_taken_for_a_stop(
        self, store: EventStore
    ) -> None:
        async def publish() -> None:
            async with RunPublisher(RUN, store=store):
                entered.set()
                await asyncio.sleep(30)

        async def fail() -> None:
            await entered.wait()
            raise ValueError

        async def both() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(publish())
                group.create_task(fail())

        entered = asyncio.Event()
        with pytest.raises(ExceptionGroup):
            await both()
        assert await kinds(store) == ["workflow_error"]

    async def test_a_timeout_inside_is_no_timeout(self, store: EventStore) -> None:
        async with RunPublisher(RUN, store=store):
            stopping = asyncio.create_task(stop_soon(store))
            async with asyncio.timeout(20):
                await asyncio.sleep(30)
        await stopping
        assert await kinds(store) == ["run_stopped"]

    async def test_a_timeout_around_that_strikes_meanwhile_strikes(self, store: EventStore) -> None:
        async def publish() -> None:
            async with asyncio.timeout(30) as limit, RunPublisher(RUN, store=store):
                try:
                    await request_stop(RUN, store=store)
                    await asyncio.sleep(30)
                finally:
                    limit.reschedule(asyncio.get_running_loop().time())
                    await asyncio.sleep(30)

        with pytest.raises(TimeoutError):
            await publish()
        assert await kinds(store) == ["run_stopped"]

    async def test_a_scope_of_anyio_inside_and_around(self, store: EventStore) -> None:
        with anyio.CancelScope() as around:
            async with RunPublisher(RUN, store=store):
                stopping = asyncio.create_task(stop_soon(store))
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep, 30)
            went_on = True
        await stopping
        assert went_on
        assert not around.cancelled_caught
        assert await kinds(store) == ["run_stopped"]

    async def test_blocks_within_blocks_are_left_one_by_one(self, store: EventStore) -> None:
        left = []
        async with RunPublisher("outer", store=store):
            async with RunPublisher(RUN, store=store):
                stopping = asyncio.create_task(stop_soon(store))
                await asyncio.sleep(30)
            left.append("inner")
            await asyncio.sleep(0)
            left.append("outer goes on")
        await stopping
        assert left == ["inner", "outer goes on"]
        assert await kinds(store) == ["run_stopped"]
        assert [event.type for event in await store.get_events("outer")] == ["workflow_complete"]


class TestTheRequest:
    async def test_it_answers_what_became_of_it(self, store: EventStore) -> None:
        assert await request_stop(RUN, store=store) == "requested"
        await store.add(RUN, "workflow_complete", 1)
        assert await request_stop(RUN, store=store) == "ended"
        with pytest.raises(InvalidEvent):
            await request_stop("", store=store)

    async def test_without_a_store_it_asks_the_default_one(self) -> None:
        run = RunPublisher(RUN)
        await run.emit("t")
        assert await request_stop(RUN) == "requested"
        await run.emit("t")
        assert run.stop_requested

    async def test_while_redis_is_away_nobody_can_say(
        self, fresh_redis: RedisServer, key_prefix: str
    ) -> None:
        async with opened(fresh_redis.url, key_prefix) as store:
            await store.add(RUN, "t", 1)
            fresh_redis.kill()
            with pytest.raises(RedisUnavailable):
                await request_stop(RUN, store=store)
