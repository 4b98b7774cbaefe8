"""What a Quart app serves for long under a session ends with it, in whichever process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import quart
from quart import Quart
from quart.testing.connections import WebsocketDisconnectError
from tests.sessions.test_bond import KEY, Site

from holdfast.endings import endings
from holdfast.quart import QuartSessionInterface, get_session
from holdfast.runtime import runtime
from holdfast.sessions.index import SessionIndex
from holdfast.settings import Settings
from holdfast.streams.doors.sse import LEAVE_ALONE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.conftest import Serve

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

LASTING = ("/events", "/silent", "/late", "/ws", "/ws/loud")
OTHERS = ("/public", "/download", "/ws/public")


@pytest.fixture
async def site(serve: Serve, redis: RedisServer, key_prefix: str) -> AsyncIterator[Site]:
    env = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_SECRET_KEY": KEY,
        "HOLDFAST_KEY_PREFIX": key_prefix,
    }
    servers = [serve("tests.frameworks.lasting_quart:app", env=env) for _ in range(2)]
    async with httpx.AsyncClient(timeout=30) as client, anyio.create_task_group() as group:
        yield Site([server.url for server in servers], client, group)
        group.cancel_scope.cancel()
    for server in servers:
        server.stop()
        assert "Traceback" not in server.log(), server.log()


async def test_a_logout_ends_what_a_quart_app_serves_in_every_process(site: Site) -> None:
    login = await site.open("/login", method="POST")
    assert login.cookie
    site.cookie = login.cookie
    bound = [await site.open(path, at) for path in LASTING for at in (0, 1)]
    others = [await site.open(path) for path in OTHERS]
    await site.post("/logout", at=1)
    with anyio.fail_after(10):
        while any(stream.ended_at is None for stream in [login, *bound]):
            await anyio.sleep(0.01)
    assert [stream.ended_at for stream in others] == [None] * len(others)


# --- one process ----------------------------------------------------------------------------------


class Here:
    """A Quart app in this process, and a visitor who is logged in."""

    def __init__(self, key_prefix: str, **more: Any) -> None:
        self.settings = Settings(secret_key=KEY, key_prefix=key_prefix, **more)
        self.app = Quart(__name__)
        self.app.session_interface = QuartSessionInterface(self.settings)  # type: ignore[assignment]
        self.app.add_url_rule("/login", "login", self._login)
        self.client = self.app.test_client()
        self.id_hash = ""
        self.over = asyncio.Event()

    async def _login(self) -> str:
        quart.session["user_id"] = "kim"
        return get_session().id_hash

    async def login(self) -> None:
        self.id_hash = await (await self.client.get("/login")).get_data(as_text=True)

    async def end(self) -> None:
        assert await SessionIndex(self.settings).revoke(self.id_hash)

    @property
    def watching(self) -> str:
        return repr(endings(runtime(self.settings)))

    async def until_watching(self, number: int) -> None:
        with anyio.fail_after(10):
            while self.watching != f"<Endings, {number} watching>":
                await anyio.sleep(0.01)


@pytest.fixture
async def here(key_prefix: str) -> Here:
    made = Here(key_prefix)
    await made.login()
    return made


def serve_stream(here: Here, body: Any) -> None:
    async def page() -> quart.Response:
        dict(quart.session)
        answer = quart.Response(body, mimetype="text/event-stream")
        answer.timeout = None
        return answer

    here.app.add_url_rule("/stream", "stream", page)


async def ended_stream(here: Here, body: Any) -> bytes:
    """Return what a stream of *body* sends after its first part, its session being ended then."""
    serve_stream(here, body)
    with anyio.fail_after(10):
        async with here.client.request("/stream") as connection:
            await connection.send_complete()
            assert await connection.receive() == b"data: 1\n\n"
            await here.end()
            rest = b""
            # The last part of every answer of Quart's is an empty one.
            while part := await connection.receive():
                rest += part
    assert here.watching == "<Endings, 0 watching>"
    return rest


async def test_a_generator_is_cancelled_once_and_puts_its_things_in_order(here: Here) -> None:
    seen: list[str] = []

    async def body() -> AsyncIterator[str]:
        try:
            yield "data: 1\n\n"
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            seen.append("in order")

    assert await ended_stream(here, body()) == b""
    assert seen == ["in order"]


async def test_what_a_deaf_generator_makes_after_the_end_is_not_sent(here: Here) -> None:
    async def body() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        yield "data: secret\n\n"

    assert await ended_stream(here, body()) == b""


async def test_a_stream_that_ends_by_itself_is_followed_no_longer(here: Here) -> None:
    def body() -> Iterator[str]:
        yield from ("data: 1\n\n", here.watching)

    serve_stream(here, body())
    with anyio.fail_after(10):
        answer = await here.client.get("/stream")
    assert await answer.get_data(as_text=False) == b"data: 1\n\n<Endings, 1 watching>"
    assert here.watching == "<Endings, 0 watching>"


async def test_a_stream_that_ends_by_itself_with_its_session_sends_the_last_of_its_answer(
    here: Here,
) -> None:
    async def body() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        await here.end()
        # In which turn of the loop the ending is heard is for the loop to say.
        while here.app.config["ANSWER"].response._bond.over is False:
            await asyncio.sleep(0)

    async def page() -> quart.Response:
        dict(quart.session)
        answer = quart.Response(body(), mimetype="text/event-stream")
        here.app.config["ANSWER"] = answer
        return answer

    here.app.add_url_rule("/stream", "stream", page)
    parts = [b"data: 1\n\n", b""]
    with anyio.fail_after(10):
        async with here.client.request("/stream") as connection:
            await connection.send_complete()
            assert [await connection.receive() for _ in parts] == parts


async def test_a_captured_stream_is_left_to_the_capture(here: Here) -> None:
    def body() -> Iterator[str]:
        yield here.watching

    serve_stream(here, body())
    scope: Any = {LEAVE_ALONE: lambda: False}
    answer = await here.client.get("/stream", scope_base=scope)
    assert await answer.get_data(as_text=False) == b"<Endings, 0 watching>"


async def test_a_stream_that_nothing_records_on_a_captured_path_ends_with_its_session(
    here: Here,
) -> None:
    def body() -> Iterator[str]:
        yield here.watching

    serve_stream(here, body())
    scope: Any = {LEAVE_ALONE: lambda: True}
    answer = await here.client.get("/stream", scope_base=scope)
    assert await answer.get_data(as_text=False) == b"<Endings, 1 watching>"


async def test_a_generator_that_fails_fails_as_without(here: Here) -> None:
    async def body() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        raise ValueError("of the app")

    serve_stream(here, body())
    with pytest.raises(ValueError, match="of the app"):
        await here.client.get("/stream")
    assert here.watching == "<Endings, 0 watching>"


async def code_of(socket: Any) -> int:
    """Return the code with which *socket* is closed after what it still says."""
    while True:
        try:
            await socket.receive()
        except WebsocketDisconnectError as error:
            return int(error.args[0])


async def test_a_socket_is_closed_and_its_handler_cancelled(here: Here) -> None:
    seen: list[object] = []

    async def handle() -> None:
        try:
            await quart.websocket.send(quart.session["user_id"])
            while True:
                await quart.websocket.send("more")
        finally:
            await asyncio.sleep(0.01)
            seen.append("in order")
            here.over.set()

    here.app.add_websocket("/ws", "ws", handle)
    async with here.client.websocket("/ws") as socket:
        assert await socket.receive() == "kim"
        await here.until_watching(1)
        await here.end()
        with anyio.fail_after(10):
            assert await code_of(socket) == 1008
        with anyio.fail_after(10):
            await here.over.wait()
        said: Any = socket
        assert said._receive_queue.empty()
    assert seen == ["in order"]


async def test_a_handler_that_its_server_has_cancelled_is_not_cancelled_again(here: Here) -> None:
    seen: list[str] = []

    async def handle() -> None:
        try:
            await quart.websocket.send(quart.session["user_id"])
            await asyncio.sleep(60)
        finally:
            # Longer than a handler that was not cancelled has.
            await asyncio.sleep(1)
            seen.append("in order")

    here.app.add_websocket("/ws", "ws", handle)
    async with here.client.websocket("/ws") as socket:
        assert await socket.receive() == "kim"
        await here.until_watching(1)
        await here.end()
        with anyio.fail_after(10):
            assert await code_of(socket) == 1008
        await socket.disconnect()
    assert seen == ["in order"]


async def test_a_cancelled_handler_that_still_sends_ends_all_the_same(here: Here) -> None:
    seen: list[str] = []

    async def handle() -> None:
        await quart.websocket.send(quart.session["user_id"])
        try:
            await asyncio.sleep(60)
        finally:
            await quart.websocket.send("goodbye")
            seen.append("in order")

    here.app.add_websocket("/ws", "ws", handle)
    with anyio.fail_after(10):
        async with here.client.websocket("/ws") as socket:
            assert await socket.receive() == "kim"
            await here.until_watching(1)
            await here.end()
            assert await code_of(socket) == 1008
            await socket.disconnect()
    assert seen == ["in order"]


async def test_who_sends_for_a_handler_that_goes_on_hears_of_the_end(here: Here) -> None:
    seen: list[BaseException] = []

    async def handle() -> None:
        await quart.websocket.send(quart.session["user_id"])
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            try:
                await quart.websocket.send("more")
            except OSError as error:
                seen.append(error)
            here.over.set()

    here.app.add_websocket("/ws", "ws", handle)
    async with here.client.websocket("/ws") as socket:
        assert await socket.receive() == "kim"
        await here.until_watching(1)
        await here.end()
        with anyio.fail_after(10):
            await here.over.wait()
    assert [type(error) for error in seen] == [OSError]


async def test_a_body_that_cannot_begin_is_followed_by_nobody(here: Here) -> None:
    class Broken(quart.wrappers.response.ResponseBody):
        async def __aenter__(self) -> AsyncIterator[Any]:
            raise ValueError("cannot be opened")

        async def __aexit__(self, *_: object) -> None:
            raise AssertionError

    async def page() -> quart.Response:
        dict(quart.session)
        answer = quart.Response("", mimetype="text/event-stream")
        answer.response = Broken()
        return answer

    here.app.add_url_rule("/broken", "broken", page)
    with pytest.raises(ValueError, match="cannot be opened"):
        await here.client.get("/broken")
    assert here.watching == "<Endings, 0 watching>"


@pytest.mark.parametrize("logged_in", [True, False], ids=["not looked at", "not there"])
async def test_nothing_is_bound_without_a_session_that_was_looked_at(
    key_prefix: str, logged_in: bool
) -> None:
    here = Here(key_prefix)
    if logged_in:
        await here.login()

    async def handle() -> None:
        if not logged_in:
            dict(quart.session)
        await quart.websocket.send(here.watching)

    here.app.add_websocket("/ws", "ws", handle)
    async with here.client.websocket("/ws") as socket:
        assert await socket.receive() == "<Endings, 0 watching>"
    here.app.add_url_rule("/stream", "stream", lambda: _unlooked(here))
    answer = await here.client.get("/stream")
    assert await answer.get_data(as_text=True) == "<Endings, 0 watching>"


def _unlooked(here: Here) -> quart.Response:
    async def body() -> AsyncIterator[str]:
        await asyncio.sleep(0.01)
        yield here.watching

    return quart.Response(body(), mimetype="text/event-stream")


async def test_a_socket_that_has_ended_is_followed_no_longer(here: Here) -> None:
    async def handle() -> None:
        await quart.websocket.send(quart.session["user_id"])
        await here.until_watching(1)

    here.app.add_websocket("/ws", "ws", handle)
    async with here.client.websocket("/ws") as socket:
        assert await socket.receive() == "kim"
        with anyio.fail_after(10):
            assert await code_of(socket) == 1000
    await here.until_watching(0)
