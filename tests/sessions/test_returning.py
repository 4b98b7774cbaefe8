"""What a Redis that comes back has lost, what it is given back, and whose word counts.

The pauses of the link are cut short here: what they bound is tested in tests/link.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.sessions.browser import Browser
from tests.sessions.outage import HOUR, KEY, Outage, away, back, fields_of, settings_for, until

from holdfast import SessionIndex, SyncSessionIndex
from holdfast.errors import SessionUnavailable
from holdfast.runtime import runtime
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.outage.presence import Census, Loss, loss
from holdfast.sessions.outage.restoration import restorable_since
from holdfast.sessions.session import Session
from holdfast.sessions.store import Change, Missing, Outcome, Record, Rotation
from holdfast.sessions.stores.calls import Calls
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing import FaultProxy, redis_server
from holdfast.testing.session_store import new_key, new_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.testing import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_link")]


@pytest.fixture
def forgetful() -> Iterator[RedisServer]:
    """A Redis that keeps what was there at its last ``SAVE``, and nothing without one."""
    with redis_server() as server:
        yield server


async def beats(redis: RedisServer) -> None:
    """Wait for the process to say once more that it is there."""

    def said() -> list[bytes]:
        found = redis.execute("HVALS", "holdfast:processes")
        assert isinstance(found, list)
        return [each for each in found if isinstance(each, bytes) and each.isdigit()]

    await until(lambda: bool(said()))
    before = said()
    await until(lambda: said() != before)


# --- what is lost ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (Census(b"e", b"r", 70, 0, 80), Loss.NONE),
        (Census(b"e", b"r", None, 0, 80), Loss.NONE),
        (Census(b"e", b"s", 70, 0, 80), Loss.LAST),
        (Census(b"e", b"s", 75, 0, 80), Loss.LAST),
        (Census(b"e", b"s", 60, 0, 80), Loss.LATER),
        (Census(b"e", b"s", None, 0, 80), Loss.LATER),
        (Census(b"e", b"", 70, 0, 80), Loss.LAST),
        (Census(b"f", b"s", None, 0, 80), Loss.EVERYTHING),
        (Census(b"f", b"", None, 0, 80), Loss.EVERYTHING),
        (Census(b"f", b"r", None, 0, 80), Loss.EMPTIED),
    ],
)
def test_what_is_lost_is_told_by_three_marks(now: Census, expected: Loss) -> None:
    assert loss(Census(b"e", b"r", None, 0, 70), now) is expected
    assert loss(None, now) is Loss.NONE


def test_what_is_put_back_depends_on_what_is_lost() -> None:
    assert restorable_since(Loss.NONE, 100.0, 1000.0) is None
    assert restorable_since(Loss.LAST, 100.0, 1000.0) is None
    assert restorable_since(Loss.EVERYTHING, 100.0, 9000.0) == 100.0
    assert restorable_since(Loss.EMPTIED, 100.0, 9000.0) == 100.0
    assert restorable_since(Loss.LATER, 100.0, 1000.0) == 100.0
    assert restorable_since(Loss.LATER, 100.0, 9000.0) == 5400.0


@pytest.mark.parametrize("mode", ["local", "readonly"])
async def test_a_redis_that_comes_back_empty_gets_its_sessions_back(
    forgetful: RedisServer, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(forgetful, redis_timeout=5, session_on_outage=mode)
    await outage.log_in()
    gone = RedisSessionStore(outage.settings)
    ended = new_key()
    await outage.store.create(ended, {"a": b"1"}, max_age=HOUR)
    await outage.store.delete(ended.id_hash)
    await outage.begin()
    await outage.end()
    assert await outage.seen_by_another_process() == b"{'cart': [1], 'user_id': 7}"
    assert await outage.do(dict) == b"{'cart': [1], 'user_id': 7}"
    assert await gone.create(ended, {"a": b"1"}, max_age=HOUR) is Outcome.GONE
    assert "came back without all that it held" in caplog.text


async def test_what_an_outage_did_survives_a_redis_that_comes_back_empty(
    forgetful: RedisServer,
) -> None:
    outage = Outage(forgetful, redis_timeout=5)
    await outage.log_in()
    leaving, renewed, born = (Browser(outage.app) for _ in range(3))
    for browser in (leaving, renewed):
        await outage.do(lambda s: s.update(a=1), browser)
        assert await outage.do(dict, browser) == b"{'a': 1}"
    old = [Browser(outage.app, dict(each.cookies)) for each in (leaving, renewed)]
    await outage.begin()
    await outage.do(lambda s: s["cart"].append(2))
    await outage.do(Session.invalidate, leaving)
    await outage.do(Session.regenerate_id, renewed)
    await outage.do(lambda s: s.update(b=1), born)
    await outage.end()
    assert await outage.do(lambda s: (dict(s), s.degraded)) == (
        b"({'cart': [1, 2], 'user_id': 7}, None)"
    )
    assert await outage.do(dict, renewed) == b"{'a': 1}"
    assert await outage.do(dict, born) == b"{'b': 1}"
    for browser in old:
        assert await outage.do(dict, browser) == b"{}"


async def test_a_redis_that_comes_back_older_undoes_no_login_and_no_logout(
    forgetful: RedisServer,
) -> None:
    outage = Outage(forgetful, redis_timeout=5)
    await outage.log_in()
    leaving, renewed, late = (Browser(outage.app) for _ in range(3))
    for browser in (leaving, renewed):
        await outage.do(lambda s: s.update(a=1), browser)
    stolen = [Browser(outage.app, dict(each.cookies)) for each in (leaving, renewed)]
    forgetful.execute("SAVE")
    await outage.do(Session.invalidate, leaving)
    await outage.do(Session.regenerate_id, renewed)
    await outage.do(lambda s: s.update(b=1), late)
    await beats(forgetful)
    await outage.begin()
    await outage.end()
    assert await outage.do(dict, renewed) == b"{'a': 1}"
    assert await outage.do(dict, late) == b"{'b': 1}"
    for browser in stolen:
        assert await outage.do(dict, browser) == b"{}"
    assert await outage.do(dict) == b"{'cart': [1], 'user_id': 7}"


async def test_a_tombstone_and_a_newer_secret_are_stronger_than_a_copy(
    redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(redis_url=redis.url, redis_timeout=5, secret_key=KEY, key_prefix=key_prefix)
    store, restore = RedisSessionStore(settings), Calls(key_prefix).restore
    ended, rotated, other, there = new_key(), new_key(), new_key(), new_key()
    now = time.time()
    copy = Record({"a": b"1"}, now - 60, now + 60, now - 50, now - 60)
    for key in (ended, rotated, there):
        await store.create(key, {"a": b"2"}, max_age=HOUR)
    await store.delete(ended.id_hash)
    newer = new_secret(rotated)
    await store.save(rotated, Change(rotation=Rotation(newer.secret_hash)))
    redis.execute("SET", f"{key_prefix}session:{other.id_hash}", "another's")
    for key, told in ((ended, -1), (rotated, 0), (other, 0), (there, 0)):
        assert await store.link.run(*restore(key, copy, now)) == told
    assert await store.load(ended) is Missing.ABSENT
    assert await store.load(rotated) is Missing.SUPERSEDED
    for key in (newer, there):
        assert fields_of(await store.load(key)) == {"a": b"2"}
    # A copy that knows of the newer secret is believed, and the older one killed.
    newest = new_secret(rotated)
    late = copy._replace(secret_since=time.time() + 5)
    assert await store.link.run(*restore(newest, late, now)) == 1
    assert fields_of(await store.load(newest)) == {"a": b"1"}
    assert await store.load(newer) is Missing.SUPERSEDED
    over = copy._replace(expires_at=now - 1)
    assert await store.link.run(*restore(new_key(), over, now)) == -1


async def test_what_is_put_back_lives_no_longer_for_it(forgetful: RedisServer) -> None:
    settings = settings_for(forgetful, redis_timeout=5)
    store, key = FallbackSessionStore(settings), new_key()
    await store.create(key, {"a": b"1"}, max_age=60)
    before = await store.load(key)
    forgetful.kill()
    await away(settings)
    forgetful.start()
    await back(settings)
    after = await RedisSessionStore(settings).load(key)
    assert isinstance(before, Record)
    assert isinstance(after, Record)
    for name in ("created_at", "expires_at", "seen_at", "secret_since"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=0.2)
    life = forgetful.execute("PTTL", f"session:{key.id_hash}")
    assert isinstance(life, int)
    assert 0 < life <= 60_000


async def test_whoever_empties_redis_in_the_sight_of_all_is_obeyed(
    forgetful: RedisServer,
) -> None:
    settings = settings_for(forgetful, redis_timeout=5)
    store, key = FallbackSessionStore(settings), new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    await beats(forgetful)
    forgetful.execute("FLUSHALL")
    await beats(forgetful)
    forgetful.kill()
    await away(settings)
    with pytest.raises(SessionUnavailable):
        await store.load(key)


async def test_a_redis_that_is_not_to_be_asked_is_told_and_served(
    forgetful: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    forgetful.execute("SET", "holdfast:processes", "another's")
    settings = settings_for(forgetful, redis_timeout=5)
    store, key = FallbackSessionStore(settings), new_key()
    assert await store.create(key, {"a": b"1"}, max_age=HOUR) is Outcome.DONE
    await until(lambda: "cannot be seen, because it refuses" in caplog.text)
    assert isinstance(await store.load(key), Record)


@pytest.mark.parametrize(("mode", "told"), [("local", True), ("readonly", False)])
async def test_local_in_several_processes_is_told_once(
    forgetful: RedisServer, caplog: pytest.LogCaptureFixture, mode: str, told: bool
) -> None:
    ahead = int((time.time() + 60) * 1000)
    settings = settings_for(forgetful, redis_timeout=5, session_on_outage=mode)
    store = FallbackSessionStore(settings)
    await store.create(new_key(), {"a": b"1"}, max_age=HOUR)
    await beats(forgetful)
    assert "processes share" not in caplog.text
    forgetful.execute("HSET", "holdfast:processes", "another", ahead)
    await beats(forgetful)
    await beats(forgetful)
    assert caplog.text.count("other processes share the sessions (1 now)") == told


async def test_the_index_names_sessions_that_were_put_back(forgetful: RedisServer) -> None:
    outage = Outage(forgetful, redis_timeout=5)
    await outage.log_in()
    index = SessionIndex(outage.settings)
    before = await index.list(7)
    leaving = Browser(outage.app)
    await outage.do(lambda s: s.update(user_id=7), leaving)
    await outage.do(Session.invalidate, leaving)
    await outage.begin()
    await outage.end()
    assert [each.id_hash for each in await index.list(7)] == [each.id_hash for each in before]
    assert await index.revoke_all(7) == 1
    assert await outage.do(dict) == b"{}"


async def test_one_that_was_killed_a_moment_ago_does_not_count(
    forgetful: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    forgetful.execute("HSET", "holdfast:processes", "killed", int(time.time() * 1000) - 500)
    settings = settings_for(forgetful, redis_timeout=5)
    await FallbackSessionStore(settings).create(new_key(), {"a": b"1"}, max_age=HOUR)
    await beats(forgetful)
    await beats(forgetful)
    assert "processes share" not in caplog.text


# --- whose value counts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "bases", "ours", "expected"),
    [
        (b"1", (b"1",), b"2", b"2"),
        (None, (None,), b"2", b"2"),
        (b"1", (b"1",), None, None),
        (b"2", (b"1",), b"2", b"2"),
        (None, (b"1",), None, None),
        (b"3", (b"1",), b"2", b"3"),
        (b"3", (b"1",), None, b"3"),
        (None, (b"1",), b"2", None),
        (b"1", (None,), b"2", b"1"),
        (b"3", (b"1", b"3"), b"2", b"2"),
        (None, (b"1", None), b"2", b"2"),
        (b"-", (None,), b"2", b"-"),
    ],
)
async def test_a_key_that_others_have_changed_is_left_as_it_is(
    redis: RedisServer,
    key_prefix: str,
    theirs: bytes | None,
    bases: tuple[bytes | None, ...],
    ours: bytes | None,
    expected: bytes | None,
) -> None:
    settings = Settings(redis_url=redis.url, redis_timeout=5, secret_key=KEY, key_prefix=key_prefix)
    store, key = RedisSessionStore(settings), new_key()
    stored = {"other": b"1"} | ({} if theirs is None else {"k": theirs})
    await store.create(key, stored, max_age=HOUR)
    call = Calls(key_prefix).merge(key, {"k": (ours, bases), "n": (b"5", (None,))}, idle_timeout=0)
    conflict = expected == theirs != ours
    assert await store.link.run(*call) == ([1, b"k"] if conflict else [1])
    left = {"other": b"1", "n": b"5"} | ({} if expected is None else {"k": expected})
    assert fields_of(await store.load(key)) == left
    assert await store.link.run(*Calls(key_prefix).merge(new_secret(key), {}, idle_timeout=0)) == [
        -1
    ]


async def test_a_session_of_which_no_key_is_left_after_an_outage_has_ended(
    redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(redis_url=redis.url, redis_timeout=5, secret_key=KEY, key_prefix=key_prefix)
    store, key = RedisSessionStore(settings), new_key()
    await store.create(key, {"k": b"1"}, max_age=HOUR)
    call = Calls(key_prefix).merge(key, {"k": (None, (b"1",))}, idle_timeout=0)
    assert await store.link.run(*call) == [2]
    assert await store.load(key) is Missing.ABSENT
    assert await store.create(key, {"k": b"1"}, max_age=HOUR) is Outcome.GONE


async def test_what_others_changed_in_an_outage_is_left_and_told(
    forgetful: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    forgetful.execute("CONFIG", "SET", "appendonly", "yes", "appendfsync", "always")
    with FaultProxy.threaded("127.0.0.1", forgetful.port) as proxy:
        settings = Settings(redis_url=proxy.url, redis_timeout=1.5, secret_key=KEY)
        store, other = (
            FallbackSessionStore(settings),
            RedisSessionStore(settings_for(forgetful, redis_timeout=5)),
        )
        key = new_key()
        await store.create(key, {"a": b"1", "b": b"1", "n": b"1"}, max_age=HOUR)
        proxy.refuse()
        await away(settings)
        assert await store.save(key, Change({"a": b"2"}, ("b",))) is Outcome.DONE
        assert await store.increment(key, "n", 4) == 5
        await other.save(key, Change({"a": b"3", "c": b"3"}))
        proxy.heal()
        await back(settings)
        assert fields_of(await store.load(key)) == {"a": b"3", "c": b"3", "n": b"5"}
    assert "of 1 keys others had changed the value" in caplog.text


@pytest.mark.slow
async def test_what_was_written_without_an_answer_is_not_taken_for_somebody_elses(
    forgetful: RedisServer,
) -> None:
    with FaultProxy.threaded("127.0.0.1", forgetful.port) as proxy:
        settings = Settings(redis_url=proxy.url, redis_timeout=1.5, secret_key=KEY)
        store, other = (
            FallbackSessionStore(settings),
            RedisSessionStore(settings_for(forgetful, redis_timeout=2)),
        )
        changed, counted, rotated = new_key(), new_key(), new_key()
        for key in (changed, counted, rotated):
            await store.create(key, {"a": b"1", "b": b"1"}, max_age=HOUR)
            # What Redis has not seen yet takes two requests.
            await store.save(key, Change({"b": b"1"}))
            assert await store.increment(key, "a", 0) == 1
        second, third = new_secret(rotated), new_secret(rotated)

        async def unanswered(key: Any, change: Change | None) -> None:
            proxy.blackhole("replies")
            if change is None:
                assert await store.increment(key, "a", 2) == 3
            else:
                assert await store.save(key, change) is Outcome.DONE

        await unanswered(changed, Change({"a": b"2"}, ("b",)))
        assert await store.save(changed, Change({"a": b"3", "b": b"3"})) is Outcome.DONE
        proxy.heal()
        await back(settings)
        assert fields_of(await other.load(changed)) == {"a": b"3", "b": b"3"}

        await store.load(counted)
        await unanswered(counted, None)
        assert await store.increment(counted, "a", 4) == 7
        proxy.heal()
        await back(settings)
        assert fields_of(await other.load(counted)) == {"a": b"7", "b": b"1"}

        await store.load(rotated)
        await unanswered(rotated, Change({"a": b"2"}, (), Rotation(second.secret_hash)))
        change = Change({"a": b"3"}, (), Rotation(third.secret_hash))
        assert await store.save(second, change) is Outcome.DONE
        proxy.heal()
        await back(settings)
        assert fields_of(await other.load(third)) == {"a": b"3", "b": b"1"}
        for old in (rotated, second):
            assert await other.load(old) is Missing.SUPERSEDED


@pytest.mark.parametrize("mode", ["local", "readonly", "closed"])
@pytest.mark.parametrize("grace", [0.0, 30.0], ids=["regenerated", "renewed"])
async def test_a_new_secret_that_was_refused_and_made_all_the_same_logs_nobody_out(
    forgetful: RedisServer, mode: str, grace: float
) -> None:
    with FaultProxy.threaded("127.0.0.1", forgetful.port) as proxy:
        settings = Settings(
            redis_url=proxy.url, redis_timeout=1.5, secret_key=KEY, session_on_outage=mode
        )
        store = FallbackSessionStore(settings, max_sessions=1)
        other = RedisSessionStore(settings_for(forgetful))
        key = new_key()
        await store.create(key, {"a": b"1"}, max_age=HOUR)
        await store.save(key, Change({"a": b"2"}))
        # There is no room for a copy of ours, so that it is refused in every mode.
        await store.create(new_key(), {"a": b"1"}, max_age=HOUR)
        unheard = new_secret(key)
        rotation = Rotation(unheard.secret_hash, grace=grace, kept=True)
        # What a renewal by age writes the old secret may read, and others build on it.
        there = b"3" if grace else b"2"
        proxy.blackhole("replies")
        with pytest.raises(SessionUnavailable):
            await store.save(key, Change({"a": b"3"}, rotation=rotation))
        await until(lambda: not store.link.up)
        assert isinstance(await other.load(unheard), Record)
        proxy.heal()
        await back(settings)
        for each in (store, other):
            found = await each.load(key)
            assert fields_of(found) == {"a": there}
            assert isinstance(found, Record)
            assert found.current
        assert await other.load(unheard) is Missing.ABSENT
        # It may be done later still: Redis had it, and was slow.
        late = Calls("").save(key, Change(rotation=rotation), idle_timeout=0.0)
        assert await other.link.run(*late) == 1
        assert fields_of(await store.load(key)) == {"a": there}
        # Whoever has renewed it since is not undone.
        newer = new_secret(key)
        await other.save(key, Change(rotation=Rotation(newer.secret_hash)))
        assert await store.load(key) is Missing.SUPERSEDED
        assert fields_of(await store.load(newer)) == {"a": there}


def test_who_is_revoked_by_a_thread_is_not_served_in_an_outage(forgetful: RedisServer) -> None:
    outage = Outage(forgetful, redis_timeout=5)
    anyio.run(outage.log_in)

    async def id_hash() -> str:
        return (await outage.do(lambda s: s.id_hash)).decode().strip("'")

    assert SyncSessionIndex(outage.settings).revoke(anyio.run(id_hash)) is True

    async def after() -> None:
        await outage.begin()
        assert await outage.do(lambda s: (s.available, dict(s))) == b"(False, {})"

    anyio.run(after)
    assert runtime(outage.settings).link is not None
