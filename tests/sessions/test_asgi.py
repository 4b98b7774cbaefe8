"""The middleware through its ASGI door: what it costs, what it keeps, which headers leave."""

from __future__ import annotations

import ast
import gc
import logging
import time
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from tests.sessions.browser import Browser, CountingStore, Doing, app_of

from holdfast.errors import (
    ConfigurationError,
    SessionError,
    SessionTooLarge,
    SessionTooLate,
    SessionUnavailable,
)
from holdfast.sessions.cookie import CookieSigner, new_credential
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.session import Session, get_session
from holdfast.sessions.store import Missing
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from holdfast.sessions.store import Outcome, SessionKey, SessionStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

KEY = "a key of more than sixteen characters"
SETTINGS = Settings(secret_key=KEY)


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, key_prefix: str) -> SessionStore:
    if request.param == "memory":
        return CountingStore()
    redis: RedisServer = request.getfixturevalue("redis")
    return RedisSessionStore(Settings(redis_url=redis.url, key_prefix=key_prefix))


@pytest.fixture
def counted() -> CountingStore:
    return CountingStore()


def browser_on(store: SessionStore, **arguments: Any) -> tuple[Browser, Doing]:
    doing = Doing()
    arguments.setdefault("settings", SETTINGS)
    return Browser(SessionMiddleware(doing, store=store, **arguments)), doing


def write(**values: Any) -> Any:
    return lambda session: session.update(values)


async def logged_in(store: SessionStore, **arguments: Any) -> tuple[Browser, Doing]:
    browser, doing = browser_on(store, **arguments)
    doing.handle = write(user_id=7, cart=[1])
    await browser.get()
    doing.handle = dict
    if isinstance(store, CountingStore):
        store.told()
    return browser, doing


# --- a session lives ---------------------------------------------------------------------------


async def test_what_one_request_writes_the_next_one_reads(store: SessionStore) -> None:
    browser, doing = browser_on(store)
    doing.handle = write(cart=[1, {"a": None}], name="Zoë")
    first = await browser.get()
    expected = "; path=/; Max-Age=1209600; httponly; samesite=lax"
    assert first.set_cookie is not None
    assert first.set_cookie.endswith(expected)
    doing.handle = dict
    second = await browser.get()
    assert second.body == repr({"cart": [1, {"a": None}], "name": "Zoë"}).encode()
    assert second.set_cookie is None


async def test_a_change_deep_inside_a_value_is_kept(store: SessionStore) -> None:
    browser, doing = await logged_in(store)
    doing.handle = lambda session: session["cart"].append({"n": 2})
    assert (await browser.get()).set_cookie is None
    doing.handle = lambda session: session["cart"]
    assert (await browser.get()).body == b"[1, {'n': 2}]"


async def test_a_hundred_requests_that_change_different_keys_keep_all(store: SessionStore) -> None:
    browser, _ = await logged_in(store)

    async def one(number: int) -> None:
        doing = app_of(write(**{f"k{number}": number}))
        tab = Browser(SessionMiddleware(doing, settings=SETTINGS, store=store), browser.cookies)
        await tab.get()

    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(one, number)
    found = await Browser(
        SessionMiddleware(app_of(len), settings=SETTINGS, store=store), browser.cookies
    ).get()
    assert found.body == b"102"


async def test_three_first_visits_at_once_are_three_sessions_or_none(store: SessionStore) -> None:
    browser, doing = browser_on(store)
    assert [(await browser.get()).set_cookie for _ in range(3)] == [None] * 3
    doing.handle = write(a=1)
    answers = []
    for _ in range(3):
        browser.cookies.clear()
        answers.append((await browser.get()).set_cookie)
    assert len(set(answers)) == 3


# --- what it costs -----------------------------------------------------------------------------


async def test_an_untouched_session_leaves_the_response_as_it_is(counted: CountingStore) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
        await send(start)
        await send({"type": "http.response.body", "body": b"x"})

    bare = await Browser(app).get()
    browser, _ = await logged_in(counted)
    for cookies in ({}, browser.cookies):
        around = SessionMiddleware(app, settings=SETTINGS, store=counted)
        answer = await Browser(around, dict(cookies)).get()
        assert answer.messages == bare.messages


async def test_no_cookie_costs_no_store_command(counted: CountingStore) -> None:
    browser, doing = browser_on(counted)
    for handle in (dict, lambda session: session.get("x"), lambda session: session.clear()):
        doing.handle = handle
        answer = await browser.get()
        assert answer.set_cookie is None
        assert answer.one("vary") == "Cookie"
    assert counted.told() == []


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x",
        b"a" * 10_240,
        b"../../x",
        b"a:b*?[",
        b"\xc3\xbc",
        b"null",
        rb'"x\073 domain=evil"',
        b"a\x00b",
        b"." * 101,
    ],
)
async def test_a_bad_cookie_is_no_cookie(counted: CountingStore, value: bytes) -> None:
    browser, doing = browser_on(counted)
    answer = await browser.get(cookie=b"session=" + value)
    assert counted.told() == []
    assert answer.set_cookie is None
    doing.handle = write(a=1)
    answer = await browser.get(cookie=b"session=" + value)
    assert counted.told() == ["create"]
    if len(value) > 4:
        assert value not in repr(answer.messages).encode()


