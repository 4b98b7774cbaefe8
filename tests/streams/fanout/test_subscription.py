"""One reader's walk through history, ring and outages: each event once, in order, or it is told."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from tests.streams.clients import until
from tests.streams.patchy import PatchyStore

from holdfast.errors import CorruptData, RedisUnavailable
from holdfast.streams.cursor import TAIL, Cursor, Position, parse_position
from holdfast.streams.event import ZERO, EventId
from holdfast.streams.fanout.hub import Hub
from holdfast.streams.fanout.ring import FIRST_PAGE, Break
from holdfast.streams.fanout.subscription import Due, Subscription
from holdfast.streams.frames import Frame, encode
from holdfast.streams.store import Draft, News, RunInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams.store import Entry


@pytest.fixture
async def store() -> PatchyStore:
    return PatchyStore()


@pytest.fixture
async def hub(store: PatchyStore) -> AsyncIterator[Hub]:
    hub = Hub(store)
    yield hub
    await hub.aclose()


class Reader:
    """Takes whatever is due, as a door does, and keeps a list of it."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.dues: list[Due] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while not (self.subscription.done or self.subscription.over):
            batch = self.subscription.take_batch()
            if batch is not None:
                due = [Due(frame.cursor, frame) for frame in batch.frames]
            else:
                due = await self.subscription.take()
            self.dues += due
            if not due:
                await self.subscription.wait()

    @property
    def entries(self) -> list[Entry]:
        return [due.item.entry for due in self.dues if isinstance(due.item, Frame)]

    @property
    def names(self) -> list[str]:
        """Who wrote each event, as its how-many-th, provisional or not; and what was told."""
        return [
            f"{due.item.entry.producer}.{due.item.entry.seq}"
            if isinstance(due.item, Frame)
            else due.item.kind
            for due in self.dues
        ]

    @property
    def cursor(self) -> str:
        return [due.cursor for due in self.dues if due.cursor][-1]

    async def has(self, *names: str) -> None:
        await until(lambda: self.names == list(names), 5, lambda: f"{self.names} {self.dues}")


@contextlib.asynccontextmanager
async def reading(hub: Hub, position: Position | str = "0") -> AsyncIterator[Reader]:
    at = parse_position(position) if isinstance(position, str) else position
    assert at is not None
    async with Subscription(hub, "r", at) as subscription:
        reader = Reader(subscription)
        try:
            yield reader
        finally:
            reader.task.cancel()
            await asyncio.gather(reader.task, return_exceptions=True)


async def test_history_then_live_is_one_source(store: PatchyStore, hub: Hub) -> None:
    for _ in range(2000):
        store.other()
    async with reading(hub) as reader:
        await until(lambda: len(reader.entries) == 2000)
        store.own(count=3)
        store.other(bell=True)
        await until(lambda: len(reader.entries) == 2004)
    assert [entry.n for entry in reader.entries] == list(range(1, 2005))


async def test_own_event_waits_for_the_earlier_event_of_another_process(
    store: PatchyStore, hub: Hub
) -> None:
    async with reading(hub) as reader:
        store.own()
        await reader.has("own.1")
        reads = store.reads
        store.gate.clear()
        store.other()
        store.own()
        await until(lambda: store.reads > reads)
        assert reader.names == ["own.1"]
        store.gate.set()
        await reader.has("own.1", "other.2", "own.2")


async def test_own_event_that_was_not_readable_before_an_outage_is_not_passed_over(
    store: PatchyStore, hub: Hub
) -> None:
    """Else the next provisional event would say: of this producer all up to here has been seen."""
    async with reading(hub) as reader:
        store.own()
        await reader.has("own.1")
        reads = store.reads
        store.gate.clear()
        store.other()
        store.own()
        await until(lambda: store.reads > reads)
        store.away = True
        store.own()
        store.gate.set()
        await reader.has("own.1", "own.2", "own.3")
        assert reader.cursor == f"{reader.entries[0].id}~own.3"
        store.come_back()
        await reader.has("own.1", "own.2", "own.3", "other.2")
        store.own()
        await reader.has("own.1", "own.2", "own.3", "other.2", "own.4")
    assert reader.cursor == str(store.last)


