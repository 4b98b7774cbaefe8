"""Activity that was noted a moment ago is not noted again, and nobody is let in by that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from tests.sessions.aging import PATIENCE

from holdfast.runtime import runtime
from holdfast.sessions.store import Change, Missing, Outcome, Record, Rotation, SessionKey
from holdfast.sessions.stores.noted import ASK, Noted
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing.session_store import new_key, new_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.testing import RedisServer

HOUR = 3600.0
ONE = Change({"a": b"1"})


def metadata(key: SessionKey) -> bytes:
    return f"1 {key.secret_hash} 1000 9000 2000 1000".encode()


def noted(key: SessionKey, idle_timeout: float = 0.0) -> Noted:
    found = Noted(60)
    assert found.asked(key, ONE, idle_timeout, 100) == ASK
    found.learn(key, metadata(key), idle_timeout, 100)
    return found


def test_what_was_answered_is_told_until_the_interval_is_over() -> None:
    key = new_key()
    found = noted(key)
    assert found.asked(key, ONE, 0, 159.9) == metadata(key)
    assert found.asked(key, ONE, 0, 160) == ASK


def test_a_quarter_of_the_idle_timeout_is_all_that_may_pass() -> None:
    key = new_key()
    found = noted(key, idle_timeout=8)
    assert found.asked(key, ONE, 8, 101.9) == metadata(key)
    assert found.asked(key, ONE, 8, 102) == ASK


def test_another_idle_timeout_is_written_at_once() -> None:
    key = new_key()
    assert noted(key, idle_timeout=100).asked(key, ONE, 200, 101) == ASK


@pytest.mark.parametrize(
    "change",
    [
        Change(),
        Change({"a": b"1"}, ("b",)),
        Change({"a": b"1"}, rotation=Rotation("0" * 64)),
        Change({"a": b"1"}, renewed={"b": (b"1", b"2")}),
        Change({"a": b"1"}, expected={"a": None}),
        Change({f"key{n}": b"1" for n in range(501)}),
        Change({"a": b"1"}, noted=True),
    ],
    ids=["nothing", "removed", "rotation", "renewed", "expected", "many", "to be noted"],
)
def test_more_than_setting_some_keys_is_always_noted(change: Change) -> None:
    key = new_key()
    assert noted(key).asked(key, change, 0, 101) == b""


def test_without_an_interval_all_is_noted() -> None:
    assert Noted(0).asked(new_key(), ONE, 0, 100) == b""


def test_a_secret_in_its_grace_is_not_known_again() -> None:
    found, key = Noted(60), new_key()
    found.learn(key, metadata(new_secret(key)), 0, 100)
    assert found.asked(key, ONE, 0, 101) == ASK


def test_it_does_not_grow_without_end() -> None:
    found, keys = Noted(60), [new_key() for _ in range(1500)]
    for key in keys:
        found.learn(key, metadata(key), 0, 100)
    assert len(found._notes) <= 1024
    assert found.asked(keys[-1], ONE, 0, 101) == metadata(keys[-1])


@pytest.mark.anyio
class TestInRedis:
    @pytest.fixture(autouse=True)
    async def _stores(self, redis: RedisServer, key_prefix: str) -> AsyncIterator[None]:
        self.redis = redis
        settings = Settings(redis_url=redis.url, key_prefix=key_prefix, redis_timeout=PATIENCE)
        self.store, self.other = RedisSessionStore(settings), RedisSessionStore(settings)
        self.key, self.prefix = new_key(), key_prefix
        await self.store.create(self.key, {"a": b"0", "b": b"0"}, max_age=HOUR)
        # What it is answered it tells the next time.
        assert await self.store.save(self.key, Change({"a": b"1"})) is Outcome.DONE
        yield
        await runtime(settings).aclose()

    def stored(self, field: bytes) -> object:
        return self.redis.execute("HGET", f"{self.prefix}session:{self.key.id_hash}", field)

    async def test_the_next_write_leaves_all_but_the_values_as_it_is(self) -> None:
        before = self.stored(b"\xffmeta")
        self.redis.execute("PEXPIRE", f"{self.prefix}session:{self.key.id_hash}", 90_000)
        assert await self.store.save(self.key, Change({"a": b"2", "c": b"3"})) is Outcome.DONE
        assert (self.stored(b"a"), self.stored(b"c")) == (b"2", b"3")
        assert self.stored(b"\xffmeta") == before
        left = self.redis.execute("PTTL", f"{self.prefix}session:{self.key.id_hash}")
        assert isinstance(left, int)
        assert left <= 90_000

    async def test_a_logout_elsewhere_is_not_undone(self) -> None:
        await self.other.delete(self.key.id_hash)
        assert await self.store.save(self.key, Change({"a": b"2"})) is Outcome.GONE
        assert await self.store.load(self.key) is Missing.ABSENT

    async def test_a_secret_killed_elsewhere_writes_nothing(self) -> None:
        newer = new_secret(self.key)
        rotation = Change(rotation=Rotation(newer.secret_hash))
        assert await self.other.save(self.key, rotation) is Outcome.DONE
        assert await self.store.save(self.key, Change({"a": b"2"})) is Outcome.GONE
        assert self.stored(b"a") == b"1"

    async def test_a_secret_that_is_wrong_writes_nothing(self) -> None:
        wrong = new_secret(self.key)
        assert await self.store.save(wrong, Change({"a": b"2"})) is Outcome.GONE
        assert self.stored(b"a") == b"1"

    async def test_a_session_that_another_process_has_written_to_is_noted_anew(self) -> None:
        await anyio.sleep(0.01)  # until the clock of Redis, which goes by milliseconds, has gone on
        assert await self.other.save(self.key, Change({"b": b"5"}), idle_timeout=60) is Outcome.DONE
        assert await self.store.save(self.key, Change({"a": b"2"})) is Outcome.DONE
        found = await self.store.load(self.key)
        assert isinstance(found, Record)
        assert found.fields == {"a": b"2", "b": b"5"}
        left = self.redis.execute("PTTL", f"{self.prefix}session:{self.key.id_hash}")
        assert isinstance(left, int)
        assert left > 61_000
