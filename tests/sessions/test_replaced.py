"""A plain dict where the session was, ``request.scope["session"] = {}``: as with Starlette's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.sessions import Session as StarlettesSession
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from tests.sessions.browser import Browser, CountingStore

from holdfast import MemorySessionStore, SessionMiddleware, get_session
from holdfast.settings import Settings
from holdfast.testing import FaultyStore

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

pytestmark = pytest.mark.anyio

SETTINGS = Settings(secret_key="a key of more than sixteen characters")


class Site:
    """Puts in the place of the session what is said, and shows what was there before."""

    def __init__(self) -> None:
        self.instead: Any = None
        self.looks = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = PlainTextResponse("")
        if self.instead is None:
            answer = PlainTextResponse(str(sorted(get_session(scope).items())))
        else:
            if self.looks:
                assert HTTPConnection(scope).session is scope["session"]
            scope["session"] = self.instead
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            return
        await answer(scope, receive, send)


async def test_what_is_put_there_is_what_the_session_holds() -> None:
    site, store = Site(), CountingStore()
    browser = Browser(SessionMiddleware(site, settings=SETTINGS, store=store))
    site.instead = {"cart": [1], "step": 1}
    assert (await browser.get()).set_cookie is not None
    site.instead = {"step": 2}
    assert (await browser.get()).set_cookie is None
    site.instead = None
    assert (await browser.get()).body == b"[('step', 2)]"


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
async def test_nothing_put_there_logs_out(*, seen: bool) -> None:
    site, store = Site(), CountingStore()
    browser = Browser(SessionMiddleware(site, settings=SETTINGS, store=store))
    site.instead = {"user_id": 7}
    await browser.get()
    kept = dict(browser.cookies)
    site.instead, site.looks = {}, seen
    gone = await browser.get()
    assert gone.set_cookie is not None
    assert "1970" in gone.set_cookie
    browser.cookies = kept
    site.instead = None
    assert (await browser.get()).body == b"[]"


async def test_nothing_put_where_nothing_was_costs_nothing() -> None:
    site, store = Site(), CountingStore()
    site.instead = {}
    browser = Browser(SessionMiddleware(site, settings=SETTINGS, store=store))
    assert (await browser.get()).set_cookie is None
    assert store.told() == []


async def test_another_user_put_there_gets_another_cookie() -> None:
    site, store = Site(), CountingStore()
    browser = Browser(SessionMiddleware(site, settings=SETTINGS, store=store))
    site.instead = {"cart": [1]}
    await browser.get()
    site.instead = {"user_id": 7}
    assert (await browser.get()).set_cookie is not None


async def test_what_another_middleware_keeps_there_is_its_own_affair() -> None:
    site, store = Site(), CountingStore()
    browser = Browser(SessionMiddleware(site, settings=SETTINGS, store=store))
    for site.instead, site.looks in ((StarlettesSession(theirs=1), True), ({"theirs": 1}, False)):
        answer = await browser.get()
        assert answer.set_cookie is None
        assert store.told() == []


async def test_a_handshake_keeps_it_as_a_response_does() -> None:
    site, store = Site(), FaultyStore(MemorySessionStore())
    browser = Browser(SessionMiddleware(site, settings=SETTINGS, store=store))
    site.instead = {"step": 1}
    assert (await browser.socket()).set_cookie is not None
    store.fail()
    assert (await browser.socket()).status == 503
    store.heal()
    site.instead = None
    assert (await browser.get()).body == b"[('step', 1)]"


@pytest.mark.parametrize("mode", ["readonly", "closed"])
async def test_what_cannot_be_kept_is_answered_503(mode: Any) -> None:
    store, steps = FaultyStore(MemorySessionStore()), iter((1, 2))

    async def step(request: Request) -> PlainTextResponse:
        assert request.session is not None
        request.scope["session"] = {"step": next(steps)}
        return PlainTextResponse("")

    async def shown(request: Request) -> JSONResponse:
        return JSONResponse(request.session)

    # Starlette answers no error of an answer that has begun, as this one has to it.
    site = Starlette(routes=[Route("/", step), Route("/shown", shown)])
    settings = SETTINGS.override(session_on_outage=mode)
    browser = Browser(SessionMiddleware(site, settings=settings, store=store))
    await browser.get()
    store.fail()
    answer = await browser.get()
    store.heal()
    assert answer.status == 503
    assert answer.set_cookie is None
    assert (await browser.get("/shown")).body == b'{"step":1}'
