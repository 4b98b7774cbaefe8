"""Stores from threads without an event loop: the same verbs, plain."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from holdfast.errors import SessionUnavailable
from holdfast.link import Link
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.store import Change, Missing, Outcome, Record, SessionKey, SessionStore
from holdfast.sessions.stores.encryption import EncryptedSessionStore
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.sessions.stores.sync import (
    SyncSessionStore,
    blocking,
    driven,
    pause,
    waiting_in_place,
)
from holdfast.settings import Settings
from holdfast.testing.session_store import SessionStoreSuite, new_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.link import Recovery
    from holdfast.testing import RedisServer

KEY = "a key of more than sixteen characters"


class FromThreads(SessionStore):
    """A plain store as the suite wants it: each verb is called in a thread of its own."""

    def __init__(self, store: SessionStore) -> None:
        self.sync = SyncSessionStore(store)

    async def _in_thread(self, verb: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await anyio.to_thread.run_sync(lambda: verb(*args, **options))

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        found: Record | Missing = await self._in_thread(
            self.sync.load, key, idle_timeout=idle_timeout
        )
        return found

    async def create(
        self, key: SessionKey, fields: Mapping[str, bytes], **options: float
    ) -> Outcome:
        outcome: Outcome = await self._in_thread(self.sync.create, key, fields, **options)
        return outcome

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        outcome: Outcome = await self._in_thread(
            self.sync.save, key, change, idle_timeout=idle_timeout
        )
        return outcome

    async def increment(
        self, key: SessionKey, name: str, by: int, *, idle_timeout: float = 0.0
    ) -> int | Outcome:
        value: int | Outcome = await self._in_thread(
            self.sync.increment, key, name, by, idle_timeout=idle_timeout
        )
        return value

    async def touch(self, key: SessionKey, **options: float) -> Outcome:
        outcome: Outcome = await self._in_thread(self.sync.touch, key, **options)
        return outcome

    async def delete(self, id_hash: str) -> Outcome:
        outcome: Outcome = await self._in_thread(self.sync.delete, id_hash)
        return outcome


class TestMemory(SessionStoreSuite):
    async def make_store(self) -> SessionStore:
        return FromThreads(MemorySessionStore())


class TestRedis(SessionStoreSuite):
    @pytest.fixture(autouse=True)
    def _settings(self, redis: RedisServer, key_prefix: str) -> None:
        # A busy machine is slow, not away.
        self.settings = Settings(redis_url=redis.url, key_prefix=key_prefix, redis_timeout=10)

    async def make_store(self) -> SessionStore:
        return FromThreads(EncryptedSessionStore(RedisSessionStore(self.settings), [KEY]))


class TestFallback(TestRedis):
    async def make_store(self) -> SessionStore:
        return FromThreads(FallbackSessionStore(self.settings))


def session_in(store: SyncSessionStore, **fields: bytes) -> SessionKey:
    key = new_key()
    assert store.create(key, fields, max_age=60) is Outcome.DONE
    return key


def test_redis_away_is_told_in_the_same_words(free_port: int) -> None:
    store = SyncSessionStore(
        RedisSessionStore(Settings(redis_url=f"redis://127.0.0.1:{free_port}"))
    )
    with pytest.raises(SessionUnavailable):
        store.load(new_key())
    with pytest.raises(SessionUnavailable):
        store.save(new_key(), Change({"a": b"1"}))


def test_an_outage_is_bridged_and_made_up_for(fresh_redis: RedisServer) -> None:
    fallback = FallbackSessionStore(Settings(redis_url=fresh_redis.url))
    store = SyncSessionStore(fallback)
    key = session_in(store, n=b"1")
    store.load(key)
    fresh_redis.kill()
    assert store.increment(key, "n", 1) == 2
    born = session_in(store, a=b"1")
    found = store.load(born)
    assert isinstance(found, Record)
    assert found.degraded == "local"
    assert store.writable
    assert fallback.waiting == 2
    fresh_redis.start()
    deadline = threading.Event()
    for _ in range(500):
        if fallback.link.up and not fallback.waiting:
            break
        deadline.wait(0.02)
    found = store.load(born)
    assert isinstance(found, Record)
    assert found.degraded is None
    store.flush()


def test_many_threads_share_one_store(redis: RedisServer, key_prefix: str) -> None:
    settings = Settings(redis_url=redis.url, key_prefix=key_prefix)
    store = SyncSessionStore(FallbackSessionStore(settings))
    key = session_in(store)

    def count() -> None:
        for _ in range(25):
            store.increment(key, "n", 1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.load(key)
    assert isinstance(found, Record)
    assert found.fields == {"n": b"100"}


class WaitingStore(MemorySessionStore):
    """Another's store, which knows event loops alone."""

    @property
    def waits_in_place(self) -> bool:
        return SessionStore.waits_in_place.fget(self)  # type: ignore[attr-defined,no-any-return]

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        await anyio.sleep(0.001)
        return await super().load(key, idle_timeout=idle_timeout)


