"""What is served under a session ends with it: in its process, in others, and at its time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import websockets
from tests.sessions.browser import Answer, Browser, Doing, app_of

from holdfast.endings import WAITED, endings
from holdfast.runtime import aclose, runtime
from holdfast.sessions.doors import bond
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.index import SessionIndex, SyncSessionIndex
from holdfast.sessions.request import commit
from holdfast.sessions.session import Session, get_session
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Message, Receive, Scope, Send
    from tests.conftest import Serve

    from holdfast.sessions.store import Missing, Record, SessionKey
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

KEY = "a key of more than sixteen characters"
PROMISE = 1.0


# --- several processes ----------------------------------------------------------------------------


class Stream:
    """An open event stream of a real server, and when it ended."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.ended_at: float | None = None
        self.cookie: str | None = None

    async def read(self, client: httpx.AsyncClient, method: str, url: str, cookie: str) -> None:
        async with client.stream(method, url, headers={"cookie": cookie}) as answer:
            assert answer.status_code == 200, await answer.aread()
            self.cookie = answer.headers.get("set-cookie", "").partition(";")[0]
            async for _ in answer.aiter_bytes():
                self.open.set()
        self.ended_at = time.monotonic()

    async def read_socket(self, url: str, cookie: str) -> None:
        headers = {"cookie": cookie}
        async with websockets.connect(url, additional_headers=headers, proxy=None) as socket:
            await socket.recv()
            self.open.set()
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await socket.recv()
            assert socket.close_code == 1008
        self.ended_at = time.monotonic()


class Site:
    """Two processes of one site, and a visitor who is logged in."""

    def __init__(self, urls: list[str], client: httpx.AsyncClient, group: Any) -> None:
        self.urls, self.client, self.group = urls, client, group
        self.cookie = ""

    async def open(self, path: str, at: int = 0, method: str = "GET") -> Stream:
        stream = Stream()
        url = self.urls[at] + path
        if path == "/socket" or "/ws" in path:
            self.group.start_soon(stream.read_socket, url.replace("http", "ws", 1), self.cookie)
        else:
            self.group.start_soon(stream.read, self.client, method, url, self.cookie)
        with anyio.fail_after(10):
            await stream.open.wait()
        return stream

    async def post(self, path: str, at: int = 0) -> httpx.Response:
        headers = {"cookie": self.cookie}
        answer = await self.client.post(self.urls[at] + path, headers=headers)
        assert answer.status_code == 200
        return answer


@pytest.fixture
async def site(serve: Serve, redis: RedisServer, key_prefix: str) -> AsyncIterator[Site]:
    env = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_SECRET_KEY": KEY,
        "HOLDFAST_KEY_PREFIX": key_prefix,
    }
    servers = [serve("tests.sessions.long:app", env=env) for _ in range(2)]
    async with httpx.AsyncClient(timeout=30) as client, anyio.create_task_group() as group:
        site = Site([server.url for server in servers], client, group)
        login = await site.open("/login", method="POST")
        assert login.cookie
        site.cookie = login.cookie
        yield site
        group.cancel_scope.cancel()
    for server in servers:
        server.stop()
        assert "Traceback" not in server.log(), server.log()


async def ended(streams: list[Stream], since: float) -> None:
    with anyio.fail_after(PROMISE + 5):
        while any(stream.ended_at is None for stream in streams):
            await anyio.sleep(0.01)
    for stream in streams:
        assert stream.ended_at is not None
        assert stream.ended_at - since < PROMISE


async def test_a_logout_ends_streams_and_sockets_in_every_process_within_a_second(
    site: Site,
) -> None:
    tokens = (await site.post("/run")).json()
    ours = f"/streams/runs/r1/events/stream?token={tokens['token']}"
    free = f"/streams/runs/r1/events/stream?token={tokens['free']}"
    socket = f"/streams/runs/r1/events/ws?token={tokens['token']}"
    bound = [await site.open(p, at) for p in ("/events", "/socket", ours, socket) for at in (0, 1)]
    others = [await site.open(path) for path in ("/public", "/download", free)]
    begun = time.monotonic()
    await site.post("/logout", at=1)
    await ended(bound, begun)
    assert [stream.ended_at for stream in others] == [None] * 3
    headers = {"cookie": site.cookie}
    again = await site.client.get(site.urls[0] + ours, headers=headers)
    assert again.status_code == 401


