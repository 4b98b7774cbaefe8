"""One key, changed in one piece: ``incr`` and ``update_with``, by whoever is at it."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.sessions.browser import Browser, CountingStore, Doing

from holdfast.errors import SessionError, SessionTooLarge, SessionTooLate, SessionUnavailable
from holdfast.runtime import runtime
from holdfast.sessions import atomic
from holdfast.sessions.choice import default_store
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.session import Session, get_session
from holdfast.sessions.store import Change, Outcome, SessionKey, SessionStore
from holdfast.sessions.stores.encryption import EncryptedSessionStore
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

KEY = "a key of more than sixteen characters"
SETTINGS = Settings(secret_key=KEY)


@pytest.fixture(params=["memory", "redis", "encrypted"])
def store(request: pytest.FixtureRequest, key_prefix: str) -> SessionStore:
    if request.param == "memory":
        return MemorySessionStore()
    redis: RedisServer = request.getfixturevalue("redis")
    inner = RedisSessionStore(Settings(redis_url=redis.url, key_prefix=key_prefix))
    return EncryptedSessionStore(inner, [KEY]) if request.param == "encrypted" else inner


class Shop:
    """One session, and as many tabs of one browser as a test wants."""

    def __init__(self, store: SessionStore, **settings: Any) -> None:
        self.doing = Doing()
        own = Settings(secret_key=KEY, **settings)
        self.app = SessionMiddleware(self.doing, settings=own, store=store)
        self.browser = Browser(self.app)

    async def do(self, handle: Any) -> Any:
        """Have a request do *handle* with its session; return what that returned."""
        results: list[Any] = []

        async def noting(session: Session) -> None:
            results.append(await handle(session))

        self.doing.handle = noting
        await self.browser.get()
        return results[0]

    async def begin(self, **values: Any) -> None:
        self.doing.handle = lambda session: session.update(values)
        await self.browser.get()

    async def data(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        self.doing.handle = lambda session: found.append(dict(session))
        await self.browser.get()
        return found[0]

    async def at_once(self, handle: Any, times: int) -> None:
        """Have *times* requests do *handle*, all of them loaded before the first writes."""
        loaded, ready = 0, anyio.Event()

        async def together(session: Session) -> None:
            nonlocal loaded
            loaded += 1
            if loaded == times:
                ready.set()
            await ready.wait()
            await handle(session)

        self.doing.handle = together
        async with anyio.create_task_group() as group:
            for _ in range(times):
                group.start_soon(Browser(self.app, dict(self.browser.cookies)).get)


# --- in one piece ---------------------------------------------------------------------------------


async def test_a_hundred_parallel_increments_are_a_hundred(store: SessionStore) -> None:
    shop = Shop(store)
    await shop.begin(name="Zoë")
    times = 20 if isinstance(store, EncryptedSessionStore) else 100
    await shop.at_once(lambda session: session.incr("n"), times)
    assert await shop.data() == {"n": times, "name": "Zoë"}


async def test_parallel_updates_of_a_list_are_all_kept(store: SessionStore) -> None:
    shop = Shop(store)
    await shop.begin(cart=[], other=1)
    numbers = iter(range(30))

    async def add(session: Session) -> None:
        mine = next(numbers)

        def put(cart: list[int]) -> list[int]:
            return [*cart, mine]

        await session.update_with("cart", put)

    await shop.at_once(add, 30)
    data = await shop.data()
    assert sorted(data["cart"]) == list(range(30))
    assert data["other"] == 1


async def test_the_new_value_is_returned_and_seen_in_the_same_request(store: SessionStore) -> None:
    shop = Shop(store)
    await shop.begin(n=5)

    async def handle(session: Session) -> None:
        assert await session.incr("n", 3) == 8
        assert session["n"] == 8
        assert await session.incr("fresh", -2) == -2
        assert await session.incr("half", 0.5) == 0.5
        assert await session.incr("n", 0.25) == 8.25
        assert await session.update_with("list", lambda found: [found]) == [None]
        assert session["list"] == [None]
        assert session.accessed
        assert session.modified

    await shop.do(handle)
    assert await shop.data() == {"n": 8.25, "fresh": -2, "half": 0.5, "list": [None]}


async def test_numbers_beyond_64_bits_are_added_exactly(store: SessionStore) -> None:
    shop = Shop(store)
    await shop.begin(n=2**63 - 1)
    assert await shop.do(lambda session: session.incr("n")) == 2**63
    assert await shop.do(lambda session: session.incr("n", 2**70)) == 2**63 + 2**70
    assert (await shop.data())["n"] == 2**63 + 2**70


@pytest.mark.parametrize("value", ["1", None, True, [1], {"n": 1}])
async def test_only_numbers_are_added_to(store: SessionStore, value: Any) -> None:
    shop = Shop(store)
    await shop.begin(n=value)

    async def handle(session: Session) -> None:
        with pytest.raises(TypeError, match=r"session\['n'\]"):
            await session.incr("n")

    await shop.do(handle)
    assert await shop.data() == {"n": value}


@pytest.mark.parametrize("by", ["1", None, True, [1], math.inf, math.nan, 1j])
async def test_only_numbers_are_added(by: Any) -> None:
    shop = Shop(MemorySessionStore())
    await shop.begin(n=1)

    async def handle(session: Session) -> None:
        with pytest.raises(TypeError):
            await session.incr("n", by)

    await shop.do(handle)
    assert await shop.data() == {"n": 1}


def test_a_sum_that_no_float_holds_is_refused() -> None:
    with pytest.raises(TypeError, match="no number that JSON has"):
        atomic.added("n", 10**400, 0.5)
    with pytest.raises(TypeError, match="no number that JSON has"):
        atomic.added("n", 1e308, 1e308)


async def test_keys_must_be_text() -> None:
    shop = Shop(MemorySessionStore())

    async def handle(session: Session) -> None:
        for key in (1, b"n", None, "\ud800"):
            with pytest.raises(TypeError):
                await session.incr(key)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                await session.update_with(key, str)  # type: ignore[arg-type]

    await shop.do(handle)


async def test_a_function_may_be_a_coroutine_function_and_change_what_it_gets(
    store: SessionStore,
) -> None:
    shop = Shop(store)
    await shop.begin(cart={"a": 1})

    async def add(cart: dict[str, int]) -> dict[str, int]:
        cart["b"] = 2
        return cart

    assert await shop.do(lambda session: session.update_with("cart", add)) == {"a": 1, "b": 2}
    assert await shop.data() == {"cart": {"a": 1, "b": 2}}


async def test_a_function_that_fails_changes_nothing(store: SessionStore) -> None:
    shop = Shop(store)
    await shop.begin(cart=[1])

    def fail(cart: list[int]) -> None:
        cart.append(2)
        raise LookupError

    async def handle(session: Session) -> None:
        with pytest.raises(LookupError):
            await session.update_with("cart", fail)
        with pytest.raises(TypeError, match="cart"):
            await session.update_with("cart", lambda _: {1, 2})
        assert session["cart"] == [1]

    await shop.do(handle)
    assert await shop.data() == {"cart": [1]}


# --- beside what the request does otherwise -------------------------------------------------------


async def test_what_the_request_wrote_before_counts(store: SessionStore) -> None:
    shop = Shop(store)
    await shop.begin(n=1, list=[1], gone=7)

    async def handle(session: Session) -> None:
        session["n"] = 10
        session["list"].append(2)
        del session["gone"]
        assert await session.incr("n") == 11
        assert await session.update_with("list", lambda found: [*found, 3]) == [1, 2, 3]
        assert await session.incr("gone") == 1

    await shop.do(handle)
    assert await shop.data() == {"n": 11, "list": [1, 2, 3], "gone": 1}


async def test_it_is_stored_whatever_becomes_of_the_request(store: SessionStore) -> None:
    shop = Shop(store)
    await shop.begin(n=1)

    async def fail(session: Session) -> None:
        await session.incr("n")
        await session.update_with("list", lambda _: [1])
        session["other"] = 1
        raise LookupError

    shop.doing.handle = fail
    with pytest.raises(LookupError):
        await shop.browser.get()
    assert await shop.data() == {"n": 2, "list": [1]}


async def test_it_costs_one_command_and_the_commit_none() -> None:
    store = CountingStore()
    shop = Shop(store)
    await shop.begin(n=1, text="a")
    store.told()
    await shop.do(lambda session: session.update_with("text", str.upper))
    assert store.told() == ["load", "save ['text'] []"]
    await shop.do(lambda session: session.incr("n"))
    assert store.told() == ["load"]  # and one increment, which it does not count


async def test_a_new_session_takes_both_with_it(store: SessionStore) -> None:
    shop = Shop(store)

    async def handle(session: Session) -> None:
        assert await session.incr("n") == 1
        assert await session.incr("n", 2) == 3
        assert await session.update_with("list", lambda found: [found, 1]) == [None, 1]

    await shop.do(handle)
    assert await shop.data() == {"n": 3, "list": [None, 1]}


async def test_what_follows_invalidate_belongs_to_the_next_session(store: SessionStore) -> None:
    shop = Shop(store)
    await shop.begin(n=5)
    before = dict(shop.browser.cookies)

    async def handle(session: Session) -> Any:
        session.invalidate()
        return await session.incr("n")

    assert await shop.do(handle) == 1
    assert shop.browser.cookies != before
    assert await shop.data() == {"n": 1}
    shop.browser.cookies = before
    assert await shop.data() == {}


async def test_a_new_user_gets_a_new_secret_whichever_way_it_was_written(
    store: SessionStore,
) -> None:
    shop = Shop(store)
    await shop.begin(n=5)
    before = dict(shop.browser.cookies)
    assert await shop.do(lambda session: session.update_with("user_id", lambda _: 7)) == 7
    assert shop.browser.cookies != before
    assert await shop.data() == {"n": 5, "user_id": 7}
    shop.browser.cookies = before
    assert await shop.data() == {}


async def test_a_user_written_before_an_increment_still_gets_a_new_secret(
    store: SessionStore,
) -> None:
    shop = Shop(store)
    await shop.begin(n=5)
    before = dict(shop.browser.cookies)

    async def handle(session: Session) -> None:
        session["user_id"] = 7
        await session.incr("n")

    await shop.do(handle)
    assert shop.browser.cookies != before
    assert await shop.data() == {"n": 6, "user_id": 7}


# --- late, too large, or gone ---------------------------------------------------------------------


def late(handle: Any) -> Any:
    """An application that has *handle* use the session once the response has started."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        session = get_session(scope)
        await handle(session)
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_after_the_response_has_started_they_still_work(store: SessionStore) -> None:
    shop = Shop(store)
    await shop.begin(n=1, list=[])

    async def handle(session: Session) -> None:
        assert await session.incr("n") == 2
        assert await session.update_with("list", lambda found: [*found, 1]) == [1]
        with pytest.raises(SessionTooLate, match="user"):
            await session.update_with("user_id", lambda _: 7)

    streaming = SessionMiddleware(late(handle), settings=SETTINGS, store=store)
    await Browser(streaming, shop.browser.cookies).get()
    assert await shop.data() == {"n": 2, "list": [1]}


