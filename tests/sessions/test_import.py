"""Sessions that other packages wrote, each by the real package, and what becomes of them here."""

from __future__ import annotations

import ast
import base64
import contextlib
import json
import logging
import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import flask
import flask_session
import msgspec
import pytest
import redis as redis_py
import redis.asyncio as redis_asyncio
import starsessions
import starsessions.stores.redis
from itsdangerous import TimestampSigner
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn
from starlette.requests import HTTPConnection
from tests.sessions.browser import Browser, CountingStore, Doing, app_of

from holdfast.errors import ConfigurationError
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.doors.door import Door
from holdfast.sessions.events import SessionCreated, SessionEvent, on_session_event
from holdfast.sessions.imports.foreign import is_pickle
from holdfast.sessions.index import SessionIndex
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.sync import driven
from holdfast.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

KEY, OLD_KEY = "a key of more than sixteen characters", "the key before that one, as long"
DATA = {"user_id": 7, "cart": [1, "Zoë"], "nothing": None}


def foreign_app(data: dict[str, Any]) -> ASGIApp:
    """Return an application that puts *data* into the session of another package."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if "session_handler" in scope:
            await starsessions.load_session(HTTPConnection(scope))
        HTTPConnection(scope).session.update(data)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


async def starlettes(data: dict[str, Any], key: str = KEY) -> str:
    """Have Starlette write a session; return its cookie."""
    browser = Browser(StarlettesOwn(foreign_app(data), secret_key=key))
    await browser.get()
    return browser.cookies["session"]


async def starsessions_(data: dict[str, Any], url: str) -> str:
    async with redis_asyncio.Redis.from_url(url) as connection:
        store = starsessions.stores.redis.RedisStore(connection=connection)
        app = starsessions.SessionMiddleware(
            foreign_app(data), store=store, lifetime=3600, cookie_https_only=False
        )
        browser = Browser(app)
        await browser.get()
    return browser.cookies["session"]


def flask_sessions(data: dict[str, Any], url: str, **config: Any) -> str:
    app = flask.Flask("shop")
    app.secret_key = KEY
    with redis_py.Redis.from_url(url) as client:
        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=client, **config)
        flask_session.Session(app)
        app.add_url_rule("/", view_func=lambda: str(flask.session.update(data)))
        with app.test_client() as browser:
            browser.get("/")
            cookie = browser.get_cookie("session")
    assert cookie is not None
    return cookie.value


@dataclass
class Moved:
    """A site that has moved over, and the cookie that its visitors have from before."""

    package: str
    cookie: str
    url: str
    prefix: str
    data: dict[str, Any] = field(default_factory=dict)
    doing: Doing = field(default_factory=Doing)

    def settings(self, **arguments: Any) -> Settings:
        arguments.setdefault("secret_key", KEY)
        return Settings(
            redis_url=self.url, key_prefix=self.prefix, session_import=self.package, **arguments
        )

    def browser(self, **arguments: Any) -> Browser:
        """Return a browser that has the cookie from before, and no other."""
        app = SessionMiddleware(self.doing, settings=self.settings(**arguments))
        return Browser(app, {"session": self.cookie})

    async def sees(self, browser: Browser) -> Any:
        self.doing.handle = dict
        return ast.literal_eval((await browser.get()).body.decode())


SIGNED = pytest.mark.filterwarnings("ignore:The 'use_signer' option:DeprecationWarning")
WAYS = ["starlette", "starsessions", "flask msgpack", "flask json"]


@pytest.fixture(params=[*WAYS, pytest.param("flask signed", marks=SIGNED)])
async def moved(request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str) -> Moved:
    kind: str = request.param
    # In each test other data: what a cookie carries is all there is to tell two sessions apart.
    data = {**DATA, "test": key_prefix}
    if kind == "starlette":
        return Moved(kind, await starlettes(data), redis.url, key_prefix, data)
    if kind == "starsessions":
        return Moved(kind, await starsessions_(data, redis.url), redis.url, key_prefix, data)
    config: dict[str, Any] = {"SESSION_USE_SIGNER": kind == "flask signed"}
    if kind == "flask json":
        config["SESSION_SERIALIZATION_FORMAT"] = "json"
    value = flask_sessions(data, redis.url, SESSION_PERMANENT=False, **config)
    return Moved("flask-session", value, redis.url, key_prefix, data)


@pytest.fixture
async def signed(redis: RedisServer, key_prefix: str) -> Moved:
    """A site that had Starlette's cookie."""
    return Moved("starlette", await starlettes(DATA), redis.url, key_prefix, DATA)