async def test_a_logout_ends_a_connection_of_many_runs_which_comes_back_for_the_others(
    site: Site,
) -> None:
    tokens = (await site.post("/run")).json()
    query = f"?run=r1&run=r2&token={tokens['token']}&token={tokens['other']}"
    paths = [f"/streams/events/{kind}{query}" for kind in ("stream", "ws")]
    bound = [await site.open(path, at) for path in paths for at in (0, 1)]
    begun = time.monotonic()
    await site.post("/logout", at=1)
    await ended(bound, begun)
    headers = {"cookie": site.cookie}
    async with site.client.stream("GET", site.urls[0] + paths[0], headers=headers) as answer:
        text = ""
        with anyio.fail_after(10):
            async for chunk in answer.aiter_text():
                text += chunk
                if '"run_id":"r2","id"' in text:
                    break
    assert '{"kind":"error","run_id":"r1","code":"UNAUTHORIZED"}' in text
    assert '"run_id":"r1","id"' not in text


async def test_a_new_secret_ends_what_the_old_ones_opened_and_nothing_else(site: Site) -> None:
    bound = [await site.open("/events", at) for at in (0, 1)]
    begun = time.monotonic()
    answer = await site.post("/renew", at=1)
    await ended(bound, begun)
    site.cookie = answer.headers["set-cookie"].partition(";")[0]
    after = [await site.open("/events", at) for at in (0, 1)]
    await anyio.sleep(0.3)
    assert [stream.ended_at for stream in after] == [None, None]


# --- one process ----------------------------------------------------------------------------------


class Hold:
    """An app whose answer stays open, until its handler is ended one way or another."""

    def __init__(self, kind: str = "stream", *, deaf: bool = True) -> None:
        self.kind, self.deaf = kind, deaf
        self.ended: BaseException | None = None
        self.before: Callable[[Session], object] = dict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.before(get_session(scope))
        try:
            if scope["type"] == "websocket":
                await send({"type": "websocket.accept"})
            else:
                headers = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            while not self.deaf:
                body = {"type": "http.response.body", "body": b"x", "more_body": True}
                await send({"type": "websocket.send", "text": "x"} if "w" in self.kind else body)
                await asyncio.sleep(0.01)
            await asyncio.sleep(60)
        except BaseException as error:
            self.ended = error
            raise


class Held:
    """One connection that is being served, in a task of its own."""

    def __init__(self, browser: Browser, kind: str) -> None:
        scope = browser.scope()
        if kind == "websocket":
            scope = {**scope, "type": "websocket", "scheme": "ws"}
        self.answer = Answer([])
        self.browser = browser
        self.task = asyncio.create_task(self._run(scope))

    async def _run(self, scope: Scope) -> None:
        async def receive() -> Message:
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: Message) -> None:
            self.answer.messages.append(message)

        await self.browser.app(scope, receive, send)

    async def opened(self) -> Held:
        with anyio.fail_after(5):
            while not self.answer.messages and not self.task.done():
                await asyncio.sleep(0.005)
        self.browser.keep(self.answer)
        return self

    async def done(self, seconds: float = 5) -> None:
        async with asyncio.timeout(seconds):
            await self.task


@pytest.fixture(params=["memory", "redis"])
def settings(request: pytest.FixtureRequest, key_prefix: str) -> Settings:
    if request.param == "memory":
        return Settings(secret_key=KEY, key_prefix=key_prefix)
    redis: RedisServer = request.getfixturevalue("redis")
    return Settings(secret_key=KEY, redis_url=redis.url, key_prefix=key_prefix)


