"""Behind nginx and Caddy: nothing is held back, renamed, cut or left open on the way."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import websockets
from tests.interop.proxies import Proxy, installed, proxy
from tests.streams.clients import EventSource, client, event_source, raw_request, until
from tests.support.process import ServerProcess, uvicorn_command

from holdfast import Settings, stream_token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Serve

    from holdfast.testing import RedisServer

APP = "tests.streams.served:app"
KEY = "a-key-of-sixteen-characters-or-more"
ENV = {
    "HOLDFAST_STREAM_ACCESS": "open",
    "HOLDFAST_SECRET_KEY": KEY,
    "HOLDFAST_STREAM_HEARTBEAT": "0.2",
}
PROXIES = ["nginx", "caddy"]


def need(name: str) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not installed: apt-get install {name}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("served") / "log"
    made = ServerProcess(uvicorn_command(APP), log, ENV)
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module", params=PROXIES)
def front(
    request: pytest.FixtureRequest, server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    need(request.param)
    with proxy(request.param, tmp_path_factory.mktemp(request.param), [server]) as made:
        yield made


@pytest.fixture
def run() -> str:
    return f"run-{os.urandom(4).hex()}"


def stream(at: Proxy | ServerProcess, run: str, query: str = "") -> str:
    return f"{at.url}/streams/runs/{run}/events/stream{query}"


def socket_url(at: Proxy, run: str) -> str:
    return at.url.replace("http", "ws") + f"/streams/runs/{run}/events/ws"


async def gone(server: ServerProcess, before: int = 0) -> None:
    deadline = time.monotonic() + 5
    async with client() as http:
        while (await subscribers(http, server)) > before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def subscribers(http: Any, server: ServerProcess) -> int:
    found: int = (await http.get(f"{server.url}/state")).json()["subscribers"]
    return found


# -- what passes


async def test_each_event_passes_as_it_comes_and_the_end_is_told(front: Proxy, run: str) -> None:
    async with client() as http:
        await http.post(f"{front.url}/emit/{run}?count=3")
        async with event_source(stream(front, run)) as page:
            await page.until(lambda: len(page.events) == 3)
            for n in range(4, 10):
                await http.post(f"{front.url}/emit/{run}?first={n}")
                await page.until(lambda: page.numbers[-1:] == [n])  # noqa: B023 - awaited here
            comments = page.comments
            await page.until(lambda: page.comments > comments)
            await http.post(f"{front.url}/emit/{run}?first=10&end=1")
            await page.until(lambda: page.closed)
    assert page.numbers == list(range(1, 11))
    assert (page.statuses, page.errors) == ([200, 204], 0)


async def test_event_of_a_megabyte_passes(front: Proxy, run: str) -> None:
    async with client() as http, event_source(stream(front, run)) as page:
        await http.post(f"{front.url}/emit/{run}?count=2&size=1000000&end=1")
        await page.until(lambda: page.closed)
    assert page.numbers == [1, 2]


async def test_websocket_is_handed_on_with_its_close_code(front: Proxy, run: str) -> None:
    async with client() as http:
        await http.post(f"{front.url}/emit/{run}?count=3")
        # The page's own origin: it has to be the Host that is asked behind the proxy too.
        headers = {"Origin": front.url}
        async with websockets.connect(
            socket_url(front, run), additional_headers=headers, proxy=None
        ) as socket:
            early = [json.loads(await socket.recv()) for _ in range(3)]
            await http.post(f"{front.url}/emit/{run}?first=4&end=1")
            late = [json.loads(text) async for text in socket]
    assert [frame["data"]["n"] for frame in [*early, late[0]]] == [1, 2, 3, 4]
    assert late[-1]["kind"] == "end"
    assert socket.close_code == 1000
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(
            socket_url(front, run), origin=websockets.Origin("https://foe.example"), proxy=None
        )
    assert refused.value.response.status_code == 403


async def test_encoded_slash_in_a_run_id_stays_one(front: Proxy, run: str) -> None:
    async with client() as http:
        await http.post(f"{front.url}/emit/{run}/part?count=2&end=1")
        history = await http.get(f"{front.url}/streams/runs/{run}%2Fpart/events")
        async with event_source(stream(front, f"{run}%2Fpart")) as page:
            await page.until(lambda: page.closed)
    assert history.json()["run_id"] == f"{run}/part"
    assert page.numbers == [1, 2]
    assert raw_request(front.port, f"/streams/runs/{run}/part/events")[0] == 404


# -- who leaves, and who says nothing


async def test_reader_that_leaves_is_gone_behind_the_proxy_too(
    front: Proxy, server: ServerProcess, run: str
) -> None:
    async with client() as http:
        await http.post(f"{server.url}/emit/{run}?count=1")
        pages = [EventSource(stream(front, run)).start() for _ in range(5)]
        socket = await websockets.connect(socket_url(front, run), proxy=None)
        await until(lambda: all(page.events for page in pages))
        while await subscribers(http, server) < 6:
            await asyncio.sleep(0.01)
    for page in pages:
        await page.aclose()
    await socket.close()
    await gone(server)


async def test_heartbeats_keep_a_silent_stream_open(
    server: ServerProcess, run: str, tmp_path: Path
) -> None:
    """With a proxy of less patience, so that no test waits for a minute."""
    need("nginx")
    changes = [("proxy_read_timeout 60s;", "proxy_read_timeout 1s;")]
    async with client() as http:
        with proxy("nginx", tmp_path, [server], changes) as front:
            await http.post(f"{server.url}/emit/{run}?count=1")
            async with event_source(stream(front, run)) as page:
                await page.until(lambda: page.comments >= 7)
                await http.post(f"{server.url}/emit/{run}?first=2&end=1")
                await page.until(lambda: page.closed)
    assert page.numbers == [1, 2]
    assert (page.statuses, page.errors) == ([200, 204], 0)


@pytest.mark.slow
async def test_without_heartbeats_the_proxy_cuts_and_the_reader_resumes(
    serve: Serve, run: str, tmp_path: Path
) -> None:
    need("nginx")
    silent = serve(APP, env={**ENV, "HOLDFAST_STREAM_HEARTBEAT": "30"})
    changes = [("proxy_read_timeout 60s;", "proxy_read_timeout 1s;")]
    async with client() as http:
        with proxy("nginx", tmp_path, [silent], changes) as front:
            await http.post(f"{silent.url}/emit/{run}?count=1")
            async with event_source(stream(front, run)) as page:
                await page.until(lambda: len(page.statuses) == 2)
                await http.post(f"{silent.url}/emit/{run}?first=2&end=1")
                await page.until(lambda: page.closed)
    assert page.numbers == [1, 2]
    assert page.statuses == [200, 200, 204]


async def test_our_header_alone_keeps_nginx_from_buffering(
    server: ServerProcess, run: str, tmp_path: Path
) -> None:
    need("nginx")
    changes = [("proxy_buffering off;", "")]
    async with client() as http:
        with proxy("nginx", tmp_path, [server], changes) as front:
            async with event_source(stream(front, run)) as page:
                for n in range(1, 4):
                    await http.post(f"{server.url}/emit/{run}?first={n}")
                    await page.until(lambda: page.numbers[-1:] == [n])  # noqa: B023 - awaited here


# -- restarts


@pytest.mark.parametrize("name", ["nginx", pytest.param("caddy", marks=pytest.mark.slow)])
async def test_readers_go_over_to_the_process_that_is_left(
    name: str, redis: RedisServer, key_prefix: str, serve: Serve, tmp_path: Path
) -> None:
    need(name)
    env = {**ENV, "HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}
    one, two = (serve(APP, env=env) for _ in range(2))
    async with client() as http:
        await http.post(f"{one.url}/emit/r?count=5")
        with proxy(name, tmp_path, [one, two]) as front:
            pages = [EventSource(stream(front, "r"), delay=0.01).start() for _ in range(10)]
            await until(lambda: all(len(page.events) == 5 for page in pages))
            await asyncio.to_thread(one.stop)
            await http.post(f"{front.url}/emit/r?first=6&count=5")
            await until(lambda: all(len(page.events) == 10 for page in pages))
            one.start()
            await asyncio.to_thread(two.stop)
            await http.post(f"{front.url}/emit/r?first=11&count=5&end=1")
            await until(lambda: all(page.closed for page in pages))
    for page in pages:
        assert page.numbers == list(range(1, 16))
        assert set(page.statuses) == {200, 204}


@pytest.mark.parametrize("name", ["nginx", pytest.param("caddy", marks=pytest.mark.slow)])
async def test_event_source_survives_a_time_without_any_process(
    name: str, redis: RedisServer, key_prefix: str, serve: Serve, tmp_path: Path
) -> None:
    need(name)
    env = {**ENV, "HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}
    only = serve(APP, env=env)
    changes = [] if name == "nginx" else [("lb_try_duration 2s", "lb_try_duration 100ms")]
    async with client() as http:
        await http.post(f"{only.url}/emit/r?count=5")
        with proxy(name, tmp_path, [only], changes) as front:
            async with event_source(stream(front, "r"), delay=0.05) as page:
                await page.until(lambda: len(page.events) == 5)
                await asyncio.to_thread(only.stop)
                await page.until(lambda: page.retries.count(3000) >= 2)
                history = await http.get(f"{front.url}/streams/runs/r/events")
                assert history.status_code == 502
                only.start()
                await http.post(f"{only.url}/emit/r?first=6&count=5&end=1")
                await page.until(lambda: page.closed)
    assert page.numbers == list(range(1, 11))
    assert set(page.statuses) == {200, 204}


# -- what is written down


async def test_no_token_is_in_the_log_of_the_proxy(front: Proxy, run: str) -> None:
    token = stream_token(run, settings=Settings(secret_key=KEY))
    async with client() as http:
        for door in ("events", "events/stream?wait=0"):
            joint = "&" if "?" in door else "?"
            url = f"{front.url}/streams/runs/{run}/{door}{joint}token={token}"
            assert (await http.get(url)).status_code == 404
    await until(lambda: front.log().count(run) >= 2)
    assert token not in front.log()
