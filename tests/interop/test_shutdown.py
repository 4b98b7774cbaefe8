"""A process that is told to stop: its streams are let go, their readers go on at the next one."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import time
from typing import TYPE_CHECKING

import httpx
import pytest
import websockets
from tests.interop.crowd import Reader, all_of, crowd
from tests.interop.servers import COMMANDS, CUTS_WEBSOCKETS, LETS_STREAMS_BE_CUT
from tests.streams.clients import client

from holdfast import RunPublisher, Settings
from holdfast.runtime import runtime
from holdfast.streams.select import default_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer

PATH = "/streams/runs/r/events/stream"
MANY = "/streams/events/stream?run=r&run=other"
ENDS = ["workflow_complete"]
SLOW_SERVERS = set(COMMANDS) - {"uvicorn", "granian", "hypercorn"}


@pytest.fixture(autouse=True, scope="module")
def _room_for_a_thousand_connections() -> Iterator[None]:
    """Open files are 1024 in many shells; a server that is started here inherits what is set."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def env(redis: RedisServer, prefix: str, **more: str) -> dict[str, str]:
    return {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": prefix,
        "HOLDFAST_STREAM_ACCESS": "open",
        "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
        **more,
    }


def slow(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if name in SLOW_SERVERS else []


def listening(server: ServerProcess) -> ServerProcess:
    """Wait for the server; one with workers listens before they have loaded the app."""
    deadline = time.monotonic() + 20
    while True:
        try:
            httpx.get(f"{server.url}/state", trust_env=False).raise_for_status()
        except httpx.HTTPError:
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)
        else:
            return server


def beyond(count: int) -> Callable[[Reader], bool]:
    return lambda reader: len(reader.numbers) > count


CASES = [
    *(pytest.param(name, 100, marks=slow(name), id=f"{name}-100") for name in COMMANDS),
    *(
        pytest.param(name, 1000, marks=pytest.mark.slow, id=f"{name}-1000")
        for name in COMMANDS
        if name not in LETS_STREAMS_BE_CUT  # it writes a traceback for each
    ),
]


