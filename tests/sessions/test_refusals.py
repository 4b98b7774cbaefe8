"""A new secret that was refused, and made all the same, leaves nothing: CWE-384 above all.

A login kills the cookie from before it, which another may have planted. Where its answer is lost
the browser keeps that cookie, and so it is good again: for what was there before the login.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.sessions.browser import Browser
from tests.sessions.outage import (
    HOUR,
    KEY,
    Outage,
    back,
    fields_of,
    session_keys,
    settings_for,
    until,
)
from tests.sessions.simulated import Connection, Recovery, World, in_thread

from holdfast.errors import SessionUnavailable, SessionUnsettled
from holdfast.link import LinkState, supervisor
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.store import (
    GRACE_SECONDS,
    Change,
    Missing,
    Outcome,
    Record,
    Rotation,
    SessionKey,
)
from holdfast.sessions.stores.calls import META, OLD, Calls, record
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.sessions.stores.sync import pause
from holdfast.settings import Settings
from holdfast.testing import FaultProxy, redis_server
from holdfast.testing.session_store import new_key, new_secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from holdfast.testing import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_link")]


def kept_of(redis: RedisServer, key: SessionKey) -> bytes:
    """What the session keeps of its older secrets."""
    kept = redis.execute("HGET", f"session:{key.id_hash}", OLD)
    return kept if isinstance(kept, bytes) else b""


# Whatever separates what is kept has to come back as it was.
STRANGE = b"\x00\xff:|;%0%1|;|g:" + b"a" * 64 + b":99999999999999"


async def test_the_cookie_from_before_a_refused_login_opens_what_it_opened(
    fresh_redis: RedisServer,
) -> None:
    # Who asks for no replica can write; a login that waits for one is refused, and done.
    plain, outage = Outage(fresh_redis), Outage(fresh_redis, redis_wait=1, redis_timeout=2)
    await plain.do(lambda s: s.update(cart=1))
    victim = Browser(outage.app, dict(plain.browser.cookies))
    outage.doing.handle = lambda s: s.update(user_id=7)
    assert (await victim.get()).status == 503
    assert victim.cookies == plain.browser.cookies
    assert await outage.do(dict, victim) == b"{'cart': 1}"
    assert await plain.do(dict) == b"{'cart': 1}"


@pytest.mark.parametrize("mode", ["readonly", "closed"])
async def test_a_refused_login_leaves_nothing_to_the_secret_before_it(
    fresh_redis: RedisServer, mode: str
) -> None:
    with FaultProxy.threaded("127.0.0.1", fresh_redis.port) as proxy:
        settings = Settings(
            redis_url=proxy.url, redis_timeout=1.5, secret_key=KEY, session_on_outage=mode
        )
        store = FallbackSessionStore(settings)
        other = RedisSessionStore(settings_for(fresh_redis))
        key = new_key()
        before = {"cart": b"1", "next": STRANGE, "seen": b""}
        await other.create(key, before, max_age=HOUR)
        # Its script is known, and nothing has to be said twice.
        await store.save(key, Change({"cart": b"1"}))
        found = await other.load(key)
        unheard = new_secret(key)
        rotation = Rotation(unheard.secret_hash, max_age=2 * HOUR)
        login = Change({"user_id": b"7", "cart": b"2"}, ("next", "seen"), rotation)
        proxy.blackhole("replies")
        with pytest.raises(SessionUnavailable):
            await store.save(key, login)
        await until(lambda: not store.link.up)
        assert fields_of(await other.load(unheard)) == {"cart": b"2", "user_id": b"7"}
        # Whether its browser was told, nobody can say to others yet.
        with pytest.raises(SessionUnsettled):
            await other.load(key)
        proxy.heal()
        await back(settings)
        for each in (store, other):
            after = await each.load(key)
            assert fields_of(after) == before
            assert isinstance(found, Record)
            assert isinstance(after, Record)
            assert after.current
            assert after.secret_since == pytest.approx(found.secret_since, abs=0.1)
            assert after.expires_at == pytest.approx(found.expires_at, abs=0.1)
            assert await each.load(unheard) is Missing.ABSENT
        assert kept_of(fresh_redis, key) == b""
        life = fresh_redis.execute("PTTL", f"session:{key.id_hash}")
        assert isinstance(life, int)
        assert life <= HOUR * 1000


async def test_who_came_with_the_new_secret_is_not_taken_back(fresh_redis: RedisServer) -> None:
    other = RedisSessionStore(settings_for(fresh_redis))
    calls = Calls("")
    merge, take_back = calls.merge, calls.take_back
    comings: list[Callable[[SessionKey], Awaitable[Any]]] = [
        lambda key: other.save(key, Change({"cart": b"2"})),
        lambda key: other.increment(key, "n", 1),
        lambda key: other.touch(key, idle_timeout=60.0),
        lambda key: other.link.run(*merge(key, {"n": (b"1", (None,))}, idle_timeout=0.0)),
        lambda key: other.link.run(*calls.settle(*key)),
    ]

    async def refused_and_come(come: Callable[[SessionKey], Awaitable[Any]]) -> None:
        key = new_key()
        await other.create(key, {"cart": b"1"}, max_age=HOUR)
        after = new_secret(key)
        login = Change({"user_id": b"7"}, rotation=Rotation(after.secret_hash, kept=True))
        await other.link.run(*calls.save(key, login, idle_timeout=0.0))
        assert b"|" in kept_of(fresh_redis, key)
        with pytest.raises(SessionUnsettled):
            await other.load(key)
        await pause(0.005)
        await come(after)
        assert b"|" not in kept_of(fresh_redis, key)
        assert await other.link.run(*take_back(key.id_hash, after.secret_hash)) == 0
        assert await other.load(key) is Missing.SUPERSEDED
        assert fields_of(await other.load(after))["user_id"] == b"7"

    await asyncio.gather(*map(refused_and_come, comings))


async def test_a_login_that_is_tried_again_and_heard_of_is_not_taken_back(
    fresh_redis: RedisServer,
) -> None:
    fresh_redis.execute("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    waits = FallbackSessionStore(settings_for(fresh_redis, redis_wait=1, redis_timeout=2))
    key = new_key()
    await RedisSessionStore(settings_for(fresh_redis)).create(key, {"cart": b"1"}, max_age=HOUR)
    after = new_secret(key)
    login = Change({"user_id": b"7"}, rotation=Rotation(after.secret_hash))
    for tries in (2, 1):
        for _ in range(tries):
            with pytest.raises(SessionUnavailable):
                await waits.save(key, login)
        if tries == 2:
            assert fields_of(await waits.load(key)) == {"cart": b"1"}
    with redis_server("--replicaof", f"127.0.0.1 {fresh_redis.port}") as replica:
        await until(lambda: b"master_link_status:up" in told_of(replica))

        async def saved() -> bool:
            try:
                return await waits.save(key, login) is Outcome.DONE
            except SessionUnavailable:
                return False

        await until(saved)
    assert await waits.load(key) is Missing.SUPERSEDED
    assert fields_of(await waits.load(after)) == {"cart": b"1", "user_id": b"7"}


def told_of(redis: RedisServer) -> bytes:
    told = redis.execute("INFO", "replication")
    return told if isinstance(told, bytes) else b""


async def test_what_is_taken_back_is_not_the_grace_of_an_older_secret(
    fresh_redis: RedisServer,
) -> None:
    store = FallbackSessionStore(settings_for(fresh_redis, redis_wait=1, redis_timeout=2))
    other = RedisSessionStore(settings_for(fresh_redis))
    oldest = new_key()
    await other.create(oldest, {"a": b"1"}, max_age=HOUR)
    present, unheard = new_secret(oldest), new_secret(oldest)
    await other.save(oldest, Change(rotation=Rotation(present.secret_hash, grace=GRACE_SECONDS)))
    with pytest.raises(SessionUnavailable):
        await store.save(oldest, Change({"a": b"2"}, rotation=Rotation(unheard.secret_hash)))
    found = await store.load(oldest)
    assert fields_of(found) == {"a": b"1"}
    assert isinstance(found, Record)
    assert not found.current
    found = await other.load(present)
    assert isinstance(found, Record)
    assert found.current


async def test_what_others_write_in_the_grace_of_a_refused_renewal_stays(
    fresh_redis: RedisServer,
) -> None:
    other = RedisSessionStore(settings_for(fresh_redis))
    key = new_key()
    await other.create(key, {"a": b"1", "b": b"1"}, max_age=HOUR)
    unheard = new_secret(key)
    renewal = Rotation(unheard.secret_hash, grace=GRACE_SECONDS)
    await other.save(key, Change({"a": b"2"}, rotation=renewal))
    assert await other.increment(key, "a", 1) == 3
    assert await other.save(key, Change({"c": b"1"}, ("b",))) is Outcome.DONE
    fresh_redis.execute("HSET", f"session:{key.id_hash}", OLD, over(kept_of(fresh_redis, key)))
    take_back = Calls("").take_back(key.id_hash, unheard.secret_hash)
    assert await other.link.run(*take_back) == 1
    found = await other.load(key)
    assert fields_of(found) == {"a": b"3", "c": b"1"}
    assert isinstance(found, Record)
    assert found.current


def over(kept: bytes) -> bytes:
    """Have the grace that is *kept* be over."""
    secrets, mark, rest = kept.partition(b";|")
    kind, secret, _ = secrets.split(b":")
    return b":".join((kind, secret, b"1")) + mark + rest


async def test_a_login_that_lacks_a_replica_is_taken_back_before_it_is_answered(
    fresh_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BEAT_INTERVAL", 60.0)
    store = FallbackSessionStore(settings_for(fresh_redis, redis_wait=1, redis_timeout=2))
    other = RedisSessionStore(settings_for(fresh_redis))
    key = new_key()
    await other.create(key, {"cart": b"1"}, max_age=HOUR)
    login = Change({"user_id": b"7"}, rotation=Rotation(new_secret(key).secret_hash))
    with pytest.raises(SessionUnavailable):
        await store.save(key, login)
    assert fields_of(await other.load(key)) == {"cart": b"1"}


@pytest.mark.parametrize("user", [None, 8], ids=["nobody", "another"])
async def test_who_is_logged_out_by_a_refused_write_stays_so(
    fresh_redis: RedisServer, user: int | None
) -> None:
    plain, outage = Outage(fresh_redis), Outage(fresh_redis, redis_wait=1, redis_timeout=2)
    await plain.log_in()
    before = dict(plain.browser.cookies)
    held = Browser(outage.app, dict(before))

    def leave(session: Any) -> None:
        session.pop("user_id")
        session.update({} if user is None else {"user_id": user})

    outage.doing.handle = leave
    assert (await held.get()).status == 503
    # Nobody has its new cookie, and the old one must not open it: it has ended.
    assert session_keys(fresh_redis) == []
    for each in (outage, plain):
        assert await each.do(dict, Browser(each.app, dict(before))) == b"{}"


async def test_a_logout_whose_request_is_cancelled_ends_the_session(connection: Connection) -> None:
    world, key = World(connection, 1, 1), new_key()
    (process,) = world.processes
    fields = {"user_id": b"7", "cart": b"1"}
    await world.driven(process, process.store.create(key, fields, max_age=60))
    rotation = Rotation(new_secret(key).secret_hash, final=True)
    logout = Change({}, ("user_id",), rotation)
    late = asyncio.create_task(process.store.save(key, logout))
    while not process.link.wire.sent:
        await asyncio.sleep(0)
    await world.carry_one(process)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    in_thread(lambda: [beat(Recovery(world, 10)) for beat in process.link.beats])
    assert connection.call("EXISTS", Calls("").name(key.id_hash)) == 0


@pytest.mark.parametrize("again", [True, False], ids=["a login made twice", "a write in its grace"])
async def test_what_was_kept_goes_with_the_first_write_of_the_new_secret(
    fresh_redis: RedisServer, again: bool
) -> None:
    store, calls = RedisSessionStore(settings_for(fresh_redis)), Calls("")
    key = new_key()
    await store.create(key, {"cart": b"1"}, max_age=HOUR)
    after = new_secret(key)
    grace = 0.0 if again else GRACE_SECONDS
    rotation = Rotation(after.secret_hash, grace=grace, kept=True)
    rotating = Change({"cart": b"2"}, rotation=rotation)
    await store.link.run(*calls.save(key, rotating, idle_timeout=0.0))
    # Not in the same millisecond, so that the session is seen later than its secret was made.
    await pause(0.005)
    change = rotating if again else Change({"n": b"1"})
    assert await store.link.run(*calls.save(key, change, idle_timeout=0.0)) == 1
    assert b"|" in kept_of(fresh_redis, key)
    assert await store.save(after, Change({"n": b"2"})) is Outcome.DONE
    assert kept_of(fresh_redis, key)
    assert b"|" not in kept_of(fresh_redis, key)


# --- and what waits -------------------------------------------------------------------------------


@pytest.fixture
def connection(fresh_redis: RedisServer) -> Iterator[Connection]:
    connection = Connection(fresh_redis.port)
    yield connection
    connection.close()


async def carried(world: World, change: Change, key: SessionKey) -> asyncio.Task[Outcome]:
    """Have Redis do *change*, and be away before it answers."""
    (process,) = world.processes
    late = asyncio.create_task(process.store.save(key, change))
    while not process.link.wire.sent:
        await asyncio.sleep(0)
    await world.carry_one(process)
    await world.part(process, LinkState.SUSPECT)
    return late


async def refused_while_a_write_waits(connection: Connection) -> tuple[World, SessionKey]:
    """A login that Redis has made and that is refused, and a write with the secret before it."""
    world, key = World(connection, 1, 1), new_key()
    (process,) = world.processes
    store = FallbackSessionStore(process.settings, link=process.link, max_bytes=20)  # type: ignore[arg-type]
    process.store = store
    await world.driven(process, store.create(key, {"n": b"1"}, max_age=60))
    rotation = Rotation(new_secret(key).secret_hash)
    login = Change({"user_id": b"1" * 21, "n": b"3"}, rotation=rotation)
    refused = await carried(world, login, key)
    assert await store.save(key, Change({"n": b"2"})) is Outcome.DONE
    process.link.old[0].lose()
    with pytest.raises(SessionUnavailable, match="as many"):
        await refused
    return world, key


async def sees(world: World, key: SessionKey, expected: dict[str, bytes]) -> None:
    (process,) = world.processes
    late = asyncio.create_task(process.store.load(key))
    await world.driven(process, late)
    assert fields_of(await late) == expected


async def test_what_waits_is_written_with_the_secret_that_a_refusal_gives_back(
    connection: Connection,
) -> None:
    world, key = await refused_while_a_write_waits(connection)
    (process,) = world.processes
    in_thread(lambda: [hook(Recovery(world, 99)) for hook in process.link.hooks])
    # Before the first read is served.
    assert process.store.waiting == 0
    await world.recover(process, surely=True)
    await sees(world, key, {"n": b"2"})


async def test_what_waits_is_written_at_the_end_with_the_secret_that_a_refusal_gives_back(
    connection: Connection,
) -> None:
    world, key = await refused_while_a_write_waits(connection)
    (process,) = world.processes
    # It is up, and its callbacks have not been called.
    process.link.up = True
    late = asyncio.create_task(process.store.flush())
    await world.driven(process, late)
    assert process.store.waiting == 0
    await sees(world, key, {"n": b"2"})


async def test_what_waits_is_read_with_the_secret_that_a_refusal_gives_back(
    connection: Connection,
) -> None:
    world, key = await refused_while_a_write_waits(connection)
    # It is up, and its callbacks have not been called.
    world.processes[0].link.up = True
    await sees(world, key, {"n": b"2"})


async def test_what_is_noted_as_redis_is_back_is_written_with_the_secret_given_back(
    connection: Connection,
) -> None:
    world, key = await refused_while_a_write_waits(connection)
    (process,) = world.processes
    process.link.tell(LinkState.UP)
    assert process.store.waiting == 0
    await sees(world, key, {"n": b"2"})


async def test_a_login_that_another_overtook_in_an_outage_leaves_nothing(
    connection: Connection,
) -> None:
    world, key = World(connection, 1, 1), new_key()
    (process,) = world.processes
    await world.driven(process, process.store.create(key, {"n": b"1"}, max_age=60))
    unheard, after = new_secret(key), new_secret(key)
    login = Change({"user_id": b"7"}, rotation=Rotation(unheard.secret_hash))
    overtaken = await carried(world, login, key)
    renewed = Change({"n": b"2"}, rotation=Rotation(after.secret_hash))
    assert await process.store.save(key, renewed) is Outcome.DONE
    process.link.old[0].lose()
    assert await overtaken is Outcome.GONE
    await world.recover(process, surely=True)
    await sees(world, after, {"n": b"2"})


def stored(connection: Connection, key: SessionKey) -> dict[str, bytes]:
    """What anybody else finds with *key*."""
    reply = connection.call("HGETALL", Calls("").name(key.id_hash))
    return fields_of(record(reply, key.secret_hash, time.time(), 0.0))


async def refused(connection: Connection) -> tuple[World, SessionKey]:
    """A login that Redis has made and that is refused, with nothing that waits."""
    world, key = World(connection, 1, 1), new_key()
    (process,) = world.processes
    store = FallbackSessionStore(process.settings, link=process.link, max_bytes=20)  # type: ignore[arg-type]
    process.store = store
    await world.driven(process, store.create(key, {"n": b"1"}, max_age=60))
    rotation = Rotation(new_secret(key).secret_hash)
    login = await carried(world, Change({"user_id": b"1" * 21, "n": b"3"}, rotation=rotation), key)
    process.link.old[0].lose()
    with pytest.raises(SessionUnavailable, match="as many"):
        await login
    assert store.waiting == 0
    return world, key


async def test_a_refused_login_is_taken_back_as_soon_as_the_link_is_up(
    connection: Connection,
) -> None:
    world, key = await refused(connection)
    world.processes[0].link.tell(LinkState.UP)
    assert stored(connection, key) == {"n": b"1"}


async def test_two_refused_secrets_in_a_row_give_back_the_one_before_both(
    connection: Connection,
) -> None:
    world, key = World(connection, 1, 1), new_key()
    (process,) = world.processes
    # No copy has room for it, and so nothing of it can wait.
    store = FallbackSessionStore(process.settings, link=process.link, max_bytes=20)  # type: ignore[arg-type]
    before = {"cart": b"1" * 21}
    await world.driven(process, store.create(key, before, max_age=60))
    renewal = Rotation(new_secret(key).secret_hash, grace=GRACE_SECONDS)
    login = Rotation(new_secret(key).secret_hash)
    changes = (Change(rotation=renewal), Change({"user_id": b"7"}, rotation=login))
    late = [asyncio.create_task(store.save(key, change)) for change in changes]
    while len(process.link.wire.sent) < len(late):
        await asyncio.sleep(0)
    for _ in late:
        await world.carry_one(process)
    await world.part(process, LinkState.SUSPECT)
    process.link.old[0].lose()
    answers = await asyncio.gather(*late, return_exceptions=True)
    assert [type(each) for each in answers] == [SessionUnavailable] * 2
    name = Calls("").name(key.id_hash)
    meta = connection.call("HGET", name, META)
    assert login.secret_hash.encode() in meta
    process.link.tell(LinkState.UP)
    assert stored(connection, key) == before
    assert key.secret_hash.encode() in connection.call("HGET", name, META)
    assert connection.call("HGET", name, OLD) is None


async def test_a_login_that_is_refused_twice_is_taken_back_where_the_first_was_done(
    connection: Connection,
) -> None:
    world, key = await refused(connection)
    (process,) = world.processes
    secret_hash = connection.call("HGET", Calls("").name(key.id_hash), META).split(b" ")[1].decode()
    login = Change({"user_id": b"1" * 21, "n": b"3"}, rotation=Rotation(secret_hash))
    with pytest.raises(SessionUnavailable):
        await process.store.save(key, login)
    process.link.tell(LinkState.UP)
    assert stored(connection, key) == {"n": b"1"}


async def test_a_login_that_is_told_at_last_stays_though_the_word_of_it_is_lost(
    connection: Connection,
) -> None:
    world, key = await refused(connection)
    (process,) = world.processes
    secret_hash = connection.call("HGET", Calls("").name(key.id_hash), META).split(b" ")[1].decode()
    login = Change({"user_id": b"1" * 21, "n": b"3"}, rotation=Rotation(secret_hash))
    process.link.up = True
    late = asyncio.create_task(process.store.save(key, login))
    while not process.link.wire.sent:
        await asyncio.sleep(0)
    await world.carry_one(process)
    await world.answer_one(process)
    while not process.link.wire.sent:
        await asyncio.sleep(0)
    await world.part(process, LinkState.SUSPECT)
    process.link.old[-1].lose()
    assert await late is Outcome.DONE
    process.link.tell(LinkState.UP)
    after = SessionKey(key.id_hash, secret_hash)
    assert stored(connection, after) == {"user_id": b"1" * 21, "n": b"3"}


async def test_who_meets_a_refused_login_with_a_write_does_it_all_the_same(
    connection: Connection,
) -> None:
    async def saves(store: FallbackSessionStore, key: SessionKey) -> bool:
        return await store.save(key, Change({"n": b"2"})) is Outcome.DONE

    async def adds(store: FallbackSessionStore, key: SessionKey) -> bool:
        return await store.increment(key, "n", 1) == 2

    for do in (saves, adds):
        world, key = await refused(connection)
        (process,) = world.processes
        # It is up, and its callbacks have not been called.
        process.link.up = True
        late = asyncio.create_task(do(process.store, key))
        await world.driven(process, late)
        assert await late
        assert stored(connection, key) == {"n": b"2"}


async def test_a_login_whose_request_is_cancelled_is_taken_back(connection: Connection) -> None:
    world, key = World(connection, 1, 1), new_key()
    (process,) = world.processes
    await world.driven(process, process.store.create(key, {"n": b"1"}, max_age=60))
    login = Change({"user_id": b"7"}, rotation=Rotation(new_secret(key).secret_hash))
    late = asyncio.create_task(process.store.save(key, login))
    while not process.link.wire.sent:
        await asyncio.sleep(0)
    await world.carry_one(process)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    in_thread(lambda: [beat(Recovery(world, 10)) for beat in process.link.beats])
    assert stored(connection, key) == {"n": b"1"}


async def test_a_logout_that_waits_is_told_though_a_refused_login_cannot_be_taken_back(
    connection: Connection,
) -> None:
    world, key = await refused(connection)
    (process,) = world.processes
    assert await process.store.delete(key.id_hash) is Outcome.DONE
    name = Calls("").name(key.id_hash)
    connection.call("HSET", name, META, "no metadata of ours")
    process.link.up = True
    late = asyncio.create_task(process.store.load(key))
    await world.driven(process, late)
    assert await late is Missing.ABSENT
    assert connection.call("EXISTS", name) == 0