def keys_of(redis: RedisServer, prefix: str) -> list[bytes]:
    found = redis.execute("KEYS", f"*{prefix}session:*")
    assert isinstance(found, list)
    return [key for key in found if isinstance(key, bytes)]


# --- moving over ----------------------------------------------------------------------------------


async def test_a_session_from_before_is_found_and_gets_a_cookie_of_ours(moved: Moved) -> None:
    browser = moved.browser()
    moved.doing.handle = dict
    first = await browser.get()
    assert ast.literal_eval(first.body.decode()) == moved.data
    assert first.set_cookie is not None
    assert first.set_cookie.startswith("session=")
    assert "Max-Age=1209" in first.set_cookie
    second = await browser.get()
    assert ast.literal_eval(second.body.decode()) == moved.data
    assert second.set_cookie is None


async def test_what_the_other_package_keeps_is_left_as_it_is(
    redis: RedisServer, key_prefix: str
) -> None:
    cookie = await starsessions_(DATA, redis.url)
    key = f"starsessions.{cookie}"
    before, lives = redis.execute("GET", key), redis.execute("PTTL", key)
    moved = Moved("starsessions", cookie, redis.url, key_prefix)
    browser = moved.browser()
    moved.doing.handle = lambda session: session.invalidate()
    await browser.get()
    assert redis.execute("GET", key) == before
    left = redis.execute("PTTL", key)
    assert isinstance(left, int)
    assert isinstance(lives, int)
    assert 0 < left <= lives


async def test_requests_in_parallel_meet_in_one_session(moved: Moved) -> None:
    async def one(number: int) -> None:
        app = app_of(lambda session: session.update({f"k{number}": number}))
        tab = SessionMiddleware(app, settings=moved.settings())
        await Browser(tab, {"session": moved.cookie}).get()

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    expected = {**moved.data, **{f"k{number}": number for number in range(20)}}
    assert await moved.sees(moved.browser()) == expected


async def test_what_was_logged_out_is_not_imported_again(moved: Moved, redis: RedisServer) -> None:
    browser, again = moved.browser(), moved.browser()
    assert await moved.sees(browser) == moved.data
    moved.doing.handle = lambda session: session.invalidate()
    await browser.get()
    # The tombstone is of an hour, the cookie from before may be of a year.
    tombstones = [key for key in keys_of(redis, moved.prefix) if key.endswith(b":gone")]
    assert len(tombstones) == 1
    redis.execute("DEL", tombstones[0])
    moved.doing.handle = dict
    answer = await again.get()
    assert (answer.body, answer.set_cookie) == (b"{}", None)


async def test_what_was_regenerated_is_not_opened_by_the_cookie_from_before(moved: Moved) -> None:
    browser, again = moved.browser(), moved.browser()
    moved.doing.handle = lambda session: session.regenerate_id()
    await browser.get()
    assert await moved.sees(browser) == moved.data
    moved.doing.handle = lambda session: session.update(stolen=True)
    assert (await again.get()).set_cookie is None
    assert await moved.sees(again) == {}
    assert await moved.sees(browser) == moved.data


async def test_a_change_of_our_key_neither_loses_nor_doubles_what_was_imported(
    redis: RedisServer, key_prefix: str
) -> None:
    cookie = await starsessions_(DATA, redis.url)
    moved = Moved("starsessions", cookie, redis.url, key_prefix)
    before, after = moved.browser(secret_key=OLD_KEY), moved.browser(secret_key=[KEY, OLD_KEY])
    moved.doing.handle = lambda session: session.update(a=1)
    await before.get()
    assert await moved.sees(after) == {**DATA, "a": 1}
    moved.doing.handle = lambda session: session.invalidate()
    await after.get()
    assert await moved.sees(moved.browser(secret_key=[KEY, OLD_KEY])) == {}


