"""A plain dict where the session was: the session of a middleware inside, and its own affair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starsessions import InMemoryStore, SessionAutoloadMiddleware
from starsessions import SessionMiddleware as Inner
from tests.sessions.browser import Browser, CountingStore

from holdfast import MemorySessionStore, SessionMiddleware
from holdfast.settings import Settings
from holdfast.testing import FaultyStore

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from holdfast import SessionStore

pytestmark = pytest.mark.anyio

SETTINGS = Settings(secret_key="a key of more than sixteen characters")
OURS = {"cart": [1], "user_id": 7}


async def log_in(request: Request) -> Response:
    request.session.update(OURS)
    return Response()


async def look(request: Request) -> Response:
    return JSONResponse(request.session)


async def write(request: Request) -> Response:
    request.session["theirs"] = 1
    return JSONResponse(request.session)


async def empty(request: Request) -> Response:
    request.session.clear()
    return JSONResponse(request.session)


def site(store: SessionStore, settings: Settings = SETTINGS) -> Browser:
    """Return a browser in front of a site, below /inner of which another middleware is in charge.

    It puts a plain dict into the scope that the whole site shares.
    """
    inner = Starlette(
        routes=[Route("/look", look), Route("/write", write), Route("/empty", empty)],
        middleware=[
            Middleware(Inner, store=InMemoryStore(), cookie_name="inner", cookie_https_only=False),
            Middleware(SessionAutoloadMiddleware),
        ],
    )
    outer = Starlette(
        routes=[Route("/in", log_in), Route("/look", look), Mount("/inner", inner)],
        middleware=[Middleware(SessionMiddleware, settings=settings, store=store)],
    )
    return Browser(outer)


@pytest.mark.parametrize("steps", [["look"], ["write", "look"], ["write", "empty"], ["empty"]])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_an_inner_session_goes_through_leaves_ours_alone(steps: list[str]) -> None:
    store = CountingStore()
    browser = site(store)
    await browser.get("/in")
    ours = browser.cookies["session"]
    for step in steps:
        store.told()
        answer = await browser.get(f"/inner/{step}")
        assert answer.status == 200
        assert not [each for each in answer.all("set-cookie") if each.startswith("session=")]
        assert "user_id" not in answer.body.decode()
        assert set(store.told()) <= {"load", "touch"}
    assert browser.cookies["session"] == ours
    assert (await browser.get("/look")).body == b'{"cart":[1],"user_id":7}'


@pytest.mark.parametrize("mode", ["readonly", "closed"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_inner_session_works_while_ours_cannot_be_written(mode: Any) -> None:
    store = FaultyStore(MemorySessionStore())
    browser = site(store, SETTINGS.override(session_on_outage=mode))
    await browser.get("/in")
    store.fail()
    for step in ("write", "look", "empty"):
        assert (await browser.get(f"/inner/{step}")).status == 200
    store.heal()
    assert (await browser.get("/look")).body == b'{"cart":[1],"user_id":7}'


@pytest.mark.parametrize("instead", [{}, {"step": 2}], ids=["nothing", "something"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
async def test_a_dict_that_is_put_there_is_not_seen(
    instead: dict[str, Any], kind: str, *, seen: bool
) -> None:
    app = Starlette(routes=[Route("/in", log_in), Route("/look", look)])

    async def replacing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/":
            await app(scope, receive, send)
            return
        if seen:
            scope["session"].mark_accessed()
        scope["session"] = instead
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
        else:
            await Response()(scope, receive, send)

    browser = Browser(SessionMiddleware(replacing, settings=SETTINGS, store=CountingStore()))
    await browser.get("/in")
    answer = await (browser.get() if kind == "http" else browser.socket())
    assert answer.set_cookie is None
    assert (await browser.get("/look")).body == b'{"cart":[1],"user_id":7}'


async def test_in_the_place_of_a_session_that_nobody_used_it_costs_nothing() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"] = {"theirs": 1}
        await Response()(scope, receive, send)

    store = CountingStore()
    answer = await Browser(SessionMiddleware(app, settings=SETTINGS, store=store)).get()
    assert answer.set_cookie is None
    assert store.told() == []