@pytest.mark.parametrize(("name", "count"), CASES)
async def test_sigterm_lets_every_stream_go_and_the_process_is_gone_within_5_s(
    name: str, count: int, redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    server = listening(serve(COMMANDS[name], env=env(redis, key_prefix)))
    url = server.url.replace("http", "ws") + "/streams/runs/r/events/ws"
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=3")
    sockets = [await websockets.connect(url, proxy=None) for _ in range(5)]
    async with crowd(count, [server.port], PATH, come_back=False) as readers:
        await all_of(readers, lambda reader: reader.numbers == [1, 2, 3], 60)
        begun = time.monotonic()
        status = await asyncio.to_thread(server.stop)
        assert time.monotonic() - begun < 9
        await all_of(readers, lambda reader: reader.done)
    # uvicorn ends by the signal that it was sent, once it has cleaned up; the others normally.
    assert status in {0, -signal.SIGTERM}
    codes = set()
    for each in sockets:
        await each.wait_closed()
        codes.add(each.close_code)
    delays = [delay for reader in readers for delay in reader.retries]
    assert len(delays) == count
    assert min(delays) < 1500 < 2500 < max(delays), "they come back at different times"
    assert all(reader.others == [] for reader in readers), "a stop was told as something else"
    if name in LETS_STREAMS_BE_CUT:
        assert [reader.cuts for reader in readers] == [1] * count
    else:
        assert [reader.whole for reader in readers] == [1] * count
        assert codes <= {1001, 1012, *([1006] if name in CUTS_WEBSOCKETS else [])}
        assert "Traceback" not in server.log()


async def test_sigterm_lets_readers_of_many_runs_go(
    redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    server = serve(COMMANDS["uvicorn"], env=env(redis, key_prefix))
    url = server.url.replace("http", "ws") + "/streams/events/ws?run=r&run=other"
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=3")
    one = await websockets.connect(url, proxy=None)
    async with crowd(20, [server.port], MANY, come_back=False) as readers:
        await all_of(readers, lambda reader: reader.numbers == [1, 2, 3])
        begun = time.monotonic()
        await asyncio.to_thread(server.stop)
        assert time.monotonic() - begun < 9
        await all_of(readers, lambda reader: reader.done)
    assert all((reader.whole, reader.others) == (1, []) for reader in readers)
    await one.wait_closed()
    assert one.close_code in {1001, 1012}
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param("uvicorn", PATH, id="uvicorn"),
        pytest.param("uvicorn", MANY, id="uvicorn-many-runs", marks=pytest.mark.slow),
        *(pytest.param(n, PATH, id=n, marks=pytest.mark.slow) for n in [*COMMANDS][1:]),
    ],
)
async def test_rolling_restart_of_two_processes_loses_and_doubles_nothing(
    name: str, path: str, redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    at = env(redis, key_prefix)
    one, two = (listening(serve(COMMANDS[name], env=at)) for _ in range(2))
    store = default_store(runtime(Settings(redis_url=redis.url, key_prefix=key_prefix)))
    stop = asyncio.Event()

    async def publish() -> int:
        n = 0
        async with RunPublisher("r", store=store) as publisher:
            while not stop.is_set():
                n += 1
                await publisher.emit("t", {"n": n})
                await asyncio.sleep(0.002)
        return n

    publishing = asyncio.create_task(publish())
    async with crowd(50, [one.port, two.port], path) as readers:
        for server in (one, two):
            await all_of(readers, beyond(20))
            seen = max(len(reader.numbers) for reader in readers)
            await asyncio.to_thread(server.stop)
            # Nobody waits for the process to come back: the other serves them meanwhile.
            await all_of(readers, beyond(seen + 50))
            server.start()
            await asyncio.to_thread(listening, server)
        stop.set()
        total = await publishing
        async with RunPublisher("other", store=store):
            pass  # the other run has nothing but its end
        await all_of(readers, lambda reader: reader.over)
    ends = 1 if path == PATH else 2
    for reader in readers:
        assert reader.numbers == list(range(1, total + 1))
        assert [kind for kind in reader.others if kind != "holdfast.end"] == ENDS * ends
        assert reader.statuses[-1] == 204
        assert len(reader.statuses) > 2, "the restart has let it go"


async def test_websocket_readers_go_on_at_the_other_process_with_their_last_id(
    redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    at = env(redis, key_prefix)
    one, two = (serve(COMMANDS["uvicorn"], env=at) for _ in range(2))
    numbers: list[int] = []
    codes: list[int | None] = []
    last_id, servers = "", [one, two]
    async with client() as http:
        await http.post(f"{one.url}/emit/r?count=20")
    while not codes or codes[-1] != 1000:
        server = servers.pop(0)
        url = server.url.replace("http", "ws") + f"/streams/runs/r/events/ws?last_id={last_id}"
        async with websockets.connect(url, proxy=None) as one_socket:
            async for text in one_socket:
                frame = json.loads(text)
                if frame["kind"] == "event" and frame["type"] == "t":
                    numbers.append(frame["data"]["n"])
                    last_id = frame["id"]
                if numbers == list(range(1, 21)) and one.running:
                    async with client() as http:
                        await asyncio.to_thread(one.stop)
                        await http.post(f"{two.url}/emit/r?first=21&count=20&end=1")
        codes.append(one_socket.close_code)
    assert numbers == list(range(1, 41))
    assert codes == [1001, 1000]


def _late_reader(server: ServerProcess) -> socket.socket:
    """A reader of a run of which nobody can say now whether it exists."""
    made = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    path = PATH.replace("/r/", "/unknown/")
    made.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert b" 200 " in made.recv(4096)
    return made


async def test_process_ends_in_time_while_redis_hangs(
    fresh_redis: RedisServer, serve: Serve
) -> None:
    server = serve(COMMANDS["uvicorn"], env=env(fresh_redis, "", HOLDFAST_REDIS_TIMEOUT="1"))
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=3")
        async with crowd(20, [server.port], PATH, come_back=False) as readers:
            await all_of(readers, lambda reader: reader.numbers == [1, 2, 3])
            fresh_redis.freeze()
            await http.post(f"{server.url}/emit/r?first=4")
            late = await asyncio.to_thread(_late_reader, server)
            await all_of(readers, lambda reader: reader.numbers == [1, 2, 3, 4])
            begun = time.monotonic()
            await asyncio.to_thread(server.stop)
            assert time.monotonic() - begun < 9
            await all_of(readers, lambda reader: reader.done)
            late.close()
    fresh_redis.thaw()
    assert all((reader.whole, reader.others) == (1, []) for reader in readers)
    assert "Traceback" not in server.log()


# -- where no signal is heard


async def test_close_lets_the_streams_go_where_signals_are_left_alone(serve: Serve) -> None:
    """An app that stops by itself, with its server in another thread, ends like any other."""
    server = serve(
        ["-m", "tests.interop.embedded", "{port}"],
        env={"HOLDFAST_STREAM_ACCESS": "open", "HOLDFAST_SECRET_KEY": "k" * 32},
    )
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=3")
        async with crowd(10, [server.port], PATH, come_back=False) as readers:
            await all_of(readers, lambda reader: reader.numbers == [1, 2, 3])
            assert (await http.get(f"{server.url}/streams/readyz")).status_code == 200
            begun = time.monotonic()
            await http.post(f"{server.url}/quit")
            assert await asyncio.to_thread(server.wait, 5) == 0
            assert time.monotonic() - begun < 9
            await all_of(readers, lambda reader: reader.done)
            assert [reader.whole for reader in readers] == [1] * 10
    assert "Traceback" not in server.log()
