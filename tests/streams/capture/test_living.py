"""Readers whose process was killed: they say no word, and read no more all the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from tests.streams.capture.calls import Browser, Feed, captured, events_of, headers_of
from tests.streams.capture.test_refresh import register_of
from tests.streams.clients import until
from tests.streams.redis_stores import opened

from holdfast.streams.capture.living import living_in
from holdfast.streams.capture.presence import Presence
from holdfast.streams.capture.register import Register
from holdfast.streams.publishing import runs
from holdfast.streams.select import close_hubs
from holdfast.streams.store import Draft
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams.hold import Hold
    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
LEASE = 3


@contextlib.asynccontextmanager
async def read_elsewhere(redis: RedisServer, prefix: str, browser: Browser) -> AsyncIterator[int]:
    """Have another process serve the browser's page again; it is the process's id that is given."""
    module = "tests.streams.capture.a_reader"
    cookie = browser.cookies["holdfast_capture"]
    command = (sys.executable, "-m", module, redis.url, prefix, cookie)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"reads\n"
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.slow
async def test_a_reader_whose_process_was_killed_keeps_no_page_from_its_answer(
    feed: Feed, redis: RedisServer, key_prefix: str
) -> None:
    feed.script("data: 1\n\n")
    async with opened(redis.url, key_prefix, stream_lease=LEASE) as store:
        browser = Browser(captured(feed, store))
        async with browser.get() as call:
            await until(lambda: events_of(call.text))
        register, run_id = Register(store, register_of(browser)), headers_of(call)["holdfast-run"]

        async def readers() -> list[str]:
            return await register.readers((await register.look())[run_id])

        async with read_elsewhere(redis, key_prefix, browser) as pid:
            assert len(await readers()) == 1
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while await readers():
                await asyncio.sleep(0.05)
        async with browser.get() as again:
            await until(lambda: events_of(again.text))
        assert headers_of(again)["holdfast-run"] == run_id
        assert len(feed.calls) == 1
        await runs.close_runs(store)
        await close_hubs(store)


async def test_an_answer_is_abandoned_when_the_process_of_its_last_reader_is_no_more(
    feed: Feed, redis: RedisServer, key_prefix: str
) -> None:
    feed.script("data: 1\n\n")
    async with opened(redis.url, key_prefix, stream_lease=LEASE) as store:
        browser = Browser(captured(feed, store, stream_capture_abandon=0.2))
        async with opened(redis.url, key_prefix, stream_lease=LEASE) as other:
            async with browser.get() as call:
                await until(lambda: events_of(call.text))
                await Presence(
                    Register(other, register_of(browser)), headers_of(call)["holdfast-run"]
                ).reads()
            await asyncio.sleep(0.5)
            assert not feed.ended, "it is read elsewhere"
        await until(lambda: feed.ended, 30)
        await runs.close_runs(store)
        await close_hubs(store)


async def test_a_process_has_one_name_while_it_lives() -> None:
    store = MemoryEventStore()
    living = living_in(store)
    one, two = await asyncio.gather(living.reader(), living.reader())
    assert one != two
    assert one.partition(".")[0] == two.partition(".")[0]


class Meeting(MemoryEventStore):
    """Whoever comes to be attended to waits a moment for another one to come as well."""

    def __init__(self) -> None:
        super().__init__()
        self.holds: list[Hold] = []
        self.two = threading.Barrier(2)

    def attend(self, hold: Hold) -> None:
        self.holds.append(hold)
        with contextlib.suppress(threading.BrokenBarrierError):
            self.two.wait(0.3)
        super().attend(hold)


async def test_a_process_has_one_name_in_all_its_event_loops() -> None:
    store = Meeting()
    living = living_in(store)
    names = await asyncio.gather(
        *(asyncio.to_thread(asyncio.run, living.reader()) for _ in range(2))
    )
    assert len({name.partition(".")[0] for name in names}) == 1
    assert len(store.holds) == 1


async def test_a_process_that_was_taken_for_dead_has_another_name_from_then_on() -> None:
    store = MemoryEventStore()
    living = living_in(store)
    before = await living.reader()
    assert await living_in(store).still(["a", before]) == ["a", before]
    await store.append(run_of(before), [Draft("run_lost", b"{}")])
    assert await living.still(["a", before]) == ["a"]
    after = await living.reader()
    assert await living.still([before, after]) == [after]


@pytest.mark.parametrize("reader", ["one", "a.b", "{}.x", ".", "x" * 300 + "."])
async def test_a_name_of_no_process_is_believed(reader: str) -> None:
    store = MemoryEventStore()
    assert await living_in(store).still([reader]) == [reader]


async def test_a_process_begins_while_redis_is_away(
    fresh_redis: RedisServer, key_prefix: str
) -> None:
    async with (
        opened(fresh_redis.url, key_prefix, redis_timeout=5) as store,
        opened(fresh_redis.url, key_prefix, redis_timeout=5) as other,
    ):
        assert await store.status("r") == await other.status("r") == "absent"
        fresh_redis.kill()
        await until(lambda: not (store.available or other.available))
        names = [await living_in(store).reader() for _ in range(3)]
        assert store.journalled == 1, "it is said once"
        fresh_redis.start()
        await until(lambda: store.available and other.available and not store.journalled)
        assert await living_in(other).still(names) == names
        info = await other.describe(run_of(names[0]))
        assert info.status == "open"
        await until_held(fresh_redis, store, run_of(names[0]))


async def until_held(redis: RedisServer, store: RedisEventStore, run_id: str) -> None:
    """Wait until the lease of a run is held."""
    async with asyncio.timeout(20):
        while not redis.execute("HEXISTS", store.keys(run_id).meta, "lease"):
            await asyncio.sleep(0.02)


def run_of(reader: str) -> str:
    """The run whose lease is held by the process of *reader*."""
    return f"captures-by-{reader.partition('.')[0]}"
