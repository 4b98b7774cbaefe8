"""The ring: a byte-capped window that never lets a reader in where something would be missing."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.streams.event import ZERO, EventId
from holdfast.streams.fanout.ring import (
    FIRST_PAGE,
    MAX_PAGE,
    PAGE_BYTES,
    WAKE_AT_ONCE,
    Break,
    Item,
    Ring,
    continuity,
    next_page,
)
from holdfast.streams.frames import Frame, encode
from holdfast.streams.store import Entry


def at(n: int) -> EventId:
    return EventId(n, 0)


def stored(n: int, producer: str = "p", seq: int = 0, kind: str = "t") -> Frame:
    return encode("r", Entry(at(n), kind, b"0", n, at(n - 1), producer, seq or n))


def provisional(seq: int, producer: str = "p", base: int = 0) -> Frame:
    return encode("r", Entry(at(base), "t", b"0", producer=producer, seq=seq, provisional=True))


def ring(*frames: Frame, max_bytes: int = 1 << 20) -> Ring:
    made = Ring("r", ZERO, "life", max_bytes=max_bytes)
    for frame in frames:
        made.append(frame)
    return made


def seqs(items: list[Item] | None) -> list[int]:
    assert items is not None
    return [item.entry.seq for item in items if isinstance(item, Frame)]


@pytest.mark.parametrize(
    ("after", "prev", "verdict"),
    [
        (at(5), at(5), None),
        (at(5), None, None),
        (at(5), at(7), "gap"),
        (at(5), at(3), "reset"),
        (at(5), ZERO, "reset"),
        (ZERO, at(1), "gap"),
        (ZERO, ZERO, None),
        (EventId(9, 0), EventId(10, 0), "gap"),
    ],
)
def test_continuity_compares_ids_as_numbers(
    after: EventId, prev: EventId | None, verdict: str | None
) -> None:
    assert continuity(after, prev) == verdict


def test_reader_is_let_in_after_each_id_that_it_holds() -> None:
    one = ring(*(stored(n) for n in range(1, 6)))
    assert [one.locate(at(n)) for n in range(7)] == [0, 1, 2, 3, 4, 5, None]
    position = one.locate(at(2))
    assert position is not None
    assert seqs(one.slice(position, 1 << 20)) == [3, 4, 5]


def test_evicted_place_is_gone_and_its_reader_told_so() -> None:
    one = ring(*(stored(n) for n in range(1, 50)), max_bytes=1000)
    assert one._bytes <= 1000
    assert one.slice(0, 100) is None
    assert one.locate(at(3)) is None
    kept = one.locate(at(48))
    assert kept is not None
    assert seqs(one.slice(kept, 100)) == [49]
    assert one.end == 49


def test_slice_gives_one_item_however_large_and_no_more_than_asked() -> None:
    one = ring(*(stored(n) for n in range(1, 6)))
    assert len(one.slice(0, 1) or []) == 1
    assert len(one.slice(0, 200) or []) == 2
    assert one.slice(5, 200) == []


def test_one_event_larger_than_the_ring_stays_until_the_next() -> None:
    one = ring(stored(1), stored(2), max_bytes=1)
    assert seqs(one.slice(1, 1)) == [2]
    assert one.slice(0, 1) is None


def test_place_behind_an_evicted_provisional_event_is_no_place_to_join() -> None:
    one = ring(stored(1), *(provisional(n) for n in range(2, 50)), max_bytes=1000)
    assert one.locate(at(1)) is None


def test_provisional_event_is_taken_once_and_never_after_its_stored_twin() -> None:
    one = ring(provisional(1), provisional(1), stored(1), provisional(1))
    assert seqs(one.slice(0, 1 << 20)) == [1, 1]
    assert one.encoded == 2


def test_what_is_left_of_the_journal_comes_again_behind_what_was_stored() -> None:
    one = ring(provisional(1), provisional(2), provisional(3), stored(1), stored(2))
    for seq in (1, 2, 3):
        one.append(provisional(seq))
    items = one.slice(0, 1 << 20)
    assert seqs(items) == [1, 2, 3, 1, 2, 3]
    assert items is not None
    hidden = [
        isinstance(item, Frame) and item.entry.provisional and one.superseded(place, item.entry)
        for place, item in enumerate(items)
    ]
    assert hidden == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("seq", "base", "sent", "shown"),
    [
        (2, 5, True, False),  # on its way when the ring began at 7, perhaps as 6 or 7
        (2, 5, False, True),  # never sent
        (2, 7, True, True),  # surely after 7
        (3, 5, True, True),  # accepted when the ring had begun
    ],
)
def test_what_may_be_stored_before_a_ring_begins_is_not_in_it_as_provisional(
    seq: int, base: int, sent: bool, shown: bool
) -> None:
    one = Ring("r", at(7), "life", accepted=2)
    one.append(encode("r", provisional(seq, base=base).entry._replace(sent=sent)))
    assert bool(one.slice(0, 100)) is shown


@pytest.mark.parametrize(
    ("follows", "prev", "leads"),
    [
        (2, None, True),  # which is here
        (3, None, False),
        (3, at(4), True),  # was stored by then, so it is here or came before
        (3, at(5), False),
    ],
)
def test_a_ring_leads_to_an_event_whose_predecessor_it_had(
    follows: int, prev: EventId | None, leads: bool
) -> None:
    one = ring(stored(1), stored(2), stored(3, "q"), stored(4, "q"))
    entry = provisional(follows + 1).entry._replace(follows=follows, prev=prev)
    assert one.leads_to(entry) is leads


def test_new_life_leaves_nothing_of_the_old_and_tells_only_who_was_there() -> None:
    one = ring(stored(1), stored(2, kind="workflow_complete"))
    assert one.ended
    one.begin_life("next", "2-0", None)
    assert (one.ended, one.last, one.last_n, one.life) == (False, ZERO, 0, "next")
    assert one.slice(2, 100) == [Break("reset", "2-0", None)]
    assert one.slice(0, 100) is None
    assert one.locate(ZERO) == 3
    one.append(stored(1))
    assert seqs(one.slice(3, 100)) == [1]


def test_gap_is_passed_on_to_who_is_there() -> None:
    one = ring(stored(1))
    one.interrupt(Break("gap", "1-0", "5-0"))
    assert one.slice(1, 100) == [Break("gap", "1-0", "5-0")]


class Sleeper:
    """Counts how often it is roused; *again*: it sleeps on each time."""

    def __init__(self, *, again: bool = False) -> None:
        self.roused = 0
        self.again = again

    def rouse(self) -> bool:
        self.roused += 1
        return self.again


def asleep(one: Ring, count: int) -> list[Sleeper]:
    found = [Sleeper() for _ in range(count)]
    for each in found:
        one.sleep(each)
    return found


async def test_sleeper_is_roused_once_and_a_gone_one_forgotten() -> None:
    one = ring()
    sleeper, gone = asleep(one, 2)
    one.forget(gone)
    one.wake()
    assert [sleeper.roused, gone.roused] == [0, 0]  # not in the midst of who has news
    await asyncio.sleep(0)
    one.wake()
    await asyncio.sleep(0)
    assert [sleeper.roused, gone.roused] == [1, 0]


async def test_who_sleeps_on_is_roused_at_the_next_news_too() -> None:
    one, sleeper = ring(), Sleeper(again=True)
    one.sleep(sleeper)
    for times in (1, 2, 3):
        one.wake()
        await asyncio.sleep(0)
        assert sleeper.roused == times
    await asyncio.sleep(0)
    assert sleeper.roused == 3


async def test_many_are_roused_in_turns_and_who_waits_longest_first() -> None:
    one = ring()
    first = asleep(one, WAKE_AT_ONCE + 3)
    one.wake()
    await asyncio.sleep(0)
    assert [each.roused for each in first] == [1] * WAKE_AT_ONCE + [0] * 3
    second = asleep(one, WAKE_AT_ONCE)
    one.wake()
    await asyncio.sleep(0)
    assert all(each.roused == 1 for each in first)
    assert sum(each.roused for each in second) == WAKE_AT_ONCE - 3
    await asyncio.sleep(0)
    assert all(each.roused == 1 for each in second)
    (last,) = asleep(one, 1)
    one.wake()
    await asyncio.sleep(0)
    assert last.roused == 1


class Broken(Sleeper):
    def rouse(self) -> bool:
        raise LookupError("broken")


async def test_one_who_fails_when_roused_keeps_nobody_asleep() -> None:
    one, told = ring(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what["exception"]))
    one.sleep(Broken())
    others = asleep(one, 2)
    for times in (1, 2):
        one.wake()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [each.roused for each in others] == [times] * 2
        for each in others:
            one.sleep(each)
    assert [type(each) for each in told] == [LookupError]


def test_state_is_visible() -> None:
    assert repr(ring(stored(1))) == "<Ring 'r' 1 items, 82 bytes, 0 readers>"


@pytest.mark.parametrize(
    ("sizes", "page", "expected"),
    [
        ([], FIRST_PAGE, 8 * FIRST_PAGE),
        ([0, 0], MAX_PAGE, MAX_PAGE),
        ([100] * 16, 16, 128),
        ([100] * 128, 128, MAX_PAGE),
        ([1 << 20] * 16, 16, 1),
        ([1 << 20], 1, 1),
        ([PAGE_BYTES // 4] * 10, 10, 4),
    ],
)
def test_next_page_follows_the_size_of_the_events(
    sizes: list[int], page: int, expected: int
) -> None:
    assert next_page([Entry(ZERO, "t", b"x" * size) for size in sizes], page) == expected


def test_readers_at_one_place_get_one_batch_and_others_their_own() -> None:
    one = ring(*(stored(n) for n in range(1, 6)))
    batch = one.batch(2, 1 << 20)
    assert batch is not None
    assert batch is one.batch(2, 1 << 20)
    assert (batch.start, batch.end, batch.first, batch.last) == (2, 5, at(3), at(5))
    other = one.batch(4, 1 << 20)
    assert other is not None
    assert [frame.entry.seq for frame in other.frames] == [5]
    assert batch.event_source().count(b"id: ") == 3
    assert batch.event_source(envelope=True).count(b'"kind":"event"') == 3


def test_batch_ends_before_what_each_reader_sees_his_own_way() -> None:
    one = ring(stored(1), stored(2), provisional(3), stored(3), stored(4))
    batch = one.batch(0, 1 << 20)
    assert batch is not None
    assert (batch.end, batch.terminal) == (2, False)
    assert one.batch(2, 1 << 20) is None
    assert one.batch(5, 1 << 20) is None
    one.append(stored(5, kind="workflow_complete"))
    last = one.batch(5, 1 << 20)
    assert last is not None
    assert last.terminal


def test_batch_is_bounded_and_gone_with_what_the_ring_let_go() -> None:
    one = ring(*(stored(n) for n in range(1, 50)), max_bytes=1000)
    assert one.batch(0, 1 << 20) is None
    assert not one.reaches(0)
    batch = one.batch(48, 1)
    assert batch is not None
    assert len(batch.frames) == 1
