"""`follow` and `follow_sync` against a real server, and against answers that one rarely gives."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest

from holdfast import Settings, StreamEvent, stream_token
from holdfast.client import (
    End,
    Failed,
    Gap,
    Item,
    Reset,
    StreamRefused,
    follow,
    follow_sync,
    stop,
    stop_sync,
)
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

APP = "tests.interop.client_page:app"
KEY = "a-key-of-sixteen-characters-or-more"
OPEN = {"HOLDFAST_STREAM_ACCESS": "open", "HOLDFAST_STREAM_HEARTBEAT": "0.3"}
TOKENS = {**OPEN, "HOLDFAST_STREAM_ACCESS": "token", "HOLDFAST_SECRET_KEY": KEY}
MANY = 200


@pytest.fixture(params=["async", "sync"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(serve: Serve) -> ServerProcess:
    return serve(APP, env=OPEN)


@pytest.fixture
def guarded(serve: Serve) -> ServerProcess:
    return serve(APP, env=TOKENS)


async def collect(way: str, url: str, **options: Any) -> list[Item]:
    """Follow to the end, in this loop or in a thread without one."""
    if way == "sync":
        return await asyncio.to_thread(lambda: list(follow_sync(url, **options)))
    return [item async for item in follow(url, **options)]


def stream(server: ServerProcess, run: str, query: str = "") -> str:
    return f"{server.url}/streams/runs/{run}/events/stream{query}"


def through(proxy: FaultProxy, run: str) -> str:
    return f"http://127.0.0.1:{proxy.port}/streams/runs/{run}/events/stream"


def post(server: ServerProcess, path: str) -> Any:
    return httpx.post(f"{server.url}{path}").raise_for_status().json()


def numbers(items: list[Item]) -> list[int]:
    return [item.data["n"] for item in items if isinstance(item, StreamEvent) and item.type == "t"]


def token(run: str, ttl: float = 60) -> str:
    return stream_token(run, ttl, settings=Settings(secret_key=KEY))


# --- a real server --------------------------------------------------------------------------------


async def test_events_come_once_in_order_then_the_end(server: ServerProcess, way: str) -> None:
    ids = post(server, "/emit/r?count=5")
    following = asyncio.create_task(collect(way, stream(server, "r")))
    await asyncio.sleep(0)
    ids += post(server, "/emit/r?first=6&count=5&end=1")
    items = await following
    assert numbers(items) == list(range(1, 11))
    assert [item.id for item in items if isinstance(item, StreamEvent)] == ids
    assert items[-1] == End("r")
    first = items[0]
    assert isinstance(first, StreamEvent)
    assert first.run_id == "r"
    assert abs((datetime.now(UTC) - first.created_at).total_seconds()) < 60


async def test_a_reader_begins_after_the_id_that_it_gives(server: ServerProcess, way: str) -> None:
    ids = post(server, "/emit/r?count=5&end=1")
    assert numbers(await collect(way, stream(server, "r"), last_id=ids[2])) == [4, 5]
    assert await collect(way, stream(server, "r"), last_id=ids[-1]) == [End("r")]


async def test_a_network_that_is_cut_again_and_again_costs_no_event(
    server: ServerProcess, way: str
) -> None:
    post(server, f"/start/r?count={MANY}&pause=0.01")
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        following = asyncio.create_task(collect(way, through(proxy, "r")))
        for reset in itertools.cycle([False, True]):
            await asyncio.wait([following], timeout=0.4)
            if following.done():
                break
            proxy.cut(reset=reset)
        assert numbers(await following) == list(range(1, MANY + 1))
        assert proxy.accepted > 3


async def test_a_server_that_is_away_is_come_back_to(server: ServerProcess, way: str) -> None:
    post(server, "/emit/r?count=3&end=1")
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        proxy.refuse()
        following = asyncio.create_task(collect(way, through(proxy, "r"), max_delay=0.3))
        await asyncio.wait([following], timeout=1)
        assert not following.done()
        proxy.heal()
        assert numbers(await following) == [1, 2, 3]


async def test_a_connection_that_died_without_a_word_is_given_up(
    server: ServerProcess, way: str
) -> None:
    post(server, f"/start/r?count={MANY}&pause=0.01")
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        following = asyncio.create_task(collect(way, through(proxy, "r"), silence=1.0))
        while not proxy.reply_bytes:
            await asyncio.sleep(0.01)
        proxy.blackhole()
        accepted = proxy.accepted
        while proxy.accepted == accepted:
            await asyncio.wait([following], timeout=0.05)
        proxy.heal()
        assert numbers(await following) == list(range(1, MANY + 1))


async def test_heartbeats_are_signs_of_life(server: ServerProcess, way: str) -> None:
    post(server, "/emit/r?count=1")
    following = asyncio.create_task(collect(way, stream(server, "r"), silence=1.0))
    await asyncio.wait([following], timeout=3)
    post(server, "/emit/r?first=2&count=1&end=1")
    assert numbers(await following) == [1, 2]
    assert server.log().count("GET /streams/runs/r/") == 1


async def test_what_is_gone_is_an_item(serve: Serve, way: str) -> None:
    server = serve(APP, env={**OPEN, "HOLDFAST_STREAM_MAXLEN": "10"})
    ids = post(server, "/emit/r?count=30&end=1")
    items = await collect(way, stream(server, "r"), last_id=ids[0])
    assert items[0] == Gap("r", ids[0], ids[21])
    assert numbers(items) == list(range(22, 31))


async def test_a_run_begun_anew_is_an_item(server: ServerProcess, way: str) -> None:
    old = post(server, "/emit/r?count=3")
    post(server, "/delete/r")
    new = post(server, "/emit/r?count=2&end=1")
    items = await collect(way, stream(server, "r"), last_id=old[-1])
    assert items[0] == Reset("r", old[-1], new[0])
    assert numbers(items) == [1, 2]


async def test_an_expired_token_is_renewed(guarded: ServerProcess, way: str) -> None:
    post(guarded, f"/start/r?count={MANY}&pause=0.01")
    asked = []

    def renew(refused: bool) -> str:
        asked.append(refused)
        return token("r", 1)

    items = await collect(way, stream(guarded, "r"), token=renew)
    assert numbers(items) == list(range(1, MANY + 1))
    assert asked[:2] == [False, True]


async def test_a_token_may_be_had_asynchronously(guarded: ServerProcess) -> None:
    post(guarded, "/emit/r?count=2&end=1")

    async def renew(refused: bool) -> str:
        await asyncio.sleep(0)
        return token("r") if refused else "stale"

    assert numbers(await collect("async", stream(guarded, "r"), token=renew)) == [1, 2]


async def test_a_token_in_the_address_is_sent_as_a_header(guarded: ServerProcess, way: str) -> None:
    post(guarded, "/emit/r?count=2&end=1")
    address = stream(guarded, "r", f"?token={token('r')}")
    assert numbers(await collect(way, address)) == [1, 2]
    assert token("r")[:20] not in guarded.log()


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        (None, 401, "UNAUTHORIZED"),
        ("forged", 401, "UNAUTHORIZED"),
        (lambda refused: token("another"), 403, "FORBIDDEN"),
    ],
    ids=["none", "forged", "of another run"],
)
async def test_who_may_not_read_is_told_so(
    guarded: ServerProcess, way: str, given: Any, status: int, code: str
) -> None:
    with pytest.raises(StreamRefused) as caught:
        await collect(way, stream(guarded, "r"), token=given)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert code in str(caught.value)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/streams/runs/nobody/events/stream?wait=0", 404, "RUN_NOT_FOUND"),
        ("/streams/runs/r/events/stream?last_id=x", 400, "INVALID_ID"),
        ("/wrong", 200, "NOT_A_STREAM"),
        ("/nowhere", 404, None),
    ],
)
async def test_an_answer_that_will_not_change_is_an_error(
    server: ServerProcess, way: str, path: str, status: int, code: str | None
) -> None:
    with pytest.raises(StreamRefused) as caught:
        await collect(way, server.url + path)
    assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize("address", ["host:80/events/stream", "/events/stream"])
async def test_an_address_that_is_none_is_an_error_and_not_tried_again(
    way: str, address: str
) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await collect(way, address)


@pytest.mark.parametrize(
    "given",
    [{"token": "tok\n"}, {"token": "töken"}, {"token": "tok "}, {"last_id": "1-0\n"}],
)
async def test_what_no_header_can_carry_is_an_error_and_not_repeated_in_it(
    way: str, given: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="one line of ASCII") as caught:
        await Answers().collect(way, **given)
    assert not any(text in str(caught.value) for text in given.values())


@pytest.mark.parametrize("own", ["é", " x "])
async def test_an_id_of_somebody_else_is_sent_back_as_a_browser_does(way: str, own: str) -> None:
    server = Answers(answer(f"id: {own}\ndata: 1\n\n"), httpx.Response(204))
    await server.collect(way, "http://other.test/feed")
    assert server.requests[1].headers["last-event-id"] == own.strip()


async def test_an_event_stream_of_somebody_else_is_followed_too(
    server: ServerProcess, way: str
) -> None:
    *events, end = await collect(way, f"{server.url}/foreign", max_delay=0.1)
    assert end == End("")
    assert [
        (event.id, event.type, event.data) for event in events if type(event) is StreamEvent
    ] == [
        ("7", "message", "one\ntwo"),
        ("7", "t", {"n": 1}),
        ("9", "workflow_complete", None),
    ]


async def test_leaving_early_closes_the_connection(server: ServerProcess, way: str) -> None:
    post(server, "/emit/r?count=5")
    if way == "sync":
        reading = follow_sync(stream(server, "r"))
        assert isinstance(next(reading), StreamEvent)
        reading.close()
    else:
        async with contextlib.aclosing(follow(stream(server, "r"))) as items:
            async for _ in items:
                break
    deadline = time.monotonic() + 10
    while httpx.get(f"{server.url}/state").json()["subscribers"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


# --- answers that are seldom given ----------------------------------------------------------------

ADDRESS = "http://test/streams/runs/r/events/stream"
EVENT = (
    'id: {id}\ndata: {{"kind":"event","run_id":"r","id":"{id}","type":"{type}",'
    '"data":{{"n":{n}}},"created_at":"2026-01-31T09:30:00.125Z"}}\n\n'
)


def event(n: int, kind: str = "t") -> str:
    return EVENT.format(id=f"{n}-0", type=kind, n=n)


class Answers:
    """A server that gives each of *answers* once, in order, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response) -> None:
        self._answers = iter(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return next(self._answers)

    async def collect(self, way: str, address: str = ADDRESS, **options: Any) -> list[Item]:
        transport = httpx.MockTransport(self)
        options = {"max_delay": 0.01, **options}
        if way == "sync":
            with httpx.Client(transport=transport) as sync_client:
                return await collect(way, address, http=sync_client, **options)
        async with httpx.AsyncClient(transport=transport) as client:
            return await collect(way, address, http=client, **options)


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces of *size* bytes."""

    def __init__(self, body: bytes, size: int) -> None:
        self._pieces = [body[at : at + size] for at in range(0, len(body), size)]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def answer(*frames: str, size: int = 1 << 20) -> httpx.Response:
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return httpx.Response(200, headers=headers, stream=Pieces("".join(frames).encode(), size))


DONE = event(9, "workflow_complete")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 425, 429])
async def test_a_server_in_trouble_is_asked_again(way: str, status: int) -> None:
    server = Answers(httpx.Response(status), answer(event(1), DONE))
    assert numbers(await server.collect(way)) == [1]


@pytest.mark.parametrize(
    ("trouble", "least"),
    [
        (lambda: httpx.Response(503, headers={"retry-after": "1"}), 1.0),
        (lambda: httpx.Response(503, headers={"retry-after": "soon"}), 0.0),
        (lambda: answer("retry: 700\n\n"), 0.7),
        (lambda: answer("retry: never\n\n"), 0.0),
    ],
)
async def test_a_reader_comes_back_no_sooner_than_it_was_told(
    way: str, trouble: Callable[[], httpx.Response], least: float
) -> None:
    server = Answers(trouble(), answer(DONE))
    begun = time.monotonic()
    await server.collect(way)
    assert least <= time.monotonic() - begun < least + 5


async def test_a_connection_that_brought_something_was_no_failure(way: str) -> None:
    server = Answers(*(answer(event(n)) for n in range(1, 5)), answer(DONE))
    begun = time.monotonic()
    await server.collect(way, max_delay=60)
    assert time.monotonic() - begun < 3, "four times half a second at most"


async def test_a_token_may_expire_any_number_of_times(way: str) -> None:
    server = Answers(httpx.Response(401), answer(event(1)), httpx.Response(401), answer(DONE))
    asked: list[bool] = []

    def renew(refused: bool) -> str:
        asked.append(refused)
        return f"token-{len(asked)}"

    assert numbers(await server.collect(way, token=renew)) == [1]
    assert asked == [False, True, True]
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == [f"Bearer token-{n}" for n in (1, 2, 2, 3)]


async def test_what_is_missing_is_told_on_any_stream_of_ours(way: str) -> None:
    gap = 'event: holdfast.gap\ndata: {"kind":"gap","requested":"1-0","earliest":"5-0"}\n\n'
    end = "id: 9-0\nevent: workflow_complete\ndata: null\n\n"
    items = await Answers(answer(gap, end)).collect(way, "http://test/ask")
    assert items[0] == Gap("", "1-0", "5-0")


async def test_each_connection_begins_after_what_was_handed_over(way: str) -> None:
    server = Answers(
        answer(event(1), event(2), event(3)[:-1]),  # the third is cut off in its last line
        answer(),
        answer(event(3), "event: holdfast.denied\ndata: {}\n\n"),
        answer("data: not a frame\n\n", DONE),
    )
    assert numbers(await server.collect(way)) == [1, 2, 3]
    given = [request.headers.get("last-event-id") for request in server.requests]
    assert given == [None, "2-0", "2-0", "3-0"]
    assert [str(request.url) for request in server.requests] == [f"{ADDRESS}?envelope=1"] * 4


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
async def test_however_a_stream_is_cut_up_its_events_are_the_same(
    way: str, size: int, line_break: str
) -> None:
    broken = event(2).replace("data: ", "data:").replace(',"type"', ',\ndata: "type"')
    frames = [": comment\n\n", event(1), "\n\nid\n\n", broken, DONE]
    # Its line break may be the first half of another one, so the last event needs what follows.
    body = "".join([*frames, "x\n"]).replace("\n", line_break)
    items = await Answers(answer(body, size=size)).collect(way)
    assert numbers(items) == [1, 2]
    assert items[-1] == End("r")


@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_a_byte_order_mark_is_no_part_of_the_first_line(way: str, size: int) -> None:
    first, *_ = await Answers(answer("\ufeff", event(1), DONE, size=size)).collect(way)
    assert isinstance(first, StreamEvent)
    assert first.id == "1-0"


@pytest.mark.parametrize(
    ("kind", "is_one"), [("Text/Event-Stream", True), ("text/event-streams", False)]
)
async def test_the_media_type_is_compared_whole_and_in_any_case(
    way: str, kind: str, is_one: bool
) -> None:
    given = answer(DONE)
    given.headers["content-type"] = kind
    if is_one:
        assert End("r") in await Answers(given).collect(way)
    else:
        with pytest.raises(StreamRefused, match="NOT_A_STREAM"):
            await Answers(given).collect(way)


async def test_what_unicode_calls_a_line_break_is_none(way: str) -> None:
    text = "a\u2028b\x85c"
    body = event(1).replace('{"n":1}', f'"{text}"')
    first, *_ = await Answers(answer(body, DONE, size=1)).collect(way)
    assert isinstance(first, StreamEvent)
    assert first.data == text


async def test_an_id_with_a_null_is_no_position(way: str) -> None:
    server = Answers(answer(event(1), event(2).replace("id: 2-0", "id: 2\0")), answer(DONE))
    await server.collect(way)
    assert server.requests[1].headers["last-event-id"] == "1-0"


async def test_after_a_reset_the_position_is_the_start(way: str) -> None:
    reset = 'data: {"kind":"reset","run_id":"r","requested":"1-0","earliest":null}\n\n'
    server = Answers(answer(event(1), reset), answer(DONE))
    assert Reset("r", "1-0", None) in await server.collect(way)
    assert "last-event-id" not in server.requests[1].headers


async def test_nothing_follows_the_end(way: str) -> None:
    items = await Answers(answer(event(1), DONE, event(10))).collect(way)
    assert [type(item) for item in items] == [StreamEvent, StreamEvent, End]


async def test_a_position_at_the_end_is_the_end(way: str) -> None:
    assert await Answers(httpx.Response(204)).collect(way, last_id="9-0") == [End("r")]


def test_without_httpx_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['httpx'] = None; import holdfast.client"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 'pip install "holdfast[client]"' in done.stderr


# --- many runs ------------------------------------------------------------------------------------


def of_run(items: list[Item], run: str) -> list[Item]:
    return [item for item in items if item.run_id == run]


async def test_many_runs_over_a_network_that_is_cut_come_once_and_in_order(
    server: ServerProcess, way: str
) -> None:
    runs = ["a", "b/c", "d"]
    for run in runs:
        post(server, f"/start/{quote(run, safe='')}?count={MANY}&pause=0.005")
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/streams/events/stream"
        following = asyncio.create_task(collect(way, url, runs=runs))
        for reset in itertools.cycle([False, True]):
            await asyncio.wait([following], timeout=0.3)
            if following.done():
                break
            proxy.cut(reset=reset)
        items = await following
        assert proxy.accepted > 2
    for run in runs:
        assert numbers(of_run(items, run)) == list(range(1, MANY + 1))
        assert of_run(items, run)[-1] == End(run)


async def test_of_many_runs_one_that_is_not_there_fails_and_the_others_go_on(
    server: ServerProcess, way: str
) -> None:
    post(server, "/emit/a?count=3&end=1")
    url = f"{server.url}/streams/events/stream?wait=0.1"
    items = await collect(way, url, runs=["a", "none"])
    assert numbers(of_run(items, "a")) == [1, 2, 3]
    assert of_run(items, "none") == [Failed("none", "RUN_NOT_FOUND")]
    assert End("a") in items


async def test_many_runs_that_are_all_at_their_end_are_told_as_such(
    server: ServerProcess, way: str
) -> None:
    for run in "ab":
        post(server, f"/emit/{run}?count=1&end=1")
    url = f"{server.url}/streams/events/stream?run=a&run=b"
    assert await collect(way, url, last_id="$") == [End("a"), End("b")]


async def test_a_reset_of_one_of_many_runs_moves_no_other(server: ServerProcess, way: str) -> None:
    for run in "ab":
        post(server, f"/emit/{run}?count=2")
    url = f"{server.url}/streams/events/stream"
    following = asyncio.create_task(collect(way, url, runs=["a", "b"]))
    while "2 runs" not in server_state(server)["hub"]:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    post(server, "/delete/a")
    post(server, "/emit/a?count=1&end=1")
    post(server, "/emit/b?first=3&count=1&end=1")
    items = await following
    assert [type(item) for item in items if isinstance(item, Reset)] == [Reset]
    assert numbers(of_run(items, "a")) == [1, 2, 1]
    assert numbers(of_run(items, "b")) == [1, 2, 3]


def server_state(server: ServerProcess) -> Any:
    return httpx.get(f"{server.url}/state").json()


@pytest.mark.slow
async def test_an_expired_token_is_renewed_for_many_runs_and_one_without_a_right_fails(
    guarded: ServerProcess, way: str
) -> None:
    for run in ("r-1", "r-2"):
        post(guarded, f"/start/{run}?count={MANY}&pause=0.01")
    asked = []

    def renew(refused: bool) -> str:
        asked.append(refused)
        return stream_token("r-", 1, prefix=True, settings=Settings(secret_key=KEY))

    url = f"{guarded.url}/streams/events/stream"
    items = await collect(way, url, runs=["r-1", "r-2", "x"], token=renew)
    for run in ("r-1", "r-2"):
        assert numbers(of_run(items, run)) == list(range(1, MANY + 1))
    assert of_run(items, "x") == [Failed("x", "UNAUTHORIZED")]
    assert asked[0] is False
    assert any(asked)


# --- stopping a run -------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
async def test_a_run_is_stopped_by_its_address_or_by_its_name(
    guarded: ServerProcess, way: str, own: bool
) -> None:
    name = "s/1"
    post(guarded, f"/start/{quote(name, safe='')}?count=5000&pause=0.01")
    key = Settings(secret_key=KEY)
    good = stream_token(name, actions=("read", "stop"), settings=key)
    one = stream(guarded, quote(name, safe=""))
    many = f"{guarded.url}/streams/events/stream"
    following = asyncio.create_task(collect(way, one, token=good))
    with pytest.raises(StreamRefused) as refused:
        await end(way, one, token=token(name), own=own)
    assert refused.value.status == 403
    assert await end(way, f"{one}?token={good}", own=own) is True
    items = await following
    assert isinstance(items[-2], StreamEvent)
    assert items[-2].type == "run_stopped"
    assert await end(way, many, name, token=good, own=own) is False


async def end(way: str, *where: str, own: bool, **options: Any) -> bool:
    """Stop a run, with a client of the caller's *own* or without one."""
    if way == "sync":
        with httpx.Client() as http:
            given = http if own else None
            return await asyncio.to_thread(lambda: stop_sync(*where, http=given, **options))
    async with httpx.AsyncClient() as http:
        return await stop(*where, http=http if own else None, **options)