async def logged_in(settings: Settings, app: Any) -> tuple[Browser, str]:
    doing = Doing()
    browser = Browser(SessionMiddleware(doing, settings=settings))
    doing.handle = lambda session: session.update(user_id=7)
    await browser.get()
    doing.handle = lambda session: session.id_hash
    id_hash = (await browser.get()).body.decode().strip("'")
    browser.app = SessionMiddleware(app, settings=settings)
    return browser, id_hash


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("deaf", [True, False], ids=["deaf", "sending"])
async def test_a_handler_ends_and_its_client_is_told(
    settings: Settings, kind: str, deaf: bool
) -> None:
    hold = Hold(kind, deaf=deaf)
    browser, id_hash = await logged_in(settings, hold)
    held = await Held(browser, kind).opened()
    await SessionIndex(settings).revoke(id_hash)
    await held.done(2)
    assert isinstance(hold.ended, asyncio.CancelledError if deaf else OSError)
    last = held.answer.messages[-1]
    if kind == "http":
        assert last == {"type": "http.response.body", "body": b"", "more_body": False}
    else:
        assert (last["type"], last["code"]) == ("websocket.close", 1008)
    assert repr(endings(runtime(settings))) == "<Endings, 0 watching>"


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("how", ["read", "write", "thread"])
async def test_a_session_looked_at_after_the_start_ends_what_was_served_all_the_same(
    settings: Settings, kind: str, how: str
) -> None:
    looked = asyncio.Event()

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start if kind == "http" else {"type": "websocket.accept"})
        if how == "write":
            scope["session"]["seen"] = True
        elif how == "read":
            dict(get_session(scope))
        else:
            await anyio.to_thread.run_sync(get_session, scope)
        looked.set()
        await asyncio.sleep(60)

    browser, id_hash = await logged_in(settings, late)
    held = await Held(browser, kind).opened()
    async with asyncio.timeout(10):
        await looked.wait()
    await SessionIndex(settings).revoke(id_hash)
    await held.done(10)
    assert held.answer.messages[-1]["type"] in ("http.response.body", "websocket.close")
    assert repr(endings(runtime(settings))) == "<Endings, 0 watching>"


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_session_looked_at_when_all_is_over_is_followed_by_nobody(
    settings: Settings, kind: str
) -> None:
    held_back: list[Session] = []

    async def brief(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start if kind == "http" else {"type": "websocket.accept"})
        held_back.append(scope["session"])
        held_back[0].mark_accessed()

    browser, _ = await logged_in(settings, brief)
    await (await Held(browser, kind).opened()).done(10)
    held_back[0].mark_accessed()
    await asyncio.sleep(0)
    assert repr(endings(runtime(settings))) == "<Endings, 0 watching>"


@pytest.mark.parametrize("kind", ["http", "closed", "left"])
@pytest.mark.parametrize("looks", ["before", "after"])
async def test_what_goes_on_after_its_answer_is_not_ended_with_the_session(
    key_prefix: str, kind: str, looks: str
) -> None:
    settings = Settings(secret_key=KEY, key_prefix=key_prefix)
    sent, end, in_order = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if looks == "before":
            dict(get_session(scope))
        if kind == "http":
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.accept"})
            await (receive() if kind == "left" else send({"type": "websocket.close"}))
        # As a background task does.
        dict(get_session(scope))
        sent.set()
        await end.wait()
        in_order.set()

    browser, id_hash = await logged_in(settings, app)
    scope = browser.scope()
    if kind != "http":
        scope = {**scope, "type": "websocket", "scheme": "ws"}
    leave = {"type": "websocket.disconnect", "code": 1000}
    task = asyncio.ensure_future(browser.run(scope, [leave]))
    async with asyncio.timeout(10):
        await sent.wait()
        await asyncio.sleep(0)
        watching = repr(endings(runtime(settings)))
        await SessionIndex(settings).revoke(id_hash)
        end.set()
        answer = await task
    assert watching == "<Endings, 0 watching>"
    assert in_order.is_set()
    expected = {"http": 3, "closed": 2, "left": 1}
    assert len(answer.messages) == expected[kind]


async def test_what_a_middleware_writes_into_the_end_of_one_stream_is_in_no_other(
    settings: Settings,
) -> None:
    for _ in range(2):
        browser, id_hash = await logged_in(settings, Hold())
        held = await Held(browser, "http").opened()
        await SessionIndex(settings).revoke(id_hash)
        await held.done()
        end = held.answer.messages[-1]
        assert end == {"type": "http.response.body", "body": b"", "more_body": False}
        end["body"] = b"for the first alone"


