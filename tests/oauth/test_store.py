"""The state of a login: bound, single, short-lived; on memory and on Redis, for ASGI and WSGI.

Numbers in names are those of the list of attacks in docs/sessions/oauth.md.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from tests.oauth.door import KEY, Browser, Door, attributes
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request as WerkzeugRequest
from werkzeug.wrappers import Response as WerkzeugResponse

import holdfast
from holdfast import ConfigurationError, OAuthStateStore, Settings, SyncOAuthStateStore
from holdfast.errors import OAuthStateUnavailable
from holdfast.oauth.record import Refusal
from holdfast.oauth.states import MemoryStates
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

DATA = {"verifier": "a-verifier", "nonce": "a-nonce", "next": {"path": "/cart"}}


@pytest.fixture(params=["memory", "redis"])
def settings(request: pytest.FixtureRequest, key_prefix: str) -> Settings:
    if request.param == "memory":
        return Settings(secret_key=KEY, key_prefix=key_prefix)
    server: RedisServer = request.getfixturevalue("redis")
    return Settings(redis_url=server.url, secret_key=KEY, key_prefix=key_prefix)


@pytest.fixture(params=[OAuthStateStore, SyncOAuthStateStore], ids=["asgi", "wsgi"])
def door(request: pytest.FixtureRequest, settings: Settings) -> Door:
    return Door(request.param(settings))


def keys(redis: RedisServer, prefix: str) -> list[bytes]:
    found = redis.execute("KEYS", f"{prefix}*")
    assert isinstance(found, list)
    return [name for name in found if isinstance(name, bytes)]


async def test_what_was_issued_is_handed_out(door: Door) -> None:
    browser = Browser()
    state = await door.begin(browser, DATA)
    assert len(state) >= 43
    assert await door.end(browser, state) == DATA


async def test_49_two_tabs_of_one_browser_both_complete(door: Door) -> None:
    browser = Browser()
    first = await door.begin(browser, {"tab": 1})
    second = await door.begin(browser, {"tab": 2})
    assert await door.end(browser, first) == {"tab": 1}
    assert await door.end(browser, second) == {"tab": 2}
    assert len(browser.cookies) == 1


async def test_49_tabs_opened_at_once_without_any_cookie_all_complete(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter("abc")
    monkeypatch.setattr("secrets.choice", lambda _: next(names))
    browser = Browser()
    requests = [browser.request(door) for _ in range(3)]
    states = [await door.issue(each, {"tab": tab}) for tab, each in enumerate(requests)]
    for each in requests:
        browser.keep(door.store.cookie_headers(each))
    for tab, state in enumerate(states):
        assert await door.end(browser, state) == {"tab": tab}


async def test_50_a_state_is_good_once(door: Door) -> None:
    browser = Browser()
    state = await door.begin(browser, DATA)
    assert await door.end(browser, state) == DATA
    assert await door.end(browser, state) is None


async def test_50_of_many_callbacks_at_once_one_succeeds(door: Door) -> None:
    browser = Browser()
    for _ in range(5):
        state = await door.begin(browser, DATA)
        answers: list[Any] = []

        async def end(state: str = state, answers: list[Any] = answers) -> None:
            answers.append(await door.end(browser, state))

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(end)
        assert [answer for answer in answers if answer is not None] == [DATA]


async def test_51_another_browser_cannot_use_a_state_and_cannot_burn_it(door: Door) -> None:
    victim, attacker = Browser(), Browser()
    state = await door.begin(victim, DATA)
    await door.begin(attacker, {})
    assert await door.end(attacker, state) is None
    assert await door.end(Browser(), state) is None
    assert await door.end(victim, state) == DATA


@pytest.mark.parametrize("change", ["flipped", "short", "foreign key", "session", "not ascii"])
async def test_51_a_forged_cookie_is_no_browser(
    door: Door, settings: Settings, change: str
) -> None:
    browser = Browser()
    state = await door.begin(browser, DATA)
    [(name, value)] = browser.cookies.items()
    if change == "foreign key":
        foreign = Browser()
        other = settings.override(secret_key="another key of sixteen characters")
        await Door(type(door.store)(other)).begin(foreign, {})
        [forged] = foreign.cookies.values()
    else:
        forged = {
            "flipped": ("B" if value[0] == "A" else "A") + value[1:],
            "short": value[:-1],
            "session": "A" * 24 + "." + value[-51:],
            "not ascii": "\xe9" + value[1:],
        }[change]
    request = browser.request(door)
    if door.is_sync:
        request["HTTP_COOKIE"] = f"{name}={forged}"
    else:
        request["headers"] = [(b"cookie", f"{name}={forged}".encode("latin-1"))]
    assert door.store.proofs(request) == []
    assert await door.end(browser, state) == DATA


async def test_52_a_state_expires_though_the_browser_stays(door: Door) -> None:
    browser = Browser()
    state = await door.begin(browser, DATA, ttl=0.05)
    await anyio.sleep(0.1)  # the lifetime itself is what passes
    assert await door.end(browser, state) is None


async def test_52_the_record_expires_even_where_the_key_lost_its_expiry(
    redis: RedisServer, key_prefix: str
) -> None:
    door = Door(
        OAuthStateStore(Settings(redis_url=redis.url, secret_key=KEY, key_prefix=key_prefix))
    )
    browser = Browser()
    state = await door.begin(browser, DATA, ttl=0.2)
    [key] = keys(redis, f"{key_prefix}oauth:")
    assert redis.execute("PERSIST", key) == 1
    await anyio.sleep(0.25)
    assert await door.end(browser, state) is None
    assert redis.execute("EXISTS", key) == 0


async def test_53_a_thousand_abandoned_logins_leave_one_cookie_and_keys_that_expire(
    redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(redis_url=redis.url, secret_key=KEY, key_prefix=key_prefix)
    door, browser = Door(OAuthStateStore(settings)), Browser()
    states = [await door.begin(browser, DATA) for _ in range(1000)]
    assert len(browser.cookies) == 1
    assert len(browser.line) < 128
    left = keys(redis, f"{key_prefix}oauth:")
    assert len(left) == 1000
    for key in left:
        remaining = redis.execute("PTTL", key)
        assert isinstance(remaining, int)
        assert 0 < remaining <= 600_000
    for state in (states[0], states[-1]):
        assert await door.end(browser, state) == DATA


def test_53_memory_is_bounded_and_the_oldest_makes_room() -> None:
    states = MemoryStates(max_logins=100)
    for number in range(1000):
        assert states.put(str(number), "proof", 600_000, b"{}")
    assert len(states) == 100
    assert states.take("899", ["proof"]) is Refusal.ABSENT
    assert states.take("900", ["proof"]) == b"{}"


def test_53_what_has_expired_makes_room_first() -> None:
    now = [0.0]
    states = MemoryStates(max_logins=100, clock=lambda: now[0])
    for number in range(50):
        states.put(str(number), "proof", 1000, b"{}")
    now[0] = 1.0
    assert states.take("0", ["proof"]) is Refusal.ABSENT
    states.put("new", "proof", 1000, b"{}")
    assert len(states) == 1


@pytest.mark.parametrize("kind", [OAuthStateStore, SyncOAuthStateStore])
async def test_54_form_post_has_a_cookie_that_comes_with_a_foreign_page(
    settings: Settings, kind: Any
) -> None:
    door, browser = Door(kind(settings, form_post=True)), Browser()
    state = await door.begin(browser, DATA)
    [header] = browser.seen
    assert header.startswith("__Host-holdfast_oauth_post-")
    told = attributes(header)
    assert told["samesite"] == "none"
    assert told["secure"]
    assert told["httponly"]
    assert await door.end(browser, state) == DATA


async def test_54_a_form_post_login_outlives_a_plain_one_begun_after_it(settings: Settings) -> None:
    own = settings.override(session_https_only=True)
    posted, plain = Door(OAuthStateStore(own, form_post=True)), Door(OAuthStateStore(own))
    browser = Browser()
    state = await posted.begin(browser, DATA)
    await plain.begin(browser, {})
    # What a browser sends with a POST from another site.
    crossing = Browser({k: v for k, v in browser.cookies.items() if "_post-" in k})
    assert await posted.end(crossing, state) == DATA


async def test_a_state_of_one_provider_is_none_of_another(door: Door) -> None:
    browser = Browser()
    state = await door.begin(browser, DATA, provider="honest")
    assert await door.end(browser, state, provider="evil") is None
    assert await door.end(browser, state) is None
    assert await door.end(browser, state, provider="honest") == DATA


async def test_a_chosen_state_is_kept_unless_another_browser_has_it(door: Door) -> None:
    browser = Browser()
    assert await door.begin(browser, {"n": 1}, state="chosen") == "chosen"
    assert await door.begin(browser, {"n": 2}, state="chosen") == "chosen"
    with pytest.raises(ValueError, match="pending in another browser"):
        await door.begin(Browser(), {"n": 3}, state="chosen")
    assert await door.end(browser, "chosen") == {"n": 2}


@pytest.mark.parametrize("state", ["", "x" * 513, "a\nb", "é", "a\0b"])
async def test_a_state_that_cannot_be_is_refused_and_never_looked_up(
    door: Door, state: str
) -> None:
    browser = Browser()
    with pytest.raises(ValueError, match="printable ASCII"):
        await door.begin(browser, {}, state=state)
    await door.begin(browser, {})
    assert await door.end(browser, state) is None
    assert await door.end(browser, None) is None


@pytest.mark.parametrize("ttl", [0, -1, 86401, float("nan"), float("inf"), True])
async def test_a_lifetime_that_cannot_be_is_refused(door: Door, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        await door.begin(Browser(), {}, ttl=ttl)


LOOP: dict[str, Any] = {}
LOOP["in"] = LOOP


@pytest.mark.parametrize(
    "data",
    [["a list"], {"n": float("nan")}, {"b": b"x"}, {1: 2}, {"t": (1, 2)}, {"s": "\ud800"}, LOOP],
)
async def test_data_that_json_cannot_carry_is_refused(door: Door, data: Any) -> None:
    with pytest.raises(TypeError, match="login") as caught:
        await door.begin(Browser(), data)
    assert "a list" not in str(caught.value)


async def test_data_that_is_too_large_is_refused(door: Door) -> None:
    browser = Browser()
    state = await door.begin(browser, {"x": "é" * 8188})
    assert await door.end(browser, state) == {"x": "é" * 8188}
    with pytest.raises(ValueError, match="16386 bytes"):
        await door.begin(browser, {"x": "é" * 8189})


async def test_a_replaced_key_still_verifies_until_it_is_removed(
    door: Door, settings: Settings
) -> None:
    browser = Browser()
    state = await door.begin(browser, DATA)
    kind = type(door.store)
    newer = settings.override(secret_key=("a newer key of sixteen characters", KEY))
    gone = settings.override(secret_key="a newer key of sixteen characters")
    if settings.redis_url is not None:
        assert await Door(kind(gone)).end(browser, state) is None
        assert await Door(kind(newer)).end(browser, state) == DATA
    rotated = Door(kind(newer))
    before = dict(browser.cookies)
    await rotated.begin(browser, {})
    assert before.keys() == browser.cookies.keys()
    assert before != browser.cookies
    assert Door(kind(gone)).store.proofs(browser.request(rotated))


async def test_two_logins_on_one_page_share_a_cookie(door: Door) -> None:
    browser = Browser()
    request = browser.request(door)
    states = [await door.issue(request, {"n": n}) for n in range(2)]
    headers = door.store.cookie_headers(request)
    assert [name for name, _ in headers] == ["Set-Cookie", "Cache-Control"]
    assert door.store.cookie_headers(request) == []
    browser.keep(headers)
    assert [await door.end(browser, state) for state in states] == [{"n": 0}, {"n": 1}]


async def test_cookies_that_have_piled_up_are_removed_but_for_eight(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter("abcdefghijkl")
    monkeypatch.setattr("secrets.choice", lambda _: next(names))
    browser = Browser()
    requests = [browser.request(door) for _ in range(12)]
    for each in requests:
        await door.issue(each, {})
        browser.keep(door.store.cookie_headers(each))
    assert len(browser.cookies) == 12
    await door.begin(browser, {})
    assert sorted(name[-1] for name in browser.cookies) == list("abcdefgh")


@pytest.mark.parametrize(
    ("changes", "name", "told"),
    [
        ({}, "holdfast_oauth-", {"path": "/", "samesite": "lax"}),
        ({"session_https_only": True}, "__Host-holdfast_oauth-", {"secure": "True"}),
        (
            {"session_https_only": True, "session_domain": "example.com"},
            "holdfast_oauth-",
            {"domain": "example.com"},
        ),
        ({"session_path": "/app"}, "holdfast_oauth-", {"path": "/app"}),
        ({"session_same_site": "strict"}, "holdfast_oauth-", {"samesite": "lax"}),
    ],
)
async def test_the_cookie_has_the_attributes_of_the_session_cookie_but_for_same_site(
    changes: dict[str, Any], name: str, told: dict[str, str]
) -> None:
    door, browser = Door(OAuthStateStore(Settings(secret_key=KEY, **changes))), Browser()
    await door.begin(browser, {})
    [header] = browser.seen
    assert header.startswith(name)
    found = attributes(header)
    assert found | told == found
    assert found["httponly"]
    assert found["max-age"] == "86400"


async def test_the_cookie_goes_on_a_starlette_response(settings: Settings) -> None:
    store = OAuthStateStore(settings)
    request = Request({"type": "http", "headers": [], "method": "GET", "path": "/"})
    await store.issue(request, {})
    response = Response(headers={"Cache-Control": "private"})
    response.set_cookie("other", "1")
    store.set_cookie(request, response)
    assert len(response.headers.getlist("set-cookie")) == 2
    assert response.headers["cache-control"] == "private"
    plain = Response()
    store.set_cookie(request, plain)
    assert "set-cookie" not in plain.headers
    assert "cache-control" not in plain.headers


async def test_the_cookie_goes_on_a_werkzeug_response_and_on_a_list(settings: Settings) -> None:
    store = SyncOAuthStateStore(settings)
    response = WerkzeugResponse()
    response.set_cookie("other", "1")
    request = WerkzeugRequest(EnvironBuilder().get_environ())
    await anyio.to_thread.run_sync(store.issue, request, {})
    store.set_cookie(request, response)
    assert len(response.headers.getlist("Set-Cookie")) == 2
    assert response.headers["Cache-Control"] == "no-store"

    class Listed:
        headers: list[tuple[str, str]]

    listed = Listed()
    for given in ([], [("cache-control", "private")]):
        listed.headers = list(given)
        environ = EnvironBuilder().get_environ()
        await anyio.to_thread.run_sync(store.issue, environ, {})
        store.set_cookie(environ, listed)
        names = sorted(name.lower() for name, _ in listed.headers)
        assert names == ["cache-control", "set-cookie"]


async def test_something_that_is_no_request_is_named(settings: Settings) -> None:
    with pytest.raises(TypeError, match="not int"):
        await OAuthStateStore(settings).issue(1, {})


async def test_a_callback_without_a_cookie_is_explained_once(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert await door.end(Browser(), "some-state") is None
    assert [record.message.count("set_cookie") for record in caplog.records] == [1]


async def test_redis_holds_neither_state_nor_browser_id(
    redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(redis_url=redis.url, secret_key=KEY, key_prefix=key_prefix)
    door, browser = Door(OAuthStateStore(settings)), Browser()
    state = await door.begin(browser, DATA)
    [key] = keys(redis, f"{key_prefix}oauth:")
    value = redis.execute("GET", key)
    assert isinstance(value, bytes)
    [cookie] = browser.cookies.values()
    for secret in (state, cookie, cookie.partition(".")[0]):
        assert secret.encode() not in key + value
    digest = hashlib.sha256(state.encode()).hexdigest()
    assert key == f"{key_prefix}oauth:{digest}".encode()


async def test_what_somebody_else_put_under_the_key_is_no_login(
    redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(redis_url=redis.url, secret_key=KEY, key_prefix=key_prefix)
    door, browser = Door(OAuthStateStore(settings)), Browser()
    state = await door.begin(browser, DATA)
    [key] = keys(redis, f"{key_prefix}oauth:")
    redis.execute("SET", key, "rubbish")
    assert await door.end(browser, state) is None


async def test_nothing_secret_is_logged_or_shown(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    browser, other = Browser(), Browser()
    state = await door.begin(browser, DATA)
    await door.begin(other, {})
    await door.end(other, state)
    await door.end(Browser(), state)
    await door.end(browser, state)
    logging.getLogger("holdfast.oauth").info("planted %s", "a-verifier")
    told = [record.getMessage() for record in caplog.records]
    assert "planted a-verifier" in told
    told.remove("planted a-verifier")
    assert len(told) >= 2
    shown = "\n".join([*told, repr(door.store), repr(door.store.states)])
    [cookie] = browser.cookies.values()
    for secret in (state, cookie, "a-verifier", "a-nonce"):
        assert secret not in shown


async def test_stores_of_one_configuration_share_what_is_pending(settings: Settings) -> None:
    browser = Browser()
    state = await Door(OAuthStateStore(settings)).begin(browser, DATA)
    assert await Door(SyncOAuthStateStore(settings)).end(browser, state) == DATA


@pytest.mark.parametrize("kind", [OAuthStateStore, SyncOAuthStateStore])
async def test_memory_is_refused_where_several_workers_are_announced(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    with pytest.raises(ConfigurationError, match="HOLDFAST_REDIS_URL"):
        kind(Settings(secret_key=KEY))


def test_memory_is_refused_where_the_wsgi_server_says_it_has_several_processes() -> None:
    store = SyncOAuthStateStore(Settings(secret_key=KEY))
    with pytest.raises(ConfigurationError, match="HOLDFAST_REDIS_URL"):
        store.issue({"wsgi.multiprocess": True}, {})


def test_a_missing_key_is_told_at_start(redis: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="HOLDFAST_SECRET_KEY"):
        OAuthStateStore(Settings(redis_url=redis.url))


def test_a_forked_child_can_go_on() -> None:
    states = MemoryStates()
    states.put("key", "proof", 60_000, b"{}")
    with states._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if states.take("key", ["proof"]) == b"{}" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def dying() -> Iterator[RedisServer]:
    """A Redis of the test's own that keeps its data over a kill."""
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