async def test_a_new_session_cannot_begin_after_the_response_has_started(
    store: SessionStore,
) -> None:
    async def handle(session: Session) -> None:
        with pytest.raises(SessionTooLate, match="new session"):
            await session.incr("n")
        with pytest.raises(SessionTooLate, match="new session"):
            await session.update_with("n", lambda _: 1)
        assert dict(session) == {}

    answer = await Browser(SessionMiddleware(late(handle), settings=SETTINGS, store=store)).get()
    assert answer.set_cookie is None


async def test_what_would_be_too_large_is_refused_and_the_old_value_kept(
    store: SessionStore,
) -> None:
    shop = Shop(store, session_max_bytes=100)
    await shop.begin(text="a", n=10**9)

    async def handle(session: Session) -> None:
        with pytest.raises(SessionTooLarge):
            await session.update_with("text", lambda found: found * 200)
        session["text"] = "x" * 76
        with pytest.raises(SessionTooLarge):
            await session.incr("another")
        session["text"] = "a"

    await shop.do(handle)
    assert await shop.data() == {"text": "a", "n": 10**9}


async def test_a_logout_in_between_is_not_undone(
    store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(store)
    await shop.begin(n=1)

    async def handle(session: Session) -> None:
        id_hash = session.id_hash
        await store.delete(id_hash)
        assert await session.incr("n") == 2
        assert await session.incr("n") == 3

    with caplog.at_level(logging.INFO, "holdfast.sessions"):
        await shop.do(handle)
    assert "dropped" in caplog.text
    assert await shop.data() == {}

    await shop.begin(text="a")

    async def update(session: Session) -> None:
        await store.delete(session.id_hash)
        assert await session.update_with("text", str.upper) == "A"

    await shop.do(update)
    assert await shop.data() == {}


async def test_an_excluded_path_takes_neither() -> None:
    shop = Shop(MemorySessionStore(), session_exclude=("/",))

    async def handle(session: Session) -> None:
        with pytest.raises(SessionError, match="SESSION_EXCLUDE"):
            await session.incr("n")
        with pytest.raises(SessionError, match="SESSION_EXCLUDE"):
            await session.update_with("n", lambda _: 1)

    await shop.do(handle)


class RestlessStore(MemorySessionStore):
    """A store in which somebody changes every session just before it is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.rival: bytes | None = b"0"
        self.saves = 0

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        if change.expected:
            self.saves += 1
            if self.rival is None:
                await super().delete(key.id_hash)
            else:
                self.rival = b"%d" % (int(self.rival) + 1)
                await super().save(key, Change({"text": self.rival}))
        return await super().save(key, change, idle_timeout=idle_timeout)


async def test_tries_are_bounded_and_the_end_is_told() -> None:
    store = RestlessStore()
    shop = Shop(store)
    await shop.begin(text=0)
    seen: list[int] = []

    def note(found: int) -> str:
        seen.append(found)
        return "mine"

    async def handle(session: Session) -> None:
        with pytest.raises(SessionUnavailable, match="others changed") as raised:
            await session.update_with("text", note)
        assert raised.value.retry_after > 0

    began = time.monotonic()
    await shop.do(handle)
    assert store.saves == atomic.TRIES
    assert seen == list(range(atomic.TRIES))  # each try sees what the last one met
    assert time.monotonic() - began < 10
    assert await shop.data() == {"text": atomic.TRIES}


async def test_a_logout_between_two_tries_ends_them() -> None:
    store = RestlessStore()
    shop = Shop(store)
    await shop.begin(text=0)

    async def handle(session: Session) -> None:
        def log_out(found: int) -> str:
            if found:
                store.rival = None
            return "mine"

        assert await session.update_with("text", log_out) == "mine"

    await shop.do(handle)
    assert await shop.data() == {}


def test_pauses_grow_and_are_bounded() -> None:
    for tried in (0, 5, 10, 99, 10_000):
        assert all(0 <= atomic.pause(tried) <= 0.05 for _ in range(50))
    assert max(atomic.pause(0) for _ in range(50)) <= 0.001
    assert max(atomic.pause(9) for _ in range(50)) > 0.001


# --- while Redis is away --------------------------------------------------------------------------


@pytest.fixture
def kept_redis() -> Iterator[RedisServer]:
    """A Redis that keeps its data when it is killed."""
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


async def gone(settings: Settings) -> None:
    link = runtime(settings).link
    assert link is not None
    with anyio.fail_after(10):
        while link.up:
            await anyio.sleep(0.02)


async def returned(settings: Settings) -> None:
    link = runtime(settings).link
    assert link is not None
    with anyio.fail_after(10):
        while not link.up:
            await anyio.sleep(0.02)


async def test_in_an_outage_they_go_to_the_journal_and_then_to_redis(
    kept_redis: RedisServer,
) -> None:
    settings = Settings(redis_url=kept_redis.url, redis_timeout=5, secret_key=KEY)
    store = default_store(runtime(settings))
    shop = Shop(store)
    await shop.begin(n=1, list=[1])
    kept_redis.kill()
    await shop.data()
    await gone(settings)

    async def handle(session: Session) -> None:
        assert session.degraded == "stale"
        assert await session.incr("n") == 2
        assert await session.update_with("list", lambda found: [*found, 2]) == [1, 2]
        with pytest.raises(TypeError):
            await session.incr("list")

    await shop.do(handle)
    await shop.at_once(lambda session: session.incr("n"), 10)
    assert await shop.data() == {"n": 12, "list": [1, 2]}
    kept_redis.start()
    await returned(settings)
    assert await shop.do(lambda session: session.incr("n")) == 13
    assert await shop.data() == {"n": 13, "list": [1, 2]}


@pytest.mark.parametrize("mode", ["readonly", "closed"])
async def test_where_nothing_may_be_written_they_are_refused(
    fresh_redis: RedisServer, mode: Any
) -> None:
    settings = Settings(
        redis_url=fresh_redis.url, redis_timeout=5, secret_key=KEY, session_on_outage=mode
    )
    shop = Shop(default_store(runtime(settings)), session_on_outage=mode)
    await shop.begin(n=1)
    fresh_redis.kill()
    refused: list[str] = []

    async def handle(session: Session) -> None:
        for verb in (session.incr("n"), session.update_with("n", lambda found: found)):
            try:
                await verb
            except SessionUnavailable as error:
                refused.append(str(error))

    for _ in range(2):  # once while nobody knows of the outage, once when it is known
        shop.doing.handle = handle
        await shop.browser.get()
        await gone(settings)
    assert len(refused) == 4


async def test_a_key_hidden_from_a_stale_copy_is_not_guessed_at(fresh_redis: RedisServer) -> None:
    settings = Settings(
        redis_url=fresh_redis.url,
        redis_timeout=5,
        secret_key=KEY,
        session_fresh_keys=("admin", "unset"),
    )
    shop = Shop(default_store(runtime(settings)), session_fresh_keys=("admin", "unset"))
    await shop.begin(n=1, admin=1)
    fresh_redis.kill()
    await shop.data()
    await gone(settings)

    async def handle(session: Session) -> None:
        for key in ("admin", "unset"):
            with pytest.raises(SessionUnavailable):
                await session.incr(key)
        assert await session.incr("n") == 2

    await shop.do(handle)