async def test_an_id_that_we_never_issued_is_not_adopted(store: SessionStore) -> None:
    browser, doing = browser_on(store)
    foreign = new_credential()
    browser.cookies["session"] = CookieSigner([KEY]).sign(foreign)
    assert (await browser.get()).set_cookie is None
    doing.handle = write(a=1)
    sent = (await browser.get()).set_cookie or ""
    assert foreign.locator not in sent
    doing.handle = lambda session: session.id_hash
    assert foreign.key.id_hash not in (await browser.get()).body.decode()


async def test_a_session_that_is_only_read_is_loaded_once_and_not_written(
    counted: CountingStore,
) -> None:
    browser, doing = await logged_in(counted)
    doing.handle = lambda session: session["cart"]
    answer = await browser.get()
    assert counted.told() == ["load"]
    assert answer.set_cookie is None
    assert answer.one("vary") == "Cookie"


async def test_only_the_keys_that_changed_are_written(counted: CountingStore) -> None:
    browser, doing = await logged_in(counted)
    doing.handle = lambda session: (session.update(user_id=7, a=1), session.pop("cart"))
    await browser.get()
    assert counted.told() == ["load", "save ['a'] ['cart']"]


async def test_activity_is_written_down_once_in_the_interval(
    counted: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(secret_key=KEY, session_idle_timeout=400)
    browser, _ = await logged_in(counted, settings=settings)
    real = time.time
    for seconds, expected in ((0, ["load"]), (59, ["load"]), (61, ["load", "touch"])):
        monkeypatch.setattr(time, "time", lambda ahead=seconds: real() + ahead)
        counted._clock = time.time
        await browser.get()
        assert counted.told() == expected
    await browser.get()
    assert counted.told() == ["load"]


async def test_an_excluded_path_never_loads_and_refuses_to_write(counted: CountingStore) -> None:
    settings = Settings(secret_key=KEY, session_exclude=("/static", "/metrics/"))
    browser, doing = await logged_in(counted, settings=settings)
    for path, root in (("/static", ""), ("/static/a.css", ""), ("/app/metrics/x", "/app")):
        assert (await browser.get(path, root_path=root)).body == b"{}"
        doing.handle = write(a=1)
        with pytest.raises(SessionError, match="HOLDFAST_SESSION_EXCLUDE"):
            await browser.get(path, root_path=root)
        doing.handle = dict
    assert counted.told() == []
    for path in ("/staticfiles", "/", "/x/static"):
        assert b"cart" in (await browser.get(path)).body


# --- login and logout --------------------------------------------------------------------------


async def test_logout_removes_the_cookie_and_the_session(store: SessionStore) -> None:
    browser, doing = await logged_in(store)
    cookie = dict(browser.cookies)
    doing.handle = Session.invalidate
    answer = await browser.get()
    assert answer.set_cookie is not None
    assert answer.set_cookie.startswith("session=null; path=/; expires=Thu, 01 Jan 1970")
    browser.cookies.update(cookie)
    doing.handle = dict
    assert (await browser.get()).body == b"{}"


@pytest.mark.parametrize(
    "emptying",
    [
        Session.clear,
        lambda s: [s.popitem() for _ in range(2)],
        lambda s: [s.pop(k) for k in list(s)],
    ],
)
async def test_removing_every_key_logs_out(store: SessionStore, emptying: Any) -> None:
    browser, doing = await logged_in(store)
    cookie = dict(browser.cookies)
    doing.handle = emptying
    assert "1970" in ((await browser.get()).set_cookie or "")
    doing.handle = dict
    browser.cookies.update(cookie)
    assert (await browser.get()).body == b"{}"


async def test_a_fresh_session_after_a_logout_in_one_request(store: SessionStore) -> None:
    browser, doing = await logged_in(store)
    before = dict(browser.cookies)

    def again(session: Session) -> tuple[bool, bool]:
        old = session.id_hash
        session.invalidate()
        session["flash"] = "bye"
        return session.is_new, session.id_hash != old

    doing.handle = again
    answer = await browser.get()
    assert answer.body == b"(True, True)"
    assert answer.set_cookie is not None
    assert "null" not in answer.set_cookie
    doing.handle = dict
    assert (await browser.get()).body == b"{'flash': 'bye'}"
    browser.cookies.update(before)
    assert (await browser.get()).body == b"{}"


class _SlowStore(MemorySessionStore):
    """Lets other tasks run while a write is on its way."""

    async def create(self, *args: Any, **options: Any) -> Outcome:
        await anyio.sleep(0)
        return await super().create(*args, **options)

    async def save(self, *args: Any, **options: Any) -> Outcome:
        await anyio.sleep(0)
        return await super().save(*args, **options)


class _LeavingStore(MemorySessionStore):
    """Takes no change any more."""

    async def save(self, *args: Any, **options: Any) -> Outcome:
        raise SessionUnavailable("the store has just gone")


async def test_who_wrote_nothing_is_served_though_its_secret_cannot_be_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(secret_key=KEY, session_rotate_after=1)
    browser, doing = await logged_in(_LeavingStore(), settings=settings)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 2)
    answer = await browser.get()
    assert (answer.status, answer.set_cookie) == (200, None)
    assert b"cart" in answer.body
    doing.handle = write(a=1)
    assert (await browser.get()).status == 503