async def test_a_revocation_in_a_thread_ends_streams_on_a_loop(settings: Settings) -> None:
    browser, id_hash = await logged_in(settings, Hold())
    held = await Held(browser, "http").opened()
    await anyio.to_thread.run_sync(SyncSessionIndex(settings).revoke, id_hash)
    await held.done(2)


async def test_a_stream_that_begins_with_its_session_ends_with_it(settings: Settings) -> None:
    hold = Hold(deaf=False)
    hold.before = lambda session: session.update(user_id=7)
    browser = Browser(SessionMiddleware(hold, settings=settings))
    held = await Held(browser, "http").opened()
    assert await SessionIndex(settings).revoke_all(7) == 1
    await held.done(2)
    assert isinstance(hold.ended, OSError)


async def test_a_rotation_by_age_ends_nothing(settings: Settings) -> None:
    settings = settings.override(session_rotate_after=1)
    browser, _ = await logged_in(settings, Hold())
    held = await Held(browser, "http").opened()
    other, other_id = await logged_in(settings, Hold(deaf=False))
    ending = await Held(other, "http").opened()
    first = dict(browser.cookies)
    browser.app = SessionMiddleware(app_of(dict), settings=settings)
    with anyio.fail_after(10):
        while browser.cookies == first:
            await browser.get()
            await anyio.sleep(0.05)
    # Endings are heard in their order: this one comes after any of the rotation.
    await SessionIndex(settings).revoke(other_id)
    await ending.done()
    assert [message["type"] for message in held.answer.messages] == ["http.response.start"]
    assert not held.task.done()
    held.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held.done()


async def test_a_stream_ends_at_the_end_of_its_session(settings: Settings) -> None:
    browser, _ = await logged_in(settings.override(session_max_age=1), Hold())
    held = await Held(browser, "http").opened()
    await held.done(4)


async def test_an_idle_session_ends_its_stream_and_one_in_use_does_not(
    settings: Settings,
) -> None:
    settings = settings.override(session_idle_timeout=1)
    browser, _ = await logged_in(settings, Hold())
    held = await Held(browser, "http").opened()
    used = Browser(SessionMiddleware(app_of(dict), settings=settings), browser.cookies)
    for _ in range(15):
        await used.get()
        await anyio.sleep(0.1)
    assert not held.task.done()
    await held.done(4)


async def test_an_ending_that_nobody_could_hear_is_found_out_afterwards(
    fresh_redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(secret_key=KEY, redis_url=fresh_redis.url, key_prefix=key_prefix)
    browser, id_hash = await logged_in(settings, Hold())
    held = await Held(browser, "http").opened()
    other, _ = await logged_in(settings, Hold())
    lives = await Held(other, "http").opened()
    with anyio.fail_after(5):
        while fresh_redis.execute("PUBSUB", "CHANNELS", f"{key_prefix}*") == []:
            await anyio.sleep(0.01)
    fresh_redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
    # By another hand, and without a word.
    fresh_redis.execute("DEL", f"{key_prefix}session:{id_hash}")
    await held.done(10)
    await anyio.sleep(0.6)
    assert not lives.task.done()
    lives.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lives.done()


async def test_a_rotation_by_age_ends_nothing_after_the_old_secret_is_forgotten_either(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "GRACE_SECONDS", 0.1)
    settings = settings.override(session_rotate_after=1, session_idle_timeout=1)
    browser, id_hash = await logged_in(settings, Hold())
    held = await Held(browser, "http").opened()
    used = Browser(SessionMiddleware(app_of(dict), settings=settings), browser.cookies)
    for _ in range(25):
        await used.get()
        await anyio.sleep(0.1)
    assert not held.task.done()
    await SessionIndex(settings).revoke(id_hash)
    await held.done(2)


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [-60.0, 60.0], ids=["behind", "ahead"])
async def test_a_rotation_by_age_ends_nothing_where_our_clock_is_not_that_of_redis(
    redis: RedisServer, key_prefix: str, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "GRACE_SECONDS", 0.1)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    settings = Settings(
        secret_key=KEY, redis_url=redis.url, key_prefix=key_prefix, session_rotate_after=1
    )
    settings = settings.override(session_idle_timeout=1)
    browser, _ = await logged_in(settings, Hold())
    held = await Held(browser, "http").opened()
    used = Browser(SessionMiddleware(app_of(dict), settings=settings), dict(browser.cookies))
    for _ in range(25):
        await used.get()
        await anyio.sleep(0.1)
    assert used.cookies != browser.cookies
    assert not held.task.done()
    # It is idle from here on, and ends then, whatever the clocks say.
    await held.done(10)


