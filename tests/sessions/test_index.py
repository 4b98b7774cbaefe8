"""The index of a user's sessions, in memory and in Redis, awaited and plain."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from tests.sessions.browser import Browser, Doing

from holdfast.errors import ConfigurationError, SessionUnavailable
from holdfast.runtime import runtime
from holdfast.sessions import users
from holdfast.sessions.choice import default_store
from holdfast.sessions.cookie import new_credential
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.events import SessionCreated
from holdfast.sessions.imports.foreign import Claim, Foreign
from holdfast.sessions.index import SessionIndex, SyncSessionIndex
from holdfast.sessions.outage.entry import Entry
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.session import Session, get_session
from holdfast.sessions.store import Change, Outcome, Record, SessionStore
from holdfast.sessions.stores.calls import Calls
from holdfast.sessions.users import (
    MemoryUserIndex,
    Origin,
    RedisUserIndex,
    SessionInfo,
    perform,
    user_index,
)
from holdfast.settings import Settings

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from holdfast.sessions.store import Missing, SessionKey
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

KEY = "a key of more than sixteen characters"


class Site:
    """An app with users, and everything that a test looks at."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.doing = Doing()
        self.app = SessionMiddleware(self.doing, settings=settings)
        self.index = SessionIndex(settings)
        self.plain = SyncSessionIndex(settings)

    @property
    def store(self) -> SessionStore:
        return default_store(runtime(self.settings))

    async def act(self, browser: Browser, handle: Any, agent: str = "Firefox") -> bytes:
        self.doing.handle = handle
        return (await browser.get(headers=((b"user-agent", agent.encode("latin-1")),))).body

    async def login(self, user: Any, agent: str = "Firefox") -> tuple[Browser, str]:
        """Return a browser in which *user* is logged in, and its session's ``id_hash``."""
        browser = Browser(self.app)
        await self.act(browser, lambda session: session.update(user_id=user), agent)
        return browser, await self.id_of(browser)

    async def id_of(self, browser: Browser) -> str:
        return (await self.act(browser, lambda session: session.id_hash)).decode().strip("'")

    async def data(self, browser: Browser) -> bytes:
        return await self.act(browser, dict)


@pytest.fixture(params=["memory", "redis", "encrypted"])
def settings(request: pytest.FixtureRequest, key_prefix: str) -> Settings:
    if request.param == "memory":
        return Settings(secret_key=KEY, key_prefix=key_prefix)
    redis: RedisServer = request.getfixturevalue("redis")
    more: dict[str, Any] = {"session_encryption_key": KEY} if request.param == "encrypted" else {}
    return Settings(secret_key=KEY, redis_url=redis.url, key_prefix=key_prefix, **more)


@pytest.fixture
def site(settings: Settings) -> Site:
    return Site(settings)


@pytest.fixture
def redis_site(redis: RedisServer, key_prefix: str) -> Site:
    return Site(Settings(secret_key=KEY, redis_url=redis.url, key_prefix=key_prefix))


async def test_a_user_sees_where_he_is_logged_in(site: Site) -> None:
    _, phone = await site.login(7, "Safari on a phone")
    _, desk = await site.login("7", "Firefox\x1b[2J")
    await site.login(8)
    found = {each.id_hash: each for each in await site.index.list(7)}
    assert found.keys() == {phone, desk}
    assert found[phone].user_agent == "Safari on a phone"
    assert found[desk].user_agent == "Firefox?[2J"
    assert found[desk].address is None
    one = found[phone]
    assert one.created_at <= one.last_seen_at < one.expires_at
    assert (one.expires_at - one.created_at).total_seconds() == pytest.approx(1209600, abs=1)
    assert await site.index.list("nobody") == []


async def test_the_plain_index_says_the_same(site: Site) -> None:
    await site.login(7)
    browser, mine = await site.login(7)
    in_a_thread = anyio.to_thread.run_sync
    assert await in_a_thread(site.plain.list, 7) == await site.index.list(7)
    assert await in_a_thread(site.plain.show, mine) == await site.index.show(mine)
    assert await in_a_thread(lambda: site.plain.revoke_all(7, keep=mine)) == 1
    assert await in_a_thread(site.plain.revoke, mine)
    assert not await in_a_thread(site.plain.revoke, mine)
    assert await site.data(browser) == b"{}"
    assert await in_a_thread(site.plain.list, 7) == []


