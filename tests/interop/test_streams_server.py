"""Streams on a real uvicorn: shutdown, foreign middleware, odd addresses, and who sees an error."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import websockets
from tests.streams.clients import EventSource, client, event_source, raw_request, until

from holdfast import Settings, stream_token

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.support.process import ServerProcess

APP = "tests.streams.served:app"
KEY = "a-key-of-sixteen-characters-or-more"
ENV = {
    "HOLDFAST_STREAM_ACCESS": "open",
    "HOLDFAST_SECRET_KEY": KEY,
    "HOLDFAST_STREAM_HEARTBEAT": "0.3",
}


def stream(server: ServerProcess, run: str, query: str = "") -> str:
    return f"{server.url}/streams/runs/{run}/events/stream{query}"


def socket_url(server: ServerProcess, run: str, query: str = "") -> str:
    return server.url.replace("http", "ws") + f"/streams/runs/{run}/events/ws{query}"


async def state(server: ServerProcess) -> Any:
    async with client() as http:
        return (await http.get(f"{server.url}/state")).json()


# -- shutdown


async def test_sigterm_ends_every_stream_at_once_and_the_process_normally(serve: Serve) -> None:
    server = serve(APP, env={**ENV, "HOLDFAST_STREAM_HEARTBEAT": "15"})
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=5")
    pages = [EventSource(stream(server, "r"), reconnect=False).start() for _ in range(50)]
    sockets = [await websockets.connect(socket_url(server, "r"), proxy=None) for _ in range(10)]
    waiting = EventSource(stream(server, "not-yet", "?wait=60"), reconnect=False).start()
    await until(lambda: all(len(page.events) == 5 for page in pages))
    while (await state(server))["subscribers"] < 61:
        await asyncio.sleep(0.01)
    begun = time.monotonic()
    status = await asyncio.to_thread(server.stop)
    assert time.monotonic() - begun < 8
    # uvicorn ends by the signal it was sent, once it has cleaned up.
    assert status == -signal.SIGTERM
    await until(lambda: all(page.task and page.task.done() for page in [*pages, waiting]))
    for page in [*pages, waiting]:
        assert (page.errors, page.statuses) == (0, [200]), "cut off, or told an end"
    assert len({delay for page in pages for delay in page.retries}) > 5
    for socket in sockets:
        await socket.wait_closed()
        assert socket.close_code in {1001, 1012}
    assert "Traceback" not in server.log()


async def test_signals_are_left_alone_where_the_variable_says_so(serve: Serve) -> None:
    server = serve(
        APP,
        env={**ENV, "HOLDFAST_STREAM_HANDLE_SIGNALS": "false"},
        args=["--timeout-graceful-shutdown", "1"],
    )
    async with event_source(stream(server, "r", "?wait=60"), reconnect=False):
        await until(lambda: True)
        begun = time.monotonic()
        async with client() as http:
            await http.post(f"{server.url}/emit/r?count=1")
        await asyncio.to_thread(server.stop)
        assert time.monotonic() - begun > 0.9


# -- who sees a wrong setting


@pytest.mark.parametrize("lifespan", ["auto", "on", "off"])
@pytest.mark.parametrize("app", ["early", "app", "alone"])
def test_wrong_setting_is_seen_by_who_starts_the_server(
    serve: Serve, app: str, lifespan: str
) -> None:
    wrong = {**ENV, "HOLDFAST_STREAM_MAXLEN": "many"}
    args = ["--lifespan", lifespan]
    server = serve(f"tests.streams.served:{app}", env=wrong, args=args, wait=False)
    if app == "early" or (app == "alone" and lifespan != "off"):
        assert server.wait() != 0
    else:
        server.await_log("Uvicorn running")
        path = "/livez" if app == "alone" else "/streams/livez"
        assert raw_request(server.port, path)[0] == 503
        assert raw_request(server.port, path)[0] == 503
    # Told when it is made, for a mounted app hears of no lifespan; and by a lifespan, if one comes.
    told = 2 if app == "alone" and lifespan != "off" else 1
    assert server.log().count("HOLDFAST_STREAM_MAXLEN='many'") == told


# -- addresses that HTTP libraries would tidy up


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.support.process import ServerProcess, uvicorn_command

    log = tmp_path_factory.mktemp("served") / "log"
    server = ServerProcess(uvicorn_command(APP), log, ENV)
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("run", "status"),
    [
        ("a%2Fb", 404),
        ("%c3%a9", 404),
        ("a%20b", 404),
        ("*", 404),
        ("a:b", 404),
        ("a%252Fb", 404),
        ("%00", 400),
        ("..", 400),
        ("%2e%2e", 400),
        (".", 400),
        ("%ff", 400),
        ("%7Bx%7D", 400),
        ("{x}", 400),
        ("", 400),
        ("x" * 256, 404),
        ("x" * 300, 400),
        ("a/b", 404),
    ],
)
def test_run_ids_are_taken_from_the_raw_path_and_decoded_once(
    shared: ServerProcess, run: str, status: int
) -> None:
    for door in ("events", "events/stream?wait=0"):
        got, answer = raw_request(shared.port, f"/streams/runs/{run}/{door}")
        assert got == status, answer
        assert b"application/problem+json" in answer


async def test_encoded_slash_names_another_run_than_a_longer_path(shared: ServerProcess) -> None:
    async with client() as http:
        await http.post(f"{shared.url}/emit/slash/ed?count=1&end=1")
        found = await http.get(f"{shared.url}/streams/runs/slash%2Fed/events")
        missed = await http.get(f"{shared.url}/streams/runs/slash/ed/events")
    assert found.json()["run_id"] == "slash/ed"
    assert missed.status_code == 404
    assert missed.json()["code"] == "NOT_FOUND"


async def test_stream_works_over_http_1_0(shared: ServerProcess) -> None:
    async with client() as http:
        await http.post(f"{shared.url}/emit/old?count=3&end=1")
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    writer.write(b"GET /streams/runs/old/events/stream HTTP/1.0\r\nHost: h\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert answer.count(b"event: t\n") == 3
    assert b"workflow_complete" in answer


# -- foreign middleware, clients that leave


@pytest.mark.parametrize("middleware", ["gzip", "base", "base,gzip"])
async def test_each_event_is_flushed_through_foreign_middleware(
    serve: Serve, middleware: str
) -> None:
    server = serve(APP, env={**ENV, "TEST_MIDDLEWARE": middleware})
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=1")
        async with event_source(stream(server, "r")) as page:
            await page.until(lambda: len(page.events) == 1)
            await http.post(f"{server.url}/emit/r?first=2")
            await page.until(lambda: len(page.events) == 2)
            comments = page.comments
            await page.until(lambda: page.comments > comments)
        await gone(server)
    assert "Traceback" not in server.log()


async def test_client_that_leaves_while_nothing_happens_leaves_nothing_behind(
    serve: Serve,
) -> None:
    server = serve(APP, env={**ENV, "HOLDFAST_STREAM_HEARTBEAT": "20"})
    before = await state(server)
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=1")
    sockets = [await websockets.connect(socket_url(server, "r"), proxy=None) for _ in range(3)]
    pages = [EventSource(stream(server, run)).start() for run in ("r", "r", "s")]
    await until(lambda: all(page.events for page in pages[:2]))
    assert (await state(server))["rings"] == 2
    for page in pages:
        await page.aclose()
    for socket in sockets:
        await socket.close()
    await gone(server)
    after = await state(server)
    assert after["tasks"] <= before["tasks"] + 3


async def gone(server: ServerProcess) -> None:
    deadline = time.monotonic() + 5
    while (now := await state(server))["subscribers"] or now["rings"]:
        assert time.monotonic() < deadline, now
        await asyncio.sleep(0.02)


async def test_reader_that_stops_reading_grows_nothing_and_slows_nobody(
    redis: Any, key_prefix: str, serve: Serve
) -> None:
    """20 MB pass by it: the ring slides, and it goes on from the log, each event once."""
    server = serve(
        APP,
        env={**ENV, "HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix},
    )
    request = b"GET /streams/runs/r/events/stream HTTP/1.0\r\nHost: h\r\n\r\n"
    async with client() as http, event_source(stream(server, "r")) as page:
        await http.post(f"{server.url}/emit/r?count=1&size=10")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(request)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for first in range(2, 402, 50):
            await http.post(f"{server.url}/emit/r?first={first}&count=50&size=50000")
        await http.post(f"{server.url}/emit/r?first=402&count=1&end=1")
        await page.until(lambda: page.closed)
        assert page.numbers == list(range(1, 403))
        now = await state(server)
        assert now["ring_bytes"] < 2 << 20
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
    blocks = answer.decode().split("\n\n")
    data = [block.rpartition("data: ")[2] for block in blocks if "event: t\n" in block]
    assert [json.loads(text)["n"] for text in data] == list(range(1, 403))


# -- permissions in time


async def test_token_that_expires_ends_what_it_opened_within_a_second(serve: Serve) -> None:
    server = serve(APP, env={**ENV, "HOLDFAST_STREAM_ACCESS": "token"})
    settings = Settings(secret_key=KEY)
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=1")
    token = stream_token("r", ttl=1.5, settings=settings)
    ends = time.time() + 1.5
    page = EventSource(stream(server, "r", f"?token={token}")).start()
    socket = await websockets.connect(socket_url(server, "r", f"?token={token}"), proxy=None)
    held = await websockets.connect(
        socket_url(server, "s", f"?token={stream_token('s', ttl=1.5, settings=settings)}"),
        proxy=None,
    )
    for each in (socket, held):
        await asyncio.wait_for(each.wait_closed(), 5)
        assert each.close_code == 1008
    await page.until(lambda: page.closed)
    assert time.time() - ends < 1
    assert page.statuses == [200, 401]
    assert [event.data for event in page.events] == [{"n": 1}]
    ours = [line for line in server.log().splitlines() if "HTTP/1.1" not in line]
    assert not [line for line in ours if token in line and "WebSocket" not in line]


async def test_origin_rules_of_the_websocket(serve: Serve) -> None:
    server = serve(APP, env={**ENV, "HOLDFAST_STREAM_ALLOWED_ORIGINS": "https://friend.example"})
    async with client() as http:
        await http.post(f"{server.url}/emit/r?count=1&end=1")
    for origin in (None, server.url, "https://friend.example"):
        headers = {"Origin": origin} if origin else {}
        async with websockets.connect(
            socket_url(server, "r"), additional_headers=headers, proxy=None
        ) as socket:
            assert [json.loads(text)["kind"] async for text in socket][-1] == "end"
        assert socket.close_code == 1000
    for origin in ("null", "https://foe.example", "http://127.0.0.1:1"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(
                socket_url(server, "r"), additional_headers={"Origin": origin}, proxy=None
            )
        assert refused.value.response.status_code == 403