async def down(door: Door) -> None:
    link = door.store._runtime.link
    assert link is not None
    with anyio.fail_after(15):
        while link.up:
            await anyio.sleep(0.01)


async def up(door: Door) -> None:
    link = door.store._runtime.link
    assert link is not None
    with anyio.fail_after(15):
        while not link.up:
            await anyio.sleep(0.01)


@pytest.mark.parametrize("kind", [OAuthStateStore, SyncOAuthStateStore])
async def test_in_an_outage_logins_fail_clearly_and_one_begun_before_completes_after(
    kind: Any, dying: RedisServer
) -> None:
    settings = Settings(redis_url=dying.url, secret_key=KEY)
    door, browser = Door(kind(settings)), Browser()
    state = await door.begin(browser, DATA)
    dying.kill()
    await down(door)
    begun = time.monotonic()
    with pytest.raises(OAuthStateUnavailable) as caught:
        await door.begin(Browser(), DATA)
    with pytest.raises(OAuthStateUnavailable):
        await door.end(browser, state)
    assert time.monotonic() - begun < 4
    assert caught.value.retry_after == 2
    assert "unavailable" in str(caught.value)
    dying.start()
    await up(door)
    assert await door.end(browser, state) == DATA
    assert await door.end(browser, state) is None


async def test_the_error_of_an_outage_is_the_503_of_each_framework(dying: RedisServer) -> None:
    settings = Settings(redis_url=dying.url, secret_key=KEY)
    asgi, wsgi = OAuthStateStore(settings), SyncOAuthStateStore(settings)
    browser = Browser()
    await Door(asgi).begin(browser, {})
    dying.kill()
    await down(Door(asgi))
    with pytest.raises(HTTPException) as asked:
        await asgi.issue(browser.request(Door(asgi)), {})
    assert asked.value.status_code == 503
    assert (asked.value.headers or {})["Retry-After"] == "2"
    assert "unavailable" in str(asked.value)
    assert "unavailable" not in asked.value.detail
    request = WerkzeugRequest(EnvironBuilder().get_environ())
    with pytest.raises(ServiceUnavailable) as raised:
        wsgi.issue(request, {})
    assert isinstance(raised.value, OAuthStateUnavailable)
    assert raised.value.get_response().headers["Retry-After"] == "2"
    assert "unavailable" in str(raised.value)