async def test_the_address_is_kept_where_that_is_asked_for(settings: Settings) -> None:
    site = Site(settings.override(session_index_address=True))
    await site.login(7)
    assert [each.address for each in await site.index.list(7)] == ["127.0.0.1"]


async def test_a_revoked_session_is_gone_and_its_late_writer_too(site: Site) -> None:
    browser, id_hash = await site.login(7)

    async def revoked_meanwhile(session: Session) -> None:
        assert await site.index.revoke(id_hash)
        session["late"] = 1

    await site.act(browser, revoked_meanwhile)
    assert await site.data(browser) == b"{}"
    assert await site.index.list(7) == []
    assert not await site.index.revoke(id_hash)


async def test_revoke_all_ends_every_session_but_the_one_to_keep(site: Site) -> None:
    others = [(await site.login(7))[0] for _ in range(3)]
    stranger, _ = await site.login(8)
    mine, keep = await site.login(7)
    assert await site.index.revoke_all(7, keep=keep) == 3
    assert [await site.data(browser) for browser in others] == [b"{}"] * 3
    assert await site.data(mine) == b"{'user_id': 7}"
    assert await site.data(stranger) == b"{'user_id': 8}"
    assert [each.id_hash for each in await site.index.list(7)] == [keep]
    assert await site.index.revoke_all(7) == 1
    assert await site.index.revoke_all(7) == 0


async def test_the_session_to_keep_may_be_given_itself(site: Site) -> None:
    other, _ = await site.login(7)
    mine, _ = await site.login(7)

    async def sign_out_everywhere_else(session: Session) -> None:
        assert await site.index.revoke_all(7, keep=session) == 1
        # As does what a list is made of.
        (only,) = await site.index.list(7)
        plain = partial(site.plain.revoke_all, 7, keep=only)
        assert await anyio.to_thread.run_sync(plain) == 0

    await site.act(mine, sign_out_everywhere_else)
    assert await site.data(mine) == b"{'user_id': 7}"
    assert await site.data(other) == b"{}"


async def test_who_logs_in_as_another_leaves_the_first_ones_list(site: Site) -> None:
    browser, id_hash = await site.login(7)
    await site.act(browser, lambda session: session.update(user_id=8))
    assert await site.index.list(7) == []
    assert [each.id_hash for each in await site.index.list(8)] == [id_hash]


async def test_a_change_of_user_that_came_too_late_leaves_the_lists_as_they_are(site: Site) -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        session.update(user_id=8, seen=1)
        await send({"type": "http.response.body", "body": b""})

    browser, id_hash = await site.login(7)
    await Browser(SessionMiddleware(late, settings=site.settings), browser.cookies).get()
    assert await site.data(browser) == b"{'seen': 1, 'user_id': 7}"
    assert [each.id_hash for each in await site.index.list(7)] == [id_hash]
    assert await site.index.list(8) == []


async def test_a_visitor_is_on_nobodys_list_before_his_login(site: Site) -> None:
    browser = Browser(site.app)
    await site.act(browser, lambda session: session.update(cart=[1]))
    assert await site.index.list("None") == []
    await site.act(browser, lambda session: session.update(user_id=7))
    assert len(await site.index.list(7)) == 1


async def test_a_session_shows_its_keys_and_sizes_and_no_value(site: Site) -> None:
    browser, id_hash = await site.login(7)
    await site.act(browser, lambda session: session.update(secret="hush", cart=[1]))
    shown = await site.index.show(id_hash)
    assert shown is not None
    assert list(shown.sizes) == ["cart", "secret", "user_id"]
    assert shown.sizes["secret"] >= 6
    assert "hush" not in repr(shown)
    assert "Firefox" not in repr((await site.index.list(7))[0])
    assert await site.index.show("0" * 64) is None