def test_another_store_gets_an_event_loop() -> None:
    store = SyncSessionStore(WaitingStore())
    key = session_in(store, a=b"1")
    found = store.load(key)
    assert isinstance(found, Record)
    assert found.fields == {"a": b"1"}
    assert "WaitingStore" not in repr(key)
    assert repr(store).startswith("<SyncSessionStore of ")


def test_what_suspends_all_the_same_is_an_error_not_a_hang() -> None:
    loop = asyncio.new_event_loop()

    async def waiting() -> None:
        await loop.create_future()

    try:
        with pytest.raises(RuntimeError, match="waits for an event loop"):
            driven(waiting())
    finally:
        loop.close()


def test_a_pause_waits_in_the_thread_where_nobody_awaits() -> None:
    async def asked() -> bool:
        await pause(0.001)
        return blocking()

    assert driven(asked())
    assert not blocking()
    assert not anyio.run(asked)


def test_a_session_asked_for_while_the_link_comes_up_first_is_waited_for(
    redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(redis_url=redis.url, key_prefix=key_prefix, redis_timeout=10)
    key = new_key()
    SyncSessionStore(RedisSessionStore(settings)).create(key, {"a": b"1"}, max_age=60)
    link = Link(settings)
    opened, found = threading.Event(), list[object]()

    def slow(_: Recovery) -> None:
        opened.wait(10)

    link.on_recovery("slow", slow)
    store = SyncSessionStore(FallbackSessionStore(settings, link=link))
    link.start()
    deadline = time.monotonic() + 10
    while link.status.state.value != "recovering" and time.monotonic() < deadline:
        time.sleep(0.01)

    def load() -> None:
        try:
            found.append(store.load(key))
        except SessionUnavailable as error:
            found.append(error)

    asking = threading.Thread(target=load)
    asking.start()
    asking.join(0.1)
    opened.set()
    asking.join(10)
    link.close()
    assert isinstance(found[0], Record)


class Waiting(MemorySessionStore):
    """A store that waits for an event loop, and notes for which."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: list[asyncio.AbstractEventLoop] = []

    @property
    def waits_in_place(self) -> bool:
        return False

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        await asyncio.sleep(0)
        self.loops.append(asyncio.get_running_loop())
        return await super().load(key, idle_timeout=idle_timeout)


def test_a_loop_that_awaits_a_verb_is_not_kept_waiting_by_another_one() -> None:
    store = Waiting()
    door = waiting_in_place(store)

    async def served() -> asyncio.AbstractEventLoop:
        assert await door.load(new_key()) is Missing.ABSENT
        assert driven(door.load(new_key())) is Missing.ABSENT
        return asyncio.get_running_loop()

    loop = asyncio.run(served())
    assert driven(door.load(new_key())) is Missing.ABSENT
    assert [each is loop for each in store.loops] == [True, False, False]
