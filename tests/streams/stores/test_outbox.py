"""The outbox as a value: order, numbers, batches, the journal and its bounds. No Redis, no loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.errors import HoldfastError, JournalFull, RunEnded
from holdfast.streams.cursor import Cursor
from holdfast.streams.event import ZERO, EventId
from holdfast.streams.store import Draft, Entry
from holdfast.streams.stores import outbox as module
from holdfast.streams.stores.outbox import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, Outbox, Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

RUN = "run"
Told = list[tuple[object, Entry | HoldfastError]]


class Publishers:
    """Puts events in, and keeps what each publisher is told."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.told: Told = []

    def put(
        self,
        *names: object,
        run_id: str = RUN,
        life: str | None = None,
        owner: str | None = None,
        size: int = 1,
        kind: str = "t",
        sender: str = "loop",
        now: float = 0.0,
    ) -> bool:
        def teller(name: object) -> module.Answer:
            return lambda result: self.told.append((name, result))

        return self.outbox.put(
            run_id,
            [Draft(kind, b"x" * size) for _ in names],
            [teller(name) for name in names],
            sender=sender,
            owner=owner,
            life=life,
            now_ms=1234,
            now=now,
        )

    @property
    def names(self) -> list[object]:
        return [name for name, _ in self.told]


def make(limit: int = 100, max_bytes: int = 1 << 30) -> Publishers:
    return Publishers(Outbox(limit, max_bytes, producer="p"))


def take(outbox: Outbox, sender: str = "loop", now: float = 0.0) -> list[Waiting]:
    batch = outbox.take(RUN, sender, now, 1.0)
    assert isinstance(batch, list)
    return batch


def settle(outbox: Outbox, batch: Sequence[Waiting], first: int = 1) -> None:
    """Answer *batch* as a store that has written all of it."""
    results = [w.stored(EventId(first + i, 0), i + 1, ZERO, "life") for i, w in enumerate(batch)]
    outbox.done(RUN, batch, results)


