"""What goes wrong with sessions elsewhere and must not here, as far as no other file shows it.

docs/sessions/pitfalls.md is the list, and each row names its tests. Lifetimes are tested on
every store by moving its clock.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.sessions.aging import PATIENCE, age, patient
from tests.sessions.browser import Browser, CountingStore, Doing

from holdfast.errors import CorruptData
from holdfast.sessions.cookie import CookieSigner, new_credential
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.events import on_session_event
from holdfast.sessions.session import Session, get_session
from holdfast.sessions.store import (
    GRACE_SECONDS,
    Change,
    Missing,
    Outcome,
    Record,
    Rotation,
    SessionStore,
)
from holdfast.sessions.stores.calls import Calls
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing import FrozenClock
from holdfast.testing.session_store import new_key, new_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import Message, Receive, Scope, Send

    from holdfast.testing import RedisServer

KEY = "a key of more than sixteen characters"
HOUR = 3600.0


@dataclass
class Shelf:
    """A store whose clock can be moved."""

    store: SessionStore
    advance: Callable[[float], None]

    def browser(self, **settings: Any) -> tuple[Browser, Doing]:
        doing = Doing()
        own = Settings(secret_key=KEY, redis_url="off", **settings)
        return Browser(SessionMiddleware(doing, settings=own, store=self.store)), doing


@pytest.fixture(params=["memory", "redis"])
def shelf(request: pytest.FixtureRequest, key_prefix: str) -> Iterator[Shelf]:
    if request.param == "memory":
        with FrozenClock() as clock:
            yield Shelf(MemorySessionStore(clock=clock), clock.advance)
        return
    redis: RedisServer = request.getfixturevalue("redis")
    store = RedisSessionStore(patient(redis, key_prefix))
    yield Shelf(store, lambda seconds: age(redis, key_prefix, seconds))


def writing(**values: Any) -> Any:
    return lambda session: session.update(values)


# --- ids and secrets -----------------------------------------------------------------------------


async def test_a_thousand_unknown_ids_create_nothing(redis: RedisServer, key_prefix: str) -> None:
    store = RedisSessionStore(patient(redis, key_prefix))
    doing, signer = Doing(), CookieSigner([KEY])
    browser = Browser(SessionMiddleware(doing, settings=Settings(secret_key=KEY), store=store))
    for _ in range(1000):
        answer = await browser.get(cookie=f"session={signer.sign(new_credential())}".encode())
        assert answer.set_cookie is None
    assert redis.execute("KEYS", f"*{key_prefix}session:*") == []


async def test_whatever_an_attacker_tries_is_told(shelf: Shelf) -> None:
    told: list[tuple[str, str | None]] = []
    end = on_session_event(lambda event: told.append((event.name, getattr(event, "reason", None))))
    signer = CookieSigner([KEY])
    browser, doing = shelf.browser()
    doing.handle = writing(a=1)
    await browser.get()
    other = signer.sign(new_credential())
    doing.handle = dict
    for cookie in (other, "x" * len(other), f"{other}; session={browser.cookies['session']}"):
        await browser.get(cookie=f"session={cookie}".encode())
    tab = Browser(browser.app, dict(browser.cookies))

    async def late(session: Session) -> None:
        session["late"] = 1
        doing.handle = Session.invalidate
        await browser.get()

    doing.handle = late
    await tab.get()
    end()
    await tab.get()
    assert told == [
        ("created", None),
        ("unknown", None),
        ("refused", "forged cookie"),
        ("refused", "two cookies"),
        ("destroyed", "invalidated"),
        ("refused", "ended"),
    ]


async def test_a_secret_is_good_for_its_grace_and_no_longer(shelf: Shelf) -> None:
    store, old = shelf.store, new_key()
    new = new_secret(old)
    await store.create(old, {"a": b"1"}, max_age=HOUR)
    await store.save(old, Change(rotation=Rotation(new.secret_hash, grace=GRACE_SECONDS)))
    shelf.advance(GRACE_SECONDS - 1)
    assert isinstance(await store.load(old), Record)
    shelf.advance(1)
    assert await store.load(old) is Missing.ABSENT
    assert await store.save(old, Change({"a": b"2"})) is Outcome.GONE
    assert isinstance(await store.load(new), Record)


async def test_two_renewals_at_once_are_one(shelf: Shelf) -> None:
    browser, doing = shelf.browser(session_rotate_after=60)
    doing.handle = writing(a=1)
    await browser.get()
    shelf.advance(61)
    tab, answers = Browser(browser.app, dict(browser.cookies)), []
    loaded, go_on = anyio.Event(), anyio.Event()

    async def slow(session: Session) -> None:
        session["late"] = 1
        loaded.set()
        await go_on.wait()

    async def first() -> None:
        answers.append(await tab.get())

    async with anyio.create_task_group() as group:
        doing.handle = slow
        group.start_soon(first)
        await loaded.wait()
        doing.handle = dict
        assert (await browser.get()).set_cookie is not None
        go_on.set()
    assert answers[0].set_cookie is None
    assert (await browser.get()).body == b"{'a': 1, 'late': 1}"


async def test_a_session_remembers_four_old_secrets_at_most(
    redis: RedisServer, key_prefix: str
) -> None:
    store = RedisSessionStore(patient(redis, key_prefix))
    key = new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    for grace in (0.0, GRACE_SECONDS) * 5:
        following = new_secret(key)
        await store.save(key, Change(rotation=Rotation(following.secret_hash, grace=grace)))
        key = following
    old = redis.execute("HGET", f"{key_prefix}session:{key.id_hash}", b"\xffold")
    assert isinstance(old, bytes)
    # What the last rotation replaced is no secret that opens anything.
    assert old.partition(b";|")[0].count(b":") == 2 * 4
    assert old.count(b":") == 2 * 4
    assert isinstance(await store.load(key), Record)


# --- what was ended stays ended ------------------------------------------------------------------


async def test_a_session_emptied_leaves_a_tombstone(shelf: Shelf) -> None:
    store, key = shelf.store, new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    assert await store.save(key, Change(removed=("a",))) is Outcome.DESTROYED
    assert await store.create(key, {"a": b"1"}, max_age=HOUR) is Outcome.GONE
    assert await store.create(new_secret(key), {"a": b"1"}, max_age=HOUR) is Outcome.GONE


async def test_a_session_that_ends_between_load_and_save_is_not_revived(shelf: Shelf) -> None:
    browser, doing = shelf.browser(session_max_age=100)
    doing.handle = writing(a=1)
    await browser.get()
    kept = dict(browser.cookies)

    def expire(session: Session) -> None:
        shelf.advance(101)
        session["late"] = 1

    doing.handle = expire
    answer = await browser.get()
    assert (answer.status, answer.set_cookie) == (200, None)
    key = CookieSigner([KEY]).verify(kept["session"].encode())
    assert key
    assert isinstance(await shelf.store.load(key.credential.key), Missing)
    doing.handle = dict
    assert (await browser.get()).body == b"{}"


def test_what_expired_while_it_waited_is_not_created(redis: RedisServer, key_prefix: str) -> None:
    store = RedisSessionStore(patient(redis, key_prefix))
    call = Calls(key_prefix).create(
        new_key(), {"a": b"1"}, max_age=100.0, idle_timeout=0.0, age=100.0
    )
    assert store.link.run_sync(*call) == -1
    assert redis.execute("EXISTS", call.keys[0]) == 0


# --- lifetimes -----------------------------------------------------------------------------------


async def test_an_idle_session_ends_to_the_second_and_activity_keeps_it(shelf: Shelf) -> None:
    browser, doing = shelf.browser(session_idle_timeout=100, session_touch_interval=10)
    doing.handle = writing(a=1)
    await browser.get()
    doing.handle = dict
    for _ in range(4):
        shelf.advance(99)
        assert (await browser.get()).body == b"{'a': 1}"
    shelf.advance(100)
    assert (await browser.get()).body == b"{}"


async def test_an_idle_timeout_cut_short_counts_for_sessions_that_exist(shelf: Shelf) -> None:
    store, key = shelf.store, new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    shelf.advance(60)
    assert isinstance(await store.load(key, idle_timeout=61), Record)
    assert isinstance(await store.load(key, idle_timeout=60), Missing)


async def test_no_activity_and_no_forged_max_age_outlives_the_absolute_end(shelf: Shelf) -> None:
    browser, doing = shelf.browser(session_max_age=100, session_idle_timeout=90)
    doing.handle = writing(n=0)
    await browser.get()
    for second in (30, 60, 90):
        shelf.advance(30)
        doing.handle = writing(n=second)
        answer = await browser.get()
        assert answer.set_cookie is None
    shelf.advance(10)
    # A browser may keep a cookie for as long as it likes.
    doing.handle = dict
    assert (await browser.get()).body == b"{}"


# --- data ----------------------------------------------------------------------------------------


async def test_a_number_that_became_a_truth_value_is_a_change(shelf: Shelf) -> None:
    browser, doing = shelf.browser()
    doing.handle = writing(n=1, m=1.0, box=[1])
    await browser.get()
    doing.handle = lambda session: (
        session.update(n=True, m=1),
        session["box"].__setitem__(0, True),
    )
    await browser.get()
    doing.handle = dict
    assert (await browser.get()).body == b"{'box': [True], 'm': 1, 'n': True}"


async def test_a_session_of_a_later_version_is_corrupt_and_left_alone(
    redis: RedisServer, key_prefix: str
) -> None:
    store = RedisSessionStore(patient(redis, key_prefix))
    key = new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    name = f"{key_prefix}session:{key.id_hash}"
    meta = redis.execute("HGET", name, b"\xffmeta")
    assert isinstance(meta, bytes)
    redis.execute("HSET", name, b"\xffmeta", b"2" + meta[1:])
    before = redis.execute("DUMP", name)
    for call in (store.load(key), store.save(key, Change({"a": b"2"}))):
        with pytest.raises(CorruptData):
            await call
    assert redis.execute("DUMP", name) == before


# --- messages, loops and cancelled requests ------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 304, 301])
async def test_the_cookie_is_on_the_final_answer_alone(status: int) -> None:
    hint: Message = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope)["a"] = 1
        await send(dict(hint))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    store = CountingStore()
    settings = Settings(secret_key=KEY)
    answer = await Browser(SessionMiddleware(app, settings=settings, store=store)).get()
    assert answer.messages[0] == hint
    assert (answer.status, len(answer.all("set-cookie"))) == (status, 1)
    assert answer.messages[-1] == {"type": "http.response.body", "body": b""}
    assert store.told() == ["create"]


async def test_whenever_requests_are_cancelled_the_next_ones_get_their_own_data(
    shelf: Shelf,
) -> None:
    browsers = []
    for number in range(10):
        browser, doing = shelf.browser()
        doing.handle = writing(who=number)
        await browser.get()
        browsers.append((browser, doing))
    chance = random.Random(42)

    async def hurried(browser: Browser, patience: float) -> None:
        with anyio.move_on_after(patience):
            await Browser(browser.app, dict(browser.cookies)).get()

    for _ in range(20):
        async with anyio.create_task_group() as group:
            for browser, doing in browsers:
                doing.handle = writing(n=chance.random())
                group.start_soon(hurried, browser, chance.random() / 300)
    for number, (browser, doing) in enumerate(browsers):
        doing.handle = lambda session: session["who"]
        assert (await browser.get()).body == str(number).encode()


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_one_middleware_serves_many_loops_in_many_threads(
    kind: str, redis: RedisServer, key_prefix: str
) -> None:
    url = redis.url if kind == "redis" else "off"
    settings = Settings(
        secret_key=KEY, redis_url=url, key_prefix=key_prefix, redis_timeout=PATIENCE
    )
    doing = Doing()
    doing.handle = lambda session: session.setdefault("n", 0)
    app = SessionMiddleware(doing, settings=settings)
    bodies: list[bytes] = []

    def serve() -> None:
        browser = Browser(app)
        # Every run is a loop of its own, closed afterwards.
        bodies.extend(anyio.run(browser.get).body for _ in range(5))
        assert len(browser.cookies) == 1

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert bodies == [b"0"] * 20


def test_the_middleware_serves_trio() -> None:
    doing = Doing()
    doing.handle = writing(a=1)
    app = SessionMiddleware(doing, settings=Settings(secret_key=KEY), store=MemorySessionStore())

    async def visits() -> bytes:
        browser = Browser(app)
        await browser.get()
        doing.handle = dict
        return (await browser.get()).body

    assert anyio.run(visits, backend="trio") == b"{'a': 1}"