def test_no_repr_on_the_way_to_a_store_shows_a_value() -> None:
    key, fields, now = new_credential().key, {"secret": b'"hush"'}, datetime.now(UTC)
    record = Record(fields, 1.0, 2.0, 1.0, 1.0)
    change = Change(fields, renewed={"secret": (b"hush", b"hush")}, expected=fields)
    entry = Entry(*key, key.secret_hash, record, changed=fields)
    calls = Calls("p:")
    told = [
        *(record, change, entry, Session(fields)),
        calls.create(key, fields, max_age=1, idle_timeout=0),
        calls.save(key, change, idle_timeout=0),
        SessionInfo(key.id_hash, now, now, now, "hush", "hush", {"hush": 1}),
        Claim("starlette", "hush", Foreign({"secret": "hush"}, 1.0)),
        Foreign({"secret": "hush"}, 1.0),
        SessionCreated(id_hash=key.id_hash, user="hush"),
    ]
    assert "hush" not in repr(told)


async def test_an_idle_timeout_ends_a_session_on_the_list_too(settings: Settings) -> None:
    site = Site(settings.override(session_idle_timeout=1))
    await site.login(7)
    (found,) = await site.index.list(7)
    assert (found.expires_at - found.last_seen_at).total_seconds() == pytest.approx(1, abs=0.01)
    with anyio.fail_after(10):
        while await site.index.list(7):
            await anyio.sleep(0.05)
    assert await site.index.show(found.id_hash) is None


async def test_what_ended_is_pruned_and_what_is_not_yet_there_is_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, _ = await site.login(7)
    await site.act(browser, Session.invalidate)
    index = user_index(site.store)
    assert index is not None
    assert await site.index.list(7) == []
    _, unborn = await perform(index.link, index.listing("7", 0))
    assert len(unborn) == 1
    monkeypatch.setattr(users, "UNBORN_SECONDS", 0.0)
    assert await site.index.list(7) == []
    assert await perform(index.link, index.listing("7", 0)) == ([], [])


async def test_revoke_all_meets_a_login_that_is_on_its_way(site: Site) -> None:
    index, key = user_index(site.store), new_credential().key
    assert index is not None
    await perform(index.link, index.noting("7", key.id_hash, Origin(), 100))
    assert await site.index.revoke_all(7) == 0
    created = await site.store.create(key, {"user_id": b"7"}, max_age=100)
    assert created is Outcome.GONE


async def test_the_list_of_a_user_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MAX_PER_USER", 3)
    index = user_index(site.store)
    assert index is not None
    for life in (50, 10, 40, 30, 20):
        await perform(index.link, index.noting("7", f"{life:064}", Origin(), life))
    _, unborn = await perform(index.link, index.listing("7", 0))
    # The last comer makes room for itself only if another ends before it.
    assert sorted(int(each) for each in unborn) == [30, 40, 50]


async def test_the_users_of_a_memory_store_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_MAX_USERS", 2)
    site = Site(Settings(secret_key=KEY))
    index = user_index(site.store)
    assert isinstance(index, MemoryUserIndex)
    for user in ("a", "b", "c"):
        await perform(None, index.noting(user, "0" * 64, Origin(), 10))
    assert await perform(None, index.listing("a", 0)) == ([], [])
    assert await perform(None, index.listing("c", 0)) == ([], ["0" * 64])


async def test_the_key_of_an_index_names_no_user_and_ends(
    redis_site: Site, redis: RedisServer, key_prefix: str
) -> None:
    await redis_site.login("kim@example.com")
    name = f"{key_prefix}sessions:{hashlib.sha256(b'kim@example.com').hexdigest()}"
    ask: Any = redis.execute
    assert ask("HLEN", name) == 1
    assert 0 < ask("PTTL", name) <= 1209600_000
    assert b"kim" not in b"".join(ask("HGETALL", name))


async def test_what_others_wrote_there_hides_no_session(
    redis_site: Site, redis: RedisServer, key_prefix: str
) -> None:
    _, id_hash = await redis_site.login(7)
    name = f"{key_prefix}sessions:{hashlib.sha256(b'7').hexdigest()}"
    redis.execute("HSET", name, id_hash, "nothing of ours")
    redis.execute("HSET", name, "another", "1 2 3")
    redis.execute("SET", f"{key_prefix}session:another", "no session")
    assert [each.id_hash for each in await redis_site.index.list(7)] == [id_hash]
    redis.execute("HSET", f"{key_prefix}session:{id_hash}", b"\xffmeta", "of a later version")
    assert await redis_site.index.list(7) == []
    assert await redis_site.index.show(id_hash) is None


