"""The middleware through its WSGI door: when it commits, what it costs, what leaves."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest
from tests.frameworks.wsgi_client import Answer, Browser, answer_of, environ_of
from tests.sessions.browser import CountingStore

from holdfast import SyncSession, WSGISessionMiddleware, get_session
from holdfast.errors import (
    ConfigurationError,
    SessionError,
    SessionTooLate,
    SessionUnavailable,
)
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from holdfast.sessions.store import Missing, Record, SessionKey, SessionStore
    from holdfast.testing import RedisServer

KEY = "a key of more than sixteen characters"
SETTINGS = Settings(secret_key=KEY)


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, key_prefix: str) -> SessionStore:
    if request.param == "memory":
        return MemorySessionStore()
    redis: RedisServer = request.getfixturevalue("redis")
    url = redis.url
    return RedisSessionStore(Settings(redis_url=url, key_prefix=key_prefix, redis_timeout=10))


class App:
    """An application that does what a test says, and answers with what that returned."""

    def __init__(self) -> None:
        self.handle: Callable[[SyncSession], Any] = lambda _: None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        result = self.handle(environ["holdfast.session"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(result).encode()]


def browser_on(store: SessionStore, **arguments: Any) -> tuple[Browser, App]:
    app = App()
    arguments.setdefault("settings", SETTINGS)
    return Browser(WSGISessionMiddleware(app, store=store, **arguments)), app


def in_front_of(inner: WSGIApplication, store: SessionStore | None = None) -> Browser:
    store = MemorySessionStore() if store is None else store
    return Browser(WSGISessionMiddleware(inner, settings=SETTINGS, store=store))


def logged_in(browser: Browser, app: App) -> None:
    app.handle = lambda session: session.update(user_id=7, n=0)
    browser.get()


def test_what_one_request_writes_the_next_one_reads(store: SessionStore) -> None:
    browser, app = browser_on(store)
    app.handle = lambda session: session.update(cart=[1, {"a": None}], name="Zoë")
    first = browser.get()
    expected = "; path=/; Max-Age=1209600; httponly; samesite=lax"
    assert first.set_cookie is not None
    assert first.set_cookie.endswith(expected)
    assert (first.one("cache-control"), first.one("vary")) == ("no-store", "Cookie")
    app.handle = dict
    second = browser.get()
    assert second.body == str({"cart": [1, {"a": None}], "name": "Zoë"}).encode()
    assert (second.set_cookie, second.one("vary")) == (None, "Cookie")


def test_the_verbs_return_when_they_are_done(store: SessionStore) -> None:
    browser, app = browser_on(store)
    logged_in(browser, app)
    seen: list[Any] = []

    def handle(session: SyncSession) -> None:
        session["x"] = 1
        session.save()
        seen.append(session.incr("n", 2))
        seen.append(session.update_with("cart", lambda cart: [*(cart or []), "tea"]))
        before, held = session.id_hash, session.owner
        session.regenerate_id()
        seen.append((before == session.id_hash, held, session.is_new))

    app.handle = handle
    old = dict(browser.cookies)
    browser.get()
    assert seen == [2, ["tea"], (True, "user:7", False)]
    assert browser.cookies != old
    app.handle = lambda session: sorted(session.items())
    stored = [("cart", ["tea"]), ("n", 2), ("user_id", 7), ("x", 1)]
    assert browser.get().body == str(stored).encode()
    app.handle = lambda session: session.invalidate()
    browser.get()
    assert browser.cookies == {}


def test_both_sides_speak_pep_3333(store: SessionStore) -> None:
    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = get_session(environ)
        session["n"] = session.get("n", 0) + 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"a", b"b"])

    middleware = WSGISessionMiddleware(validator(inner), settings=SETTINGS, store=store)
    browser = Browser(validator(middleware))
    assert [browser.get().body for _ in range(2)] == [b"ab", b"ab"]
    assert browser.cookies


def test_who_does_not_look_at_the_session_pays_for_nothing_and_is_cached() -> None:
    store = CountingStore()
    browser, _ = browser_on(store)
    answer = browser.get()
    assert answer.headers == [("Content-Type", "text/plain")]
    assert store.told() == []


@pytest.mark.parametrize(
    "look",
    [
        lambda s: s.get("a"),
        lambda s: "a" in s,
        len,
        list,
        dict,
        bool,
        lambda s: list(s.keys()),
        lambda s: list(s.values()),
        lambda s: list(s.items()),
        lambda s: s.copy(),
        lambda s: s == {},
        lambda s: s | {},
        lambda s: s.id_hash and get_session({"holdfast.session": s, "wsgi.version": (1, 0)}),
        lambda s: s["user_id"],
    ],
    ids=str(list(range(14)))[1:-1].split(", "),
)
def test_every_look_into_it_varies_the_answer(look: Callable[[Any], Any]) -> None:
    browser, app = browser_on(MemorySessionStore())
    logged_in(browser, app)
    app.handle = look
    assert browser.get().one("vary") == "Cookie"


def test_the_session_is_stored_when_the_first_part_leaves_and_not_before() -> None:
    store = CountingStore()

    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        environ["holdfast.session"]["after"] = "the head"
        yield b"first"
        environ["holdfast.session"]["late"] = True
        yield b"second"

    browser = in_front_of(inner, store)
    assert browser.get().set_cookie is not None

    def reading(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [str(dict(environ["holdfast.session"])).encode()]

    reader = in_front_of(reading, store)
    reader.cookies = browser.cookies
    assert reader.get().body == str({"after": "the head", "late": True}).encode()


def test_what_a_body_wrote_is_stored_before_its_end_leaves() -> None:
    store = MemorySessionStore()
    app = App()
    reader = in_front_of(app, store)
    app.handle = lambda session: session.setdefault("late", 0)
    assert reader.get().body == b"0"
    ((name, value),) = reader.cookies.items()

    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"part"
        environ["holdfast.session"]["late"] = 1

    served = WSGISessionMiddleware(inner, settings=SETTINGS, store=store)
    body = served(environ_of(cookie=f"{name}={value}"), lambda *_: lambda _: None)
    assert list(body) == [b"part"]
    # A server sends the end of the body, and then closes it.
    assert reader.get().body == b"1"
    body.close()  # type: ignore[attr-defined]


def test_what_was_written_is_stored_though_the_client_left_in_the_middle() -> None:
    store, closed = MemorySessionStore(), []

    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        session = environ["holdfast.session"]
        start_response("200 OK", [])
        session["n"] = 0
        try:
            while True:
                yield b"part"
                session["n"] += 1
        finally:
            closed.append(session["n"])

    browser = in_front_of(inner, store)
    browser.get(take=3)
    assert closed == [2]
    app = App()
    app.handle = lambda session: session["n"]
    reader = in_front_of(app, store)
    reader.cookies = browser.cookies
    assert reader.get().body == b"2"


def test_a_new_session_is_too_late_once_the_first_part_has_left() -> None:
    told: list[type] = []

    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        session = environ["holdfast.session"]
        start_response("200 OK", [])
        yield b"part"
        session["late"] = True
        for verb in (session.save, session.regenerate_id):
            try:
                verb()
            except SessionTooLate as error:
                told.append(type(error))
        del session["late"]

    assert in_front_of(inner).get().set_cookie is None
    assert told == [SessionTooLate, SessionTooLate]


def test_write_commits_as_the_iterable_does() -> None:
    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        environ["holdfast.session"]["a"] = 1
        write(b"written ")
        return [b"and returned"]

    answer = in_front_of(inner).get()
    assert answer.body == b"written and returned"
    assert answer.set_cookie is not None


def test_an_answer_without_a_body_is_committed_too() -> None:
    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["holdfast.session"]["a"] = 1
        start_response("204 No Content", [])
        return iter(())

    assert in_front_of(inner).get().set_cookie is not None


def test_a_whole_body_is_handed_on_as_it_is() -> None:
    body = [b"all of it"]

    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    app = in_front_of(inner).app
    assert app(environ_of(), lambda *_: lambda _: None) is body


def test_a_file_is_handed_on_in_the_servers_own_wrapper() -> None:
    class Wrapper(list[bytes]):
        pass

    class FileWrapper:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"file"])

    wrapped = FileWrapper()

    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return wrapped

    app = in_front_of(inner).app
    environ = environ_of() | {"wsgi.file_wrapper": FileWrapper}
    assert app(environ, lambda *_: lambda _: None) is wrapped


def test_a_head_may_be_replaced_until_the_first_part_and_never_without_exc_info() -> None:
    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        with pytest.raises(AssertionError, match="twice"):
            start_response("200 OK", [])
        try:
            raise ValueError("no")
        except ValueError:
            start_response("500 Oh", [], sys.exc_info())
        return [b"sorry"]

    assert in_front_of(inner).get().status == "500 Oh"


def test_an_error_after_the_first_part_reaches_the_server() -> None:
    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"part"
        try:
            raise ValueError("in the middle")
        except ValueError:
            start_response("500 Oh", [], sys.exc_info())

    with pytest.raises(ValueError, match="in the middle"):
        in_front_of(inner).get()


@pytest.mark.parametrize("streamed", [False, True])
def test_who_raises_saves_nothing_but_what_was_logged_out_is(streamed: bool) -> None:
    store = MemorySessionStore()
    browser, app = browser_on(store)
    logged_in(browser, app)

    def handle(session: SyncSession) -> None:
        session["n"] = 1
        raise ValueError("no")

    def generating(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        app.handle(environ["holdfast.session"])
        start_response("200 OK", [])
        yield b""

    doing = in_front_of(generating if streamed else app, store)
    doing.cookies = browser.cookies
    app.handle = handle
    with pytest.raises(ValueError, match="no"):
        doing.get()
    app.handle = lambda session: session["n"]
    assert browser.get().body == b"0"

    def ending(session: SyncSession) -> None:
        session.invalidate()
        raise ValueError("no")

    app.handle = ending
    with pytest.raises(ValueError, match="no"):
        doing.get()
    assert len(store) == 0


def test_a_value_found_not_to_be_json_at_the_commit_is_raised_to_the_server() -> None:
    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["holdfast.session"]["list"] = found = []
        found.append(object())
        start_response("200 OK", [])
        return [b""]

    with pytest.raises(TypeError, match="list"):
        in_front_of(inner).get()


def test_while_redis_is_away_writes_are_503_and_what_does_not_write_is_served(
    free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    url = f"redis://127.0.0.1:{free_port}"
    settings = Settings(secret_key=KEY, redis_url=url, session_on_outage="readonly")
    store = FallbackSessionStore(settings)
    app = App()
    browser = Browser(WSGISessionMiddleware(app, settings=settings, store=store))
    assert browser.get().code == 200
    app.handle = lambda session: session.update(a=1)
    answer = browser.get()
    assert (answer.code, answer.one("retry-after"), answer.set_cookie) == (503, "2", None)

    def streamed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        environ["holdfast.session"]["a"] = 1
        yield b""

    late = Browser(WSGISessionMiddleware(streamed, settings=settings, store=store))
    assert late.get().code == 503
    link = store.link
    link.close()


def test_a_closed_session_that_cannot_be_seen_is_refused_at_its_first_look(
    fresh_redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    settings = Settings(
        secret_key=KEY,
        redis_url=fresh_redis.url,
        key_prefix=key_prefix,
        session_on_outage="closed",
        redis_timeout=10,
    )
    store = FallbackSessionStore(settings)
    browser, app = browser_on(store, settings=settings)
    logged_in(browser, app)
    cookies = dict(browser.cookies)
    fresh_redis.kill()
    app.handle = lambda session: session.available
    assert browser.get().body == b"False"
    app.handle = len
    assert browser.get().code == 503
    assert browser.cookies == cookies
    store.link.close()


def test_a_store_that_waits_for_an_event_loop_gets_one_for_each_verb() -> None:
    class Elsewhere(MemorySessionStore):
        @property
        def waits_in_place(self) -> bool:
            return False

        async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
            await asyncio.sleep(0)
            return await super().load(key, idle_timeout=idle_timeout)

    browser, app = browser_on(Elsewhere())
    logged_in(browser, app)

    def handle(session: SyncSession) -> None:
        session.incr("n")
        session.invalidate()

    app.handle = handle
    browser.get()
    assert browser.cookies == {}


def test_of_two_middlewares_the_outer_one_is_in_charge() -> None:
    app = App()
    unused = CountingStore()
    inner = WSGISessionMiddleware(app, settings=SETTINGS, store=unused)
    browser = in_front_of(inner)
    app.handle = lambda session: session.update(a=1)
    assert len(browser.get().all("set-cookie")) == 1
    assert unused.told() == []


def test_an_excluded_path_has_no_session() -> None:
    settings = Settings(secret_key=KEY, session_exclude=("/static", "/über"))
    browser, app = browser_on(MemorySessionStore(), settings=settings)
    app.handle = lambda session: session.update(a=1)
    encoded = "/über/x".encode().decode("latin-1")
    for path, root in (("/static/a.css", ""), ("/static", "/site"), (encoded, "")):
        with pytest.raises(SessionError, match="EXCLUDE"):
            browser.get(path, SCRIPT_NAME=root)
    assert browser.get("/statically").set_cookie is not None


def test_without_a_middleware_there_is_no_session_to_get() -> None:
    with pytest.raises(SessionError, match="WSGISessionMiddleware"):
        get_session(environ_of())


def test_memory_is_refused_where_the_server_says_that_there_are_other_processes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    middleware = WSGISessionMiddleware(App(), settings=SETTINGS)
    for _ in range(2):
        answer: Answer = answer_of(middleware, environ_of() | {"wsgi.multiprocess": True})
        assert answer.code == 503
    told = [line for line in caplog.messages if "worker processes" in line]
    assert len(told) == 1
    assert answer_of(middleware, environ_of()).code == 200


def test_without_the_redis_that_is_required_every_request_is_503(
    free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    url = f"redis://127.0.0.1:{free_port}"
    settings = Settings(secret_key=KEY, redis_url=url, redis_required=True)
    browser = Browser(WSGISessionMiddleware(App(), settings=settings))
    assert [browser.get().code for _ in range(2)] == [503, 503]


def test_a_configuration_that_cannot_work_is_told_where_it_is_made() -> None:
    with pytest.raises(ConfigurationError, match="__Host-"):
        WSGISessionMiddleware(App(), session_cookie="__Host-a", settings=SETTINGS)


def test_the_index_knows_browser_and_address_of_a_wsgi_request(
    redis: RedisServer, key_prefix: str
) -> None:
    from holdfast import SyncSessionIndex

    settings = Settings(
        secret_key=KEY,
        redis_url=redis.url,
        key_prefix=key_prefix,
        session_index_address=True,
        redis_timeout=10,
    )
    app = App()
    browser = Browser(WSGISessionMiddleware(app, settings=settings))
    logged_in(browser, app)
    (found,) = SyncSessionIndex(settings).list("7")
    assert (found.user_agent, found.address) == ("a browser", "192.0.2.7")


def test_forty_threads_meet_forty_sessions(store: SessionStore) -> None:
    browser, app = browser_on(store)
    app.handle = lambda session: session["me"]
    wrong: list[object] = []

    def visit(me: int) -> None:
        def first(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            environ["holdfast.session"]["me"] = me
            start_response("200 OK", [])
            return [b""]

        mine = Browser(WSGISessionMiddleware(first, settings=SETTINGS, store=store))
        mine.get()
        mine.app = browser.app
        wrong.extend(got for _ in range(10) if (got := mine.get().body) != str(me).encode())

    threads = [threading.Thread(target=visit, args=(me,)) for me in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_503_is_an_error_of_sessions() -> None:
    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise SessionUnavailable("the app's own word", retry_after=7)

    assert in_front_of(inner).get().one("retry-after") == "7"


def test_a_session_that_was_loaded_and_not_looked_at_does_not_vary_the_answer() -> None:
    browser, app = browser_on(MemorySessionStore())
    logged_in(browser, app)
    app.handle = lambda _: None
    assert browser.get().one("vary") is None
    app.handle = lambda session: session.owner and None
    assert browser.get().one("vary") == "Cookie"