async def test_who_has_not_read_what_is_stored_is_held_until_it_is_read(
    store: PatchyStore, hub: Hub
) -> None:
    """A run that is first read in an outage: 0-0~own.3 would say that 1 and 2 have been seen."""
    store.own(count=2)
    store.away = True
    async with reading(hub) as reader, reading(hub, "0-0~own.2") as one_who_has:
        await until(lambda: reader.subscription.idle and one_who_has.subscription.idle)
        store.own()
        await one_who_has.has("own.3")
        assert reader.names == []
        assert not reader.subscription.ready
        store.come_back()
        await reader.has("own.1", "own.2", "own.3")
        store.own()
        await reader.has("own.1", "own.2", "own.3", "own.4")
        await one_who_has.has("own.3", "own.4")


async def test_end_that_cannot_be_told_yet_does_not_end_the_reader(
    store: PatchyStore, hub: Hub
) -> None:
    store.own(count=2)
    store.away = True
    async with reading(hub) as reader, reading(hub, "0-0~own.2") as one_who_has:
        await until(lambda: reader.subscription.idle and one_who_has.subscription.idle)
        store.own(kind="workflow_complete")
        await until(lambda: one_who_has.subscription.done)
        await until(lambda: reader.subscription.idle)
        assert not reader.subscription.done
        store.come_back()
        await until(lambda: reader.subscription.done)
    assert reader.names == ["own.1", "own.2", "own.3"]


async def test_end_that_is_stored_after_more_than_a_page_is_told_after_that_page(
    store: PatchyStore, hub: Hub
) -> None:
    """It was shown before it was stored, and what comes before it is read page by page."""
    async with reading(hub) as early:
        store.own()
        await early.has("own.1")
        store.away = True
        store.own(count=FIRST_PAGE)
        store.own(kind="workflow_complete")
        await until(lambda: early.subscription.done)
        (ring,) = hub._rings.values()
        late = Subscription(hub, "r", Cursor(early.entries[0].id))
        async with late:
            for quick in (False, True):
                for entry in store.journal[:3]:
                    ring.append(encode("r", store._store(entry._replace(provisional=False))))
                del store.journal[:3]
                assert late.take_batch() if quick else await late.take()
                assert not late.done
            assert late.cursor.base == ring.last


async def test_end_of_a_run_that_others_were_seen_to_write_waits_to_be_stored(
    store: PatchyStore, hub: Hub
) -> None:
    async with reading(hub) as reader:
        store.own()
        await reader.has("own.1")
        store.other(bell=True)
        await reader.has("own.1", "other.2")
        store.away = True
        store.own(kind="workflow_complete")
        await until(lambda: reader.subscription.idle)
        assert not reader.subscription.done
        store.come_back()
        await reader.has("own.1", "other.2", "own.2")


async def test_end_that_is_not_readable_before_an_outage_waits_for_what_others_wrote(
    store: PatchyStore, hub: Hub
) -> None:
    async with reading(hub) as reader:
        store.own()
        await reader.has("own.1")
        reads = store.reads
        store.gate.clear()
        store.other()
        store.own(kind="workflow_complete")
        await until(lambda: store.reads > reads)
        store.away = True
        store.gate.set()
        await until(lambda: hub._rings["r"].doubtful)
        assert not reader.subscription.done
        store.come_back()
        await reader.has("own.1", "other.2", "own.2")


async def test_unreadable_events_of_a_run_first_read_in_an_outage_are_not_shown_too_early(
    store: PatchyStore, hub: Hub
) -> None:
    """They are stored, and where what is before them is, nobody knows."""
    store.own(count=2)
    store.away = True
    async with reading(hub) as reader:
        await until(lambda: len(hub._rings) == 1)
        store.away = False
        stored = store.own()
        store.away = True
        store.own()
        async with reading(hub, f"{stored[0].id}") as other:
            await until(lambda: other.subscription.ready is False)
        assert reader.names == []
        store.come_back()
        await reader.has("own.1", "own.2", "own.3", "own.4")


class _FailsOnce(PatchyStore):
    """Nothing can be read the first time, though it can be described.

    Of what it accepts it does not know by which id the one before is stored.
    """

    async def read(
        self,
        run_id: str,
        start: EventId,
        end: EventId | None,
        limit: int,
        *,
        max_bytes: int | None = None,
    ) -> list[Entry]:
        found = await super().read(run_id, start, end, limit, max_bytes=max_bytes)
        if self.reads == 1:
            raise RedisUnavailable("refused")
        return found

    def _journalled(self) -> list[Entry]:
        return list(self.journal)


