"""Litestar's own words for a login and a logout, on sessions of ours."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from holdfast import Holdfast, Settings

pytest.importorskip("litestar")

from litestar import Litestar, Request, WebSocket, get, post, websocket
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.response import Stream
from litestar.testing import TestClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.testing import RedisServer

Ask = Request[Any, Any, Any]
OWN = CookieBackendConfig(secret=b"a key of Litestar's own sessions", key="theirs").middleware


@get("/")
async def home(request: Ask) -> dict[str, Any]:
    return dict(request.session)


@post("/set")
async def put(request: Ask) -> None:
    request.set_session(await request.json())


@post("/clear")
async def clear(request: Ask) -> None:
    request.clear_session()


@post("/other")
async def other(request: Ask) -> None:
    request.clear_session()
    request.set_session({"user_id": "grace"})


@post("/text")
async def text(request: Ask) -> None:
    request.set_session("ada")  # type: ignore[arg-type]


@get("/late")
async def late(request: Ask) -> Stream:
    async def parts() -> AsyncIterator[str]:
        yield "begun"
        request.clear_session()

    return Stream(parts())


@websocket("/socket")
async def socket(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await socket.send_json(dict(socket.session))
    socket.clear_session()
    await socket.close()


HANDLERS = [home, put, clear, other, text, late, socket]


# Its own configuration of the log would be everybody's.
litestar = partial(Litestar, logging_config=None)


@pytest.fixture(params=["memory", "redis"])
def settings(request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str) -> Settings:
    given: dict[str, Any] = {"secret_key": "k" * 32, "key_prefix": key_prefix}
    if request.param == "redis":
        given |= {"redis_url": redis.url, "redis_timeout": 10}
    return Settings(**given)


@asynccontextmanager
async def browser_at(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        yield client


def served(settings: Settings) -> Any:
    return Holdfast(litestar(HANDLERS), settings=settings)


async def test_what_is_set_takes_the_place_of_what_was_there(settings: Settings) -> None:
    async with browser_at(served(settings)) as client:
        await client.post("/set", json={"cart": ["tea"], "theme": "dark"})
        anonymous = client.cookies["session"]
        await client.post("/set", json={"cart": ["tea"], "user_id": "ada"})
        assert client.cookies["session"] != anonymous, "a login gives a new cookie"
        assert (await client.get("/")).json() == {"cart": ["tea"], "user_id": "ada"}


@pytest.mark.parametrize(("path", "data"), [("/clear", None), ("/set", {})], ids=["clear", "set"])
async def test_a_logout_is_for_every_copy_of_the_cookie(
    settings: Settings, path: str, data: Any
) -> None:
    app = served(settings)
    async with browser_at(app) as client, browser_at(app) as thief:
        await client.post("/set", json={"user_id": "ada"})
        thief.cookies.set("session", client.cookies["session"])
        assert (await thief.get("/")).json() == {"user_id": "ada"}
        await client.post(path, json=data)
        assert "session" not in client.cookies
        assert (await thief.get("/")).json() == {}


async def test_a_login_after_a_logout_in_one_request(settings: Settings) -> None:
    async with browser_at(served(settings)) as client:
        await client.post("/set", json={"user_id": "ada", "cart": ["tea"]})
        await client.post("/other")
        assert (await client.get("/")).json() == {"user_id": "grace"}


async def test_a_logout_while_the_answer_is_streamed(settings: Settings) -> None:
    app = served(settings)
    async with browser_at(app) as client:
        await client.post("/set", json={"user_id": "ada"})
        assert (await client.get("/late")).text == "begun"
        assert (await client.get("/")).json() == {}


def test_a_logout_on_a_websocket() -> None:
    app = served(Settings(secret_key="k" * 32))
    with TestClient(app) as client:
        client.post("/set", json={"user_id": "ada"})
        with client.websocket_connect("/socket") as connection:
            assert connection.receive_json() == {"user_id": "ada"}
        assert client.get("/").json() == {}


async def test_what_is_no_mapping_is_told_and_nothing_is_answered(settings: Settings) -> None:
    async with browser_at(served(settings)) as client:
        await client.post("/set", json={"user_id": "ada"})
        with pytest.raises(TypeError, match="given str"):
            await client.post("/text")
        assert (await client.get("/")).json() == {"user_id": "ada"}


async def test_what_cannot_be_stored_is_a_503(free_port: int) -> None:
    nowhere = Settings(
        redis_url=f"redis://127.0.0.1:{free_port}", secret_key="k" * 32, session_on_outage="closed"
    )
    async with browser_at(served(nowhere)) as client:
        answer = await client.post("/set", json={"user_id": "ada"})
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("where", ["application", "route"])
async def test_sessions_of_its_own_are_left_to_it(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    if where == "application":
        own = litestar(HANDLERS, middleware=[OWN])
    else:

        @get("/elsewhere", middleware=[OWN])
        async def elsewhere() -> None: ...

        own = litestar([elsewhere, socket])
    app = Holdfast(own, settings=Settings(secret_key="k" * 32))
    assert "has sessions of its own" in caplog.text
    async with browser_at(app) as client:
        assert (await client.get("/streams/livez")).status_code == 200
        if where == "application":
            await client.post("/set", json={"user_id": "ada"})
            assert (await client.get("/")).json() == {"user_id": "ada"}
            assert list(client.cookies) == ["theirs"]
