# ruff: noqa: S101 - pytest explains a bare assert best
"""The conformance suite of session stores: what every store must do, as tests to inherit.

Only the contract of ``holdfast.sessions.store`` is tested here, through its verbs. What a
store does beside it (sharing, bounds, outages) is tested where that store lives.

    class TestMyStore(SessionStoreSuite):
        async def make_store(self) -> SessionStore:
            return MyStore(...)

It needs pytest, and runs on anyio's plugin, which comes with holdfast.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from holdfast.sessions.store import (
    Change,
    Missing,
    Outcome,
    Record,
    Rotation,
    SessionKey,
    SessionStore,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_HOUR = 3600.0
# How a store says that a lifetime is over depends on what it can still see of it.
_OVER = (Missing.ABSENT, Missing.EXPIRED)


def new_key() -> SessionKey:
    """Return the key of a session that no store has seen."""
    return SessionKey(secrets.token_hex(32), secrets.token_hex(32))


def new_secret(key: SessionKey) -> SessionKey:
    """Return the key of the same session with another secret."""
    return SessionKey(key.id_hash, secrets.token_hex(32))


@pytest.mark.anyio
class SessionStoreSuite:
    """Inherit it in a class called ``Test…`` and say how a store is made.

    Attributes:
        patience: seconds to wait for an expiry beyond its time. Default 5.
    """

    patience = 5.0

    async def make_store(self) -> SessionStore:
        """Return a store to test; all stores of one test may share what they keep."""
        raise NotImplementedError("say how a store is made: override make_store")

    async def _with_session(
        self, fields: dict[str, bytes] | None = None, max_age: float = _HOUR
    ) -> tuple[SessionStore, SessionKey]:
        store, key = await self.make_store(), new_key()
        data = {"a": b"1"} if fields is None else fields
        assert await store.create(key, data, max_age=max_age) is Outcome.DONE
        return store, key

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + self.patience
        while not await condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            await anyio.sleep(0.02)

    # --- load and create ------------------------------------------------------------------------

    async def test_a_created_session_is_found_with_its_data_and_times(self) -> None:
        fields = {"name": '"Zoë"'.encode(), "n": b"[1,2]", "": b"null"}
        before = time.time()
        store, key = await self._with_session(fields, max_age=100.0)
        found = await _found(store, key)
        assert dict(found.fields) == fields
        assert found.current
        assert before - 1 <= found.created_at <= time.time() + 1
        assert found.expires_at == pytest.approx(found.created_at + 100, abs=0.1)
        assert found.seen_at == pytest.approx(found.created_at, abs=0.1)
        assert found.secret_since == pytest.approx(found.created_at, abs=0.1)

    async def test_an_unknown_id_is_absent_and_loading_it_creates_nothing(self) -> None:
        store, key = await self.make_store(), new_key()
        assert await store.load(key) is Missing.ABSENT
        assert await store.touch(key, idle_timeout=10) is Outcome.GONE
        assert await store.load(key) is Missing.ABSENT

    async def test_a_wrong_secret_is_as_absent_as_an_unknown_id(self) -> None:
        store, key = await self._with_session()
        wrong = new_secret(key)
        assert await store.load(wrong) is Missing.ABSENT
        assert await store.save(wrong, Change({"a": b"2"})) is Outcome.GONE
        assert await store.touch(wrong, idle_timeout=10) is Outcome.GONE
        assert dict((await _found(store, key)).fields) == {"a": b"1"}

    async def test_an_id_cannot_be_given_twice(self) -> None:
        store, key = await self._with_session()
        outcome = await store.create(new_secret(key), {"b": b"2"}, max_age=_HOUR)
        assert outcome is Outcome.EXISTS
        assert dict((await _found(store, key)).fields) == {"a": b"1"}

    async def test_the_same_create_again_is_done_and_changes_nothing(self) -> None:
        store, key = await self._with_session()
        await store.save(key, Change({"a": b"2"}))
        assert await store.create(key, {"a": b"1"}, max_age=_HOUR) is Outcome.DONE
        assert dict((await _found(store, key)).fields) == {"a": b"2"}

    async def test_a_value_renewed_in_form_does_not_undo_a_parallel_write(self) -> None:
        store, key = await self._with_session({"a": b"1", "b": b"2", "c": b"3"})
        renewed = {"a": (b"1", b" 1"), "b": (b"0", b" 0"), "d": (b"1", b" 1")}
        assert await store.save(key, Change({"c": b"4"}, renewed=renewed)) is Outcome.DONE
        fields = dict((await _found(store, key)).fields)
        assert fields in ({"a": a, "b": b"2", "c": b"4"} for a in (b"1", b" 1"))

    async def test_a_session_without_data_can_be_created_and_kept(self) -> None:
        store, key = await self._with_session({})
        assert await store.save(key, Change()) is Outcome.DONE
        assert dict((await _found(store, key)).fields) == {}

    async def test_many_keys_and_large_values_come_back_whole(self) -> None:
        fields = {f"key {n}": str(n).encode() for n in range(3000)} | {"big": b"1" * 300_000}
        store, key = await self._with_session(fields)
        assert dict((await _found(store, key)).fields) == fields
        changed = {f"key {n}": b"0" for n in range(1, 3000)}
        await store.save(key, Change(changed, ("key 0", "big")))
        assert dict((await _found(store, key)).fields) == changed

    # --- save -----------------------------------------------------------------------------------

    async def test_a_save_changes_the_keys_it_names_and_no_other(self) -> None:
        store, key = await self._with_session({"a": b"1", "b": b"2", "c": b"3"})
        assert await store.save(key, Change({"a": b"9", "d": b"4"}, ("b",))) is Outcome.DONE
        expected = {"a": b"9", "c": b"3", "d": b"4"}
        assert dict((await _found(store, key)).fields) == expected

    async def test_a_hundred_parallel_saves_of_different_keys_are_all_kept(self) -> None:
        store, key = await self._with_session({})
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(store.save, key, Change({f"k{number}": b"1"}))
        assert len((await _found(store, key)).fields) == 100

    async def test_a_key_removed_stays_removed_under_a_save_of_another(self) -> None:
        store, key = await self._with_session({"a": b"1", "k": b"1"})
        await store.save(key, Change(removed=("k",)))
        await store.save(key, Change({"j": b"1"}))
        assert dict((await _found(store, key)).fields) == {"a": b"1", "j": b"1"}

    async def test_a_late_save_does_not_undo_a_logout(self) -> None:
        store, key = await self._with_session()
        assert await store.delete(key.id_hash) is Outcome.DONE
        assert await store.save(key, Change({"a": b"2"})) is Outcome.GONE
        assert await store.touch(key, idle_timeout=10) is Outcome.GONE
        assert await store.load(key) is Missing.ABSENT

    async def test_a_session_emptied_by_removal_is_destroyed(self) -> None:
        store, key = await self._with_session({"a": b"1", "b": b"2"})
        assert await store.save(key, Change(removed=("a",))) is Outcome.DONE
        assert await store.save(key, Change(removed=("b",))) is Outcome.DESTROYED
        assert await store.load(key) is Missing.ABSENT
        assert await store.create(key, {"a": b"1"}, max_age=_HOUR) is Outcome.GONE

    async def test_removing_and_setting_at_once_destroys_nothing(self) -> None:
        store, key = await self._with_session({"a": b"1"})
        assert await store.save(key, Change({"b": b"2"}, ("a",))) is Outcome.DONE
        assert dict((await _found(store, key)).fields) == {"b": b"2"}

    # --- one key in one piece -------------------------------------------------------------------

    async def test_a_change_is_made_where_all_is_as_it_expects(self) -> None:
        store, key = await self._with_session({"a": b"1"})
        change = Change({"a": b"2", "b": b"3"}, expected={"a": b"1", "b": None})
        assert await store.save(key, change) is Outcome.DONE
        assert dict((await _found(store, key)).fields) == {"a": b"2", "b": b"3"}

    @pytest.mark.parametrize(
        "expected",
        [{"a": b"2"}, {"a": None}, {"b": b"1"}, {"a": b"1", "b": b""}, {"a": b"=1"}, {"a": b""}],
        ids=str,
    )
    async def test_a_change_that_expects_something_else_is_refused_whole(
        self, expected: dict[str, bytes | None]
    ) -> None:
        store, key = await self._with_session({"a": b"1"})
        change = Change({"a": b"9", "c": b"9"}, ("a",), expected=expected)
        assert await store.save(key, change) is Outcome.CONFLICT
        assert dict((await _found(store, key)).fields) == {"a": b"1"}

    async def test_what_is_gone_meets_no_expectation(self) -> None:
        store, key = await self._with_session()
        await store.delete(key.id_hash)
        for expected in (b"1", None):
            change = Change({"a": b"2"}, expected={"a": expected})
            assert await store.save(key, change) is Outcome.GONE
        assert await store.load(key) is Missing.ABSENT

    async def test_of_parallel_changes_with_one_expectation_one_is_made(self) -> None:
        store, key = await self._with_session({"a": b"0"})
        outcomes: list[Outcome] = []

        async def swap(number: int) -> None:
            change = Change({"a": b"%d" % number}, expected={"a": b"0"})
            outcomes.append(await store.save(key, change))

        async with anyio.create_task_group() as group:
            for number in range(1, 51):
                group.start_soon(swap, number)
        assert sorted(outcome.name for outcome in outcomes) == ["CONFLICT"] * 49 + ["DONE"]

    async def test_a_hundred_parallel_additions_all_count(self) -> None:
        store, key = await self._with_session({"other": b"1"})
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(_add, store, key, "n", 1)
        assert dict((await _found(store, key)).fields) == {"n": b"100", "other": b"1"}

    async def test_an_addition_tells_the_new_value(self) -> None:
        store, key = await self._with_session({"n": b"-3"})
        assert await _add(store, key, "n", 5) == 2
        assert await _add(store, key, "n", -12) == -10
        assert await _add(store, key, "m", 0) == 0
        assert await _add(store, key, "big", 2**53) == 2**53
        assert await _add(store, key, "big", 1) == 2**53 + 1

    @pytest.mark.parametrize("stored", [b'"1"', b"1.5", b"true", b"null", b"[1]", b"1" + b"0" * 30])
    async def test_an_addition_to_no_whole_number_is_left_to_the_caller(
        self, stored: bytes
    ) -> None:
        store, key = await self._with_session({"n": stored})
        assert await store.increment(key, "n", 1) is Outcome.CONFLICT
        assert dict((await _found(store, key)).fields) == {"n": stored}

    @pytest.mark.parametrize(("first", "by"), [(2**63 - 1, 1), (-(2**63), -1), (5, 2**63 - 1)])
    async def test_a_sum_beyond_64_bits_is_left_to_the_caller(self, first: int, by: int) -> None:
        store, key = await self._with_session({"n": b"%d" % first})
        assert await store.increment(key, "n", by) is Outcome.CONFLICT
        assert dict((await _found(store, key)).fields) == {"n": b"%d" % first}

    async def test_a_late_addition_does_not_undo_a_logout(self) -> None:
        store, key = await self._with_session({"n": b"1"})
        await store.delete(key.id_hash)
        assert await store.increment(key, "n", 1) in {Outcome.GONE, Outcome.CONFLICT}
        assert await store.load(key) is Missing.ABSENT

    async def test_a_killed_secret_adds_nothing(self) -> None:
        store, old = await self._with_session({"n": b"1"})
        new = new_secret(old)
        await store.save(old, Change(rotation=Rotation(new.secret_hash)))
        assert await store.increment(old, "n", 1) in {Outcome.GONE, Outcome.CONFLICT}
        assert dict((await _found(store, new)).fields) == {"n": b"1"}

    # --- delete ---------------------------------------------------------------------------------

    async def test_a_destroyed_id_cannot_be_created_again(self) -> None:
        store, key = await self._with_session()
        await store.delete(key.id_hash)
        assert await store.create(key, {"a": b"1"}, max_age=_HOUR) is Outcome.GONE
        assert await store.create(new_secret(key), {}, max_age=_HOUR) is Outcome.GONE

    async def test_deleting_what_is_absent_is_told_and_remembered(self) -> None:
        store, key = await self.make_store(), new_key()
        assert await store.delete(key.id_hash) is Outcome.GONE
        assert await store.create(key, {"a": b"1"}, max_age=_HOUR) is Outcome.GONE

    async def test_parallel_logouts_win_over_parallel_writers(self) -> None:
        store, key = await self._with_session()
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(store.save, key, Change({f"k{number}": b"1"}))
                if number % 10 == 5:
                    group.start_soon(store.delete, key.id_hash)
        assert await store.load(key) is Missing.ABSENT

    # --- rotation -------------------------------------------------------------------------------

    async def test_a_regeneration_kills_the_old_secret_and_keeps_data_and_id(self) -> None:
        store, old = await self._with_session()
        new = new_secret(old)
        change = Change({"user": b"7"}, rotation=Rotation(new.secret_hash))
        assert await store.save(old, change) is Outcome.DONE
        assert await store.load(old) is Missing.SUPERSEDED
        assert await store.save(old, Change({"a": b"2"})) is Outcome.GONE
        assert await store.touch(old, idle_timeout=10) is Outcome.GONE
        assert dict((await _found(store, new)).fields) == {"a": b"1", "user": b"7"}

    async def test_a_regeneration_can_start_the_lifetime_anew(self) -> None:
        store, old = await self._with_session(max_age=100.0)
        new = new_secret(old)
        await store.save(old, Change(rotation=Rotation(new.secret_hash, max_age=1000.0)))
        found = await _found(store, new)
        assert found.expires_at == pytest.approx(time.time() + 1000, abs=2)

    async def test_an_old_secret_in_its_grace_reads_and_writes(self) -> None:
        store, old = await self._with_session()
        new = new_secret(old)
        await store.save(old, Change(rotation=Rotation(new.secret_hash, grace=30.0)))
        found = await store.load(old)
        assert isinstance(found, Record)
        assert not found.current
        assert await store.save(old, Change({"late": b"1"})) is Outcome.DONE
        assert await store.touch(old, idle_timeout=10) is Outcome.DONE
        found = await _found(store, new)
        assert found.current
        assert dict(found.fields) == {"a": b"1", "late": b"1"}

    async def test_a_second_rotation_by_age_leaves_it_at_the_first(self) -> None:
        store, old = await self._with_session()
        first, second = new_secret(old), new_secret(old)
        await store.save(old, Change(rotation=Rotation(first.secret_hash, grace=30.0)))
        rotation = Rotation(second.secret_hash, grace=30.0)
        assert await store.save(old, Change({"b": b"1"}, rotation=rotation)) is Outcome.NOT_ROTATED
        assert await store.load(second) is Missing.ABSENT
        assert dict((await _found(store, first)).fields) == {"a": b"1", "b": b"1"}

    async def test_a_grace_ends(self) -> None:
        store, old = await self._with_session()
        new = new_secret(old)
        await store.save(old, Change(rotation=Rotation(new.secret_hash, grace=0.2)))

        async def ended() -> bool:
            return await store.load(old) is Missing.ABSENT

        await self._until(ended)
        assert await store.save(old, Change({"b": b"1"})) is Outcome.GONE
        await _found(store, new)

    async def test_a_regeneration_ends_the_grace_of_every_older_secret(self) -> None:
        store, oldest = await self._with_session()
        old, new = new_secret(oldest), new_secret(oldest)
        await store.save(oldest, Change(rotation=Rotation(old.secret_hash, grace=30.0)))
        # The login may well come from the request that still has the secret in its grace.
        assert await store.save(oldest, Change(rotation=Rotation(new.secret_hash))) is Outcome.DONE
        assert await store.load(oldest) is Missing.SUPERSEDED
        assert await store.load(old) is Missing.SUPERSEDED
        await _found(store, new)

    async def test_the_same_rotation_again_is_done(self) -> None:
        store, old = await self._with_session()
        new = new_secret(old)
        change = Change({"b": b"1"}, rotation=Rotation(new.secret_hash))
        assert await store.save(old, change) is Outcome.DONE
        assert await store.save(old, change) is Outcome.DONE
        assert dict((await _found(store, new)).fields) == {"a": b"1", "b": b"1"}

    async def test_many_regenerations_leave_one_secret(self) -> None:
        store, key = await self._with_session()
        keys = [key]
        for _ in range(8):
            keys.append(new_secret(key))
            rotation = Rotation(keys[-1].secret_hash)
            assert await store.save(keys[-2], Change(rotation=rotation)) is Outcome.DONE
        for old in keys[:-1]:
            assert isinstance(await store.load(old), Missing)
        await _found(store, keys[-1])

    # --- lifetimes ------------------------------------------------------------------------------

    async def test_a_session_ends_at_its_absolute_lifetime_however_active(self) -> None:
        store, key = await self._with_session(max_age=0.4)

        async def ended() -> bool:
            return await store.save(key, Change({"n": b"1"}), idle_timeout=10) is Outcome.GONE

        await self._until(ended)
        assert await store.load(key) in _OVER

    async def test_an_idle_session_ends_and_an_active_one_does_not(self) -> None:
        store, idle, active = await self.make_store(), new_key(), new_key()
        for key in (idle, active):
            await store.create(key, {"a": b"1"}, max_age=_HOUR, idle_timeout=0.6)

        async def ended() -> bool:
            assert await store.touch(active, idle_timeout=0.6) is Outcome.DONE
            return await store.load(idle, idle_timeout=0.6) in _OVER

        await self._until(ended)
        assert isinstance(await store.load(active, idle_timeout=0.6), Record)

    async def test_loading_is_no_activity(self) -> None:
        store, key = await self.make_store(), new_key()
        await store.create(key, {"a": b"1"}, max_age=_HOUR, idle_timeout=0.3)

        async def ended() -> bool:
            return await store.load(key, idle_timeout=0.3) in _OVER

        await self._until(ended)

    async def test_an_idle_timeout_cut_short_counts_at_once(self) -> None:
        store, key = await self._with_session()

        async def ended() -> bool:
            return await store.load(key, idle_timeout=0.2) in _OVER

        await self._until(ended)

    async def test_a_touch_within_the_interval_writes_nothing(self) -> None:
        store, key = await self._with_session()
        seen = (await _found(store, key)).seen_at
        await anyio.sleep(0.01)
        assert await store.touch(key, idle_timeout=100, interval=60) is Outcome.DONE
        assert (await _found(store, key)).seen_at == pytest.approx(seen, abs=0.002)
        assert await store.touch(key, idle_timeout=100) is Outcome.DONE
        assert (await _found(store, key)).seen_at > seen + 0.005


async def _found(store: SessionStore, key: SessionKey) -> Record:
    found = await store.load(key)
    assert isinstance(found, Record), f"expected the session, and it is {found}"
    return found


async def _add(store: SessionStore, key: SessionKey, name: str, by: int) -> int:
    """Add as a session does: by compare-and-set where the store leaves it to that."""
    value = await store.increment(key, name, by)
    while value is Outcome.CONFLICT:
        raw = (await _found(store, key)).fields.get(name)
        change = Change({name: b"%d" % (int(raw or 0) + by)}, expected={name: raw})
        if await store.save(key, change) is Outcome.DONE:
            return int(change.set[name])
    assert isinstance(value, int), f"expected a sum, and it is {value}"
    return value