async def test_provisional_event_is_shown_after_a_first_read_that_failed() -> None:
    """What may be stored before it is looked for again, though nothing has changed meanwhile."""
    store = _FailsOnce()
    store.own()
    hub = Hub(store)
    async with reading(hub, f"{store.last}~own.1") as reader:
        await until(lambda: hub._rings["r"].doubtful)
        store.come_back()
        await until(lambda: not (hub._rings["r"].doubtful or hub._refreshing))
        store.away = True
        store.own()
        await reader.has("own.2")
    await hub.aclose()


async def test_provisional_event_is_shown_though_what_waited_before_is_being_read(
    store: PatchyStore, hub: Hub
) -> None:
    async with reading(hub) as reader:
        store.own()
        await reader.has("own.1")
        reads = store.reads
        store.gate.clear()
        store.bells.ring("r", News(store.life))
        await until(lambda: store.reads > reads)
        store.away = True
        store.own()
        await reader.has("own.1", "own.2")
        store.gate.set()


async def test_provisional_event_is_shown_though_the_run_is_being_read(
    store: PatchyStore, hub: Hub
) -> None:
    async with reading(hub) as reader:
        store.own()
        await reader.has("own.1")
        reads = store.reads
        store.gate.clear()
        store.other(bell=True)
        await until(lambda: store.reads > reads)
        store.away = True
        store.own()
        await reader.has("own.1", "own.2")
        store.gate.set()
        store.come_back()
        await reader.has("own.1", "own.2", "other.2")


async def test_reader_who_joins_between_two_outages_gets_the_final_order(
    store: PatchyStore, hub: Hub
) -> None:
    """A part of what waited is stored, then Redis goes away again: nothing is skipped."""
    async with reading(hub) as early:
        store.own()
        await early.has("own.1")
        store.away = True
        store.own(count=3)
        await early.has("own.1", "own.2", "own.3", "own.4")
        left = store.journal[2:]
        store.journal = store.journal[:2]
        store.come_back()
        store.other(bell=True)
        await early.has("own.1", "own.2", "own.3", "own.4", "other.4")
        store.away = True
        store.journal = left
        hub.look("r")
        async with reading(hub, str(early.entries[0].id)) as late:
            await late.has("own.2", "own.3", "other.4", "own.4")
            store.own()
            await late.has("own.2", "own.3", "other.4", "own.4", "own.5")
            store.come_back()
            store.own()
            for reader, names in ((late, late.names), (early, early.names)):
                await until(lambda reader=reader: reader.names[-1] == "own.6")  # type: ignore[misc]
                assert sorted(set(names)) == sorted(names)
    assert early.names == ["own.1", "own.2", "own.3", "own.4", "other.4", "own.5", "own.6"]


async def test_whole_pages_known_from_before_they_were_stored_do_not_stall_the_reader(
    store: PatchyStore, hub: Hub
) -> None:
    store.own(count=704)
    async with reading(hub, f"{store.entries[2].id}~own.703") as reader:
        await reader.has("own.704")
    assert reader.cursor == str(store.last)


async def test_ninth_producer_is_told_as_a_reset(store: PatchyStore, hub: Hub) -> None:
    eight = "".join(f"~p{n}.1" for n in range(8))
    store.own()
    async with reading(hub, f"{store.last}{eight}") as reader:
        await until(lambda: len(hub._rings) == 1)
        await asyncio.sleep(0)
        store.away = True
        store.own()
        await reader.has("reset", "own.2")
        assert reader.cursor == f"{store.last}~own.2"


async def test_slow_reader_falls_back_to_the_log_and_rejoins(store: PatchyStore, hub: Hub) -> None:
    async with Subscription(hub, "r", Cursor()) as slow:
        assert await slow.take() == []
        ring = slow._ring
        assert ring is not None
        ring._max_bytes = 1000
        store.own(count=100)
        assert len(ring._items) < 20
        taken = [due for _ in range(4) for due in await slow.take()]
        assert [item.item.entry.n for item in taken if isinstance(item.item, Frame)] == list(
            range(1, 101)
        )
        store.own()
        assert len(await slow.take()) == 1
        assert slow._position == ring.end


async def test_trimmed_history_is_told_once_before_the_rest(store: PatchyStore, hub: Hub) -> None:
    for _ in range(10):
        store.other()
    first = store.entries[0].id
    store.trim(4)
    async with reading(hub, str(first)) as reader:
        await until(lambda: len(reader.entries) == 6)
        assert reader.dues[0] == Due("", Break("gap", str(first), str(store.entries[0].id)))
    async with reading(hub) as reader:
        await until(lambda: len(reader.entries) == 6)
        assert reader.dues[0].item == Break("gap", "0-0", str(store.entries[0].id))
    async with reading(hub, str(store.entries[0].id)) as reader:
        await until(lambda: len(reader.entries) == 5)
        assert "gap" not in reader.names