async def test_a_login_while_another_task_saves_still_gives_a_new_cookie() -> None:
    browser, doing = browser_on(_SlowStore())
    doing.handle = write(cart=[1])
    await browser.get()
    old = dict(browser.cookies)

    async def both(session: Session) -> None:
        async def log_in() -> None:
            session["user_id"] = 7

        session["cart"] = [2]
        async with anyio.create_task_group() as group:
            group.start_soon(session.save)
            group.start_soon(log_in)

    doing.handle = both
    assert (await browser.get()).set_cookie is not None
    doing.handle = dict
    assert (await browser.get()).body == b"{'cart': [2], 'user_id': 7}"
    browser.cookies.update(old)
    assert (await browser.get()).body == b"{}"


async def test_a_login_while_a_new_session_is_stored_changes_its_secret() -> None:
    store = _SlowStore()
    browser, doing = browser_on(store)
    keys: list[SessionKey] = []

    async def both(session: Session) -> None:
        async def log_in() -> None:
            session["user_id"] = 7

        session["cart"] = [2]
        async with anyio.create_task_group() as group:
            group.start_soon(session.save)
            group.start_soon(log_in)
        credential = session._exchange.credential  # type: ignore[union-attr]
        assert credential is not None
        keys.append(credential.key)

    doing.handle = both
    await browser.get()
    assert await store.load(keys[0]) is Missing.SUPERSEDED


async def test_logging_in_gives_a_new_cookie_by_itself_and_kills_the_old(
    store: SessionStore,
) -> None:
    browser, doing = browser_on(store)
    doing.handle = write(cart=[1])
    await browser.get()
    old = dict(browser.cookies)
    doing.handle = lambda session: (session.update(user_id=7), session.id_hash)[1]
    answer = await browser.get()
    assert answer.set_cookie is not None
    doing.handle = lambda session: (session.id_hash, dict(session))
    after = await browser.get()
    assert (
        after.body
        == repr((ast.literal_eval(answer.body.decode()), {"cart": [1], "user_id": 7})).encode()
    )

    doing.handle = write(user_id="attacker")
    thief = Browser(browser.app, old)
    answer = await thief.get()
    assert answer.set_cookie is None
    doing.handle = dict
    assert (await thief.get()).body == b"{}"
    assert b"'user_id': 7" in (await browser.get()).body


async def test_a_killed_cookie_owns_nothing(store: SessionStore) -> None:
    browser, doing = await logged_in(store)
    thief = Browser(browser.app, dict(browser.cookies))
    doing.handle = Session.regenerate_id
    await browser.get()
    doing.handle = lambda session: (session.owner, session.id_hash)
    assert (await thief.get()).body != (await browser.get()).body


