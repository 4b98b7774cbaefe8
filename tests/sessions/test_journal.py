"""What waits for Redis: coalesced, bounded, in order; and the copies that bridge an outage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from holdfast.errors import SessionUnavailable
from holdfast.sessions.outage.copies import Copies
from holdfast.sessions.outage.journal import Journal
from holdfast.sessions.store import Change, Missing, Outcome, Record, Rotation, SessionKey
from holdfast.sessions.stores.calls import Calls, merged
from holdfast.testing.session_store import new_key, new_secret

if TYPE_CHECKING:
    from holdfast.sessions.outage.entry import Entry

NOW = 1000.0
CALLS = Calls("p:")


def record(**fields: bytes) -> Record:
    return Record(fields, NOW - 10, NOW + 90, NOW - 10, NOW - 10)


def journal(max_sessions: int = 10, max_bytes: int = 1000) -> Journal:
    return Journal(max_sessions, max_bytes)


def entry_of(book: Journal, key: SessionKey) -> Entry:
    entry = book.get(key.id_hash)
    assert entry is not None
    return entry


def shown(book: Journal, key: SessionKey, now: float = NOW) -> Record | Missing | None:
    return entry_of(book, key).seen_with(key.secret_hash, now, 0.0)


def test_changes_of_one_session_become_one_call() -> None:
    book, key = journal(), new_key()
    book.save(key, record(a=b"1", b=b"2"), Change({"a": b"3", "c": b"4"}), 50.0, NOW)
    book.save(key, None, Change({"a": b"5"}, ("b", "c")), 50.0, NOW)
    book.save(key, None, Change({"b": b"6"}), 50.0, NOW)
    seen = shown(book, key)
    assert isinstance(seen, Record)
    assert dict(seen.fields) == {"a": b"5", "b": b"6"}
    keys = {"a": (b"5", (b"1",)), "b": (b"6", (b"2",)), "c": (None, (None,))}
    expected = CALLS.merge(key, keys, idle_timeout=50.0)
    assert entry_of(book, key).calls(CALLS, NOW) == (expected,)
    assert len(book) == 1


def test_rotations_of_one_session_become_one_from_what_redis_knows() -> None:
    book, key = journal(), new_key()
    second, third = new_secret(key), new_secret(key)
    rotation = Rotation(second.secret_hash, max_age=50)
    book.save(key, record(a=b"1"), Change(rotation=rotation), 0.0, NOW)
    assert shown(book, key) is Missing.SUPERSEDED
    assert shown(book, key, NOW + 31) is Missing.ABSENT
    assert book.save(key, None, Change({"x": b"1"}), 0.0, NOW) is Outcome.GONE
    book.save(second, None, Change(rotation=Rotation(third.secret_hash, max_age=70)), 0.0, NOW)
    assert shown(book, second) is None
    with pytest.raises(SessionUnavailable, match="only Redis knows"):
        book.save(second, None, Change(), 0.0, NOW)
    assert book.touch(second, 0.0, 0.0, NOW) is Outcome.GONE
    change = Change(rotation=Rotation(third.secret_hash, max_age=60.0))
    expected = CALLS.save(key, change, idle_timeout=0.0)
    assert entry_of(book, key).calls(CALLS, NOW + 10) == (expected,)


def test_a_birth_is_told_with_its_age_and_its_latest_state() -> None:
    book, key = journal(), new_key()
    assert book.create(key, record(a=b"1"), 0.0) is Outcome.DONE
    assert book.create(key, record(a=b"1"), 0.0) is Outcome.DONE
    assert book.create(new_secret(key), record(a=b"1"), 0.0) is Outcome.GONE
    birth = CALLS.create(key, {"a": b"1"}, max_age=100, idle_timeout=0.0, age=30)
    assert entry_of(book, key).calls(CALLS, NOW + 20) == (birth,)
    second = new_secret(key)
    rotation = Rotation(second.secret_hash)
    book.save(key, None, Change({"b": b"2"}, rotation=rotation), 0.0, NOW)
    change = Change({"b": b"2"}, rotation=Rotation(second.secret_hash, max_age=70))
    # What came with the new secret is never there for the old one.
    assert entry_of(book, key).calls(CALLS, NOW + 20) == (
        CALLS.create(key, {"a": b"1"}, max_age=100, idle_timeout=0.0, age=30),
        CALLS.save(key, change, idle_timeout=0.0),
    )


def test_a_logout_beats_everything_that_waited() -> None:
    for born in (True, False):
        book, key = journal(), new_key()
        if born:
            book.create(key, record(a=b"1"), 0.0)
        else:
            book.save(key, record(a=b"1"), Change({"b": b"1"}), 0.0, NOW)
        book.delete(key.id_hash)
        assert shown(book, key) is Missing.ABSENT
        assert book.save(key, record(a=b"1"), Change({"c": b"1"}), 0.0, NOW) is Outcome.GONE
        assert book.create(key, record(), 0.0) is Outcome.GONE
        assert entry_of(book, key).calls(CALLS, NOW) == (CALLS.delete(key.id_hash),)


def test_removing_the_last_key_is_a_logout() -> None:
    book, key = journal(), new_key()
    assert book.save(key, record(a=b"1"), Change(removed=("a",)), 0.0, NOW) is Outcome.DESTROYED
    assert entry_of(book, key).record is None


def test_logouts_go_first_and_births_last() -> None:
    book, born, changed, gone = journal(), new_key(), new_key(), new_key()
    book.create(born, record(a=b"1"), 0.0)
    book.save(changed, record(a=b"1"), Change({"a": b"2"}), 0.0, NOW)
    book.delete(gone.id_hash)
    order = [entry.id_hash for entry in book.in_order()]
    assert order == [gone.id_hash, changed.id_hash, born.id_hash]


def test_a_full_journal_is_an_error_and_loses_nothing() -> None:
    book = journal(max_sessions=2, max_bytes=100)
    first, second = new_key(), new_key()
    book.create(first, record(a=b"x" * 40), 0.0)
    book.create(second, record(a=b"x" * 40), 0.0)
    with pytest.raises(SessionUnavailable):
        book.create(new_key(), record(), 0.0)
    with pytest.raises(SessionUnavailable):
        book.save(first, None, Change({"a": b"y" * 80}), 0.0, NOW)
    seen = shown(book, first)
    assert isinstance(seen, Record)
    assert seen.fields["a"] == b"x" * 40
    book.save(first, None, Change({"a": b"y"}), 0.0, NOW)
    book.forget(second.id_hash)
    book.forget(second.id_hash)
    book.create(new_key(), record(a=b"z" * 90), 0.0)


def test_logouts_have_as_much_room_as_all_else_and_take_none_from_it() -> None:
    book = journal(max_sessions=2)
    first, second = new_key(), new_key()
    book.create(first, record(a=b"1"), 0.0)
    book.create(second, record(a=b"1"), 0.0)
    for id_hash in ("a", "b"):
        book.delete(id_hash)
    with pytest.raises(SessionUnavailable):
        book.delete("c")
    # One that waits already, whatever becomes of it, needs no room more.
    book.delete(first.id_hash)
    assert book.refused == 1
    third = new_key()
    book.create(third, record(a=b"1"), 0.0)
    for id_hash in (first.id_hash, "a"):
        book.done(entry_of(book, SessionKey(id_hash, "")))
    book.forget("b")
    for id_hash in ("c", "d"):
        book.delete(id_hash)
    with pytest.raises(SessionUnavailable):
        book.create(new_key(), record(), 0.0)
    assert len(book) == 4


def test_what_is_added_during_a_write_still_waits() -> None:
    book, key = journal(), new_key()
    book.create(key, record(a=b"1"), 0.0)
    sent = entry_of(book, key)
    second = new_secret(key)
    change = Change({"b": b"2"}, rotation=Rotation(second.secret_hash, max_age=90))
    book.save(key, None, change, 0.0, NOW)
    book.done(sent)
    assert entry_of(book, key).calls(CALLS, NOW) == (
        CALLS.save(key, Change(rotation=change.rotation), idle_timeout=0.0),
        CALLS.merge(second, {"b": (b"2", (None,))}, idle_timeout=0.0),
    )
    book.done(entry_of(book, key))
    book.done(sent)
    assert len(book) == 0


def test_what_redis_may_know_of_a_write_leaves_room_when_it_is_forgotten() -> None:
    book, key = journal(max_bytes=100), new_key()
    for _ in range(10):
        book.create(key, record(a=b"1" * 40), 0.0)
        sent = entry_of(book, key)
        book.save(key, None, Change({"a": b"2" * 40}), 0.0, NOW)
        book.save(key, None, Change({"b": b"2"}), 0.0, NOW)
        book.done(sent)
        book.forget(key.id_hash)
    with pytest.raises(SessionUnavailable):
        book.create(key, record(a=b"1" * 101), 0.0)
    book.create(key, record(a=b"1" * 100), 0.0)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ([1], (True, 0)),
        ([1, b"a", b"b"], (True, 2)),
        ([2], (False, 0)),
        ([-1], (False, 0)),
        (1, (True, 0)),
        (3, (True, 0)),
        (2, (False, 0)),
        (0, (False, 0)),
        (-1, (False, 0)),
        (None, (False, 0)),
    ],
)
def test_what_a_replay_destroyed_is_not_there(reply: Any, told: tuple[bool, int]) -> None:
    assert merged(reply) == told


def test_a_session_that_expired_while_it_waited_is_absent() -> None:
    book, key = journal(), new_key()
    book.create(key, record(a=b"1"), 20.0)
    assert isinstance(shown(book, key, NOW), Record)
    assert shown(book, key, NOW + 10) is Missing.ABSENT
    assert book.touch(key, 20.0, 20.0, NOW + 9) is Outcome.DONE
    assert shown(book, key, NOW + 10) is Missing.ABSENT
    assert book.touch(key, 20.0, 10.0, NOW + 9) is Outcome.DONE
    assert isinstance(shown(book, key, NOW + 28), Record)
    assert shown(book, key, NOW + 90) is Missing.ABSENT
    book.delete(key.id_hash)
    assert book.touch(key, 20.0, 0.0, NOW) is Outcome.GONE
    assert book.touch(new_key(), 20.0, 0.0, NOW) is Outcome.GONE


def test_a_session_that_is_not_known_here_cannot_be_changed() -> None:
    with pytest.raises(SessionUnavailable, match="not known here"):
        journal().save(new_key(), None, Change({"a": b"1"}), 0.0, NOW)


def test_copies_are_bounded_in_number_and_bytes() -> None:
    copies = Copies(max_sessions=3, max_bytes=100)
    keys = [new_key() for _ in range(4)]
    for key in keys:
        copies.put(key, record(a=b"1"), NOW)
    assert copies.get(keys[0], 0) is None
    assert len(copies) == 3
    copies.put(keys[3], record(a=b"x" * 99), NOW)
    assert len(copies) == 2
    copies.put(new_key(), record(a=b"x" * 101), NOW)
    assert len(copies) == 0
    copies.put(keys[0], record(), NOW)
    copies.clear()
    assert copies.get(keys[0], 0) is None


@pytest.mark.parametrize("born", [False, True], ids=["changed", "born"])
def test_what_was_told_without_an_answer_may_be_there(born: bool) -> None:
    book, first = journal(), new_key()
    second, third = new_secret(first), new_secret(first)
    if born:
        book.create(first, record(a=b"1"), 0.0)
    told = Change({"a": b"2"}, rotation=Rotation(second.secret_hash, max_age=90))
    book.save(first, record(a=b"1"), told, 0.0, NOW)
    entry_of(book, first).tried = True
    book.save(second, None, Change({"a": b"3", "b": b"3"}), 0.0, NOW)
    newer = Change({"a": b"4"}, rotation=Rotation(third.secret_hash, max_age=90))
    book.save(second, None, newer, 0.0, NOW)
    again = CALLS.save(first, Change(rotation=told.rotation), idle_timeout=0.0)
    if born:
        fields = {"a": b"4", "b": b"3"}
        birth = CALLS.create(first, {}, max_age=100, idle_timeout=0.0, age=10)
        last = CALLS.save(second, Change(fields, rotation=newer.rotation), idle_timeout=0.0)
        assert entry_of(book, first).calls(CALLS, NOW) == (birth, again, last)
        return
    rotation = CALLS.save(second, Change(rotation=newer.rotation), idle_timeout=0.0)
    keys: dict[str, Any] = {"a": (b"4", (b"1", b"2")), "b": (b"3", (None,))}
    merge = CALLS.merge(third, keys, idle_timeout=0.0)
    assert entry_of(book, first).calls(CALLS, NOW) == (again, rotation, merge)


def test_a_copy_is_for_its_secret_and_its_time_alone() -> None:
    copies, key = Copies(10, 1000), new_key()
    copies.put(key, record(a=b"1"), NOW)
    assert copies.get(key, NOW) is not None
    assert copies.get(key, NOW + 1) is None
    assert copies.get(new_secret(key), 0) is None
    copies.drop(key.id_hash)
    copies.drop(key.id_hash)
    assert copies.get(key, 0) is None


def test_copies_of_before_a_moment_can_be_dropped_and_later_ones_stay() -> None:
    copies, before, after = Copies(10, 1000), new_key(), new_key()
    copies.put(before, record(a=b"1"), NOW)
    copies.put(after, record(a=b"1"), NOW + 1)
    copies.drop_before(NOW + 1)
    assert copies.get(before, 0) is None
    assert copies.get(after, 0) is not None


def test_an_answer_asked_for_before_a_change_is_not_kept() -> None:
    copies, key, other = Copies(10, 1000), new_key(), new_key()
    asked = copies.asked
    copies.outdate(key.id_hash)
    for each, kept in ((key, False), (other, True)):
        copies.put(each, record(a=b"1"), NOW, asked)
        assert (copies.get(each, 0) is not None) is kept
    copies.put(key, record(a=b"1"), NOW, copies.asked)
    assert copies.get(key, 0) is not None
    copies.outdate(key.id_hash)
    assert copies.get(key, 0) is None
    asked = copies.asked
    for _ in range(2000):
        copies.outdate(new_key().id_hash)
    copies.put(key, record(a=b"1"), NOW, asked)
    assert copies.get(key, 0) is None


def test_a_copy_shows_activity_once_in_the_interval_and_to_its_own_secret_alone() -> None:
    copies, key = Copies(10, 1000), new_key()
    copies.put(key, record(a=b"1"), NOW)

    def seen_at() -> float:
        copy = copies.get(key, NOW)
        assert copy is not None
        return copy.seen_at

    copies.touch(key, NOW, 20)
    copies.touch(key._replace(secret_hash="another"), NOW, 0)
    copies.touch(new_key(), NOW, 0)
    assert seen_at() == NOW - 10
    copies.touch(key, NOW, 10)
    assert seen_at() == NOW