async def test_an_import_cut_off_in_the_middle_is_gone_on_with(
    redis: RedisServer, key_prefix: str
) -> None:
    cookie = await starsessions_(DATA, redis.url)
    moved = Moved("starsessions", cookie, redis.url, key_prefix)
    assert await moved.sees(moved.browser()) == DATA
    mark = next(key for key in keys_of(redis, key_prefix) if redis.execute("HLEN", key) == 1)
    redis.execute("DEL", mark)
    assert await moved.sees(moved.browser()) == DATA
    assert redis.execute("EXISTS", mark) == 1


async def test_a_mark_that_cannot_be_read_counts_as_one(
    redis: RedisServer, key_prefix: str
) -> None:
    cookie = await starsessions_(DATA, redis.url)
    moved = Moved("starsessions", cookie, redis.url, key_prefix)
    assert await moved.sees(moved.browser()) == DATA
    session, mark = sorted(
        keys_of(redis, key_prefix), key=lambda key: redis.execute("HLEN", key) == 1
    )
    redis.execute("SET", mark, "no session")
    redis.execute("DEL", session)
    assert await moved.sees(moved.browser()) == {}


async def test_an_imported_session_is_told_and_stands_in_the_index_of_its_user(
    redis: RedisServer, key_prefix: str
) -> None:
    cookie = await starsessions_(DATA, redis.url)
    moved = Moved("starsessions", cookie, redis.url, key_prefix)
    told: list[SessionEvent] = []
    with contextlib.ExitStack() as stack:
        stack.callback(on_session_event(told.append))
        for _ in range(2):
            await moved.sees(moved.browser())
    created = [event for event in told if isinstance(event, SessionCreated)]
    assert [event.user for event in created] == ["7"]
    index = SessionIndex(moved.settings())
    assert [each.id_hash for each in await index.list(7)] == [created[0].id_hash]
    assert await index.revoke_all(7) == 1
    assert await moved.sees(moved.browser()) == {}


# --- what is presented ----------------------------------------------------------------------------


async def test_two_visitors_with_the_same_cookie_and_no_user_in_it_do_not_meet(
    redis: RedisServer, key_prefix: str
) -> None:
    data = {"cart": [], "theme": "dark"}
    moved = Moved("starlette", await starlettes(data), redis.url, key_prefix)
    one, other = moved.browser(), moved.browser()
    moved.doing.handle = lambda session: session["cart"].append("mine")
    await one.get()
    assert await moved.sees(other) == data
    assert await moved.sees(one) == {"cart": ["mine"], "theme": "dark"}
    assert one.cookies != other.cookies


async def test_our_own_cookie_beats_one_from_before(signed: Moved) -> None:
    browser = signed.browser(session_cookie="ours")
    signed.doing.handle = lambda session: session.update(a=1)
    await browser.get()
    assert sorted(browser.cookies) == ["ours", "session"]
    browser.cookies["session"] = await starlettes({"user_id": 8})
    assert await signed.sees(browser) == {**DATA, "a": 1}


async def test_a_cookie_renamed_before_is_found_by_the_name_of_ours(signed: Moved) -> None:
    browser = signed.browser(session_cookie="sid")
    browser.cookies = {"sid": signed.cookie}
    assert await signed.sees(browser) == DATA


async def test_of_two_different_sessions_from_before_none_is_believed(
    signed: Moved, caplog: pytest.LogCaptureFixture
) -> None:
    other = await starlettes({"user_id": 8})
    signed.doing.handle = dict
    cookie = f"session={signed.cookie}; session={other}".encode()
    assert (await signed.browser().get(cookie=cookie)).body == b"{}"
    assert "two sessions of starlette: none" in caplog.text
    twice = f'session={signed.cookie}; session="{signed.cookie}"'.encode()
    answer = await signed.browser().get(cookie=twice)
    assert ast.literal_eval(answer.body.decode()) == DATA


