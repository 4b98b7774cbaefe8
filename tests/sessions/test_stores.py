"""Every store of ours under the published suite, and what each does beside it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from holdfast.errors import ConfigurationError, CorruptData, SessionUnavailable
from holdfast.sessions.cookie import new_credential
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.store import Change, Missing, Outcome, Record, Rotation, SessionStore
from holdfast.sessions.stores.calls import Calls
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing.session_store import SessionStoreSuite, new_key, new_secret

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

HOUR = 3600.0


class TestMemory(SessionStoreSuite):
    async def make_store(self) -> SessionStore:
        return MemorySessionStore()


class TestRedis(SessionStoreSuite):
    @pytest.fixture(autouse=True)
    def _settings(self, redis: RedisServer, key_prefix: str) -> None:
        # A busy machine is slow, not away.
        self.settings = Settings(redis_url=redis.url, key_prefix=key_prefix, redis_timeout=10)

    async def make_store(self) -> SessionStore:
        return RedisSessionStore(self.settings)


class TestFallbackWhileRedisIsThere(TestRedis):
    async def make_store(self) -> SessionStore:
        return FallbackSessionStore(self.settings)


class TestMemoryBeside:
    pytestmark = pytest.mark.anyio

    async def test_the_least_recently_used_make_room(self) -> None:
        store = MemorySessionStore(max_sessions=3)
        keys = [new_key() for _ in range(3)]
        for key in keys:
            await store.create(key, {"a": b"1"}, max_age=HOUR)
        await store.load(keys[0])
        await store.create(new_key(), {"a": b"1"}, max_age=HOUR)
        assert len(store) == 3
        assert isinstance(await store.load(keys[0]), Record)
        assert await store.load(keys[1]) is Missing.ABSENT

    async def test_memory_is_bounded_in_sessions_and_tombstones(self) -> None:
        store = MemorySessionStore(max_sessions=50)
        for _ in range(500):
            key = new_key()
            await store.create(key, {"a": b"1"}, max_age=HOUR)
            await store.delete(key.id_hash)
            await store.create(new_key(), {}, max_age=HOUR)
        assert len(store) <= 50
        assert len(store._tombstones) <= 51

    async def test_expired_sessions_and_tombstones_are_let_go(self) -> None:
        now = [1000.0]
        store = MemorySessionStore(clock=lambda: now[0])
        for _ in range(10):
            await store.create(new_key(), {}, max_age=10)
        await store.delete(new_key().id_hash)
        now[0] += 4000
        await store.create(new_key(), {}, max_age=10)
        assert len(store) == 1
        assert not store._tombstones

    async def test_lifetimes_are_exact_to_the_second(self) -> None:
        now = [1000.0]
        store, key = MemorySessionStore(clock=lambda: now[0]), new_key()
        await store.create(key, {"a": b"1"}, max_age=100, idle_timeout=10)
        now[0] += 9
        assert await store.touch(key, idle_timeout=10) is Outcome.DONE
        now[0] += 9
        assert isinstance(await store.load(key, idle_timeout=10), Record)
        now[0] += 1
        assert await store.load(key, idle_timeout=10) is Missing.EXPIRED
        assert await store.load(key, idle_timeout=10) is Missing.ABSENT

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_lock_held_at_the_fork_does_not_block_the_child(self) -> None:
        store = MemorySessionStore()
        with store._lock:
            child = os.fork()
            if child == 0:
                free = store._lock.acquire(timeout=2)
                os._exit(0 if free else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_its_repr_says_how_full_it_is(self) -> None:
        assert repr(MemorySessionStore(5)) == "<MemorySessionStore 0 of 5 sessions>"
        with pytest.raises(ValueError, match="at least 1"):
            MemorySessionStore(0)

    def test_it_serves_trio(self) -> None:
        async def use() -> Record | Missing:
            store, key = MemorySessionStore(), new_key()
            await store.create(key, {"a": b"1"}, max_age=HOUR)
            return await store.load(key)

        assert isinstance(anyio.run(use, backend="trio"), Record)


@pytest.mark.anyio
class TestRedisBeside:
    @pytest.fixture(autouse=True)
    def _settings(self, redis: RedisServer, key_prefix: str) -> None:
        self.redis, self.prefix = redis, key_prefix
        # A busy machine is slow, not away.
        self.settings = Settings(redis_url=redis.url, key_prefix=key_prefix, redis_timeout=10)

    def name(self, id_hash: str) -> str:
        return f"{self.prefix}session:{id_hash}"

    def pttl(self, name: str) -> int:
        left = self.redis.execute("PTTL", name)
        assert isinstance(left, int)
        return left

    async def test_another_process_sees_it(self) -> None:
        first, key = RedisSessionStore(self.settings), new_key()
        await first.create(key, {"a": b"1"}, max_age=HOUR)
        second = RedisSessionStore(self.settings)
        assert isinstance(await second.load(key), Record)

    async def test_every_key_has_an_expiry_that_is_the_lesser_of_both(self) -> None:
        store, key = RedisSessionStore(self.settings), new_key()
        await store.create(key, {"a": b"1"}, max_age=HOUR)
        assert 3_599_000 < self.pttl(self.name(key.id_hash)) <= 3_600_000
        await store.save(key, Change({"a": b"2"}), idle_timeout=60)
        assert 59_000 < self.pttl(self.name(key.id_hash)) <= 60_000
        await store.save(key, Change({"a": b"2"}), idle_timeout=HOUR * 2)
        assert 3_590_000 < self.pttl(self.name(key.id_hash)) <= 3_600_000
        await store.delete(key.id_hash)
        tombstone = f"{{{self.name(key.id_hash)}}}:gone"
        assert 3_599_000 < self.pttl(tombstone) <= 3_600_000

    async def test_neither_locator_nor_secret_is_in_redis(self) -> None:
        store, credential = RedisSessionStore(self.settings), new_credential()
        await store.create(credential.key, {"a": b"1"}, max_age=HOUR)
        rotated = credential.rotated()
        change = Change(rotation=Rotation(rotated.key.secret_hash))
        await store.save(credential.key, change)
        name = self.name(credential.key.id_hash)
        dump = repr(self.redis.execute("HGETALL", name)) + name
        for secret in (credential.locator, credential.secret, rotated.secret):
            assert secret not in dump

    @pytest.mark.parametrize(
        "command",
        [
            ("SET", "garbage"),
            ("LPUSH", "[1]"),
            ("HSET", "a", "1"),
            ("HSET", b"\xffmeta", "2 x"),
            ("HSET", b"\xffmeta", "1 a b c d e"),
        ],
    )
    async def test_what_is_no_session_of_ours_is_corrupt_and_left_alone(
        self, command: tuple[str, ...]
    ) -> None:
        store, key = RedisSessionStore(self.settings), new_key()
        verb, *rest = command
        name = self.name(key.id_hash)
        self.redis.execute(verb, name, *rest)
        before = self.redis.execute("DUMP", name)
        with pytest.raises(CorruptData):
            await store.load(key)
        assert await store.create(key, {"b": b"1"}, max_age=HOUR) is Outcome.EXISTS
        assert self.redis.execute("DUMP", name) == before

    async def test_a_write_to_what_is_corrupt_is_refused_as_corrupt(self) -> None:
        store, key = RedisSessionStore(self.settings), new_key()
        self.redis.execute("HSET", self.name(key.id_hash), b"\xffmeta", "2 x")
        with pytest.raises(CorruptData):
            await store.save(key, Change({"a": b"1"}))
        with pytest.raises(CorruptData):
            await store.touch(key, idle_timeout=5)

    async def test_a_key_that_is_no_text_is_corrupt(self) -> None:
        store, key = RedisSessionStore(self.settings), new_key()
        await store.create(key, {"a": b"1"}, max_age=HOUR)
        self.redis.execute("HSET", self.name(key.id_hash), b"\xfe", "1")
        with pytest.raises(CorruptData):
            await store.load(key)

    async def test_a_session_whose_redis_expiry_was_lost_still_ends(self) -> None:
        store, key = RedisSessionStore(self.settings), new_key()
        await store.create(key, {"a": b"1"}, max_age=0.3)
        self.redis.execute("PERSIST", self.name(key.id_hash))
        deadline = time.monotonic() + 5
        while isinstance(await store.load(key), Record):
            assert time.monotonic() < deadline
            await anyio.sleep(0.02)
        assert self.redis.execute("EXISTS", self.name(key.id_hash)) == 1

    async def test_a_clock_that_is_wrong_by_a_minute_changes_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, key = RedisSessionStore(self.settings), new_key()
        await store.create(key, {"a": b"1"}, max_age=HOUR, idle_timeout=30)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 60)
        found = await RedisSessionStore(self.settings).load(key, idle_timeout=30)
        assert isinstance(found, Record)
        assert found.seen_at == pytest.approx(time.time(), abs=1)

    @pytest.mark.parametrize("step", [2 * HOUR, -2 * HOUR], ids=["on", "back"])
    async def test_a_clock_that_is_set_changes_nothing(
        self, monkeypatch: pytest.MonkeyPatch, step: float
    ) -> None:
        store, key = RedisSessionStore(self.settings), new_key()
        await store.create(key, {"a": b"1"}, max_age=HOUR, idle_timeout=30)
        await store.load(key, idle_timeout=30)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + step)
        found = await store.load(key, idle_timeout=30)
        assert isinstance(found, Record)
        assert found.seen_at == pytest.approx(time.time(), abs=5)

    async def test_a_load_is_one_round_trip_and_a_write_one_script(self) -> None:
        store, key = RedisSessionStore(self.settings), new_key()
        await store.create(key, {"a": b"1"}, max_age=HOUR)
        await store.load(key)
        await store.save(key, Change({"a": b"2"}))
        sent = self._calls_during("hgetall"), self._calls_during("evalsha")
        for _ in range(10):
            await store.load(key)
        await store.save(key, Change({"a": b"3"}))
        now = self._calls_during("hgetall"), self._calls_during("evalsha")
        # Whatever else shares the server (the supervisor's canary) uses neither.
        assert (now[0] - sent[0], now[1] - sent[1]) == (10, 1)

    def _calls_during(self, command: str) -> int:
        stats = self.redis.execute("INFO", "commandstats")
        assert isinstance(stats, bytes)
        for line in stats.decode().splitlines():
            if line.startswith(f"cmdstat_{command}:"):
                return int(line.split("calls=")[1].split(",")[0])
        return 0

    async def test_a_key_and_its_tombstone_share_a_cluster_slot(self) -> None:
        name, tombstone = Calls(self.prefix).delete(new_key().id_hash).keys
        assert tombstone == f"{{{name}}}:gone"
        assert not {"{", "}"} & set(name)

    async def test_a_secret_of_the_future_is_no_surprise(self) -> None:
        store, key = RedisSessionStore(self.settings), new_key()
        await store.create(key, {"a": b"1"}, max_age=HOUR)
        assert await store.load(new_secret(key)) is Missing.ABSENT


class TestRedisNotThere:
    pytestmark = pytest.mark.anyio

    async def test_every_verb_says_unavailable_and_never_absent(self, free_port: int) -> None:
        settings = Settings(redis_url=f"redis://127.0.0.1:{free_port}")
        store, key = RedisSessionStore(settings), new_key()
        with pytest.raises(SessionUnavailable):
            await store.load(key)
        with pytest.raises(SessionUnavailable):
            await store.create(key, {}, max_age=HOUR)
        with pytest.raises(SessionUnavailable):
            await store.save(key, Change())
        with pytest.raises(SessionUnavailable):
            await store.touch(key, idle_timeout=5)
        with pytest.raises(SessionUnavailable):
            await store.delete(key.id_hash)
        assert "RedisSessionStore" in repr(store)

    async def test_without_a_url_the_remedy_is_told(self) -> None:
        with pytest.raises(ConfigurationError, match="HOLDFAST_REDIS_URL"):
            RedisSessionStore(Settings())