async def test_foreign_event_after_what_is_gone_is_told_as_a_gap_when_in_doubt(
    store: PatchyStore, hub: Hub
) -> None:
    first, second = store.other(), store.other()
    store.foreign()
    async with reading(hub, str(second.id)) as reader:
        await reader.has("None.0")
    store.trim(1)
    async with reading(hub, str(first.id)) as reader:
        await reader.has("other.2", "None.0")
    store.trim(1)
    for position in (str(second.id), "0"):
        async with reading(hub, position) as reader:
            await reader.has("gap", "None.0")


async def test_foreign_events_alone_are_read_from_the_start_without_a_gap(
    store: PatchyStore, hub: Hub
) -> None:
    store.foreign()
    async with reading(hub) as reader:
        await reader.has("None.0")
        store.foreign()
        hub.look("r")
        await reader.has("None.0", "None.0")
        assert repr(reader.subscription) == f"<Subscription 'r' at {store.last}>"


async def test_all_trimmed_behind_the_reader_is_a_gap_and_the_reader_goes_on(
    store: PatchyStore, hub: Hub
) -> None:
    for _ in range(3):
        store.other()
    first = str(store.entries[0].id)
    store.trim(3)
    async with reading(hub, first) as reader:
        await reader.has("gap")
        assert reader.dues[0].item == Break("gap", first, None)
        store.own()
        await reader.has("gap", "own.1")


async def test_newest_events_that_are_gone_are_told_without_a_next_one(
    store: PatchyStore, hub: Hub
) -> None:
    first = store.other()
    store.other()
    store.other(kind="workflow_complete")
    del store.entries[1:]
    for position in (str(first.id), "0"):
        async with reading(hub, position) as reader:
            await until(lambda reader=reader: "gap" in reader.names)  # type: ignore[misc]
            assert reader.dues[-1].item == Break("gap", str(first.id), None)


async def test_hole_under_a_live_reader_is_told(store: PatchyStore, hub: Hub) -> None:
    async with reading(hub) as reader:
        store.own()
        await reader.has("own.1")
        store.other()
        store.other()
        del store.entries[1]
        hub.look("r")
        await reader.has("own.1", "gap", "other.3")


async def test_cursor_past_the_end_of_a_live_run_is_a_reset_never_silence(
    store: PatchyStore, hub: Hub
) -> None:
    store.own(count=2)
    async with reading(hub, "9999999999999-0") as reader:
        await reader.has("reset", "own.1", "own.2")
        assert reader.dues[0].item == Break("reset", "9999999999999-0", str(store.entries[0].id))


async def test_cursor_that_was_never_an_entry_is_a_reset(store: PatchyStore, hub: Hub) -> None:
    store.own(count=2)
    async with reading(hub, "7-0") as reader:
        await reader.has("reset", "own.1", "own.2")