def starlettes_at(seconds_ago: float, payload: bytes = base64.b64encode(b'{"user_id":7}')) -> str:
    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(time.time() - seconds_ago)

    return Signer(KEY).sign(payload).decode()


@pytest.mark.parametrize(
    "value",
    [
        starlettes_at(1209601),
        starlettes_at(-3600),
        starlettes_at(0, b"no base64!"),
        starlettes_at(0, b"cut"),
        starlettes_at(0, base64.b64encode(b"[1]")),
        starlettes_at(0, base64.b64encode(b"no JSON")),
        starlettes_at(0, base64.b64encode(b"[" * 1400 + b"]" * 1400)),
        starlettes_at(0, base64.b64encode(b"{}")),
        TimestampSigner(OLD_KEY).sign(base64.b64encode(b'{"user_id":7}')).decode(),
        "",
        '"',
        "null",
        "x" * 5000,
        "a.b.c",
        "\xff" * 32,
        "0" * 32,
        "A" * 43,
        f"{'A' * 43}.{'x' * 27}",
        "*" * 32,
    ],
    # A signature holds the time: as an id it would differ from one collection to the next.
    ids=range(19),
)
async def test_a_cookie_that_no_package_wrote_reads_as_none(
    value: str, redis: RedisServer, key_prefix: str
) -> None:
    packages = ("starlette", "starsessions", "flask-session", "django")
    settings = Settings(
        secret_key=KEY, redis_url=redis.url, key_prefix=key_prefix, session_import=packages
    )
    store = CountingStore()
    browser = Browser(SessionMiddleware(app_of(dict), settings=settings, store=store))
    answer = await browser.get(cookie=f"session={value}; sessionid={value}".encode("latin-1"))
    assert (answer.status, answer.body, answer.set_cookie) == (200, b"{}", None)
    assert store.asked == []
    assert keys_of(redis, key_prefix) == []


async def test_a_key_of_ours_is_no_session_of_another_package(redis: RedisServer) -> None:
    # Without a prefix our keys begin as those of Flask-Session do.
    settings = Settings(secret_key=KEY, redis_url=redis.url, session_import="flask-session")
    doing = Doing()
    doing.handle = lambda session: session.update(a=1)
    browser = Browser(SessionMiddleware(doing, settings=settings))
    await browser.get()
    doing.handle = lambda session: session.id_hash
    id_hash = ast.literal_eval((await browser.get()).body.decode())
    assert redis.execute("TYPE", f"session:{id_hash}") == b"hash"
    doing.handle = dict
    assert (await browser.get(cookie=f"session={id_hash}".encode())).body == b"{}"
    doing.handle = lambda session: session.invalidate()
    await browser.get()


async def test_an_excluded_path_imports_nothing(signed: Moved, redis: RedisServer) -> None:
    browser = signed.browser(session_exclude="/static")
    signed.doing.handle = dict
    assert (await browser.get("/static/x")).body == b"{}"
    assert keys_of(redis, signed.prefix) == []


async def test_where_sessions_end_at_once_nothing_is_imported(signed: Moved) -> None:
    app = SessionMiddleware(signed.doing, settings=signed.settings(), max_age=-1)
    assert await signed.sees(Browser(app, {"session": signed.cookie})) == {}


# --- what is in it --------------------------------------------------------------------------------


