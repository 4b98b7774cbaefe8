"""Attacks on what a captured answer is bound to, by name: each gets a call of the app, and no more.

And the other way round: whoever it is bound to keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.capture.calls import (
    KEY,
    Browser,
    Feed,
    captured,
    events_of,
    headers_of,
    last_id,
    settings_of,
)
from tests.streams.clients import until
from tests.streams.redis_stores import at_rest

from holdfast import (
    EventStreamApp,
    MemorySessionStore,
    SessionMiddleware,
    get_session,
)
from holdfast.streams.capture import refresh
from holdfast.streams.capture.middleware import StreamCaptureMiddleware
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.streams.store import EventStore

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "LEAVING", 0.05)


@pytest.fixture
async def store() -> AsyncIterator[MemoryEventStore]:
    made = MemoryEventStore()
    async with at_rest(made):
        yield made


@pytest.fixture
def feed() -> Feed:
    made = Feed()
    made.script("id: own\ndata: secret\n\n")
    return made


@pytest.fixture
def app(store: EventStore, feed: Feed) -> ASGIApp:
    return captured(feed, store)


class Site:
    """An application with sessions, whose ``/feed`` is captured; other paths change the session."""

    def __init__(self, feed: Feed, store: EventStore, **values: Any) -> None:
        settings = settings_of(**values)
        self.sessions = MemorySessionStore()
        self.feed = feed
        inside = StreamCaptureMiddleware(self._serve, settings=settings, store=store)
        self.app = SessionMiddleware(inside, settings=settings, store=self.sessions)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]
        match scope["path"]:
            case "/login":
                session["user_id"] = "ada"
            case "/login-as-eve":
                session["user_id"] = "eve"
            case "/visit" | "/feed/first":
                session["seen"] = 1
            case "/rotate":
                get_session_of(scope).regenerate_id()
            case "/logout":
                session.clear()
        if scope["path"].startswith("/feed"):
            await self.feed(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def get_session_of(scope: Scope) -> Any:
    from starlette.requests import HTTPConnection

    return get_session(HTTPConnection(scope))


async def visit(browser: Browser, path: str) -> None:
    async with browser.get(path) as call:
        await call.ended()


async def read(browser: Browser, path: str = "/feed", **options: Any) -> tuple[str, str]:
    """Read one event and leave; return the last id and the run."""
    async with browser.get(path, **options) as call:
        await until(lambda: events_of(call.text))
    return last_id(call.text), headers_of(call)["holdfast-run"]


async def is_given(browser: Browser, run: str, path: str = "/feed", **options: Any) -> bool:
    """Whether a request is answered from *run*; if not, the app has been called."""
    async with browser.get(path, **options) as call:
        await until(lambda: call.status)
        return headers_of(call).get("holdfast-run") == run


async def test_a_stolen_id(app: ASGIApp, feed: Feed) -> None:
    stolen, run = await read(Browser(app))
    assert not await is_given(Browser(app), run, last=stolen)
    assert feed.last_event_id() is None


async def test_a_stolen_id_shown_by_another_reader(app: ASGIApp) -> None:
    thief = Browser(app)
    await read(thief, "/feed?other")
    stolen, run = await read(Browser(app))
    assert not await is_given(thief, run, last=stolen)


async def test_a_forged_signature(app: ASGIApp) -> None:
    browser = Browser(app)
    last, run = await read(browser)
    body, _, signature = last.rpartition("/")
    turned = signature[:-2] + ("AA" if signature[-2:] != "AA" else "BB")
    async with browser.get(last=f"{body}/{turned}") as call:
        await until(lambda: events_of(call.text))
    # As without an id: to a refreshed page it is given again, from the start.
    assert headers_of(call)["holdfast-run"] == run
    assert [each.data for each in events_of(call.text)] == ["secret"]


@pytest.mark.parametrize("part", [1, 2, 3])
async def test_an_id_that_was_tampered_with(app: ASGIApp, feed: Feed, part: int) -> None:
    browser = Browser(app)
    last, run = await read(browser)
    parts = last.split("/")
    parts[part] = {1: "A" * 22, 2: "0-0", 3: "b3duMg"}[part]
    async with browser.get():
        assert not await is_given(browser, run, last="/".join(parts))
    assert feed.last_event_id() is None


@pytest.mark.parametrize(
    "forged",
    ["hf1/", "hf1////", "hf1/a/b/c/d/e/f", "hf1/" + "x" * 5000, "hf1/\u20ac/0/x/y", "hf1/ä"],
    ids=["nothing", "empty", "many", "long", "euro", "umlaut"],
)
async def test_an_id_that_is_made_up(app: ASGIApp, feed: Feed, forged: str) -> None:
    browser = Browser(app)
    _, run = await read(browser)
    async with browser.get():
        assert not await is_given(browser, run, last=forged)
    assert feed.last_event_id() is None


async def test_an_id_signed_with_another_key(store: EventStore, feed: Feed) -> None:
    browser = Browser(captured(feed, store, secret_key="another-key-of-sixteen-or-more"))
    last, run = await read(browser)
    browser._app = captured(feed, store)
    assert not await is_given(browser, run, last=last)


async def test_an_id_of_another_path(app: ASGIApp) -> None:
    browser = Browser(app)
    last, run = await read(browser, "/feed/a")
    assert not await is_given(browser, run, "/feed/b", last=last)


async def test_an_id_of_another_query(app: ASGIApp) -> None:
    browser = Browser(app)
    last, run = await read(browser, "/feed?q=1")
    assert not await is_given(browser, run, "/feed?q=2", last=last)


async def test_an_id_of_another_host(app: ASGIApp) -> None:
    browser = Browser(app)
    last, run = await read(browser)
    assert not await is_given(browser, run, last=last, host="other.test")


async def test_a_run_is_found_at_another_port_of_its_host(app: ASGIApp) -> None:
    """The one that is deployed beside the last; and cookies are not kept apart by port either."""
    browser = Browser(app)
    last, run = await read(browser, host="[::1]:8001")
    assert await is_given(browser, run, last=last, host="[::1]:8002")
    assert await is_given(browser, run, host="[::1]")
    assert not await is_given(browser, run, last=last, host="[::2]:8001")


async def test_an_id_of_a_page_of_another_origin(app: ASGIApp) -> None:
    browser = Browser(app)
    last, run = await read(browser, origin="https://a.test")
    assert not await is_given(browser, run, last=last, origin="https://b.test")


async def test_another_authorization(app: ASGIApp) -> None:
    browser = Browser(app)
    last, run = await read(browser, authorization="Bearer ada")
    assert not await is_given(browser, run, last=last, authorization="Bearer eve")
    assert not await is_given(browser, run, authorization="Bearer eve")
    assert not await is_given(browser, run, last=last)
    assert await is_given(browser, run, last=last, authorization="Bearer ada")


async def test_the_same_authorization_from_another_browser(app: ASGIApp) -> None:
    last, run = await read(Browser(app), authorization="Bearer of-the-whole-service")
    other = Browser(app)
    assert not await is_given(other, run, last=last, authorization="Bearer of-the-whole-service")


async def test_the_cookie_of_another(app: ASGIApp) -> None:
    last, run = await read(Browser(app))
    other = Browser(app)
    other.cookies["holdfast_capture"] = "A" * 22
    assert not await is_given(other, run, last=last)


async def test_an_id_of_wide_letters_is_kept_within_its_bytes(app: ASGIApp, feed: Feed) -> None:
    feed.script("id: " + "\u6f22" * 1024 + "\ndata: 1\n\n")
    browser = Browser(app)
    last, run = await read(browser)
    assert await is_given(browser, run, last=last)
    assert len(last) <= 4096


async def test_a_cookie_that_we_never_made_is_replaced(app: ASGIApp) -> None:
    browser = Browser(app)
    browser.cookies["holdfast_capture"] = "chosen"
    await read(browser)
    assert browser.cookies["holdfast_capture"] != "chosen"


async def test_the_cookie_is_for_the_browser_alone(store: EventStore, feed: Feed) -> None:
    app = captured(feed, store, session_https_only=True, session_same_site="strict")
    async with Browser(app).get() as call:
        await until(lambda: call.status)
    set_cookie = headers_of(call)["set-cookie"]
    assert set_cookie.endswith("; path=/; httponly; samesite=strict; secure")


async def test_who_has_the_cookie_gets_no_other(app: ASGIApp) -> None:
    browser = Browser(app)
    last, _ = await read(browser)
    async with browser.get(last=last) as call:
        await until(lambda: call.status)
    assert "set-cookie" not in headers_of(call)


async def test_another_users_session(feed: Feed, store: EventStore) -> None:
    site = Site(feed, store)
    ada, eve = Browser(site.app), Browser(site.app)
    await visit(ada, "/login")
    await visit(eve, "/visit")
    last, run = await read(ada)
    assert not await is_given(eve, run, last=last)
    assert not await is_given(eve, run)
    assert await is_given(ada, run, last=last)


async def test_a_rotated_session_keeps_it(feed: Feed, store: EventStore) -> None:
    site = Site(feed, store)
    browser = Browser(site.app)
    await visit(browser, "/login")
    last, run = await read(browser)
    before = browser.cookies["session"]
    await visit(browser, "/rotate")
    assert browser.cookies["session"] != before
    assert await is_given(browser, run, last=last)
    assert await is_given(browser, run)


async def test_a_session_that_was_logged_out_loses_it(feed: Feed, store: EventStore) -> None:
    site = Site(feed, store)
    browser = Browser(site.app)
    await visit(browser, "/login")
    kept = dict(browser.cookies)
    last, run = await read(browser)
    await visit(browser, "/logout")
    assert not await is_given(browser, run, last=last)
    browser.cookies = kept
    assert not await is_given(browser, run, last=last)


async def test_a_session_that_begins_with_the_answer_has_it(feed: Feed, store: EventStore) -> None:
    site = Site(feed, store)
    browser = Browser(site.app)
    last, run = await read(browser, "/feed/first")
    assert set(browser.cookies) == {"session"}
    assert await is_given(browser, run, "/feed/first", last=last)
    assert await is_given(browser, run, "/feed/first")


async def test_another_user_in_the_same_session(feed: Feed, store: EventStore) -> None:
    browser = Browser(Site(feed, store).app)
    await visit(browser, "/login")
    last, run = await read(browser)
    await visit(browser, "/login-as-eve")
    assert not await is_given(browser, run, last=last)
    assert not await is_given(browser, run)


async def test_a_session_that_logs_in_keeps_it(feed: Feed, store: EventStore) -> None:
    browser = Browser(Site(feed, store).app)
    await visit(browser, "/visit")
    last, run = await read(browser)
    assert set(browser.cookies) == {"session"}
    await visit(browser, "/login")
    assert await is_given(browser, run, last=last)
    assert await is_given(browser, run)


async def test_a_visitor_who_logs_in_keeps_what_the_browser_had(
    feed: Feed, store: EventStore
) -> None:
    site = Site(feed, store)
    browser = Browser(site.app)
    last, run = await read(browser)
    assert set(browser.cookies) == {"holdfast_capture"}
    await visit(browser, "/login")
    assert await is_given(browser, run, last=last)


async def test_a_new_first_key_leaves_old_ids_good(feed: Feed, store: EventStore) -> None:
    browser = Browser(captured(feed, store))
    last, run = await read(browser)
    browser._app = captured(feed, store, secret_key=("a-newer-key-of-sixteen-or-more", KEY))
    assert await is_given(browser, run, last=last)
    assert await is_given(browser, run)


async def test_its_owner_may_stop_it_by_the_session(feed: Feed, store: EventStore) -> None:
    site = Site(feed, store, stream_access="session")
    ada, eve = Browser(site.app), Browser(site.app)
    await visit(ada, "/login")
    await visit(eve, "/visit")
    _, run = await read(ada)
    assert (await store.describe(run)).owner == "user:ada"
    settings = settings_of(stream_access="session")
    streams = SessionMiddleware(
        EventStreamApp(settings=settings, store=store), settings=settings, store=site.sessions
    )
    for browser, status in ((eve, 403), (ada, 202)):
        browser._app = streams
        stop = browser.get(f"/runs/{run}/stop", method="POST", **{"sec-fetch-site": "same-origin"})
        async with stop as call:
            await call.ended()
        assert call.status == status
    await until(lambda: feed.ended)


async def test_without_a_session_a_run_is_nobodys(app: ASGIApp, store: EventStore) -> None:
    _, run = await read(Browser(app))
    assert (await store.describe(run)).owner is None


async def test_a_session_that_cannot_be_seen_is_waited_for(
    feed: Feed, store: EventStore, free_port: int
) -> None:
    settings = settings_of(redis_url=f"redis://127.0.0.1:{free_port}", session_on_outage="readonly")
    here = MemorySessionStore()
    seen = Site(feed, store)
    seen.sessions = here
    browser = Browser(SessionMiddleware(seen.app.app, settings=settings_of(), store=here))
    await visit(browser, "/login")
    last, _ = await read(browser)
    away = Browser(SessionMiddleware(seen.app.app, settings=settings))
    away.cookies = browser.cookies
    called = len(feed.calls)
    async with away.get(last=last) as call:
        await call.ended()
    # The events can be asked for, the session cannot: the client is to come back.
    assert (call.status, events_of(call.text)) == (200, [])
    assert len(feed.calls) == called
    # The app is called, and its answer is recorded for nobody: whose it is cannot be said.
    feed.script("data: of a user\n\n", None)
    async with away.get() as call:
        await call.ended()
    assert headers_of(call).keys().isdisjoint({"holdfast-run", "set-cookie"})
    assert [each.data for each in events_of(call.text)] == ["of a user"]


async def test_a_logout_ends_the_stream_that_is_open(feed: Feed, store: EventStore) -> None:
    site = Site(feed, store)
    browser = Browser(site.app)
    await visit(browser, "/login")
    async with browser.get() as call:
        await until(lambda: events_of(call.text))
        await visit(browser, "/logout")
        await call.ended()
    assert feed.ended == []


async def test_the_app_may_save_its_session_after_its_reader_left(
    feed: Feed, store: EventStore
) -> None:
    site = Site(feed, store)
    browser = Browser(site.app)
    await visit(browser, "/login")
    await read(browser)
    session = feed.calls[-1]["session"]
    session["late"] = True
    await session.save()
    await visit(browser, "/rotate")
    seen: list[object] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["session"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    browser._app = SessionMiddleware(look, settings=settings_of(), store=site.sessions)
    await visit(browser, "/")
    assert seen == [{"user_id": "ada", "late": True}]