@pytest.mark.parametrize("rotate_after", [0, 3600], ids=["never renewed", "renewed"])
@pytest.mark.parametrize("looks", ["later", "before"])
async def test_a_secret_killed_while_nobody_heard_is_dead_also_when_it_is_forgotten(
    key_prefix: str, rotate_after: int, looks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bond, "_SPREAD", 0.02)
    settings = Settings(secret_key=KEY, key_prefix=key_prefix, session_rotate_after=rotate_after)
    later, look = 0.0, asyncio.Event()
    store = MemorySessionStore(clock=lambda: time.time() + later)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]
        if looks == "before":
            dict(get_session(scope))
        await send({"type": "websocket.accept"})
        await look.wait()
        session.mark_accessed()
        await asyncio.sleep(60)

    doing = Doing()
    browser = Browser(SessionMiddleware(doing, store=store, settings=settings))
    doing.handle = lambda session: session.update(user_id=7)
    await browser.get()
    socket = Browser(SessionMiddleware(app, store=store, settings=settings), dict(browser.cookies))
    held = await Held(socket, "websocket").opened()
    if looks == "before":
        # As where the connection to Redis is lost: nobody hears of the next ending.
        monkeypatch.setattr(endings(runtime(settings)), "tell", lambda *_: None)
    doing.handle = lambda session: session.regenerate_id()
    await browser.get()
    later = 31.0
    look.set()
    if looks == "before":
        doubt(settings)
    await held.done(10)
    assert held.answer.messages[-1]["code"] == 1008