async def test_a_frozen_redis_is_an_outage_too(fresh_redis: RedisServer) -> None:
    settings = Settings(redis_url=fresh_redis.url, redis_timeout=1, secret_key=KEY)
    door = Door(OAuthStateStore(settings))
    browser = Browser()
    await door.begin(browser, {})
    fresh_redis.freeze()
    try:
        with pytest.raises(OAuthStateUnavailable):
            await door.begin(browser, {})
    finally:
        fresh_redis.thaw()


async def test_the_default_settings_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, redis: RedisServer, key_prefix: str
) -> None:
    monkeypatch.setenv("HOLDFAST_REDIS_URL", redis.url)
    monkeypatch.setenv("HOLDFAST_SECRET_KEY", KEY)
    monkeypatch.setenv("HOLDFAST_KEY_PREFIX", key_prefix)
    browser = Browser()
    await Door(holdfast.OAuthStateStore()).begin(browser, DATA)
    assert len(keys(redis, f"{key_prefix}oauth:")) == 1


def scripts_run(redis: RedisServer) -> int:
    stats = redis.execute("INFO", "commandstats")
    assert isinstance(stats, bytes)
    return sum(
        int(line.partition(b"calls=")[2].partition(b",")[0])
        for line in stats.splitlines()
        if line.startswith((b"cmdstat_evalsha:", b"cmdstat_eval:"))
    )


@pytest.mark.parametrize("kind", [OAuthStateStore, SyncOAuthStateStore])
async def test_each_call_is_one_command_and_a_request_without_our_cookie_none(
    kind: Any, fresh_redis: RedisServer
) -> None:
    door, browser = Door(kind(Settings(redis_url=fresh_redis.url, secret_key=KEY))), Browser()
    await door.end(browser, await door.begin(browser, DATA))
    before = scripts_run(fresh_redis)
    state = await door.begin(browser, DATA)
    assert scripts_run(fresh_redis) == before + 1
    forged = Browser({name: value[::-1] for name, value in browser.cookies.items()})
    for other in (Browser(), forged):
        assert await door.end(other, state) is None
    assert await door.end(browser, "") is None
    assert scripts_run(fresh_redis) == before + 1
    assert await door.end(browser, state) == DATA
    assert scripts_run(fresh_redis) == before + 2