async def test_regeneration_keeps_data_and_id_and_renews_the_lifetime(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, doing = await logged_in(store)
    doing.handle = lambda session: (session.id_hash, dict(session))
    before = await browser.get()
    old = browser.cookies["session"]
    doing.handle = Session.regenerate_id
    answer = await browser.get()
    assert "Max-Age=1209600" in (answer.set_cookie or "")
    assert browser.cookies["session"] != old
    doing.handle = lambda session: (session.id_hash, dict(session))
    assert (await browser.get()).body == before.body


async def test_a_slow_response_does_not_undo_a_logout(store: SessionStore) -> None:
    browser, doing = await logged_in(store)
    waiting, go_on = anyio.Event(), anyio.Event()

    async def slow(session: Session) -> None:
        session["late"] = 1
        waiting.set()
        await go_on.wait()

    answers = []

    async def slow_request() -> None:
        tab = Browser(
            SessionMiddleware(app_of(slow), settings=SETTINGS, store=store), dict(browser.cookies)
        )
        answers.append(await tab.get())

    async with anyio.create_task_group() as group:
        group.start_soon(slow_request)
        await waiting.wait()
        stale = dict(browser.cookies)
        doing.handle = Session.invalidate
        await browser.get()
        go_on.set()
    assert answers[0].status == 200
    assert answers[0].set_cookie is None
    doing.handle = dict
    assert (await Browser(browser.app, stale).get()).body == b"{}"


async def test_a_secret_grown_old_is_renewed_and_parallel_requests_go_on(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(secret_key=KEY, session_rotate_after=1)
    browser, doing = await logged_in(store, settings=settings)
    other_tab = Browser(browser.app, dict(browser.cookies))
    deadline = time.monotonic() + 5
    while not (first := await browser.get()).set_cookie:
        assert time.monotonic() < deadline
        await anyio.sleep(0.05)
    assert first.body == b"{'cart': [1], 'user_id': 7}"
    max_age = int((first.set_cookie or "").split("Max-Age=")[1].split(";")[0])
    assert 1209600 - 6 <= max_age < 1209600
    doing.handle = write(late=1)
    assert (await other_tab.get()).set_cookie is None
    doing.handle = dict
    assert b"late" in (await browser.get()).body


# --- failures ----------------------------------------------------------------------------------


async def test_a_handler_that_raises_saves_nothing(store: SessionStore) -> None:
    browser, doing = await logged_in(store)

    def fail(session: Session) -> None:
        session["half"] = 1
        raise LookupError("the handler's own")

    doing.handle = fail
    with pytest.raises(LookupError, match="the handler's own"):
        await browser.get()
    fresh = Browser(browser.app)
    with pytest.raises(LookupError):
        await fresh.get()
    assert not fresh.cookies
    doing.handle = dict
    assert b"half" not in (await browser.get()).body


@pytest.mark.parametrize("begins", [False, True])
async def test_an_uncaught_unavailable_is_a_503_also_where_the_session_is_untouched(
    counted: CountingStore, *, begins: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise SessionUnavailable("as an index of sessions says it", retry_after=7)

    browser = Browser(SessionMiddleware(app, store=counted, settings=SETTINGS))
    if begins:
        with pytest.raises(SessionUnavailable):
            await browser.get()
    else:
        answer = await browser.get()
        assert (answer.status, answer.one("retry-after")) == (503, "7")


@pytest.mark.parametrize("verb", [Session.invalidate, Session.regenerate_id])
async def test_a_handler_that_raises_is_still_obeyed_in_what_ends_a_credential(
    store: SessionStore, verb: Any
) -> None:
    browser, doing = await logged_in(store)

    def fail(session: Session) -> None:
        verb(session)
        raise LookupError

    doing.handle = fail
    with pytest.raises(LookupError):
        await browser.get()
    doing.handle = dict
    assert (await browser.get()).body == b"{}"


async def test_a_cancelled_request_saves_nothing_and_harms_nobody(store: SessionStore) -> None:
    browser, doing = await logged_in(store)

    async def hang(session: Session) -> None:
        session["half"] = 1
        session.invalidate()
        await anyio.sleep_forever()

    doing.handle = hang
    with anyio.move_on_after(0.05):
        await browser.get()
    doing.handle = dict
    assert (await browser.get()).body == b"{}"


@pytest.mark.parametrize("value", [object(), {1}, float("nan"), b"x", {1: 2}])
async def test_what_json_cannot_carry_is_told_to_the_line_that_wrote_it(
    store: SessionStore, value: object
) -> None:
    browser, doing = await logged_in(store)
    caught = []

    def bad(session: Session) -> None:
        for writing in (
            lambda: session.__setitem__("when", value),
            lambda: session.update(ok=1, when=value),
            lambda: session.setdefault("when", value),
            lambda: session.__ior__({"when": value}),
        ):
            with pytest.raises(TypeError, match=r"session\['when'\]") as error:
                writing()
            caught.append(error)

    doing.handle = bad
    await browser.get()
    assert len(caught) == 4
    doing.handle = dict
    assert (await browser.get()).body == b"{'cart': [1], 'user_id': 7}"


async def test_a_value_spoiled_later_is_told_before_the_response_starts(
    store: SessionStore,
) -> None:
    browser, doing = await logged_in(store)
    doing.handle = lambda session: session["cart"].append(object())
    with pytest.raises(TypeError, match="cart"):
        await browser.get()
    doing.handle = lambda session: session["cart"]
    assert (await browser.get()).body == b"[1]"


async def test_a_session_too_large_is_told_and_the_old_data_kept(store: SessionStore) -> None:
    settings = Settings(secret_key=KEY, session_max_bytes=1000)
    browser, doing = await logged_in(store, settings=settings)
    doing.handle = write(big="x" * 1000)
    with pytest.raises(SessionTooLarge, match="1000"):
        await browser.get()
    doing.handle = lambda session: session["cart"].append("x" * 1000)
    with pytest.raises(SessionTooLarge):
        await browser.get()
    doing.handle = dict
    assert (await browser.get()).body == b"{'cart': [1], 'user_id': 7}"


async def test_an_error_page_can_still_be_sent_after_a_refused_commit(
    counted: CountingStore,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        session["cart"] = []
        session["cart"].append(object())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        except TypeError:
            await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    answer = await Browser(SessionMiddleware(app, settings=SETTINGS, store=counted)).get()
    assert answer.status == 500
    assert answer.set_cookie is None
    assert counted.told() == []


# --- after the response has started ------------------------------------------------------------


def streaming(late: Any, early: Any = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        if early is not None:
            early(session)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        result = late(session)
        if hasattr(result, "__await__"):
            await result
        await send({"type": "http.response.body", "body": b"2"})

    return app


async def streamed(store: SessionStore, browser: Browser, late: Any, early: Any = None) -> Any:
    app = SessionMiddleware(streaming(late, early), settings=SETTINGS, store=store)
    return await Browser(app, browser.cookies).get()


async def test_a_late_write_is_stored_before_the_end_of_the_answer_is_sent(
    store: SessionStore,
) -> None:
    browser, app = browser_on(store)
    app.handle = lambda session: session.setdefault("n", 0)
    await browser.get()
    seen: list[Any] = []

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                app.handle = lambda session: seen.append(session["n"])
                await browser.get()
            await send(message)

        def late(session: Session) -> None:
            session["n"] = 1

        served = SessionMiddleware(streaming(late), settings=SETTINGS, store=store)
        await served(scope, receive, sending)

    await Browser(noted, browser.cookies).get()
    assert seen == [1]


async def test_a_late_write_is_stored_at_the_end_as_a_delta(counted: CountingStore) -> None:
    browser, doing = await logged_in(counted)
    await streamed(counted, browser, write(late=1))
    assert counted.told() == ["load", "save ['late'] []"]
    doing.handle = dict
    assert b"late" in (await browser.get()).body


async def test_a_stream_that_wrote_nothing_late_rewrites_nothing(counted: CountingStore) -> None:
    browser, _ = await logged_in(counted)
    await streamed(counted, browser, lambda s: None, early=write(early=1))
    assert counted.told() == ["load", "save ['early'] []"]


async def test_a_late_save_is_stored_at_once(store: SessionStore) -> None:
    browser, _ = await logged_in(store)

    async def late(session: Session) -> None:
        session["late"] = 1
        await session.save()
        assert b"late" in (await browser.get()).body

    await streamed(store, browser, late)


async def test_a_late_logout_destroys_the_session(store: SessionStore) -> None:
    browser, _ = await logged_in(store)
    await streamed(store, browser, Session.invalidate)
    assert (await browser.get()).body == b"{}"


async def test_a_new_session_first_written_too_late_is_told(
    counted: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def save(session: Session) -> None:
        session["late"] = 1
        with pytest.raises(SessionTooLate, match="before the first byte"):
            await session.save()

    answer = await streamed(counted, Browser(app_of(dict)), save)
    assert answer.set_cookie is None
    assert counted.told() == []
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "before the first byte" in caplog.text


async def test_after_the_start_nothing_is_regenerated(store: SessionStore) -> None:
    browser, _ = await logged_in(store)

    def late(session: Session) -> None:
        with pytest.raises(SessionTooLate):
            session.regenerate_id()

    await streamed(store, browser, late)
    assert b"cart" in (await browser.get()).body


async def test_a_late_change_of_user_is_refused_and_told_and_the_rest_kept(
    store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    browser, _ = await logged_in(store)

    async def late(session: Session) -> None:
        session["user_id"] = 8
        session["seen"] = 1
        with pytest.raises(SessionTooLate, match="user"):
            await session.save()

    await streamed(store, browser, late)
    assert "user changed" in caplog.text
    assert (await browser.get()).body == b"{'cart': [1], 'seen': 1, 'user_id': 7}"


async def test_a_stream_that_breaks_saves_nothing_more(store: SessionStore) -> None:
    browser, _ = await logged_in(store)

    def late(session: Session) -> None:
        session["late"] = 1
        raise LookupError

    with pytest.raises(LookupError):
        await streamed(store, browser, late)
    assert b"late" not in (await browser.get()).body


async def test_a_stream_whose_reader_left_keeps_what_was_written(store: SessionStore) -> None:
    browser, _ = await logged_in(store)

    async def late(session: Session) -> None:
        session["late"] = 1
        await anyio.sleep_forever()

    with anyio.move_on_after(0.05):
        await streamed(store, browser, late)
    assert b"late" in (await browser.get()).body


async def test_two_tasks_of_one_request_may_save_at_once(counted: CountingStore) -> None:
    async def handle(session: Session) -> None:
        async def task(name: str) -> None:
            session[name] = 1
            await session.save()

        async with anyio.create_task_group() as group:
            for name in "abcdef":
                group.start_soon(task, name)

    browser, doing = browser_on(counted)
    doing.handle = handle
    await browser.get()
    assert counted.told().count("create") == 1
    doing.handle = len
    assert (await browser.get()).body == b"6"


# --- headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ((), ["Cookie"]),
        (((b"vary", b"Accept"),), ["Accept, Cookie"]),
        (((b"Vary", b"Accept, Origin"),), ["Accept, Origin, Cookie"]),
        (((b"vary", b"Accept"), (b"vary", b"Origin")), ["Accept, Cookie", "Origin"]),
        (((b"vary", b"*"),), ["*"]),
        (((b"vary", b"accept, COOKIE"),), ["accept, COOKIE"]),
        (((b"vary", b"Accept"), (b"vary", b"cookie")), ["Accept", "cookie"]),
    ],
)
async def test_vary_is_merged(
    counted: CountingStore, app: tuple[tuple[bytes, bytes], ...], expected: list[str]
) -> None:
    browser, doing = await logged_in(counted)
    doing.headers = app
    assert (await browser.get()).all("vary") == expected


@pytest.mark.parametrize(
    "access",
    [
        lambda s: "x" in s,
        len,
        bool,
        list,
        lambda s: s.keys(),
        lambda s: s.get("x"),
        lambda s: s.owner,
    ],
)
async def test_every_kind_of_access_is_told_to_caches(counted: CountingStore, access: Any) -> None:
    browser, doing = browser_on(counted)
    doing.handle = access
    assert (await browser.get()).one("vary") == "Cookie"


async def test_a_response_that_sets_the_cookie_is_not_stored(
    counted: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    browser, doing = browser_on(counted)
    doing.handle = write(a=1)
    assert (await browser.get()).one("cache-control") == "no-store"
    browser.cookies.clear()
    doing.headers = ((b"Cache-Control", b"private"),)
    assert (await browser.get()).one("cache-control") == "private"
    assert not caplog.records
    browser.cookies.clear()
    doing.headers = ((b"cache-control", b"Public, max-age=60"),)
    assert (await browser.get()).one("cache-control") == "Public, max-age=60"
    assert "public" in caplog.text


async def test_never_two_cookies_of_our_name(counted: CountingStore) -> None:
    browser, doing = browser_on(counted)
    doing.handle = write(a=1)
    doing.headers = ((b"Set-Cookie", b"session=app; path=/"), (b"set-cookie", b"other=1"))
    sent = (await browser.get()).all("set-cookie")
    assert [value.partition("=")[0] for value in sent] == ["other", "session"]


async def test_an_older_key_is_believed_and_its_cookie_signed_anew(store: SessionStore) -> None:
    old = Settings(secret_key="an old key of the server, still good")
    browser, _ = await logged_in(store, settings=old)
    before = browser.cookies["session"]
    both = Settings(secret_key=(KEY, "an old key of the server, still good"))
    browser.app = SessionMiddleware(app_of(dict), settings=both, store=store)
    answer = await browser.get()
    assert b"cart" in answer.body
    assert answer.set_cookie is not None
    assert browser.cookies["session"].rsplit(".", 1)[0] == before.rsplit(".", 1)[0]
    assert (await browser.get()).set_cookie is None
    browser.app = SessionMiddleware(app_of(dict), settings=SETTINGS, store=store)
    assert b"cart" in (await browser.get()).body
    browser.cookies["session"] = before
    assert (await browser.get()).body == b"{}"


async def test_a_secret_in_its_grace_is_not_given_out_again_for_a_newer_key(
    store: SessionStore,
) -> None:
    old = "an old key of the server, still good"
    browser, _ = await logged_in(store, settings=Settings(secret_key=old))
    both = Settings(secret_key=(KEY, old), session_rotate_after=1)
    browser.app = SessionMiddleware(app_of(dict), settings=both, store=store)
    beside = Browser(browser.app, dict(browser.cookies))
    with anyio.fail_after(10):
        while _unsigned(browser) == _unsigned(beside):
            await anyio.sleep(0.1)
            await browser.get()
    # It is of the same browser: a later Set-Cookie would replace the new secret by the old.
    late = await beside.get()
    assert (b"cart" in late.body, late.set_cookie) == (True, None)


async def test_a_page_slower_than_a_login_does_not_give_the_cookie_before_it_for_a_newer_key(
    store: SessionStore,
) -> None:
    old = "an old key of the server, still good"
    browser, _ = await logged_in(store, settings=Settings(secret_key=old))
    both = Settings(secret_key=(KEY, old))
    login = SessionMiddleware(app_of(write(user_id=8)), settings=both, store=store)
    quick = Browser(login, dict(browser.cookies))

    async def slow(session: Session) -> dict[str, Any]:
        await quick.get()
        return dict(session)

    browser.app = SessionMiddleware(app_of(slow), settings=both, store=store)
    assert (await browser.get()).set_cookie is None
    assert _unsigned(quick) != _unsigned(browser)


def _unsigned(browser: Browser) -> str:
    return browser.cookies["session"].rsplit(".", 1)[0]


async def test_two_different_cookies_are_both_refused(
    counted: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    mine, _ = await logged_in(counted)
    theirs, _ = await logged_in(counted)
    both = f"session={mine.cookies['session']}; session={theirs.cookies['session']}"
    answer = await mine.get(cookie=both.encode())
    assert answer.body == b"{}"
    assert counted.told() == []
    assert "two different session cookies" in caplog.text
    assert mine.cookies["session"] not in caplog.text


# --- WebSocket ---------------------------------------------------------------------------------


def socket_app(before: Any, after: Any = lambda session: None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        session = get_session(scope)
        before(session)
        await send({"type": "websocket.accept", "headers": [(b"a", b"b")]})
        while (await receive())["type"] != "websocket.disconnect":
            result = after(session)
            if hasattr(result, "__await__"):
                await result

    return app


MESSAGE: Message = {"type": "websocket.receive", "text": "x"}


async def test_a_handshake_carries_the_cookie_of_a_new_session(store: SessionStore) -> None:
    app = SessionMiddleware(socket_app(write(a=1)), settings=SETTINGS, store=store)
    browser = Browser(app)
    answer = await browser.socket()
    assert answer.one("a") == "b"
    assert answer.set_cookie is not None
    browser.app = SessionMiddleware(app_of(dict), settings=SETTINGS, store=store)
    assert (await browser.get()).body == b"{'a': 1}"


async def test_a_write_on_an_open_socket_is_kept_and_overwrites_nothing_else(
    store: SessionStore,
) -> None:
    browser, doing = await logged_in(store)

    async def after(session: Session) -> None:
        doing.handle = write(by_http=1)
        await browser.get()
        session["by_socket"] = 1

    socket = Browser(
        SessionMiddleware(socket_app(dict, after), settings=SETTINGS, store=store), browser.cookies
    )
    answer = await socket.socket("/", MESSAGE)
    assert answer.set_cookie is None
    doing.handle = sorted
    assert (await browser.get()).body == b"['by_http', 'by_socket', 'cart', 'user_id']"


async def test_a_socket_whose_handler_raises_on_disconnect_keeps_what_it_wrote(
    store: SessionStore,
) -> None:
    browser, _ = await logged_in(store)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        get_session(scope)["late"] = 1
        await receive()
        raise ConnectionError("as frameworks do")

    socket = Browser(SessionMiddleware(app, settings=SETTINGS, store=store), browser.cookies)
    with pytest.raises(ConnectionError):
        await socket.socket()
    assert b"late" in (await browser.get()).body


async def test_a_denied_handshake_commits_like_a_response(store: SessionStore) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope)["tries"] = 1
        start = {"type": "websocket.http.response.start", "status": 403, "headers": []}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b""})

    answer = await Browser(SessionMiddleware(app, settings=SETTINGS, store=store)).socket()
    assert answer.status == 403
    assert answer.set_cookie is not None


# --- around frameworks -------------------------------------------------------------------------


async def test_mounted_twice_the_outer_one_is_in_charge(counted: CountingStore) -> None:
    doing = Doing()
    inner = SessionMiddleware(doing, settings=SETTINGS, store=counted)
    browser = Browser(SessionMiddleware(inner, settings=SETTINGS, store=counted))
    doing.handle = write(a=1)
    answer = await browser.get()
    assert answer.set_cookie is not None
    assert counted.told() == ["create"]
    doing.handle = dict
    assert (await browser.get()).body == b"{'a': 1}"
    assert counted.told() == ["load"]


async def test_another_packages_middleware_inside_is_told_apart(counted: CountingStore) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(SessionError, match="another package"):
            get_session(scope)
        await PlainTextResponse("ok")(scope, receive, send)

    inner = StarlettesOwn(app, secret_key="x")
    answer = await Browser(SessionMiddleware(inner, settings=SETTINGS, store=counted)).get()
    assert answer.body == b"ok"


async def test_without_the_middleware_the_remedy_is_told() -> None:
    with pytest.raises(SessionError, match="add holdfast's SessionMiddleware"):
        get_session({"type": "http"})


async def test_a_starlette_app_needs_two_lines(store: SessionStore) -> None:
    async def visit(request: Request) -> JSONResponse:
        request.session["visits"] = request.session.get("visits", 0) + 1
        session = get_session(request)
        return JSONResponse({"n": session["visits"], "new": session.is_new})

    app = Starlette(
        routes=[Route("/", visit)],
        middleware=[Middleware(SessionMiddleware, settings=SETTINGS, store=store)],
    )
    browser = Browser(app)
    assert (await browser.get()).body == b'{"n":1,"new":true}'
    assert (await browser.get()).body == b'{"n":2,"new":false}'


async def test_what_a_session_says_about_itself(store: SessionStore) -> None:
    browser, doing = browser_on(store, settings=Settings(secret_key=KEY, session_idle_timeout=50))

    def facts(session: Session) -> Any:
        return (
            session.is_new,
            session.owner,
            session.created_at and round(session.created_at.timestamp() - time.time()),
            session.expires_at and round(session.expires_at.timestamp() - time.time()),
            session.available,
            session.degraded,
        )

    doing.handle = facts
    assert (await browser.get()).body == b"(True, None, None, None, True, None)"
    doing.handle = lambda session: (
        session.update(a=1),
        session.owner == f"session:{session.id_hash}",
    )
    assert b"True" in (await browser.get()).body
    doing.handle = facts
    told = (await browser.get()).body.decode()
    assert told.startswith("(False, 'session:")
    assert told.endswith("', 0, 50, True, None)")
    doing.handle = write(user_id=7)
    await browser.get()
    doing.handle = lambda session: session.owner
    assert (await browser.get()).body == b"'user:7'"


async def test_no_repr_shows_a_value(counted: CountingStore) -> None:
    browser, doing = browser_on(counted)
    doing.handle = lambda session: (session.update(card="4111 1111"), f"{session!r} {session}")[1]
    body = (await browser.get()).body
    assert b"keys=['card']" in body
    assert b"4111" not in body


# --- configuration -----------------------------------------------------------------------------


async def test_starlettes_arguments_keep_their_meaning(counted: CountingStore) -> None:
    browser, doing = browser_on(
        counted,
        settings=Settings(secret_key=KEY, session_cookie="env", session_path="/env"),
        secret_key=Secret("short"),
        session_cookie="sid",
        max_age=60,
        path="/app",
        same_site="strict",
        https_only=True,
        domain="example.com",
        partitioned=True,
    )
    doing.handle = write(a=1)
    sent = (await browser.get()).set_cookie or ""
    assert sent.startswith("sid=")
    flags = "path=/app; Max-Age=60; httponly; samesite=strict; secure; domain=example.com"
    assert sent.endswith(f"; {flags}; partitioned")
    assert CookieSigner(["short"]).verify(sent.split(";")[0].removeprefix("sid=").encode())


@pytest.mark.parametrize(("given", "shown"), [(None, None), (0, "Max-Age=0"), (-1, "Max-Age=-1")])
async def test_max_age_none_lasts_and_nothing_expires_at_once(
    counted: CountingStore, given: int | None, shown: str | None
) -> None:
    browser, doing = browser_on(counted, max_age=given)
    doing.handle = write(a=1)
    sent = (await browser.get()).set_cookie or ""
    assert ("Max-Age" in sent) is (shown is not None)
    assert shown is None or f"; {shown}; " in sent
    doing.handle = dict
    assert (await browser.get()).body == (b"{'a': 1}" if given is None else b"{}")


async def test_a_session_that_expires_at_once_is_not_called_late(
    counted: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    browser, doing = browser_on(counted, max_age=0)
    doing.handle = write(a=1)
    await browser.get()
    assert not caplog.records


async def test_a_setting_of_zero_means_a_cookie_without_max_age(counted: CountingStore) -> None:
    browser, doing = browser_on(counted, settings=Settings(secret_key=KEY, session_max_age=0))
    doing.handle = lambda session: (session.update(a=1), session.expires_at)
    assert "Max-Age" not in ((await browser.get()).set_cookie or "")
    doing.handle = lambda session: round(session.expires_at.timestamp() - time.time())
    assert (await browser.get()).body == b"1209600"


@pytest.mark.parametrize("key", ["one key, with a comma", ["newest", "older"], ("newest",)])
async def test_a_key_given_in_code_is_one_key_or_a_sequence(
    counted: CountingStore, key: Any
) -> None:
    browser, doing = browser_on(counted, secret_key=key)
    doing.handle = write(a=1)
    value = ((await browser.get()).set_cookie or "").split(";")[0].removeprefix("session=")
    newest = key if isinstance(key, str) else key[0]
    assert CookieSigner([newest]).verify(value.encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"session_cookie": "__Host-s"},
        {"session_cookie": "a b"},
        {"same_site": "none"},
        {"partitioned": True},
        {"path": "/;x"},
        {"domain": "a\r\nb"},
        {"max_age": "60"},
        {"max_age": True},
        {"secret_key": ""},
    ],
)
def test_what_cannot_work_is_refused_where_a_person_sees_it(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SessionMiddleware(app_of(dict), settings=SETTINGS, **wrong)


async def test_while_a_loop_runs_the_error_waits_for_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = SessionMiddleware(app_of(dict), settings=SETTINGS, path="nowhere")
    browser = Browser(app)
    for _ in range(2):
        answer = await browser.get()
        assert answer.status == 503
        assert answer.one("retry-after") == "10"
        assert b"nowhere" not in answer.body
    assert (await browser.socket()).status == 503
    assert len(caplog.records) == 1
    assert "nowhere" in caplog.text
    sent: list[Message] = []
    with pytest.raises(ConfigurationError, match="nowhere"):
        await lifespan(app, sent)
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "nowhere" in sent[0]["message"]


async def lifespan(app: ASGIApp, sent: list[Message]) -> list[Message]:
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return sent


async def test_the_lifespan_passes_through() -> None:
    for arguments in ({}, {"store": CountingStore()}):
        app = SessionMiddleware(Starlette(), settings=SETTINGS, **arguments)  # type: ignore[arg-type]
        assert [m["type"] for m in await lifespan(app, [])] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]


async def test_a_scope_we_do_not_know_passes_through(counted: CountingStore) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope = {"type": "something.else"}
    await SessionMiddleware(app, settings=SETTINGS, store=counted)(scope, None, None)  # type: ignore[arg-type]
    assert seen == [{"type": "something.else"}]


@pytest.mark.parametrize("first", [True, False], ids=["first visit", "later"])
async def test_a_session_goes_with_its_request_and_waits_for_no_garbage_collector(
    store: SessionStore, first: bool
) -> None:
    browser, doing = await logged_in(store)
    gone: list[weakref.ref[Session]] = []

    def handle(session: Session) -> None:
        session["n"] = 1
        gone.append(weakref.ref(session))

    doing.handle = handle
    gc.disable()
    try:
        await (Browser(browser.app) if first else browser).get()
        assert [each() for each in gone] == [None]
    finally:
        gc.enable()


async def test_a_session_kept_beyond_its_request_can_still_be_asked_and_saved(
    store: SessionStore,
) -> None:
    browser, doing = await logged_in(store)
    kept: list[Session] = []
    doing.handle = kept.append
    await browser.get()
    session = kept.pop()
    exchange = session._exchange
    assert exchange is not None
    assert (session["user_id"], session.owner) == (7, "user:7")
    session["late"] = 1
    await session.save()
    assert await session.incr("late") == 2
    doing.handle = dict
    assert b"'late': 2" in (await browser.get()).body
    del session
    with pytest.raises(SessionError, match="held by nobody"):
        repr(exchange.session)
