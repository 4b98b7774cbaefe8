"""A new cookie that one process gave out, perhaps to nobody, as another process sees it.

The one that was asked for it lost the answer, and takes it back as soon as it can. Until then the
other must neither open the session nor call it over: what it acknowledged then would be lost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.frameworks.wsgi_client import answer_of, environ_of
from tests.sessions.browser import Browser
from tests.sessions.outage import (
    HOUR,
    Outage,
    away,
    back,
    fields_of,
    session_keys,
    settings_for,
    until,
)

from holdfast import WSGISessionMiddleware
from holdfast.errors import SessionUnavailable, SessionUnsettled
from holdfast.link import supervisor
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.store import (
    GRACE_SECONDS,
    Change,
    Missing,
    Outcome,
    Rotation,
    SessionKey,
)
from holdfast.sessions.stores.calls import Calls
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.testing import FaultProxy
from holdfast.testing.session_store import new_key, new_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.testing import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_link")]


@pytest.fixture
def proxy(fresh_redis: RedisServer) -> Iterator[FaultProxy]:
    """The way that one of two processes has to it."""
    with FaultProxy.threaded("127.0.0.1", fresh_redis.port) as proxy:
        yield proxy


class TwoProcesses:
    """One loses Redis while it changes a cookie, the other does not.

    Attributes:
        cut: the one that loses it.
        well: the other.
        cookies: of the browser.
    """

    def __init__(self, redis: RedisServer, proxy: FaultProxy, mode: str) -> None:
        self.redis, self._proxy = redis, proxy
        self.cut = Outage(redis, redis_url=proxy.url, session_on_outage=mode, redis_timeout=1.5)
        self.well = Outage(redis, session_on_outage=mode)
        self.cookies: dict[str, str] = {}

    async def begin(self, **values: Any) -> None:
        """Begin a session with *values*, and have both know it."""
        await self.well.do(lambda session: session.update(values, cart=[0]))
        self.cookies = dict(self.well.browser.cookies)
        # Redis knows the script then, and does not ask for it first.
        for at in (self.well, self.cut):
            assert (await self.ask(at, lambda session: session.update(cart=[1])))[0] == 200

    async def ask(self, at: Outage, handle: Any) -> tuple[int, bytes]:
        """Have *handle* use the session at one of them; the cookie must stay as it was."""
        browser = Browser(at.app, dict(self.cookies))
        at.doing.handle = handle
        answer = await browser.get()
        assert browser.cookies == self.cookies
        return answer.status, answer.body

    async def refuse(self, handle: Any) -> None:
        """Have Redis carry out what *handle* did, and its answer be lost."""

        def lose_the_answer(session: Any) -> None:
            self._proxy.blackhole("replies")
            handle(session)

        status, _ = await self.ask(self.cut, lose_the_answer)
        assert status == 503
        # Nothing is on its way, and so nothing is to be waited for.
        self.well.store._patience = 0.05
        await until(lambda: not self.cut.store.link.up)

    async def heal(self) -> None:
        """Give the one its Redis back."""
        self._proxy.heal()
        await back(self.cut.settings)
        # It takes back what it refused before it serves, and once more after.
        await until(lambda: not self.cut.store._recovery.replayed)


def rotate(session: Any) -> None:
    session.regenerate_id()


def write(session: Any) -> None:
    session["cart"] = [2]


def log_in(session: Any) -> None:
    session["user_id"] = 7


def log_out(session: Any) -> None:
    session.pop("user_id")


@pytest.mark.parametrize("mode", ["closed", "readonly"])
async def test_nothing_is_acknowledged_until_the_one_that_rotated_takes_it_back(
    fresh_redis: RedisServer, proxy: FaultProxy, mode: str
) -> None:
    both = TwoProcesses(fresh_redis, proxy, mode)
    await both.begin()
    await both.refuse(rotate)
    for handle in (write, rotate, log_in, lambda session: session.incr("n")):
        assert (await both.ask(both.well, handle))[0] == 503
    status, body = await both.ask(both.well, lambda session: (session.available, dict(session)))
    assert (status, body) == ((503, body) if mode == "closed" else (200, b"(False, {})"))
    await both.heal()
    for each in (both.well, both.cut):
        assert await both.ask(each, dict) == (200, b"{'cart': [1]}")
    assert (await both.ask(both.well, write))[0] == 200
    assert await both.ask(both.cut, dict) == (200, b"{'cart': [2]}")


async def test_who_was_logged_out_by_what_was_refused_can_log_in_as_soon_as_it_is_known(
    fresh_redis: RedisServer, proxy: FaultProxy
) -> None:
    both = TwoProcesses(fresh_redis, proxy, "closed")
    await both.begin(user_id=7)
    await both.refuse(log_out)
    for handle in (dict, write, log_in):
        assert (await both.ask(both.well, handle))[0] == 503
    await both.heal()
    assert session_keys(fresh_redis) == []
    for each in (both.well, both.cut):
        assert await both.ask(each, dict) == (200, b"{}")
    browser = Browser(both.well.app, dict(both.cookies))
    both.well.doing.handle = log_in
    assert (await browser.get()).status == 200
    assert browser.cookies != both.cookies
    told = Browser(both.cut.app, browser.cookies)
    assert await both.cut.do(dict, told) == b"{'user_id': 7}"


async def test_a_write_that_meets_a_rotation_on_its_way_is_answered_as_after_it(
    fresh_redis: RedisServer, proxy: FaultProxy
) -> None:
    both = TwoProcesses(fresh_redis, proxy, "closed")
    await both.begin()
    # The answer is only late: the other waits for what comes of it.
    proxy.delay(0.1)
    browser = Browser(both.cut.app, dict(both.cookies))
    both.cut.doing.handle = rotate
    rotating = asyncio.create_task(browser.get())
    meta = fresh_redis.execute("HGET", session_keys(fresh_redis)[0], b"\xffmeta")
    await until(
        lambda: fresh_redis.execute("HGET", session_keys(fresh_redis)[0], b"\xffmeta") != meta
    )
    seen: list[dict[str, Any]] = []

    def write_and_tell(session: Any) -> None:
        seen.append(dict(session))
        write(session)

    assert (await both.ask(both.well, write_and_tell))[0] == 200
    assert seen == [{}]
    assert (await rotating).status == 200
    told = Browser(both.well.app, browser.cookies)
    assert await both.well.do(dict, told) == b"{'cart': [1]}"


async def test_the_old_cookie_is_known_to_be_over_once_the_new_one_is_told(
    fresh_redis: RedisServer, proxy: FaultProxy
) -> None:
    both = TwoProcesses(fresh_redis, proxy, "closed")
    await both.begin()
    browser = Browser(both.cut.app, dict(both.cookies))
    assert await both.cut.do(rotate, browser) == b"None"
    # Nobody has come with the new one yet.
    for each in (both.well, both.cut):
        assert await both.ask(each, dict) == (200, b"{}")
        assert (await both.ask(each, write))[0] == 200
    told = Browser(both.well.app, browser.cookies)
    assert await both.well.do(dict, told) == b"{'cart': [1]}"


# --- what the scripts say -------------------------------------------------------------------------


@pytest.fixture
def replaced(fresh_redis: RedisServer) -> Replaced:
    return Replaced(fresh_redis)


class Replaced:
    """A session whose secret was replaced, by a process that says nothing more.

    Attributes:
        key, after: before it and after it.
    """

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.store = RedisSessionStore(settings_for(redis))
        self.key = new_key()
        self.after = new_secret(self.key)

    async def begin(self, *, final: bool = False, kept: bool = True, twice: bool = False) -> None:
        """Have it replaced; *twice*, as by one who lost the first answer."""
        await self.store.create(self.key, {"cart": b"1", "n": b"1"}, max_age=HOUR)
        await self.rotate(final=final, kept=kept or twice)
        if twice:
            await self.rotate(final=final, kept=kept)

    async def rotate(self, *, final: bool = False, kept: bool = True) -> None:
        rotation = Rotation(self.after.secret_hash, final=final, kept=kept)
        call = Calls("").save(self.key, Change({"n": b"2"}, rotation=rotation), idle_timeout=0.0)
        assert await self.store.link.run(*call) == 1


async def test_where_copies_are_served_an_unsettled_session_is_not(replaced: Replaced) -> None:
    settings = settings_for(replaced.redis)
    store, key = FallbackSessionStore(settings), replaced.key
    store._patience = 0.01
    await replaced.begin()
    await replaced.store.link.run(*Calls("").take_back(*replaced.after))
    assert fields_of(await store.load(key)) == {"cart": b"1", "n": b"1"}
    await replaced.rotate()
    with pytest.raises(SessionUnsettled):
        await store.load(key)
    # Nor is it if Redis goes away: what is known here may be over.
    with pytest.raises(SessionUnavailable):
        store._known.load(key, 0.0)
    with pytest.raises(SessionUnsettled):
        await store.save(key, Change({"cart": b"2"}))
    with pytest.raises(SessionUnsettled):
        await store.increment(key, "n", 1)
    # A reader is not turned away for the sake of a timestamp.
    assert await store.touch(key, idle_timeout=60.0) is Outcome.DONE
    assert store.waiting == 0
    assert fields_of(await store.load(replaced.after)) == {"cart": b"1", "n": b"2"}


@pytest.mark.parametrize("twice", [False, True], ids=["made once", "and again"])
async def test_a_rotation_that_nobody_would_take_back_leaves_nothing_open(
    replaced: Replaced, twice: bool
) -> None:
    await replaced.begin(kept=False, twice=twice)
    assert await replaced.store.load(replaced.key) is Missing.SUPERSEDED
    assert await replaced.store.save(replaced.key, Change({"n": b"3"})) is Outcome.GONE
    assert await replaced.store.link.run(*Calls("").take_back(*replaced.after)) == 0


async def test_what_is_settled_is_the_last_secret_and_no_other(replaced: Replaced) -> None:
    await replaced.begin()
    settle, run = Calls("").settle, replaced.store.link.run
    assert await run(*settle(*replaced.key)) == 0
    assert await run(*settle(*new_key())) == 0
    with pytest.raises(SessionUnsettled):
        await replaced.store.load(replaced.key)
    assert await run(*settle(*replaced.after)) == 1
    assert await replaced.store.load(replaced.key) is Missing.SUPERSEDED


async def test_a_logout_that_nobody_heard_of_is_open_until_it_is_carried_to_its_end(
    replaced: Replaced,
) -> None:
    await replaced.begin(final=True)
    for ask in (
        lambda: replaced.store.load(replaced.key),
        lambda: replaced.store.save(replaced.key, Change({"n": b"3"})),
        lambda: replaced.store.increment(replaced.key, "n", 1),
        lambda: replaced.store.touch(replaced.key, idle_timeout=60.0),
    ):
        with pytest.raises(SessionUnsettled):
            await ask()
    assert await replaced.store.link.run(*Calls("").take_back(*replaced.after)) == 1
    for key in (replaced.key, replaced.after):
        assert await replaced.store.load(key) is Missing.ABSENT
        assert await replaced.store.create(key, {"n": b"4"}, max_age=HOUR) is Outcome.GONE


async def test_an_older_secret_is_open_where_its_grace_would_come_back(
    replaced: Replaced,
) -> None:
    oldest, present = new_key(), replaced
    await present.store.create(oldest, {"cart": b"1"}, max_age=HOUR)
    middle, newest = new_secret(oldest), new_secret(oldest)
    renewal = Rotation(middle.secret_hash, grace=GRACE_SECONDS)
    await present.store.save(oldest, Change(rotation=renewal))
    killing = Change(rotation=Rotation(newest.secret_hash, kept=True))
    await present.store.link.run(*Calls("").save(middle, killing, idle_timeout=0.0))
    for key in (oldest, middle):
        with pytest.raises(SessionUnsettled):
            await present.store.load(key)
        with pytest.raises(SessionUnsettled):
            await present.store.save(key, Change({"n": b"1"}))
    # What was dead before is dead still.
    last = Change(rotation=Rotation(new_secret(oldest).secret_hash, kept=True))
    await present.store.link.run(*Calls("").settle(*newest))
    await present.store.link.run(*Calls("").save(newest, last, idle_timeout=0.0))
    for key in (oldest, middle):
        assert await present.store.load(key) is Missing.SUPERSEDED
        assert await present.store.save(key, Change({"n": b"1"})) is Outcome.GONE
    with pytest.raises(SessionUnsettled):
        await present.store.load(newest)


async def replaced_in_an_outage(
    replaced: Replaced, proxy: FaultProxy, change: Change
) -> FallbackSessionStore:
    """Return a store where *change* waits, of an outage in which another replaced the secret."""
    settings = settings_for(replaced.redis, redis_url=proxy.url)
    store = FallbackSessionStore(settings)
    store._patience = 0.01
    await replaced.begin()
    await replaced.store.link.run(*Calls("").take_back(*replaced.after))
    await store.load(replaced.key)
    proxy.refuse()
    await away(settings)
    assert await store.save(replaced.key, change) is Outcome.DONE
    await replaced.rotate()
    proxy.heal()
    await back(settings)
    await until(lambda: not store._recovery.replayed)
    assert store.waiting == 1
    return store


async def test_what_waits_for_an_unsettled_session_waits_until_it_is_settled(
    replaced: Replaced, proxy: FaultProxy
) -> None:
    store, key = await replaced_in_an_outage(replaced, proxy, Change({"cart": b"2"})), replaced.key
    with pytest.raises(SessionUnsettled):
        await store.load(key)
    assert store.waiting == 1
    await replaced.store.link.run(*Calls("").take_back(*replaced.after))
    assert fields_of(await store.load(key)) == {"cart": b"2", "n": b"1"}
    assert store.waiting == 0


async def test_a_new_secret_that_waits_for_an_unsettled_session_is_written_by_itself(
    replaced: Replaced, proxy: FaultProxy
) -> None:
    newest = new_secret(replaced.key)
    change = Change({"cart": b"2"}, rotation=Rotation(newest.secret_hash))
    store = await replaced_in_an_outage(replaced, proxy, change)
    await replaced.store.link.run(*Calls("").take_back(*replaced.after))
    # By the beat, though nobody comes.
    await until(lambda: store.waiting == 0)
    assert fields_of(await replaced.store.load(newest)) == {"cart": b"2", "n": b"1"}


async def test_who_waits_for_an_unsettled_session_has_it_as_soon_as_it_is_refused_here(
    replaced: Replaced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BEAT_INTERVAL", 60.0)
    store = FallbackSessionStore(settings_for(replaced.redis))
    await replaced.begin()
    late = asyncio.create_task(store.load(replaced.key))
    await asyncio.sleep(0.02)
    store._rotations.refuse(replaced.key.id_hash, Rotation(replaced.after.secret_hash))
    assert fields_of(await late) == {"cart": b"1", "n": b"1"}


@pytest.mark.parametrize("wsgi", [False, True], ids=["asgi", "wsgi"])
async def test_a_rotation_that_another_overtook_does_not_end_the_session(
    fresh_redis: RedisServer, wsgi: bool
) -> None:
    outage = Outage(fresh_redis, session_on_outage="closed")
    await outage.do(lambda session: session.update(cart=[1]))
    outage.store._patience = 0.01
    (name,) = session_keys(fresh_redis)
    meta = fresh_redis.execute("HGET", name, b"\xffmeta")
    assert isinstance(meta, bytes)
    key = SessionKey(name.decode().removeprefix("session:"), meta.split(b" ")[1].decode())
    newer = Change(rotation=Rotation(new_secret(key).secret_hash, kept=True))
    other = RedisSessionStore(outage.settings)
    call = Calls("").save(key, newer, idle_timeout=0.0)

    async def overtaken(session: Any) -> None:
        await other.link.run(*call)
        session.regenerate_id()
        await session.save()

    def overtaken_in_a_thread(environ: Any, start: Any) -> list[bytes]:
        session = environ["holdfast.session"]
        dict(session)
        other.link.run_sync(*call)
        session.regenerate_id()
        session.save()
        raise AssertionError

    if wsgi:
        app = WSGISessionMiddleware(overtaken_in_a_thread, settings=outage.settings)
        (cookie,) = outage.browser.cookies.items()
        environ = environ_of("/", "=".join(cookie))
        answer = await asyncio.to_thread(answer_of, app, environ)
        assert answer.code == 503
    else:
        outage.doing.handle = overtaken
        assert (await outage.browser.get()).status == 503
    assert session_keys(fresh_redis) == [name]


async def test_who_was_logged_out_by_what_was_refused_is_not_shown_from_a_copy(
    fresh_redis: RedisServer, proxy: FaultProxy
) -> None:
    both = TwoProcesses(fresh_redis, proxy, "readonly")
    await both.begin(user_id=7)
    look = lambda session: (session.available, dict(session))  # noqa: E731
    assert await both.ask(both.cut, look) == (200, b"(True, {'cart': [1], 'user_id': 7})")
    await both.refuse(log_out)
    assert await both.ask(both.cut, look) == (200, b"(False, {})")