async def test_an_index_that_is_no_hash_harms_no_login(
    redis_site: Site, redis: RedisServer, key_prefix: str
) -> None:
    name = f"{key_prefix}sessions:{hashlib.sha256(b'7').hexdigest()}"
    redis.execute("SET", name, "no hash")
    browser, _ = await redis_site.login(7)
    assert await redis_site.data(browser) == b"{'user_id': 7}"
    await redis_site.act(browser, lambda session: session.update(user_id=8))
    assert await redis_site.index.list(7) == []


async def test_while_redis_is_away_nobody_is_told_that_all_were_revoked(
    fresh_redis: RedisServer, key_prefix: str
) -> None:
    url = fresh_redis.url
    site = Site(Settings(secret_key=KEY, redis_url=url, redis_timeout=5, key_prefix=key_prefix))
    _, id_hash = await site.login(7)
    fresh_redis.kill()
    with pytest.raises(SessionUnavailable):
        await site.index.revoke_all(7)
    with pytest.raises(SessionUnavailable):
        await site.index.list(7)
    for call in (site.plain.list, site.plain.revoke_all):
        with pytest.raises(SessionUnavailable):
            await anyio.to_thread.run_sync(call, 7)
    with pytest.raises(SessionUnavailable):
        await anyio.to_thread.run_sync(site.plain.revoke, id_hash)
    # One whose id is known is ended as by its own logout: it waits for Redis to come back.
    assert await site.index.revoke(id_hash)


async def test_a_login_during_an_outage_is_on_the_list_after_it(
    fresh_redis: RedisServer, key_prefix: str
) -> None:
    url = fresh_redis.url
    site = Site(Settings(secret_key=KEY, redis_url=url, redis_timeout=5, key_prefix=key_prefix))
    await site.login(7)
    link = runtime(site.settings).link
    assert link is not None
    fresh_redis.kill()
    with anyio.fail_after(10):
        while link.up:
            await site.login("nobody")
    _, id_hash = await site.login(8, "Firefox in the dark")
    fresh_redis.start()
    with anyio.fail_after(20):
        while not link.up:
            await anyio.sleep(0.02)
    (found,) = await site.index.list(8)
    assert (found.id_hash, found.user_agent) == (id_hash, "Firefox in the dark")


class _Rounds:
    """A recovery that counts how often Redis is asked."""

    def __init__(self) -> None:
        self.count = 0

    def execute(self, *_: Any) -> Any:
        self.count += 1
        return 1

    def run(self, *_: Any) -> Any:
        return self.execute()

    def pipeline(self, commands: Any) -> list[Any]:
        self.count += 1
        return [1 for _ in commands]


async def test_the_logins_of_an_outage_are_noted_many_in_one_round_trip(free_port: int) -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port}", secret_key=KEY)
    store, rounds = FallbackSessionStore(settings), _Rounds()
    index = user_index(store)
    assert isinstance(index, RedisUserIndex)
    for number in range(120):
        index.missed(f"u{number}", f"{number:064x}", Origin.of(None, address=False), 60.0)
    index.replay(rounds)
    assert rounds.count == 3
    index.replay(rounds)
    assert rounds.count == 3


class Outsider(SessionStore):
    """A store that somebody else wrote."""

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        raise NotImplementedError

    async def create(self, *args: Any, **options: Any) -> Outcome:
        raise NotImplementedError

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        raise NotImplementedError

    async def touch(
        self, key: SessionKey, *, idle_timeout: float, interval: float = 0.0
    ) -> Outcome:
        raise NotImplementedError

    async def delete(self, id_hash: str) -> Outcome:
        raise NotImplementedError


def test_another_ones_store_has_no_index_and_says_so() -> None:
    with pytest.raises(ConfigurationError, match="Outsider keeps no index"):
        SessionIndex(Settings(secret_key=KEY), store=Outsider())


async def test_threads_and_loop_may_note_at_once() -> None:
    site = Site(Settings(secret_key=KEY))
    index = user_index(site.store)
    assert index is not None

    def note(first: int) -> None:
        for number in range(first, first + 100):
            users.perform_sync(None, index.noting("7", f"{number:064}", Origin(), 10))

    threads = [threading.Thread(target=note, args=(100 * each,)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    _, unborn = await perform(None, index.listing("7", 0))
    assert len(unborn) == 400
    assert repr(site.index).startswith("<SessionIndex of <MemorySessionStore")