@pytest.mark.slow
async def test_while_nobody_can_say_whether_a_session_lives_its_stream_does(
    fresh_redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(
        secret_key=KEY,
        redis_url=fresh_redis.url,
        key_prefix=key_prefix,
        session_idle_timeout=1,
        session_on_outage="closed",
    )
    browser, _ = await logged_in(settings, Hold())
    held = await Held(browser, "http").opened()
    fresh_redis.kill()
    await anyio.sleep(2)
    assert not held.task.done()
    fresh_redis.start()
    await held.done(15)


async def test_who_cancels_the_request_himself_is_obeyed(settings: Settings) -> None:
    browser, id_hash = await logged_in(settings, Hold())
    held = await Held(browser, "http").opened()
    await SessionIndex(settings).revoke(id_hash)
    held.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held.done()


async def test_a_session_that_ends_before_its_stream_begins_ends_it_too(
    settings: Settings,
) -> None:
    hold = Hold()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await SessionIndex(settings).revoke(get_session(scope).id_hash)
        await hold(scope, receive, send)

    browser, _ = await logged_in(settings, app)
    held = await Held(browser, "http").opened()
    await held.done(3)
    assert isinstance(hold.ended, asyncio.CancelledError)


async def test_an_error_of_the_handler_is_not_hidden(settings: Settings) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await SessionIndex(settings).revoke(session.id_hash)
        raise ValueError("a bug")

    browser, _ = await logged_in(settings, app)
    with pytest.raises(ValueError, match="a bug"):
        await browser.get()


async def test_closing_the_runtime_forgets_who_watches(settings: Settings) -> None:
    browser, _ = await logged_in(settings, Hold())
    held = await Held(browser, "http").opened()
    watching = endings(runtime(settings))
    assert repr(watching) == "<Endings, 1 watching>"
    await aclose()
    assert repr(watching) == "<Endings, 0 watching>"
    held.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held.done()


class Watched(MemorySessionStore):
    """A store during whose next load, when it has an answer, something happens, maybe to that."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.loads = 0
        self.meanwhile: Callable[[SessionKey], Any] | None = None

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        self.loads += 1
        found = await super().load(key, idle_timeout=idle_timeout)
        if self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            return await happens(key) or found
        return found


async def waiting(store: Watched, settings: Settings, app: Any) -> Browser:
    """Return who is logged in, at an app whose streams have waited for something."""
    browser = Browser(
        SessionMiddleware(app_of(lambda s: s.update(a=1)), store=store, settings=settings)
    )
    await browser.get()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        setattr(get_session(scope), WAITED, True)
        await app(scope, receive, send)

    browser.app = SessionMiddleware(waits, store=store, settings=settings)
    return browser


def doubt(settings: Settings) -> None:
    """What is told when a channel is heard again."""
    for watch in endings(runtime(settings))._all_on(asyncio.get_running_loop()):
        watch.doubt()


async def test_after_its_stream_nothing_is_looked_at_and_nobody_is_sent_away(
    key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bond, "_SPREAD", 0.05)
    settings, store = Settings(secret_key=KEY, key_prefix=key_prefix), Watched()
    hashes: list[str] = []

    async def heard_again(key: SessionKey) -> None:
        hashes.append(key.id_hash)
        doubt(settings)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        dict(get_session(scope))
        store.meanwhile = heard_again
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})

    browser = await waiting(store, settings, app)
    answer = await browser.get()
    asked = store.loads
    # The task that served the stream goes on, as that of a kept-alive connection may.
    await store.delete(hashes[0])
    await asyncio.sleep(0.3)
    assert (store.loads, len(answer.messages)) == (asked, 2)


async def test_a_doubt_during_a_look_is_not_settled_by_it(
    key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bond, "_SPREAD", 0.05)
    settings, store = Settings(secret_key=KEY, key_prefix=key_prefix), Watched()

    async def ends_unheard(key: SessionKey) -> None:
        await store.delete(key.id_hash)
        doubt(settings)

    def used(session: Session) -> None:
        dict(session)
        store.meanwhile = ends_unheard

    hold = Hold()
    hold.before = used
    held = await Held(await waiting(store, settings, hold), "http").opened()
    await held.done(10)
    assert isinstance(hold.ended, asyncio.CancelledError)


async def test_a_stream_that_began_its_session_by_another_clock_outlives_a_renewal_by_age(
    key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bond, "_SPREAD", 0.02)
    settings = Settings(secret_key=KEY, key_prefix=key_prefix, session_rotate_after=4)
    ahead = -5.0
    store = Watched(clock=lambda: time.time() + ahead)
    hold = Hold()
    hold.before = lambda session: session.update(user_id=7)
    browser = Browser(SessionMiddleware(hold, store=store, settings=settings))
    held = await Held(browser, "http").opened()

    async def looked() -> None:
        asked = store.loads
        doubt(settings)
        async with asyncio.timeout(10):
            while store.loads == asked:
                await asyncio.sleep(0.01)
        # What the look leads to comes at once.
        await asyncio.sleep(0.1)

    await looked()
    used = Browser(SessionMiddleware(app_of(dict), store=store, settings=settings))
    used.cookies = dict(browser.cookies)
    await used.get()
    assert used.cookies != browser.cookies
    ahead += 31
    await looked()
    assert [message["type"] for message in held.answer.messages] == ["http.response.start"]
    held.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held.done()


async def test_a_look_that_outlasts_its_stream_sends_nobody_away(
    key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bond, "_SPREAD", 0.05)
    settings, store = Settings(secret_key=KEY, key_prefix=key_prefix), Watched()
    looking, ended, looked = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(key: SessionKey) -> Record | Missing:
        looking.set()
        await ended.wait()
        await store.delete(key.id_hash)
        looked.set()
        return await store.load(key)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        dict(get_session(scope))
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        store.meanwhile = slow
        doubt(settings)
        await looking.wait()
        asked = store.loads
        doubt(settings)
        while store.loads == asked:
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"x"})

    browser = await waiting(store, settings, app)
    async with asyncio.timeout(10):
        answer = await browser.get()
        ended.set()
        await looked.wait()
    await asyncio.sleep(0.1)
    assert len(answer.messages) == 2
