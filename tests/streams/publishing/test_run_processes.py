"""Runs over several processes: one producer for each id, stops from elsewhere, sudden death."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.clients import EventSource, client, event_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
APP = "tests.streams.detached:app"


@pytest.fixture
def servers(
    serve: Serve, redis: RedisServer, key_prefix: str
) -> Callable[..., list[ServerProcess]]:
    def start(count: int, **more: str) -> list[ServerProcess]:
        env = {
            "HOLDFAST_REDIS_URL": redis.url,
            "HOLDFAST_KEY_PREFIX": key_prefix,
            "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
            "HOLDFAST_STREAM_ACCESS": "open",
            **more,
        }
        return [serve(APP, env=env) for _ in range(count)]

    return start


async def seen(reader: EventSource, kind: str = "t", count: int = 1) -> None:
    await reader.until(lambda: len(reader.of(kind)) >= count)


async def over(reader: EventSource) -> None:
    """A browser comes back after the end, and is told that nothing follows."""
    await reader.until(lambda: 204 in reader.statuses)


async def test_of_twenty_requests_to_three_processes_one_produces(
    servers: Callable[..., list[ServerProcess]],
) -> None:
    processes = servers(3)
    async with contextlib.AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(
                event_source(f"{processes[n % 3].url}/answer/one?count=30&pause=0.01")
            )
            for n in range(20)
        ]
        for reader in readers:
            await over(reader)
    first = readers[0].events
    assert [event.type for event in first] == ["t"] * 30 + ["workflow_complete"]
    assert len({event.data["pid"] for event in first[:-1]}) == 1
    for reader in readers:
        assert [(e.id, e.data) for e in reader.events] == [(e.id, e.data) for e in first]


async def test_a_stop_from_another_process_is_there_at_once(
    servers: Callable[..., list[ServerProcess]],
) -> None:
    one, two = servers(2)
    waits = []
    async with client() as http:
        for n in range(10):
            run = f"stopped-{n}"
            async with event_source(f"{one.url}/answer/{run}?count=1000&pause=0.05") as reader:
                await seen(reader)
                said = (await http.post(f"{two.url}/stop/{run}")).json()
                assert said["said"] == "requested"
                await seen(reader, "run_stopped")
            cancelled = (await http.get(f"{one.url}/stopped/{run}")).json()
            waits.append(cancelled - said["asked"])
    # Measured: 2 to 5 ms. The bound is for a machine that does much else.
    assert sorted(waits)[5] < 0.1


async def test_readers_of_a_killed_process_are_told_within_the_lease(
    servers: Callable[..., list[ServerProcess]],
) -> None:
    lease = 2
    doomed, survivor = servers(2, HOLDFAST_STREAM_LEASE=str(lease))
    async with contextlib.AsyncExitStack() as stack:
        readers: list[EventSource] = []
        for n in range(10):
            url = f"{doomed.url}/answer/doomed?count=10000&pause=0.05"
            if n:
                url = f"{survivor.url}/streams/runs/doomed/events/stream"
            readers.append(await stack.enter_async_context(event_source(url)))
            await readers[0].until(lambda: readers[0].events)
        # Nobody judges before Redis has been there for a while.
        await asyncio.sleep(3.5)
        doomed.kill()
        killed = time.monotonic()
        for reader in readers[1:]:
            await seen(reader, "run_lost")
        assert time.monotonic() - killed < lease + 2
        # Who asks another process for it again is not given a second producer.
        async with event_source(f"{survivor.url}/answer/doomed") as again:
            await over(again)
        assert [e.id for e in again.events] == [e.id for e in readers[1].events]


async def test_a_process_that_is_told_to_end_ends_its_runs(
    servers: Callable[..., list[ServerProcess]],
) -> None:
    ending, other = servers(2)
    async with (
        event_source(f"{ending.url}/answer/ending?count=10000&pause=0.05", reconnect=False) as mine,
        event_source(f"{other.url}/streams/runs/ending/events/stream") as theirs,
    ):
        await mine.until(lambda: mine.events)
        begun = time.monotonic()
        await asyncio.to_thread(ending.stop)
        assert time.monotonic() - begun < 5
        await theirs.until(lambda: theirs.of("run_lost"))


async def test_a_page_that_is_loaded_again_goes_on_where_it_was(
    servers: Callable[..., list[ServerProcess]],
) -> None:
    (server,) = servers(1)
    url = f"{server.url}/answer/page?count=60&pause=0.02"
    pages: list[Any] = []
    last = ""
    for _ in range(4):
        async with event_source(url, last_id=last) as page:
            await seen(page, count=10)
        pages += page.events
        last = page.last_id
    async with event_source(url, last_id=last) as page:
        await over(page)
    pages += page.events
    assert [event.data["n"] for event in pages[:-1]] == list(range(1, 61))
    assert pages[-1].type == "workflow_complete"