class TestBatches:
    def test_who_has_a_batch_on_its_way_has_nothing_to_take(self) -> None:
        one = make()
        assert not one.put("a")
        batch = take(one.outbox)
        assert one.put("b", now=0.9)
        assert not one.put("c", now=0.9, sender="another")
        # By then nobody waits for that batch any more.
        assert not one.put("d", now=1.1)
        settle(one.outbox, batch)
        assert not one.put("e", now=0.9)

    def test_events_leave_in_the_order_they_came_with_numbers_in_a_row(self) -> None:
        publishers = make()
        for name in "abc":
            publishers.put(name)
        batch = take(publishers.outbox)
        assert [waiting.seq for waiting in batch] == [1, 2, 3]
        settle(publishers.outbox, batch)
        assert publishers.names == ["a", "b", "c"]
        assert take(publishers.outbox) == []

    def test_one_batch_at_a_time_is_on_its_way(self) -> None:
        publishers = make()
        publishers.put("a")
        batch = take(publishers.outbox)
        publishers.put("b")
        assert take(publishers.outbox) == []
        settle(publishers.outbox, batch)
        assert [waiting.seq for waiting in take(publishers.outbox)] == [2]

    def test_who_comes_again_and_again_is_sent_in_halves(self) -> None:
        publishers = make()
        publishers.put("first")
        sizes = []
        coming = 99
        for _ in range(5):
            batch = take(publishers.outbox)
            for _ in range(coming):
                publishers.put("x")
            settle(publishers.outbox, batch)
            sizes.append(len(batch))
            coming = len(batch)
        assert sizes == [1, 50, 50, 50, 50]

    def test_few_are_sent_at_once(self) -> None:
        publishers = make()
        publishers.put("first")
        settle(publishers.outbox, take(publishers.outbox))
        for _ in range(module.MIN_HALF):
            publishers.put("x")
        assert len(take(publishers.outbox)) == module.MIN_HALF

    def test_another_sender_is_told_when_to_ask_again(self) -> None:
        publishers = make()
        publishers.put("a")
        take(publishers.outbox, "one", now=10.0)
        assert publishers.outbox.take(RUN, "two", 10.25, 1.0) == pytest.approx(0.75)
        batch = take(publishers.outbox, "two", now=11.0)  # by then the first one is gone
        assert [waiting.seq for waiting in batch] == [1]

    def test_whoever_waits_for_the_next_event_sends_it(self) -> None:
        publishers = make()
        assert publishers.outbox.next_sender(RUN) is None
        publishers.put("a", sender="one")
        publishers.put("b", sender="two", life="0.x")
        batch = take(publishers.outbox, "one")
        assert publishers.outbox.next_sender(RUN) is None
        settle(publishers.outbox, batch)
        assert publishers.outbox.next_sender(RUN) == "two"

    def test_a_batch_whose_sender_gave_it_up_can_be_taken_at_once(self) -> None:
        publishers = make()
        publishers.put("a")
        take(publishers.outbox, "one")
        publishers.outbox.release(RUN)
        publishers.outbox.release("unknown")
        assert len(take(publishers.outbox, "two")) == 1

    def test_a_batch_is_bounded_in_count(self) -> None:
        publishers = make()
        for number in range(MAX_BATCH_EVENTS + 5):
            publishers.put(number)
        assert len(take(publishers.outbox)) == MAX_BATCH_EVENTS

    def test_a_batch_is_bounded_in_bytes_but_never_empty(self) -> None:
        publishers = make()
        publishers.put("large", size=MAX_BATCH_BYTES + 1)
        publishers.put("small")
        batch = take(publishers.outbox)
        assert len(batch) == 1
        settle(publishers.outbox, batch)
        assert len(take(publishers.outbox)) == 1

    def test_what_came_together_is_never_divided(self) -> None:
        publishers = make()
        publishers.put(*range(MAX_BATCH_EVENTS - 1))
        publishers.put(*range(1000), size=MAX_BATCH_BYTES // 100)
        publishers.put("last")
        first = take(publishers.outbox)
        assert len(first) == MAX_BATCH_EVENTS - 1
        settle(publishers.outbox, first)
        assert len(take(publishers.outbox)) == 1000

    def test_two_lives_are_never_in_one_batch(self) -> None:
        publishers = make()
        publishers.put("a", life="0.x")
        publishers.put("b", life="0.x")
        publishers.put("c", life="0.y")
        assert [waiting.life for waiting in take(publishers.outbox)] == ["0.x", "0.x"]

    def test_nothing_follows_an_end_that_waits(self) -> None:
        publishers = make()
        publishers.put("end", kind="workflow_complete")
        with pytest.raises(RunEnded):
            publishers.put("late")
        settle(publishers.outbox, take(publishers.outbox))
        publishers.put("the store's to judge")

    def test_a_batch_that_another_sender_settled_is_not_settled_twice(self) -> None:
        publishers = make()
        publishers.put("a")
        slow = take(publishers.outbox)
        publishers.put("b")
        quick = publishers.outbox.head(RUN)
        assert [waiting.seq for waiting in quick] == [1, 2]
        settle(publishers.outbox, quick)
        settle(publishers.outbox, slow)
        assert publishers.names == ["a", "b"]
        publishers.put("c")
        assert [waiting.seq for waiting in take(publishers.outbox)] == [3]

    def test_an_answer_without_an_id_is_told_with_what_is_known(self) -> None:
        publishers = make()
        publishers.put("a")
        (waiting,) = take(publishers.outbox)
        entry = waiting.stored(None, 0, None, "life")
        assert (entry.id, entry.created_ms, entry.life) == (ZERO, 1234, "life")


class TestJournal:
    def test_an_outage_turns_the_queue_into_the_journal(self) -> None:
        publishers = make()
        publishers.put("a")
        settle(publishers.outbox, take(publishers.outbox), first=7)
        publishers.put("b", owner="user:1")
        publishers.put("c")
        take(publishers.outbox)
        entries = publishers.outbox.unavailable(RUN)
        assert [entry.public_id for entry in entries] == ["7-0~p.2", "7-0~p.3"]
        assert publishers.told[1:] == [("b", entries[0]), ("c", entries[1])]
        pending = publishers.outbox.pending(RUN)
        assert pending is not None
        assert pending.entries == tuple(entries)
        assert (pending.base, pending.ended, pending.owner) == (EventId(7, 0), False, "user:1")
        assert publishers.outbox.unavailable(RUN) == []

    def test_what_is_flushed_leaves_the_journal_and_is_not_told_again(self) -> None:
        publishers = make()
        publishers.put("a")
        publishers.outbox.unavailable(RUN)
        assert publishers.outbox.journalled == 1
        assert publishers.outbox.waiting_runs() == [RUN]
        settle(publishers.outbox, publishers.outbox.head(RUN))
        assert (publishers.outbox.journalled, publishers.outbox.journalled_bytes) == (0, 0)
        assert publishers.outbox.waiting_runs() == []
        assert publishers.outbox.pending(RUN) is None
        assert publishers.names == ["a"]

    def test_what_a_flush_that_was_cut_short_has_stored_is_no_longer_pending(self) -> None:
        at = make()
        at.put("a", "b")
        take(at.outbox)
        at.outbox.unavailable(RUN)
        settle(at.outbox, at.outbox.head(RUN)[:1], first=7)
        pending = at.outbox.pending(RUN)
        assert pending is not None
        assert [entry.seq for entry in pending.entries] == [2]
        # A reader who has not the stored one must not be served from here alone.
        assert pending.base == EventId(7, 0)

    def test_what_waits_says_what_its_producer_wrote_before_it(self) -> None:
        """A reader may have it who has that: by its id where it is stored, else by its number."""
        publishers = make()
        publishers.put("a")
        settle(publishers.outbox, take(publishers.outbox), first=7)
        publishers.put("b", "c")
        entries = publishers.outbox.unavailable(RUN)
        assert [(each.follows, each.prev) for each in entries] == [(1, EventId(7, 0)), (2, None)]
        head = publishers.outbox.head(RUN)[:1]
        settle(publishers.outbox, head, first=9)
        publishers.put("d")
        (last,) = publishers.outbox.unavailable(RUN)
        assert (last.seq, last.follows, last.prev) == (4, 3, None)
        pending = publishers.outbox.pending(RUN)
        assert pending is not None
        assert [(each.follows, each.prev) for each in pending.entries] == [
            (2, EventId(9, 0)),
            (3, None),
        ]

    @pytest.mark.parametrize("others", [0, 1])
    def test_an_end_waits_to_be_stored_where_others_have_written_too(self, others: int) -> None:
        publishers = make()
        publishers.put("a")
        (first,) = take(publishers.outbox)
        stored = first.stored(EventId(7, 0), 1 + others, ZERO, "life")
        publishers.outbox.done(RUN, [first], [stored])
        publishers.put("end", kind="workflow_complete")
        (end,) = publishers.outbox.unavailable(RUN)
        told = Cursor(EventId(7, 0)).reaches(end.producer, end.follows, end.prev)
        assert told is (others == 0)

    def test_an_end_waits_to_be_stored_where_nothing_is_known_of_the_run(self) -> None:
        publishers = make()
        publishers.put("end", kind="workflow_complete")
        (end,) = publishers.outbox.unavailable(RUN)
        assert not Cursor().reaches(end.producer, end.follows, end.prev)

    def test_a_run_that_begins_and_ends_in_an_outage_is_told_whole(self) -> None:
        publishers = make()
        publishers.put("a")
        publishers.put("end", kind="workflow_complete")
        cursor = Cursor()
        for entry in publishers.outbox.unavailable(RUN):
            assert cursor.reaches(entry.producer, entry.follows, entry.prev)
            cursor.advance_provisional("p", entry.seq)

    def test_the_first_event_of_a_run_follows_nothing(self) -> None:
        publishers = make()
        publishers.put("a")
        (first,) = publishers.outbox.unavailable(RUN)
        assert (first.follows, first.prev) == (0, None)

    def test_what_the_store_refuses_at_the_flush_is_counted(self) -> None:
        publishers = make()
        publishers.put("a")
        publishers.outbox.unavailable(RUN)
        batch = publishers.outbox.head(RUN)
        publishers.outbox.done(RUN, batch, [RunEnded("ended elsewhere")])
        assert (publishers.outbox.refused, publishers.outbox.journalled) == (1, 0)

    def test_a_full_journal_accepts_nothing_more(self) -> None:
        publishers = make(limit=3)
        publishers.put("a")
        publishers.outbox.unavailable(RUN)
        publishers.put("b", "c")
        publishers.outbox.unavailable(RUN)
        with pytest.raises(JournalFull, match="HOLDFAST_STREAM_JOURNAL allows 3"):
            publishers.put("d")
        with pytest.raises(JournalFull):
            publishers.put("d", run_id="another")
        settle(publishers.outbox, publishers.outbox.head(RUN))
        publishers.put("d")

    def test_the_journal_is_bounded_in_bytes_too(self) -> None:
        publishers = make(max_bytes=100)
        publishers.put("a", size=60)
        publishers.outbox.unavailable(RUN)
        with pytest.raises(JournalFull, match="HOLDFAST_STREAM_MAX_RUN_BYTES 100"):
            publishers.put("b", size=60)
        publishers.put("c", size=40)

    def test_what_does_not_fit_when_the_outage_begins_is_refused_newest_first(self) -> None:
        publishers = make(limit=3)
        publishers.put("a")
        publishers.put("b", "c")
        publishers.put("d", "e")
        publishers.outbox.unavailable(RUN)
        outcome = {name: isinstance(result, JournalFull) for name, result in publishers.told}
        assert outcome == {"a": False, "b": False, "c": False, "d": True, "e": True}
        batch = publishers.outbox.head(RUN)
        assert [waiting.seq for waiting in batch] == [1, 2, 3]
        settle(publishers.outbox, batch)
        publishers.put("f")
        assert [waiting.seq for waiting in take(publishers.outbox)] == [6]

    def test_what_has_been_sent_is_kept_over_the_limit(self) -> None:
        publishers = make(limit=2, max_bytes=100)
        for name in "abc":
            publishers.put(name, size=60)
        publishers.outbox.leaves(take(publishers.outbox))
        publishers.put("d")
        publishers.outbox.unavailable(RUN)
        outcome = {name: isinstance(result, JournalFull) for name, result in publishers.told}
        assert outcome == {"a": False, "b": False, "c": False, "d": True}
        assert publishers.outbox.journalled == 3
        batch = publishers.outbox.head(RUN)
        assert [waiting.seq for waiting in batch] == [1, 2, 3]
        settle(publishers.outbox, batch)
        assert (publishers.outbox.journalled, publishers.outbox.journalled_bytes) == (0, 0)

    def test_what_came_together_is_journalled_whole_or_refused_whole(self) -> None:
        publishers = make(limit=3)
        publishers.put("a")
        publishers.put("b", "c", "d")
        publishers.outbox.unavailable(RUN)
        outcome = {name: isinstance(result, JournalFull) for name, result in publishers.told}
        assert outcome == {"a": False, "b": True, "c": True, "d": True}

    def test_an_end_in_the_journal_ends_the_run_here(self) -> None:
        publishers = make()
        publishers.put("end", kind="workflow_error")
        publishers.outbox.unavailable(RUN)
        pending = publishers.outbox.pending(RUN)
        assert pending is not None
        assert pending.ended
        with pytest.raises(RunEnded):
            publishers.put("late")

    def test_a_deleted_run_is_known_no_more(self) -> None:
        publishers = make()
        publishers.put("a")
        settle(publishers.outbox, take(publishers.outbox), first=7)
        publishers.outbox.forget(RUN)
        publishers.outbox.forget("unknown")
        publishers.put("b")
        (entry,) = publishers.outbox.unavailable(RUN)
        assert entry.id == ZERO


class TestRecall:
    def test_what_the_store_has_lost_is_sent_again_in_its_place(self) -> None:
        at = make()
        at.put("a", "b", "c")
        settle(at.outbox, take(at.outbox), first=7)
        at.put("d")
        at.outbox.unavailable(RUN)
        assert at.outbox.written_since(9) == {RUN: "life"}
        assert at.outbox.recall({RUN: (1, EventId(7, 0))}) == (2, [])
        assert at.outbox.journalled == 3
        batch = at.outbox.head(RUN)
        assert [waiting.seq for waiting in batch] == [2, 3, 4]
        pending = at.outbox.pending(RUN)
        assert pending is not None
        assert (pending.base, len(pending.entries)) == (EventId(7, 0), 3)
        settle(at.outbox, batch, first=20)
        assert (at.outbox.journalled, at.outbox.journalled_bytes) == (0, 0)
        assert len(at.told) == 4

    def test_what_the_store_has_is_not_sent_again(self) -> None:
        at = make()
        at.put("a", "b")
        settle(at.outbox, take(at.outbox), first=7)
        assert at.outbox.recall({RUN: (2, EventId(8, 0)), "unknown": (0, ZERO)}) == (0, [])
        assert at.outbox.head(RUN) == []

    def test_what_is_lost_twice_is_sent_twice(self) -> None:
        at = make()
        at.put("a")
        settle(at.outbox, take(at.outbox), first=7)
        for again in (8, 9):
            assert at.outbox.recall({RUN: (0, ZERO)}) == (1, [])
            settle(at.outbox, at.outbox.head(RUN), first=again)

    def test_of_a_run_of_which_more_is_lost_than_is_kept_nothing_is_sent_and_that_is_told(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_RECENT_EVENTS", 2)
        at = make()
        at.put("a", "b", "c")
        settle(at.outbox, take(at.outbox), first=7)
        at.put("x", run_id="other")
        assert at.outbox.recall({RUN: (0, ZERO)}) == (0, [RUN])
        assert at.outbox.recall({RUN: (0, ZERO)}) == (0, []), "told once"
        assert at.outbox.head(RUN) == []

    def test_what_is_kept_is_bounded_in_bytes_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_RECENT_BYTES", 100)
        at = make()
        for name in "ab":
            at.put(name, size=60)
            settle(at.outbox, take(at.outbox), first=ord(name))
        assert at.outbox.recall({RUN: (1, EventId(97, 0))}) == (1, [])
        settle(at.outbox, at.outbox.head(RUN), first=200)
        assert at.outbox.recall({RUN: (0, ZERO)}) == (0, [RUN])

    def test_a_deleted_run_is_not_begun_anew_by_what_it_had(self) -> None:
        at = make()
        at.put("a")
        settle(at.outbox, take(at.outbox), first=7)
        at.outbox.forget(RUN)
        assert at.outbox.written_since(0) == {}
        assert at.outbox.recall({RUN: (0, ZERO)}) == (0, [])


class TestRuns:
    def test_nothing_is_known_of_a_run_that_nobody_published_to(self) -> None:
        outbox = make().outbox
        assert outbox.take(RUN, "loop", 0.0, 1.0) == []
        assert outbox.head(RUN) == []
        assert outbox.pending(RUN) is None

    def test_a_forgotten_run_goes_on_above_every_number_it_may_have_used(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_IDLE_RUNS", 10)
        publishers = make()
        for number in range(5):
            publishers.put(number)
        settle(publishers.outbox, take(publishers.outbox))
        for number in range(30):
            publishers.put("waits", run_id=f"other-{number}")
        assert "31 runs" not in repr(publishers.outbox)
        publishers.put("again")
        (waiting,) = take(publishers.outbox)
        assert waiting.seq > 5
        # What waits is never forgotten.
        assert len(publishers.outbox.waiting_runs()) == 31

    def test_a_forked_child_starts_with_nothing_and_another_name(self) -> None:
        publishers = make()
        publishers.put("a")
        publishers.outbox.unavailable(RUN)
        publishers.outbox.forked()
        assert publishers.outbox.producer != "p"
        assert publishers.outbox.waiting_runs() == []
        assert "0 events wait" in repr(publishers.outbox)