class Canary:
    """A pickle of it makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
async def test_a_pickle_is_told_and_never_loaded(
    protocol: int,
    redis: RedisServer,
    key_prefix: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = pickle.dumps({"user_id": 7, "bad": Canary(tmp_path / "sung")}, protocol)
    assert is_pickle(data) is (protocol >= 2)
    ident = key_prefix.encode().hex()[:32]
    names = {
        "starsessions": f"starsessions.{ident}",
        "flask-session": f"session:{ident}",
        "django": f":1:django.contrib.sessions.cache{ident}",
    }
    for package, name in names.items():
        redis.execute("SET", name, data, "EX", 60)
        moved = Moved(package, ident, redis.url, key_prefix)
        browser = moved.browser()
        browser.cookies = {"session": ident, "sessionid": ident}
        for _ in range(2):
            assert await moved.sees(browser) == {}
    assert not list(tmp_path.iterdir())
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for package in names:
        of_it = [line for line in told if line.startswith(f"a session of {package} is not")]
        assert len(of_it) == 1
        if protocol >= 2:
            assert "a pickle is never loaded" in of_it[0]


async def test_a_value_that_json_cannot_carry_is_left_out_and_told(
    redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    ident = key_prefix.encode().hex()
    data = {"user_id": 7, "raw": b"bytes", "n": {1: 2}, "f": float("nan")}
    redis.execute("SET", f"session:{ident}", msgspec.msgpack.encode(data), "EX", 60)
    moved = Moved("flask-session", ident, redis.url, key_prefix)
    assert await moved.sees(moved.browser()) == {"user_id": 7}
    assert "session['raw'] cannot be kept as JSON" in caplog.text


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x81", "neither JSON nor MessagePack"),
        (b"\x93\x01\x02\x03", "neither JSON nor MessagePack"),
        (b"plain", "neither JSON nor MessagePack"),
        (msgspec.msgpack.encode({1: 2}), "keys must be str"),
        (json.dumps({"user_id": 7, "a": "x" * 70_000}).encode(), "more than HOLDFAST_SESSION_MAX"),
    ],
)
async def test_what_cannot_be_kept_whole_or_read_is_told(
    data: bytes, told: str, redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    ident = key_prefix.encode().hex()
    redis.execute("SET", f"session:{ident}", data)
    moved = Moved("flask-session", ident, redis.url, key_prefix)
    assert await moved.sees(moved.browser()) == {}
    redis.execute("DEL", f"session:{ident}")
    assert told in caplog.text


async def test_without_a_package_for_messagepack_the_remedy_is_told(
    redis: RedisServer,
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cookie = flask_sessions(DATA, redis.url)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    moved = Moved("flask-session", cookie, redis.url, key_prefix)
    assert await moved.sees(moved.browser()) == {}
    assert "pip install msgspec" in caplog.text


async def test_a_session_without_an_end_is_imported_too(
    redis: RedisServer, key_prefix: str
) -> None:
    ident = key_prefix.encode().hex()
    redis.execute("SET", f"session:{ident}", b'{"user_id":7}')
    moved = Moved("flask-session", ident, redis.url, key_prefix)
    assert await moved.sees(moved.browser()) == {"user_id": 7}
    redis.execute("DEL", f"session:{ident}")
    longest = max(redis.execute("TTL", key) for key in keys_of(redis, key_prefix))  # type: ignore[type-var]
    assert isinstance(longest, int)
    assert longest > 9 * 365 * 86400


# --- while Redis is away --------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["starlette", "starsessions"])
async def test_while_redis_is_away_a_cookie_from_before_is_unavailable_and_stays(
    package: str, fresh_redis: RedisServer
) -> None:
    url = fresh_redis.url
    if package == "starlette":
        cookie = await starlettes(DATA)
    else:
        cookie = await starsessions_(DATA, url)
    moved = Moved(package, cookie, url, "")
    browser = moved.browser(redis_timeout=5)
    fresh_redis.kill()
    moved.doing.handle = lambda session: session.available
    answer = await browser.get()
    assert (answer.body, answer.set_cookie) == (b"False", None)
    moved.doing.handle = lambda session: session.update(a=1)
    answer = await browser.get()
    assert (answer.status, answer.set_cookie) == (503, None)


async def test_closed_refuses_a_cookie_from_before_while_redis_is_away(
    fresh_redis: RedisServer,
) -> None:
    moved = Moved("starlette", await starlettes(DATA), fresh_redis.url, "")
    browser = moved.browser(redis_timeout=5, session_on_outage="closed")
    fresh_redis.kill()
    moved.doing.handle = lambda session: session["user_id"]
    assert (await browser.get()).status == 503


# --- Django ---------------------------------------------------------------------------------------


def django_site(redis: RedisServer, folder: Path, *arguments: str) -> tuple[list[Any], str]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.sessions.django_site", *arguments]
    env = {**os.environ, "REDIS": redis.url, "FOLDER": str(folder)}
    done = subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(
    "arguments", [("cache", "json"), ("db",), ("cached_db",)], ids=["cache", "database", "both"]
)
def test_a_session_of_django_is_found_and_a_logout_holds(
    arguments: tuple[str, ...], redis: RedisServer, tmp_path: Path
) -> None:
    ((status, body, set_cookie), _, after), _ = django_site(redis, tmp_path, *arguments)
    assert (status, set_cookie) == (200, True)
    assert ast.literal_eval(body) == {"_auth_user_id": "7", "cart": [1, "Zoë"]}
    assert after == [200, "{}", False]


NOTHING = [200, "{}", False]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("cache",), "a session of django is not imported: in the cache it is a pickle"),
        (("db", "expired"), ""),
        (("db", "resigned"), "it is no JSON that Django's present key has signed"),
    ],
)
def test_what_django_would_not_read_or_reads_by_pickle_is_not_imported(
    arguments: tuple[str, ...], told: str, redis: RedisServer, tmp_path: Path
) -> None:
    (found, _, _), log = django_site(redis, tmp_path, *arguments)
    assert found == NOTHING
    assert told in log


def test_while_djangos_database_is_away_its_sessions_are_unavailable(
    redis: RedisServer, tmp_path: Path
) -> None:
    (found, logout, _), _ = django_site(redis, tmp_path, "db", "broken")
    assert found == NOTHING
    assert logout[0] == 503


async def test_without_redis_and_without_django_nothing_can_be_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(secret_key=KEY, session_import="django")
    browser = Browser(
        SessionMiddleware(app_of(dict), settings=settings, store=MemorySessionStore())
    )
    assert (await browser.get(cookie=b"sessionid=" + b"a" * 32)).body == b"{}"
    assert "Django is not set up here" in caplog.text


# --- the variable ---------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["starsessions", "flask-session"])
def test_sessions_that_are_in_redis_need_one(package: str) -> None:
    settings = Settings(secret_key=KEY, session_import=package)
    with pytest.raises(ConfigurationError, match=f"{package} needs HOLDFAST_REDIS_URL"):
        SessionMiddleware(app_of(dict), settings=settings)


def test_the_variable_has_its_effect() -> None:
    assert Settings(secret_key=KEY, session_import="starlette").warnings == ()


async def test_code_that_cannot_await_imports_too(redis: RedisServer, key_prefix: str) -> None:
    cookie = await starsessions_(DATA, redis.url)
    settings = Settings(
        secret_key=KEY, redis_url=redis.url, key_prefix=key_prefix, session_import="starsessions"
    )
    app = SessionMiddleware(app_of(dict), settings=settings, store=MemorySessionStore())
    door = app._door
    assert isinstance(door, Door)
    assert door.importer is not None
    headers = [(b"cookie", f"session={cookie}".encode())]
    opened = driven(door.importer.open(headers))
    assert opened is not None
    assert dict(opened.session) == DATA
    assert driven(door.importer.open([])) is None


async def test_a_store_of_ones_own_gets_what_is_imported(redis: RedisServer) -> None:
    cookie = await starsessions_(DATA, redis.url)
    settings = Settings(secret_key=KEY, redis_url=redis.url, session_import="starsessions")
    store = CountingStore()
    browser = Browser(SessionMiddleware(app_of(dict), settings=settings, store=store))
    browser.cookies = {"session": cookie}
    assert (await browser.get()).body == repr(dict(sorted(DATA.items()))).encode()
    assert store.told() == ["load", "create", "create", "load", "touch"]
    await browser.get()
    assert store.told() == ["load"]
