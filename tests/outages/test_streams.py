"""Streams while networks, servers and Redis die: real processes, and every event once, in order."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import websockets
from tests.streams.clients import EventSource, client, event_source, until

from holdfast import RunPublisher, Settings
from holdfast.errors import EventTooLarge
from holdfast.runtime import runtime
from holdfast.streams.select import default_store
from holdfast.testing import FaultProxy, RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.streams.store import EventStore

APP = "tests.streams.served:app"
BASE = {
    "HOLDFAST_STREAM_ACCESS": "open",
    "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
    "HOLDFAST_STREAM_HEARTBEAT": "0.5",
}
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def env(redis: RedisServer | str, prefix: str = "", **more: str) -> dict[str, str]:
    url = redis if isinstance(redis, str) else redis.url
    return {**BASE, "HOLDFAST_REDIS_URL": url, "HOLDFAST_KEY_PREFIX": prefix, **more}


def store_at(url: str, prefix: str = "") -> EventStore:
    return default_store(runtime(Settings(redis_url=url, key_prefix=prefix)))


@pytest.fixture
def durable_redis() -> Iterator[RedisServer]:
    with redis_server(*DURABLE) as server:
        yield server


def random_moments(count: int, total: int) -> list[int]:
    """One number of events in each of *count* equal parts of *total*."""
    part = total // (count + 1)
    return [n * part + random.randrange(1, part) for n in range(count)]


async def publish(
    store: EventStore, run: str, count: int, *, batch: int = 500, pause: float = 0
) -> None:
    async with RunPublisher(run, store=store) as publisher:
        for first in range(1, count + 1, batch):
            numbers = range(first, min(first + batch, count + 1))
            await asyncio.gather(*(publisher.emit("t", {"n": n}) for n in numbers))
            await asyncio.sleep(pause)


def stream(port: int | str, run: str, query: str = "") -> str:
    base = f"http://127.0.0.1:{port}" if isinstance(port, int) else port
    return f"{base}/streams/runs/{run}/events/stream{query}"


async def wait_for_redis(server: ServerProcess, state: str, timeout: float = 10) -> Any:
    body: dict[str, Any] = {}
    async with client() as http, asyncio.timeout(timeout):
        while body.get("redis") != state:
            body = (await http.get(f"{server.url}/streams/readyz")).json()
            await asyncio.sleep(0.02)
    return body


# -- the network between browser and server


async def test_sse_through_twenty_cuts_gives_each_event_once_in_order(
    redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    total = 10_000
    server = serve(APP, env=env(redis, key_prefix))
    writer = asyncio.create_task(
        publish(store_at(redis.url, key_prefix), "r", total, batch=50, pause=0.005)
    )
    with FaultProxy("127.0.0.1", server.port) as proxy:
        cuts = random_moments(20, total)

        def cut(page: EventSource) -> None:
            if cuts and len(page.events) >= cuts[0]:
                cuts.pop(0)
                proxy.cut()

        url = stream(proxy.port, "r")
        async with event_source(url, delay=0.01, on_event=cut) as page:
            await page.until(lambda: page.closed, 30)
    await writer
    assert page.numbers == list(range(1, total + 1))
    assert page.events[-1].type == "workflow_complete"
    assert page.statuses[-1] == 204
    assert page.of("holdfast.gap") == page.of("holdfast.reset") == []
    assert page.errors >= 15, "the cuts did not happen"


@pytest.mark.slow
async def test_websocket_through_twenty_cuts_gives_each_event_once_in_order(
    redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    total, last_id, ended, connections = 10_000, "", False, 0
    frames: list[dict[str, Any]] = []
    server = serve(APP, env=env(redis, key_prefix))
    writer = asyncio.create_task(
        publish(store_at(redis.url, key_prefix), "r", total, batch=50, pause=0.005)
    )
    with FaultProxy("127.0.0.1", server.port) as proxy:
        cuts = random_moments(20, total)
        last = time.monotonic() + 120
        while not ended:
            assert time.monotonic() < last, f"only {len(frames)} events came"
            url = f"ws://127.0.0.1:{proxy.port}/streams/runs/r/events/ws?last_id={last_id}"
            connections += 1
            try:
                # Who was cut off in the middle of a frame does not answer a close.
                connect = websockets.connect(url, max_size=None, proxy=None, close_timeout=0.2)
                async with connect as socket:
                    async for text in socket:
                        frame = json.loads(text)
                        ended = ended or frame["kind"] == "end"
                        if frame["kind"] == "event":
                            frames.append(frame)
                            last_id = frame["id"]
                        if cuts and not ended and len(frames) >= cuts[0]:
                            cuts.pop(0)
                            proxy.cut()
                            # What has come already would use up the next cuts.
                            break
            except (OSError, websockets.ConnectionClosedError, websockets.InvalidHandshake):
                await asyncio.sleep(0.01)
            else:
                if ended:
                    assert socket.close_code == 1000
    await writer
    assert [frame["data"]["n"] for frame in frames[:-1]] == list(range(1, total + 1))
    assert frames[-1]["type"] == "workflow_complete"
    assert connections > 15


async def test_rest_pages_through_all_events_by_next_id(
    redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    server = serve(APP, env=env(redis, key_prefix))
    await publish(store_at(redis.url, key_prefix), "r", 10_000)
    numbers, start, pages = [], "0", 0
    async with client() as http:
        while start:
            url = f"{server.url}/streams/runs/r/events?start_id={start}&limit=1000"
            page = (await http.get(url)).json()
            numbers += [event["data"].get("n") for event in page["events"]]
            start, pages = page["next_id"], pages + 1
            assert page["has_more"] is (start is not None)
    assert numbers == [*range(1, 10_001), None]
    assert pages == 11


@pytest.mark.slow
async def test_an_event_of_one_megabyte_passes_by_every_door_and_one_byte_more_is_refused(
    redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    server = serve(APP, env=env(redis, key_prefix))
    store = store_at(redis.url, key_prefix)
    exact = "x" * (1048576 - 2)
    async with RunPublisher("big", store=store) as publisher:
        for _ in range(40):
            await publisher.emit("t", exact)
        with pytest.raises(EventTooLarge, match="1048577"):
            await publisher.emit("t", exact + "x")
    async with event_source(stream(server.url, "big")) as page:
        await page.until(lambda: page.closed, 30)
    assert [len(event.data) for event in page.events[:-1]] == [len(exact)] * 40
    url = server.url.replace("http", "ws") + "/streams/runs/big/events/ws"
    async with websockets.connect(url, max_size=None, proxy=None) as socket:
        frames = [json.loads(text) async for text in socket]
    assert [len(frame["data"]) for frame in frames[:-2]] == [len(exact)] * 40
    assert await rest_sizes(server, "big") == [len(exact)] * 40
    assert "unavailable" not in server.log()


async def rest_sizes(server: ServerProcess, run: str) -> list[int]:
    sizes, start = [], "0"
    async with client() as http:
        while start:
            page = await http.get(f"{server.url}/streams/runs/{run}/events?start_id={start}")
            assert len(page.content) < 12 << 20
            body = page.json()
            sizes += [len(event["data"]) for event in body["events"] if event["type"] == "t"]
            start = body["next_id"]
    return sizes


# -- kill -9


@pytest.mark.slow
async def test_killed_app_goes_on_from_the_last_id_after_its_restart(
    durable_redis: RedisServer, serve: Serve
) -> None:
    server = serve(APP, env=env(durable_redis))
    writer = asyncio.create_task(
        publish(store_at(durable_redis.url), "r", 600, batch=1, pause=0.002)
    )
    async with event_source(stream(server.url, "r")) as page:
        await page.until(lambda: len(page.events) > 100)
        server.kill()
        server.start()
        await page.until(lambda: page.closed, 20)
    await writer
    assert page.numbers == list(range(1, 601))
    assert page.of("holdfast.reset") == []


async def test_killed_app_and_killed_redis_go_on_from_the_last_id(
    durable_redis: RedisServer, serve: Serve
) -> None:
    server = serve(APP, env=env(durable_redis))
    async with client() as http, event_source(stream(server.url, "r")) as page:
        await http.post(f"{server.url}/emit/r?count=200")
        await page.until(lambda: len(page.events) == 200)
        durable_redis.kill()
        server.kill()
        durable_redis.start()
        server.start()
        await http.post(f"{server.url}/emit/r?first=201&count=200&end=1")
        await page.until(lambda: page.closed, 20)
    assert page.numbers == list(range(1, 401))
    assert {event.type for event in page.events} == {"t", "workflow_complete"}


@pytest.mark.slow
async def test_killed_redis_under_a_run_of_the_same_process_loses_and_doubles_nothing(
    durable_redis: RedisServer, serve: Serve
) -> None:
    server = serve(APP, env=env(durable_redis))
    async with client() as http, event_source(stream(server.url, "r")) as page:
        await http.post(f"{server.url}/start/r?count=900&pause=0.005")
        await page.until(lambda: len(page.events) > 100)
        durable_redis.kill()
        await page.until(lambda: "~" in page.last_id)
        durable_redis.start()
        await page.until(lambda: page.closed, 25)
        assert page.errors == 0
        assert page.numbers == list(range(1, 901))
        stored = (await http.get(f"{server.url}/streams/runs/r/events?limit=1000")).json()
    assert [e["data"]["n"] for e in stored["events"] if e["type"] == "t"] == list(range(1, 901))


# -- Redis never there


@pytest.mark.slow
async def test_redis_never_there_is_served_from_memory_and_told_once(
    fresh_redis: RedisServer, serve: Serve
) -> None:
    fresh_redis.stop()
    server = serve(APP, env=env(fresh_redis))
    other = serve(APP, env=env(fresh_redis))
    async with client() as http, event_source(stream(server.url, "r")) as page:
        ready = await http.get(f"{server.url}/streams/readyz")
        assert ready.status_code == 200
        assert ready.json()["status"] == "degraded"
        assert ready.json()["redis"] == "down"
        assert ready.json()["reason"] == "refused"
        await http.post(f"{server.url}/emit/r?count=50")
        await page.until(lambda: len(page.events) == 50)
        body = (await http.get(f"{server.url}/streams/runs/r/events")).json()
        assert [event["data"]["n"] for event in body["events"]] == list(range(1, 51))
        ws_url = server.url.replace("http", "ws") + "/streams/runs/r/events/ws"
        async with websockets.connect(ws_url, proxy=None) as socket:
            early = [json.loads(await socket.recv()) for _ in range(50)]
            assert [frame["data"]["n"] for frame in early] == list(range(1, 51))
            provisional = page.events[9].id
            assert provisional.startswith("0-0~")
            fresh_redis.start()
            await wait_for_redis(server, "up", 5)
            await wait_for_redis(other, "up", 5)
            await http.post(f"{server.url}/emit/r?first=51&count=50&end=1")
            late = [json.loads(text) async for text in socket]
        await page.until(lambda: page.closed)
        assert page.numbers == list(range(1, 101))
        assert [frame["data"].get("n") for frame in late[:-1]] == [*range(51, 101), None]
        # Whoever saw a part of it on the first process goes on with the rest on the second.
        taken_over = EventSource(stream(other.url, "r"), last_id=provisional)
        await taken_over.run()
    assert taken_over.numbers == list(range(11, 101))
    assert taken_over.of("holdfast.gap") == taken_over.of("holdfast.reset") == []
    assert server.log().count("Redis is unavailable (refused)") == 1


# -- Redis away under open streams


@pytest.mark.slow
async def test_twenty_readers_stay_connected_while_redis_is_killed_and_restarted(
    durable_redis: RedisServer, serve: Serve
) -> None:
    server = serve(APP, env=env(durable_redis))
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=10")
        pages = [EventSource(stream(server.url, "r")).start() for _ in range(20)]
        await until(lambda: all(len(page.events) == 10 for page in pages))
        durable_redis.kill()
        await wait_for_redis(server, "down")
        before = [page.comments for page in pages]
        late = EventSource(stream(server.url, "unknown")).start()
        rest = await http.get(f"{server.url}/streams/runs/unknown/events")
        assert rest.status_code == 503
        assert int(rest.headers["retry-after"]) > 0
        await http.post(f"{server.url}/emit/r?first=11&count=200")
        await until(lambda: all(len(page.events) == 210 for page in pages))
        pairs = list(zip(pages, before, strict=True))
        await until(lambda: all(page.comments > beats for page, beats in pairs))
        await until(lambda: late.statuses == [200] and late.comments > 0)
        assert late.events == []
        durable_redis.start()
        await wait_for_redis(server, "up")
        await http.post(f"{server.url}/emit/r?first=211&count=40&end=1")
        await until(lambda: all(page.closed for page in pages))
        await late.aclose()
    for page in pages:
        assert page.numbers == list(range(1, 251))
        assert (page.errors, page.statuses) == (0, [200, 204])


async def test_two_processes_publish_through_an_outage_and_nobody_misses_or_doubles(
    durable_redis: RedisServer, serve: Serve
) -> None:
    one, two = (serve(APP, env=env(durable_redis)) for _ in range(2))
    async with client() as http:
        await http.post(f"{one.url}/emit/r?count=10")
        page_one, page_two = (EventSource(stream(at.url, "r")).start() for at in (one, two))
        await until(lambda: len(page_one.events) == len(page_two.events) == 10)
        durable_redis.kill()
        await http.post(f"{one.url}/emit/r?first=100&count=50")
        await http.post(f"{two.url}/emit/r?first=200&count=50")
        await until(lambda: len(page_one.events) == len(page_two.events) == 60)
        # One of them moves to the other process while Redis is away, with what it has seen.
        await page_one.aclose()
        page_one.url = stream(two.url, "r")
        page_one.start()
        await until(lambda: page_one.statuses == [200, 200])
        durable_redis.start()
        await until(lambda: len(page_two.events) == 110)
        await until(lambda: len(page_one.events) == 110)
        await http.post(f"{one.url}/emit/r?first=300&count=1&end=1")
        await until(lambda: page_one.closed and page_two.closed)
    everything = sorted([*range(1, 11), *range(100, 150), *range(200, 250), 300])
    for page in (page_one, page_two):
        assert sorted(page.numbers) == everything
        for first in (1, 100, 200):
            of_one = [n for n in page.numbers if first <= n < first + 50]
            assert of_one == sorted(of_one)
        assert page.of("holdfast.gap") == page.of("holdfast.reset") == []


@pytest.mark.slow
async def test_tail_reader_of_an_unknown_run_is_not_given_its_history_after_the_outage(
    durable_redis: RedisServer, serve: Serve
) -> None:
    await publish_open(store_at(durable_redis.url), "old", 30)
    durable_redis.kill()
    server = serve(APP, env=env(durable_redis))
    async with client() as http:
        page = EventSource(stream(server.url, "old", "?last_id=$"), reconnect=False).start()
        await until(lambda: page.comments > 0)
        await http.post(f"{server.url}/emit/old?first=31&count=5")
        await until(lambda: page.numbers == [31, 32, 33, 34, 35])
        durable_redis.start()
        await wait_for_redis(server, "up")
        await http.post(f"{server.url}/emit/old?first=36&count=1&end=1")
        await until(lambda: page.events[-1].type == "workflow_complete")
        await page.aclose()
    assert page.numbers == [31, 32, 33, 34, 35, 36]


async def publish_open(store: EventStore, run: str, count: int) -> None:
    publisher = RunPublisher(run, store=store)
    await publisher.emit("t", {"n": 1})
    await asyncio.gather(*(publisher.emit("t", {"n": n}) for n in range(2, count + 1)))


async def test_flushed_redis_under_a_live_stream_is_told_as_a_reset(
    fresh_redis: RedisServer, serve: Serve
) -> None:
    server = serve(APP, env=env(fresh_redis))
    async with client() as http, event_source(stream(server.url, "r")) as page:
        await http.post(f"{server.url}/emit/r?count=5")
        await page.until(lambda: len(page.events) == 5)
        last = page.last_id
        fresh_redis.execute("FLUSHALL")
        await page.until(lambda: page.of("holdfast.reset"))
        assert page.of("holdfast.reset") == [
            {"kind": "reset", "run_id": "r", "requested": last, "earliest": None}
        ]
        await http.post(f"{server.url}/emit/r?first=1&count=3&end=1")
        await page.until(lambda: page.closed)
        assert page.numbers == [1, 2, 3, 4, 5, 1, 2, 3]
        again = EventSource(stream(server.url, "r"), last_id=last)
        await again.run()
        assert [e.type for e in again.events] == ["holdfast.reset", "t", "t", "t", *END]
        assert again.events[0].data["requested"] == last
        assert again.events[0].data["earliest"] == again.events[1].id


END = ["workflow_complete"]


async def test_frozen_redis_holds_a_history_reader_who_goes_on_by_himself(
    fresh_redis: RedisServer, serve: Serve
) -> None:
    more = {"HOLDFAST_STREAM_HEARTBEAT": "30", "HOLDFAST_REDIS_TIMEOUT": "1"}
    server = serve(APP, env=env(fresh_redis, **more))
    await publish_open(store_at(fresh_redis.url), "r", 2000)
    fresh_redis.freeze()
    url = server.url.replace("http", "ws") + "/streams/runs/r/events/ws"
    async with websockets.connect(url, proxy=None) as socket:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 2)
        fresh_redis.thaw()
        frames = [json.loads(await asyncio.wait_for(socket.recv(), 10)) for _ in range(2000)]
    assert [frame["data"]["n"] for frame in frames] == list(range(1, 2001))