class AnswersLate(PatchyStore):
    """What it says of the run is what was true when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.late = asyncio.Event()
        self.late.set()
        self.asked = 0

    async def describe(self, run_id: str) -> RunInfo:
        info = await super().describe(run_id)
        self.asked += 1
        await self.late.wait()
        return info


async def test_second_outage_right_after_the_flush_passes_over_nothing() -> None:
    """A look that began before the flush ends after it, and has found nothing new."""
    store = AnswersLate()
    hub = Hub(store)
    async with reading(hub) as early:
        (first,) = store.own()
        await early.has("own.1")
        store.away = True
        store.own()
        await early.has("own.1", "own.2")
        store.away, asked = False, store.asked
        store.late.clear()
        hub.look("r")
        await until(lambda: store.asked > asked)
        store._store(store.journal.pop()._replace(provisional=False))
        store.bells.ring("r", News(store.life))
        store.away = True
        store.own()
        async with reading(hub, str(first.id)) as late:
            store.late.set()
            await until(lambda: hub._rings["r"].doubtful)
            store.come_back()
            await late.has("own.2", "own.3")
        await early.has("own.1", "own.2", "own.3")
    await hub.aclose()


class LosesAllAfterALook(PatchyStore):
    """It loses what it has, once, when the run has been looked at, and goes on in the same life."""

    armed = False

    async def describe(self, run_id: str) -> RunInfo:
        info = await super().describe(run_id)
        if self.armed:
            self.armed = False
            await asyncio.sleep(0.003)  # an id is given once
            self.flush()
            self.other()
            self.other()
        return info


async def test_loss_before_a_ring_has_come_up_to_its_reader_is_a_reset() -> None:
    store = LosesAllAfterALook()
    hub = Hub(store)
    async with reading(hub) as early:
        await until(lambda: early.subscription.idle)
        store.other()
        last = store.other()
        store.armed = True
        async with reading(hub, str(last.id)) as ahead:
            await ahead.has("reset", "other.1", "other.2")
    await hub.aclose()


async def test_flush_under_a_live_stream_never_mixes_two_lives(
    store: PatchyStore, hub: Hub
) -> None:
    async with reading(hub) as reader:
        store.own(count=3)
        await reader.has("own.1", "own.2", "own.3")
        last = store.last
        store.flush()
        store.life, store.seq = "life-2", 0
        store.other(bell=True)
        await reader.has("own.1", "own.2", "own.3", "reset", "other.1")
        assert reader.dues[3].item == Break("reset", str(last), str(store.entries[0].id))
        store.own()
        await reader.has("own.1", "own.2", "own.3", "reset", "other.1", "own.1")


class _LeavesBetween(PatchyStore):
    """Goes away when what follows an id is asked for."""

    leaves_at: EventId | None = None

    async def read(
        self,
        run_id: str,
        start: EventId,
        end: EventId | None,
        limit: int,
        *,
        max_bytes: int | None = None,
    ) -> list[Entry]:
        if self.leaves_at is not None and start == self.leaves_at.next():
            self.leaves_at, self.away = None, True
        return await super().read(run_id, start, end, limit, max_bytes=max_bytes)


async def test_outage_between_a_reset_and_the_new_life_passes_over_nothing() -> None:
    """What is accepted then comes after what is stored and was not shown yet."""
    store = _LeavesBetween()
    hub = Hub(store)
    async with reading(hub) as reader:
        store.own(count=2)
        await reader.has("own.1", "own.2")
        store.flush()
        store.life, store.seq, store.leaves_at = "life-2", 0, ZERO
        for _ in range(3):
            store._own(Draft("t", b"0"))
        hub.look("r")
        await reader.has("own.1", "own.2", "reset")
        await until(lambda: store.away)
        store.own()
        store.come_back()
        told = ["own.1", "own.2", "reset", "own.1", "own.2", "own.3", "own.4"]
        await reader.has(*told)
        store.away = True
        store.own()
        await reader.has(*told, "own.5")
    await hub.aclose()


async def test_outage_while_what_waited_is_read_passes_over_nothing() -> None:
    """What was provisional and is stored counts no more, and not all of it has been read."""
    store = _LeavesBetween()
    hub = Hub(store)
    stored = [f"own.{n}" for n in range(2, FIRST_PAGE + 2)]
    async with reading(hub) as reader:
        (first,) = store.own()
        await reader.has("own.1")
        store.away = True
        reads = store.reads
        hub.look("r")  # whoever finds it away begins anew with a small page
        await until(lambda: store.reads > reads)
        store.own(count=FIRST_PAGE + 3)
        await until(lambda: len(reader.names) == FIRST_PAGE + 4)
        for waiting in store.journal:
            entry = store._store(waiting._replace(provisional=False))
            if entry.seq == FIRST_PAGE + 1:
                store.leaves_at = entry.id
        store.journal, store.away = [], False
        hub.look("r")
        await until(lambda: store.away)
        store.own()
        async with reading(hub, str(first.id)) as late:
            await late.has(*stored)
            store.come_back()
            rest = [f"own.{n}" for n in range(FIRST_PAGE + 2, FIRST_PAGE + 6)]
            await late.has(*stored, *rest)
    await hub.aclose()


async def test_new_life_whose_first_events_are_gone_is_a_reset_and_a_gap(
    store: PatchyStore, hub: Hub
) -> None:
    async with reading(hub) as reader:
        store.own()
        await reader.has("own.1")
        store.flush()
        store.life = "life-2"
        store.other()
        store.other()
        store.trim(1)
        hub.look("r")
        await reader.has("own.1", "reset", "gap", "other.2")


async def test_audit_finds_a_bell_that_nobody_heard(store: PatchyStore, hub: Hub) -> None:
    async with reading(hub) as reader:
        store.own()
        await reader.has("own.1")
        store.other()
        await reader.has("own.1", "other.2")


async def test_terminal_event_ends_the_reader_in_the_same_take(
    store: PatchyStore, hub: Hub
) -> None:
    async with Subscription(hub, "r", Cursor()) as subscription:
        store.own()
        store.own(kind="workflow_complete")
        assert len(await subscription.take()) == 2
        assert subscription.done
        await asyncio.wait_for(subscription.wait(), 1)


async def test_tail_gets_only_what_comes_from_now(store: PatchyStore, hub: Hub) -> None:
    store.own(count=5)
    async with reading(hub, TAIL) as reader:
        await until(lambda: store.reads > 0)
        store.own()
        await reader.has("own.6")


async def test_tail_during_an_outage_skips_the_history_it_could_not_know(
    store: PatchyStore, hub: Hub
) -> None:
    store.own(count=5)
    store.away = True
    await asyncio.sleep(0.002)
    async with reading(hub, TAIL) as reader:
        store.own()
        await reader.has("own.6")
        store.come_back()
        store.own()
        await reader.has("own.6", "own.7")


async def test_history_reader_held_by_an_outage_goes_on_by_himself(
    store: PatchyStore, hub: Hub
) -> None:
    for _ in range(30):
        store.other()
    async with Subscription(hub, "r", Cursor()) as subscription:
        taken = await subscription.take()
        assert len(taken) == 16
        store.away = True
        assert await subscription.take() == []
        waiting = asyncio.create_task(subscription.wait())
        await asyncio.sleep(0.01)
        store.away = False  # without a word: only the audit can find out
        await asyncio.wait_for(waiting, 4)
        taken += await subscription.take()
    assert [due.cursor for due in taken] == [str(entry.id) for entry in store.entries]


async def test_unreadable_store_is_an_error_and_no_outage(store: PatchyStore, hub: Hub) -> None:
    store.own()
    async with Subscription(hub, "r", Cursor()) as subscription:
        store.corrupt = True
        with pytest.raises(CorruptData):
            await subscription.take()


async def test_subscription_is_used_as_a_context_manager(hub: Hub) -> None:
    with pytest.raises(RuntimeError, match="context manager"):
        await Subscription(hub, "r", Cursor(EventId(1, 0))).take()


async def test_ring_that_is_behind_its_reader_gives_him_nothing_twice(
    store: PatchyStore, hub: Hub
) -> None:
    async with reading(hub) as first:
        store.own()
        await first.has("own.1")
        store.other()
        async with reading(hub, str(store.last)) as reader:
            store.own()
            await reader.has("own.2")
            await first.has("own.1", "other.2", "own.2")
            assert reader.names == ["own.2"]


async def test_quick_way_is_not_that_of_a_reader_with_a_suffix(
    store: PatchyStore, hub: Hub
) -> None:
    async with reading(hub, "0-0~own.1") as reader:
        await until(lambda: reader.subscription._position is not None)
        store.own(count=2)
        await reader.has("own.2")
    assert reader.cursor == str(store.last)


async def test_readers_who_come_back_together_share_each_page_of_history() -> None:
    class Remote(PatchyStore):
        async def _answer(self) -> None:
            await asyncio.sleep(0)
            await super()._answer()

    store = Remote()
    for _ in range(300):
        store.other()
    hub = Hub(store)
    async with contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(reading(hub)) for _ in range(20)]
        await until(lambda: all(len(reader.entries) == 300 for reader in readers), 10)
    assert store.reads < 20, "about as many as one of them needs"
    shown = [[due.item for due in reader.dues] for reader in readers]
    assert all(a is b for items in shown for a, b in zip(items, shown[0], strict=True))
    await hub.aclose()


async def test_page_whose_reader_leaves_is_read_by_whoever_waited_for_it(
    store: PatchyStore, hub: Hub
) -> None:
    store.own(count=3)
    async with Subscription(hub, "r", Cursor()) as one, reading(hub) as other:
        store.gate.clear()
        taking = asyncio.create_task(one.take())
        await until(lambda: store.reads > 0)
        await asyncio.sleep(0)
        assert not other.dues
        taking.cancel()
        store.gate.set()
        await other.has("own.1", "own.2", "own.3")


async def test_page_is_of_no_use_to_who_stands_elsewhere(store: PatchyStore, hub: Hub) -> None:
    entries = [store.other() for _ in range(3)]
    async with (
        Subscription(hub, "r", Cursor()) as one,
        reading(hub, str(entries[0].id)) as other,
    ):
        store.gate.clear()
        taking = asyncio.create_task(one.take())
        await until(lambda: store.reads > 1)
        store.gate.set()
        await other.has("other.2", "other.3")
        assert len(await taking) == 3
