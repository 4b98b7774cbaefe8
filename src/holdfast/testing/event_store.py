# ruff: noqa: S101 - pytest explains a bare assert best
"""The conformance suite of event stores: what every store must do, as tests to inherit.

Only the contract of ``holdfast.streams.store`` is tested here, through its verbs. What a store does
beside it (sharing, outages, other programs' entries) is tested where that store lives.

    class TestMyStore(EventStoreSuite):
        async def make_store(self, **bounds: float) -> EventStore:
            return MyStore(**bounds)

It needs pytest, and runs on anyio's plugin, which comes with holdfast.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.errors import EventTooLarge, IdempotencyKeyReused, InvalidEvent, RunEnded, RunExpired
from holdfast.streams.event import ZERO, parse_id
from holdfast.streams.hold import Hold
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.store import Once

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.streams.event import StreamEvent
    from holdfast.streams.store import Entry, EventStore, News

_ONE_MEGABYTE = 1 << 20
_VALUES: list[Any] = [
    None,
    True,
    0,
    -1.5,
    "",
    "Zoë 🪸",
    [],
    {},
    {"a": [1, {"b": None}]},
    2**63,
    -(2**64),
    "\r\n\u2028\u2029\x00",
    "\n\nevent: x\ndata: y",
]
_NO_JSON: list[Any] = [
    math.nan,
    math.inf,
    {"a": -math.inf},
    datetime.now(UTC),
    b"bytes",
    {1, 2},
    object(),
    "\ud800",
    {"\udfff": 1},
    uuid.UUID(int=0),
    10**5000,
]
_BAD_RUN_IDS: list[Any] = [
    "",
    ".",
    "..",
    "a\x00",
    "a\nb",
    "\x7f",
    "\x85",
    "{x}",
    "a}",
    "x" * 257,
    "\ud800",
    None,
    7,
    b"a",
]
_BAD_TYPES: list[Any] = [
    "",
    "a\rb",
    "a\nb",
    "a\x00",
    "x" * 257,
    "x" * 10_000,
    "holdfast.x",
    "run_lost",
    "run_stopped",
    "\udc00",
    None,
    5,
    b"token",
]
_BAD_IDS: list[Any] = [
    " 5-0",
    "+5-0",
    "05-0",
    "5-00",
    "5",
    "5-",
    "-",
    "+",
    "(5-0",
    "$",
    "٥-0",
    "5-0\x00",
    "9" * 10_000,
    f"{2**64}-0",
    f"0-{2**64}",
    "5-0~",
    "5-0~a",
    "5-0~a.0",
    "5-0~a.1~a.2",
    5,
    b"5-0",
]


def new_run_id() -> str:
    """Return a run id that no store has seen."""
    return f"run-{uuid.uuid4().hex}"


@pytest.mark.anyio
class EventStoreSuite:
    """Inherit it in a class called ``Test…`` and say how a store is made.

    Attributes:
        patience: seconds to wait for an expiry beyond its time. Default 5.
    """

    patience = 5.0

    async def make_store(
        self,
        *,
        maxlen: int = 10_000,
        max_run_bytes: int = 134_217_728,
        retention: float = 86_400,
    ) -> EventStore:
        """Return a store with these bounds; all stores of one test may share what they keep.

        Args:
            maxlen: how many events a run keeps; the oldest go first, some may stay longer.
            max_run_bytes: how many bytes of events a run keeps.
            retention: seconds for which a run is kept after its last event.
        """
        raise NotImplementedError("say how a store is made: override make_store")

    async def _until(self, condition: Callable[[], Awaitable[object]]) -> None:
        deadline = time.monotonic() + self.patience
        while not await condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.01)

    # --- what an event is -----------------------------------------------------------------------

    async def test_an_event_comes_back_as_it_was_added(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        before = datetime.now(UTC) - timedelta(milliseconds=2)
        added = await store.add(run_id, "token", {"text": "Zoë"})
        assert (added.run_id, added.type, added.data) == (run_id, "token", {"text": "Zoë"})
        assert before <= added.created_at <= datetime.now(UTC) + timedelta(seconds=1)
        assert added.created_at.utcoffset() == timedelta(0)
        assert await store.get_events(run_id) == [added]

    @pytest.mark.parametrize("value", _VALUES, ids=ascii)
    async def test_every_json_value_keeps_its_form(self, value: Any) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "t", value)
        (event,) = await store.get_events(run_id)
        assert event.data == value
        assert type(event.data) is type(value)

    @pytest.mark.parametrize("value", _NO_JSON, ids=lambda value: type(value).__name__)
    async def test_what_json_cannot_carry_is_refused_and_nothing_begins(self, value: Any) -> None:
        store, run_id = await self.make_store(), new_run_id()
        with pytest.raises(InvalidEvent):
            await store.add(run_id, "t", value)
        assert await store.status(run_id) == "absent"

    async def test_cyclic_and_bottomless_data_is_refused(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        cyclic: list[Any] = []
        cyclic.append(cyclic)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        for value in (cyclic, deep):
            with pytest.raises(InvalidEvent):
                await store.add(run_id, "t", value)
        while deep:  # taken apart by hand: the interpreter would recurse
            deep = deep[0]

    @pytest.mark.parametrize("kind", _BAD_TYPES, ids=lambda kind: ascii(kind)[:20])
    async def test_a_type_that_no_frame_can_carry_is_refused(self, kind: Any) -> None:
        store, run_id = await self.make_store(), new_run_id()
        with pytest.raises(InvalidEvent):
            await store.add(run_id, kind, 1)
        assert await store.status(run_id) == "absent"

    @pytest.mark.parametrize("kind", ["error", "x" * 256, "Zoë", "a b", "message", "holdfastx"])
    async def test_an_unusual_type_passes(self, kind: str) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, kind, 1)
        assert [event.type for event in await store.get_events(run_id)] == [kind]

    @pytest.mark.parametrize("run_id", _BAD_RUN_IDS, ids=lambda run_id: ascii(run_id)[:20])
    async def test_every_verb_refuses_a_run_id_that_cannot_exist(self, run_id: Any) -> None:
        store = await self.make_store()
        verbs: list[Callable[[], Awaitable[object]]] = [
            lambda: store.add(run_id, "t", 1),
            lambda: store.get_events(run_id),
            lambda: store.get_events_after(run_id, "0"),
            lambda: store.exists(run_id),
            lambda: store.status(run_id),
            lambda: store.set_expire(run_id, 1),
            lambda: store.delete(run_id),
            lambda: store.describe(run_id),
            lambda: store.append(run_id, [store.draft("t", 1)]),
            lambda: store.write(run_id, [store.draft("t", 1)]),
            lambda: store.claim(_hold(run_id)),
            lambda: store.request_stop(run_id),
        ]
        for verb in verbs:
            with pytest.raises(InvalidEvent):
                await verb()

    @pytest.mark.parametrize("run_id", ["x" * 256, "a/b c", "é", "*", "a:b", "A", "a?b#c%2F"])
    async def test_run_ids_are_exact_text(self, run_id: str) -> None:
        store, suffix = await self.make_store(), uuid.uuid4().hex
        exact = (suffix + run_id)[-256:] if len(run_id) < 200 else run_id
        await store.delete(exact)
        await store.add(exact, "t", exact)
        assert [event.data for event in await store.get_events(exact)] == [exact]
        assert await store.status(exact.swapcase()) == "absent"
        await store.delete(exact)

    async def test_the_largest_event_passes_and_one_byte_more_does_not(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        largest = "x" * (_ONE_MEGABYTE - 2)  # and two quotation marks
        await store.add(run_id, "t", largest)
        with pytest.raises(EventTooLarge, match=r"1048577 bytes.*HOLDFAST_STREAM_MAX_EVENT_BYTES"):
            await store.add(run_id, "t", largest + "x")
        with pytest.raises(EventTooLarge):  # bytes of UTF-8 count, not characters
            await store.add(run_id, "t", "é" * (_ONE_MEGABYTE // 2))
        (event,) = await store.get_events(run_id)
        assert event.data == largest

    # --- ids and order --------------------------------------------------------------------------

    async def test_ids_grow_and_keep_the_order_of_adding(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        added = [await store.add(run_id, "t", number) for number in range(50)]
        ids = [_parsed(event) for event in added]
        assert ids == sorted(set(ids))
        assert await store.get_events(run_id) == added

    async def test_events_added_at_once_have_one_order_for_everybody(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        added = await asyncio.gather(*(store.add(run_id, "t", number) for number in range(200)))
        events = await store.get_events(run_id, limit=1000)
        assert events == sorted(added, key=_parsed)
        assert [event.data for event in events] == list(range(200))

    async def test_writers_of_one_run_each_keep_their_order(self) -> None:
        store, run_id = await self.make_store(), new_run_id()

        async def writer(name: int) -> None:
            for number in range(40):
                await store.add(run_id, "t", [name, number])

        await asyncio.gather(*(writer(name) for name in range(8)))
        data = [event.data for event in await store.get_events(run_id, limit=1000)]
        assert len(data) == 320
        for name in range(8):
            assert [each for each in data if each[0] == name] == [[name, n] for n in range(40)]

    async def test_threads_and_tasks_that_write_one_run_each_keep_their_order(self) -> None:
        store, run_id = await self.make_store(), new_run_id()

        async def task(name: int) -> None:
            for number in range(40):
                await store.add(run_id, "t", [name, number])

        def thread(name: int) -> None:
            for number in range(40):
                store.append_sync(run_id, [store.draft("t", [name, number])])

        threads = (asyncio.to_thread(thread, name) for name in range(4, 8))
        await asyncio.gather(*(task(name) for name in range(4)), *threads)
        entries = await store.read(run_id, ZERO, None, 1000)
        assert [entry.n for entry in entries] == list(range(1, 321))
        data = [event.data for event in await store.get_events(run_id, limit=1000)]
        for name in range(8):
            assert [each for each in data if each[0] == name] == [[name, n] for n in range(40)]

    async def test_a_thread_is_refused_what_a_task_is(self) -> None:
        store, run_id = await self.make_store(), new_run_id()

        def write(kind: str, **known: Any) -> list[Entry]:
            return store.append_sync(run_id, [store.draft(kind, None)], **known)

        (first,) = await asyncio.to_thread(write, "t", owner="user:7")
        assert (await store.describe(run_id)).owner == "user:7"
        await store.delete(run_id)
        with pytest.raises(RunEnded):
            await asyncio.to_thread(write, "t", life=first.life)
        await asyncio.to_thread(write, "workflow_complete")
        with pytest.raises(RunEnded):
            await asyncio.to_thread(write, "t")
        with pytest.raises(InvalidEvent):
            store.append_sync("", [store.draft("t", None)])

    async def test_runs_do_not_touch_each_other(self) -> None:
        store, one, two = await self.make_store(), new_run_id(), new_run_id()
        await asyncio.gather(
            *(store.add(run_id, "t", [run_id, n]) for n in range(30) for run_id in (one, two))
        )
        for run_id in (one, two):
            events = await store.get_events(run_id)
            assert [event.data for event in events] == [[run_id, n] for n in range(30)]

    async def test_a_range_is_inclusive_and_limited(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        ids = [(await store.add(run_id, "t", number)).id for number in range(10)]

        async def got(*args: Any) -> list[Any]:
            return [event.data for event in await store.get_events(run_id, *args)]

        assert await got(ids[3], ids[5]) == [3, 4, 5]
        assert await got(ids[3], None, 2) == [3, 4]
        assert await got(None, ids[1]) == [0, 1]
        assert await got("0", ids[0]) == [0]
        assert await got("", "") == list(range(10))
        assert await got("-1") == list(range(10))
        assert await got(ids[5], ids[3]) == []
        assert await got(f"{2**64 - 1}-{2**64 - 1}") == []
        assert [await got(None, None, limit) for limit in (0, -1)] == [[], []]

    async def test_what_follows_an_id_excludes_it(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        ids = [(await store.add(run_id, "t", number)).id for number in range(10)]

        async def after(last_id: str, limit: int = 100) -> list[Any]:
            events = await store.get_events_after(run_id, last_id, limit)
            return [event.data for event in events]

        assert await after(ids[6]) == [7, 8, 9]
        assert await after(ids[6], 1) == [7]
        assert await after("0") == list(range(10))
        assert await after(ids[9]) == []
        assert await after(f"{2**64 - 1}-{2**64 - 1}") == []
        assert await after(f"{ids[6]}~nobody.5") == [7, 8, 9]

    async def test_pages_lose_and_double_nothing(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        for start in range(0, 700, 100):
            drafts = [store.draft("t", number) for number in range(start, start + 100)]
            await store.append(run_id, drafts)
        seen: list[Any] = []
        last_id = "0"
        while page := await store.get_events_after(run_id, last_id, 7):
            seen += [event.data for event in page]
            last_id = page[-1].id
        assert seen == list(range(700))
        assert [e.data for e in await store.get_events(run_id, limit=10**6)] == seen

    @pytest.mark.parametrize("text", _BAD_IDS, ids=lambda text: ascii(text)[:20])
    async def test_an_odd_spelling_of_an_id_is_refused(self, text: Any) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "t", 1)
        with pytest.raises(InvalidEvent):
            await store.get_events_after(run_id, text)
        with pytest.raises(InvalidEvent):
            await store.get_events(run_id, text)
        with pytest.raises(InvalidEvent):
            await store.get_events(run_id, "0", text)

    async def test_a_read_bounded_in_bytes_returns_at_least_one_event(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        for _ in range(30):
            await store.add(run_id, "t", "x" * 998)
        read = store.read
        assert len(await read(run_id, ZERO, None, 100, max_bytes=10_000)) == 10
        assert len(await read(run_id, ZERO, None, 5, max_bytes=10_000)) == 5
        assert len(await read(run_id, ZERO, None, 100, max_bytes=1)) == 1
        assert len(await read(run_id, ZERO, None, 100)) == 30

    # --- batches --------------------------------------------------------------------------------

    async def test_a_batch_is_written_in_order_and_in_one_piece(self) -> None:
        store, run_id = await self.make_store(), new_run_id()

        async def batch(name: int) -> None:
            await store.append(run_id, [store.draft("t", [name, n]) for n in range(1000)])

        await asyncio.gather(*(batch(name) for name in range(3)))
        data = [event.data for event in await store.get_events(run_id, limit=5000)]
        assert data == [[name, n] for name in range(3) for n in range(1000)]

    async def test_an_empty_batch_begins_nothing(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        assert await store.append(run_id, []) == []
        assert await store.status(run_id) == "absent"

    async def test_a_batch_with_an_end_in_its_middle_is_refused_whole(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        drafts = [store.draft("t", 1), store.draft("workflow_complete", 2), store.draft("t", 3)]
        with pytest.raises(RunEnded):
            await store.append(run_id, drafts)
        assert await store.status(run_id) == "absent"
        assert await store.get_events(run_id) == []

    # --- written now or not at all, and once ----------------------------------------------------

    async def test_a_write_follows_what_is_there(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        publisher = RunPublisher(run_id, store=store)
        await publisher.emit("t", 0)
        await store.write(run_id, [store.draft("t", number) for number in (1, 2)])
        await publisher.emit("t", 3)
        assert [event.data for event in await store.get_events(run_id)] == [0, 1, 2, 3]
        entries = await store.read(run_id, ZERO, None, 10)
        assert [entry.n for entry in entries] == [1, 2, 3, 4]
        assert [entry.prev for entry in entries[1:]] == [entry.id for entry in entries[:-1]]

    async def test_a_write_that_cannot_be_whole_is_not_made(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        drafts = [store.draft("workflow_complete", None), store.draft("t", 1)]
        with pytest.raises(RunEnded):
            await store.write(run_id, drafts, once=Once("key", "x"))
        assert await store.get_events(run_id) == []
        await store.write(run_id, drafts[1:], once=Once("key", "x"))
        await store.set_expire(run_id, 0.001)
        await asyncio.sleep(0.01)
        with pytest.raises(RunExpired):
            await store.write(run_id, drafts[1:])

    async def test_a_named_write_is_made_once_and_answered_the_same(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        drafts = [store.draft("t", 1), store.draft("workflow_complete", None)]
        answers = await asyncio.gather(
            *(store.write(run_id, drafts, once=Once("key", "x")) for _ in range(10))
        )
        answers.append(await store.write(run_id, drafts, once=Once("key", "x")))
        events = await store.get_events(run_id)
        assert len(events) == 2
        for answer in answers:
            assert [entry.public_id for entry in answer] == [event.id for event in events]
            assert [(entry.type, entry.data) for entry in answer] == drafts
        with pytest.raises(RunEnded):
            await store.write(run_id, drafts[:1], once=Once("other", "x"))

    async def test_a_name_belongs_to_its_events_its_run_and_its_life(self) -> None:
        store, one, two = await self.make_store(), new_run_id(), new_run_id()
        draft = store.draft("t", 1)
        await store.write(one, [draft], once=Once("key", "x"))
        with pytest.raises(IdempotencyKeyReused):
            await store.write(one, [draft], once=Once("key", "y"))
        await store.write(one, [draft], once=Once("other", "y"))
        await store.write(two, [draft], once=Once("key", "y"))
        assert [(await store.describe(run_id)).n for run_id in (one, two)] == [2, 1]
        await store.delete(one)
        await store.write(one, [draft], once=Once("key", "y"))
        assert (await store.describe(one)).n == 1

    # --- the end --------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "kind", ["workflow_complete", "workflow_error", "run_stopped", "run_lost"]
    )
    async def test_a_terminal_event_ends_the_run_for_good(self, kind: str) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "t", 1)
        assert await store.status(run_id) == "open"
        (end,) = await store.append(run_id, [store.draft(kind, None, ours=True)])
        assert await store.status(run_id) == "ended"
        for late in ("t", "workflow_complete"):
            with pytest.raises(RunEnded) as raised:
                await store.add(run_id, late, 2)
            assert not isinstance(raised.value, RunExpired)
        info = await store.describe(run_id)
        assert (info.end, info.last, info.n, info.length) == (end.id, end.id, 2, 2)
        assert [event.type for event in await store.get_events(run_id)] == ["t", kind]

    async def test_of_two_ends_at_once_one_wins(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "t", 1)
        outcomes = await asyncio.gather(
            *(store.add(run_id, "workflow_complete", number) for number in range(20)),
            return_exceptions=True,
        )
        won = [each for each in outcomes if not isinstance(each, BaseException)]
        assert len(won) == 1
        assert sum(isinstance(each, RunEnded) for each in outcomes) == 19
        assert (await store.get_events(run_id))[1:] == won

    # --- what is kept ---------------------------------------------------------------------------

    async def test_the_oldest_events_go_when_there_are_too_many(self) -> None:
        store, run_id = await self.make_store(maxlen=200), new_run_id()
        for start in range(0, 1000, 100):
            await store.append(run_id, [store.draft("t", start + n) for n in range(100)])
        kept = [event.data for event in await store.get_events(run_id, limit=2000)]
        assert kept == list(range(1000 - len(kept), 1000))
        assert 200 <= len(kept) < 400
        info = await store.describe(run_id)
        assert (info.n, info.length, info.status) == (1000, len(kept), "open")

    async def test_the_oldest_events_go_when_they_are_too_large(self) -> None:
        store, run_id = await self.make_store(max_run_bytes=100_000), new_run_id()
        for number in range(60):
            await store.add(run_id, "t", [number, "x" * 9_980])
        kept = [event.data[0] for event in await store.get_events(run_id)]
        assert kept == list(range(60 - len(kept), 60))
        assert 9 <= len(kept) <= 10

    async def test_one_event_above_the_budget_is_kept_alone(self) -> None:
        store, run_id = await self.make_store(max_run_bytes=1000), new_run_id()
        for number in range(3):
            await store.add(run_id, "t", [number, "x" * 5000])
        assert [event.data[0] for event in await store.get_events(run_id)] == [2]

    async def test_each_entry_knows_its_number_and_predecessor(self) -> None:
        store, run_id = await self.make_store(max_run_bytes=50_000), new_run_id()
        written = [
            (await store.append(run_id, [store.draft("t", "x" * 9_000)]))[0] for _ in range(10)
        ]
        kept = await store.read(run_id, ZERO, None, 100)
        assert 1 < len(kept) < 10
        assert [entry.n for entry in written] == list(range(1, 11))
        assert [entry.prev for entry in written] == [ZERO, *(entry.id for entry in written[:-1])]
        tail = written[-len(kept) :]
        assert [(e.id, e.n, e.prev) for e in kept] == [(e.id, e.n, e.prev) for e in tail]

    async def test_an_expired_run_is_remembered_and_takes_nothing(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        last = await store.add(run_id, "t", 1)
        assert await store.set_expire(run_id, 0.05)
        await self._until(lambda: _has_status(store, run_id, "expired"))
        assert await store.get_events(run_id) == []
        assert not await store.exists(run_id)
        assert not await store.set_expire(run_id, 100)
        with pytest.raises(RunExpired):
            await store.add(run_id, "t", 2)
        info = await store.describe(run_id)
        assert (str(info.last), info.n, info.length) == (last.id, 1, 0)
        assert await store.status(run_id) == "expired"

    async def test_an_ended_run_that_has_expired_still_knows_its_end(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        end = await store.add(run_id, "workflow_complete", 1)
        await store.set_expire(run_id, 0.05)
        await self._until(lambda: _has_status(store, run_id, "expired"))
        assert str((await store.describe(run_id)).end) == end.id
        with pytest.raises(RunExpired):
            await store.add(run_id, "t", 2)

    async def test_a_run_without_an_end_expires_after_its_last_event(self) -> None:
        store, run_id = await self.make_store(retention=1), new_run_id()
        begun = time.monotonic()
        while time.monotonic() < begun + 1.3:
            await store.add(run_id, "t", 1)  # each one moves the expiry
            await asyncio.sleep(0.05)
        assert await store.status(run_id) == "open"
        await self._until(lambda: _has_status(store, run_id, "expired"))
        assert time.monotonic() >= begun + 2.2

    async def test_a_time_to_live_gives_way_to_the_next_event(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "t", 1)
        await store.set_expire(run_id, 0.3)
        await store.add(run_id, "t", 2)
        await asyncio.sleep(0.5)
        assert await store.status(run_id) == "open"

    @pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
    async def test_a_time_to_live_without_an_end_is_refused(self, seconds: float) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "t", 1)
        with pytest.raises(ValueError, match="finite"):
            await store.set_expire(run_id, seconds)
        assert await store.set_expire(run_id, -5)
        await self._until(lambda: _has_status(store, run_id, "expired"))

    async def test_an_absent_run_answers_every_verb(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        assert await store.get_events(run_id) == []
        assert await store.get_events_after(run_id, "5-0") == []
        assert not await store.exists(run_id)
        assert await store.status(run_id) == "absent"
        assert not await store.set_expire(run_id, 10)
        assert not await store.delete(run_id)
        assert store.pending(run_id) is None
        info = await store.describe(run_id)
        assert (info.life, info.last, info.n, info.end, info.owner) == (None, ZERO, 0, None, None)

    # --- lives ----------------------------------------------------------------------------------

    async def test_a_deleted_run_is_absent_and_its_ids_are_never_given_again(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        first = [await store.add(run_id, "t", number) for number in range(3)]
        life = (await store.describe(run_id)).life
        assert await store.delete(run_id)
        assert await store.status(run_id) == "absent"
        assert await store.get_events(run_id) == []
        assert not await store.delete(run_id)
        again = await store.add(run_id, "t", "again")
        assert _parsed(again) > _parsed(first[-1])
        assert await store.get_events(run_id) == [again]
        (entry,) = await store.read(run_id, ZERO, None, 10)
        assert (entry.n, entry.prev) == (1, ZERO)
        assert life not in {None, (await store.describe(run_id)).life}

    async def test_an_ended_run_can_live_again_after_its_deletion(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "workflow_complete", 1)
        await store.delete(run_id)
        await store.add(run_id, "t", 2)
        info = await store.describe(run_id)
        assert (info.status, info.end, info.n) == ("open", None, 1)

    async def test_an_expired_run_can_be_deleted_and_live_again(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "t", 1)
        await store.set_expire(run_id, 0.02)
        await self._until(lambda: _has_status(store, run_id, "expired"))
        assert await store.delete(run_id)
        assert await store.status(run_id) == "absent"
        await store.add(run_id, "t", 2)
        assert await store.status(run_id) == "open"

    async def test_a_publisher_of_an_earlier_life_is_refused(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        early = RunPublisher(run_id, store=store)
        await early.emit("t", 1)
        await store.delete(run_id)
        with pytest.raises(RunEnded, match="deleted"):
            await early.emit("t", 2)
        assert await store.status(run_id) == "absent"
        late = RunPublisher(run_id, store=store)
        await late.emit("t", 3)
        for publisher in (early, late):
            outcome = await asyncio.gather(publisher.emit("t", 4), return_exceptions=True)
            assert isinstance(outcome[0], RunEnded) is (publisher is early)
        assert [event.data for event in await store.get_events(run_id)] == [3, 4]

    async def test_several_publishers_feed_one_life(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        workers = [RunPublisher(run_id, store=store) for _ in range(4)]
        await asyncio.gather(*(worker.emit("t", n) for n in range(25) for worker in workers))
        assert len(await store.get_events(run_id)) == 100

    async def test_the_first_write_of_a_life_says_who_owns_it(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await RunPublisher(run_id, owner="user:1", store=store).emit("t", 1)
        await RunPublisher(run_id, owner="user:2", store=store).emit("t", 2)
        assert (await store.describe(run_id)).owner == "user:1"
        await store.delete(run_id)
        assert (await store.describe(run_id)).owner is None
        await RunPublisher(run_id, store=store).emit("t", 3)
        assert (await store.describe(run_id)).owner is None

    # --- who publishes a run, and its stop ------------------------------------------------------

    async def test_a_claim_begins_an_absent_run_without_an_event(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        hold = _hold(run_id)
        claim = await store.claim(hold, owner="user:1", start=True)
        info = await store.describe(run_id)
        assert (claim.status, claim.owner) == ("mine", "user:1")
        assert claim.life is not None
        assert hold.life == claim.life == info.life
        assert (info.status, info.n, info.last, info.owner) == ("open", 0, ZERO, "user:1")
        assert await store.get_events(run_id) == []
        (entry,) = await store.append(run_id, [store.draft("t", 1)], life=claim.life)
        assert (entry.n, entry.prev, entry.life, entry.stopping) == (1, ZERO, claim.life, False)
        assert (await store.describe(run_id)).owner == "user:1"

    async def test_of_many_who_start_a_run_one_gets_it(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        holds = [_hold(run_id) for _ in range(20)]
        claims = await asyncio.gather(*(store.claim(hold, start=True) for hold in holds))
        assert sorted(claim.status for claim in claims) == ["mine", *["open"] * 19]
        (winner,) = [n for n, claim in enumerate(claims) if claim.status == "mine"]
        assert {claim.life for claim in claims} == {holds[winner].life}
        # Whose answer was lost asks again, and is answered the same.
        again = [await store.claim(hold, start=True) for hold in holds]
        assert [claim.status for claim in again] == [claim.status for claim in claims]

    async def test_an_open_run_can_be_taken_over_but_not_started_again(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await RunPublisher(run_id, owner="user:1", store=store).emit("t", 1)
        late = await store.claim(_hold(run_id), owner="user:2", start=True)
        assert (late.status, late.owner) == ("open", "user:1")
        taken = await store.claim(_hold(run_id), owner="user:2")
        assert (taken.status, taken.owner, taken.life) == ("mine", "user:1", late.life)

    async def test_what_is_over_is_not_claimed(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "workflow_complete", 1)
        for start in (True, False):
            assert (await store.claim(_hold(run_id), start=start)).status == "ended"
        await store.set_expire(run_id, 0.02)
        await self._until(lambda: _has_status(store, run_id, "expired"))
        for start in (True, False):
            assert (await store.claim(_hold(run_id), start=start)).status == "expired"
        await store.delete(run_id)
        assert (await store.claim(_hold(run_id), start=True)).status == "mine"
        assert await store.status(run_id) == "open"

    async def test_a_run_begun_after_a_deletion_follows_nothing(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        last = await store.add(run_id, "t", 1)
        await store.delete(run_id)
        await store.claim(_hold(run_id), start=True)
        info = await store.describe(run_id)
        assert (info.status, info.n, info.last) == ("open", 0, ZERO)
        assert await store.delete(run_id)
        await store.claim(_hold(run_id), start=True)
        again = await store.add(run_id, "t", 2)
        assert _parsed(again) > _parsed(last)

    async def test_a_claim_from_a_thread_is_the_same_claim(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        first = await asyncio.to_thread(store.claim_sync, _hold(run_id), owner="user:1", start=True)
        second = await asyncio.to_thread(store.claim_sync, _hold(run_id), start=True)
        assert (first.status, second.status) == ("mine", "open")
        assert second.owner == "user:1"

    async def test_a_publisher_is_told_of_a_stop(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        told: list[int] = []
        hold, watching = Hold(run_id, lambda: told.append(1)), _hold(run_id, lease=False)
        other = _hold(new_run_id())
        for each in (hold, watching, other):
            store.attend(each)
        await store.claim(hold)
        assert await store.request_stop(run_id) == "requested"
        await self._until(lambda: _done(hold.stopping and watching.stopping))
        assert await store.request_stop(run_id) == "requested"
        (entry,) = await store.append(run_id, [store.draft("t", 1)])
        assert entry.stopping
        assert (told, other.stopping) == ([1], False)
        for each in (hold, watching, other):
            store.leave(each)

    async def test_who_has_left_is_told_of_nothing(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        gone, here = _hold(run_id), _hold(run_id)
        for hold in (gone, here):
            store.attend(hold)
        store.leave(gone)
        await store.request_stop(run_id)
        await self._until(lambda: _done(here.stopping))
        assert not gone.stopping
        store.leave(here)
        store.leave(here)

    async def test_a_stop_waits_for_the_run_to_begin(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        assert await store.request_stop(run_id) == "requested"
        assert await store.status(run_id) == "absent"
        hold, watching = _hold(run_id), _hold(run_id)
        await store.claim(hold, start=True)
        assert hold.stopping
        store.attend(watching)
        await self._until(lambda: _done(watching.stopping))
        store.leave(watching)
        bare = new_run_id()
        await store.request_stop(bare)
        (entry,) = await store.append(bare, [store.draft("t", 1)])
        assert entry.stopping

    async def test_a_stop_never_reaches_a_later_life(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "t", 1)
        await store.request_stop(run_id)
        await store.delete(run_id)
        hold = _hold(run_id)
        await store.claim(hold, start=True)
        (entry,) = await store.append(run_id, [store.draft("t", 1)])
        assert (hold.stopping, entry.stopping) == (False, False)

    async def test_a_stop_for_the_next_life_does_not_reach_this_one(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        early = _hold(run_id)
        await store.claim(early)
        store.attend(early)
        await store.delete(run_id)
        await store.request_stop(run_id)
        late = _hold(run_id)
        await store.claim(late, start=True)
        assert late.stopping
        await store.request_stop(run_id)
        sentinel = _hold(run_id)
        store.attend(sentinel)
        await self._until(lambda: _done(sentinel.stopping))
        assert not early.stopping
        for hold in (early, sentinel):
            store.leave(hold)

    async def test_it_is_too_late_to_stop_what_is_over(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "workflow_complete", 1)
        assert await store.request_stop(run_id) == "ended"
        await store.set_expire(run_id, 0.02)
        await self._until(lambda: _has_status(store, run_id, "expired"))
        assert await store.request_stop(run_id) == "expired"
        await store.delete(run_id)
        hold = _hold(run_id)
        await store.claim(hold, start=True)
        assert not hold.stopping

    # --- doorbells ------------------------------------------------------------------------------

    async def test_a_bell_rings_for_its_run_from_when_it_hangs(self) -> None:
        store, mine, other = await self.make_store(), new_run_id(), new_run_id()
        heard: list[tuple[str, News]] = []
        bell = store.doorbell(lambda run_id, news: heard.append((run_id, news)), lambda: None)
        await bell.add(mine)
        await bell.add(mine)
        await store.add(other, "t", 1)
        await store.append(mine, [store.draft("t", 1), store.draft("t", 2)])
        await self._until(lambda: _done(bool(heard)))
        assert {run_id for run_id, _ in heard} == {mine}
        first = next((news for _, news in heard if news.entries), None)
        if first is not None:
            assert [entry.n for entry in first.entries] == [1, 2]
            assert first.life == (await store.describe(mine)).life
        await bell.discard(mine)
        await bell.discard(other)
        heard.clear()
        await store.add(mine, "t", 3)
        await asyncio.sleep(0.05)
        assert heard == []
        await bell.aclose()

    async def test_a_bell_rings_when_a_run_begins_without_an_event(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        heard: list[News] = []
        bell = store.doorbell(lambda run_id, news: heard.append(news), lambda: None)
        await bell.add(run_id)
        claim = await store.claim(_hold(run_id), start=True)
        await self._until(lambda: _done(bool(heard)))
        assert {news.life for news in heard} <= {claim.life, None}
        await bell.aclose()

    async def test_a_bell_rings_when_a_run_is_deleted(self) -> None:
        store, run_id = await self.make_store(), new_run_id()
        await store.add(run_id, "t", 1)
        heard: list[str] = []
        bell = store.doorbell(lambda run_id, news: heard.append(run_id), lambda: None)
        await bell.add(run_id)
        await store.delete(run_id)
        await self._until(lambda: _done(bool(heard)))
        bell.release()
        await bell.aclose()


def _hold(run_id: str, *, lease: bool = True) -> Hold:
    return Hold(run_id, lambda: None, lease=lease)


def _parsed(event: StreamEvent) -> tuple[int, int]:
    found = parse_id(event.id)
    assert found is not None
    return found


async def _has_status(store: EventStore, run_id: str, status: str) -> bool:
    return await store.status(run_id) == status


async def _done(value: bool) -> bool:
    return value
