"""The scripts of a run, on a real Redis: retries, other programs, budgets, lives and slots."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.redis_stores import data_of, entries_of, opened, ttls, until

from holdfast.errors import CorruptData, RunEnded, RunExpired
from holdfast.link import Script
from holdfast.streams.event import ZERO, parse_id
from holdfast.streams.fanout.ring import continuity
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.stores import replies
from holdfast.streams.stores.outbox import Outbox
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
RUN = "run"


@pytest.fixture
async def store(redis: RedisServer, key_prefix: str) -> AsyncIterator[RedisEventStore]:
    async with opened(redis.url, key_prefix) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_key_for_ever(redis: RedisServer, store: RedisEventStore) -> Any:
    yield
    assert -1 not in ttls(redis, store, RUN)


def xadd(redis: RedisServer, store: RedisEventStore, *fields: str | bytes, at: str = "*") -> str:
    """Add an entry as another program does."""
    reply = redis.execute("XADD", store.keys(RUN).stream, at, *fields)
    assert isinstance(reply, bytes)
    return reply.decode()


async def publish(store: RedisEventStore, producer: str, first: int, *data: Any) -> list[Any]:
    """Run the script itself, as a sender that may have sent part of this before."""
    keys = store.keys(RUN)
    args: list[Any] = [keys.bell, producer, first, 10_000, 1 << 27, 60_000, 60_000]
    args += ["name", "", "", 0]
    for value in data:
        args += ["workflow_complete" if value == "end" else "t", json.dumps(value)]
    reply = await store._link.run(Script.load("stream_publish"), [keys.stream, keys.meta], args)
    assert isinstance(reply, list)
    return reply


class TestRetries:
    async def test_a_retry_writes_nothing_and_is_answered_the_same(
        self, store: RedisEventStore
    ) -> None:
        first = await publish(store, "p", 1, "a", "b", "c")
        again = await publish(store, "p", 1, "a", "b", "c")
        assert again[5:] == first[5:]
        assert (first[4], again[4]) == (0, 3)
        assert await data_of(store, RUN) == ["a", "b", "c"]

    async def test_of_a_partly_written_batch_only_the_rest_is_written(
        self, store: RedisEventStore
    ) -> None:
        first = await publish(store, "p", 1, "a", "b", "c")
        await publish(store, "q", 1, "other")
        more = await publish(store, "p", 2, "b", "c", "d", "e")
        assert (more[0], more[2], more[4]) == (b"ok", 6, 2)
        assert more[5:7] == first[6:8]
        assert await data_of(store, RUN) == ["a", "b", "c", "other", "d", "e"]
        assert [entry.seq for entry in await entries_of(store, RUN)] == [1, 2, 3, 1, 4, 5]

    async def test_a_retry_is_recognised_behind_many_others(self, store: RedisEventStore) -> None:
        first = await publish(store, "p", 1, *range(120))
        for start in range(1, 400, 100):
            await publish(store, "q", start, *range(100))
        again = await publish(store, "p", 1, *range(120))
        assert again[5:] == first[5:]

    async def test_a_retry_of_what_was_trimmed_since_still_writes_nothing(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        await publish(store, "p", 1, "a", "b")
        redis.execute("XTRIM", store.keys(RUN).stream, "MAXLEN", 1)
        again = await publish(store, "p", 1, "a", "b")
        assert (again[4], again[5]) == (2, b"")
        assert await data_of(store, RUN) == ["b"]

    async def test_an_end_whose_reply_was_lost_is_answered_again(
        self, store: RedisEventStore
    ) -> None:
        first = await publish(store, "p", 1, "a", "end")
        assert (await publish(store, "p", 1, "a", "end"))[5:] == first[5:]
        refused = await publish(store, "p", 2, "end", "late")
        assert (refused[0], refused[4], len(refused)) == (b"ended", 1, 6)

    async def test_a_lost_reply_leaves_one_entry(
        self, redis: RedisServer, store: RedisEventStore, key_prefix: str
    ) -> None:
        with FaultProxy("127.0.0.1", redis.port) as proxy:
            async with opened(proxy.url, key_prefix, redis_timeout=1) as away:
                run = RunPublisher(RUN, store=away)
                await run.emit("t", 1)
                proxy.blackhole("replies")
                lost = await run.emit("t", 2)
                assert "~" in lost.id
                proxy.cut()
                proxy.heal()
                await until(lambda: not away.journalled)
                await run.emit("t", 3)
        assert await data_of(store, RUN) == [1, 2, 3]

    async def test_a_server_that_forgot_the_scripts_is_taught_them(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        await store.add(RUN, "t", 1)
        redis.execute("SCRIPT", "FLUSH")
        await asyncio.gather(*(store.add(RUN, "t", n) for n in range(2, 20)))
        redis.execute("SCRIPT", "FLUSH")
        assert await store.status(RUN) == "open"
        assert await data_of(store, RUN) == list(range(1, 20))
        redis.execute("SCRIPT", "FLUSH")
        assert await store.delete(RUN)


FOREIGN: list[tuple[list[str | bytes], str, Any]] = [
    (["type", "t", "data", '{"a": 1}'], "t", {"a": 1}),
    (["type", "t", "data", '{\n  "a": [\n 1\n]\n}'], "t", {"a": [1]}),
    (["type", "t", "data", "not json"], "t", "not json"),
    (["type", "t", "data", b"\xff\xfe"], "t", "\ufffd\ufffd"),
    (["type", "t", "data", "NaN"], "t", "NaN"),
    (["type", "t", "data", "1e400"], "t", "1e400"),
    (["type", "t", "data", r'"\ud800"'], "t", r'"\ud800"'),
    (["type", "t", "data", "[" * 100_000], "t", "[" * 100_000),
    (["type", "t", "data", "\n\nevent: x\ndata: y"], "t", "\n\nevent: x\ndata: y"),
    (["type", "t"], "t", None),
    (["data", "1"], "message", 1),
    (["anything", "else"], "message", None),
    (["type", "", "data", "1"], "message", 1),
    (["type", "a\nb", "data", "1"], "message", 1),
    (["type", "a\x00", "data", "1"], "message", 1),
    (["type", b"\xff", "data", "1"], "\ufffd", 1),
    (["type", "x" * 300, "data", "1"], "message", 1),
    (["type", "holdfast.reset", "data", "1"], "message", 1),
    (["type", "t", "data", "1", "type", "u", "data", "2"], "u", 2),
    (["type", "t", "data", "1", "h", "nonsense"], "t", 1),
    (["type", "t", "data", "1", "h", "1 2 3 4 5"], "t", 1),
    (["type", "t", "data", "1", "n", "7", "p", "q"], "t", 1),
    (["type", b"\xff", "data", b"\xff", "h", "1 0-0 3 p 5"], "\ufffd", "\ufffd"),
]


class TestOtherPrograms:
    @pytest.mark.parametrize(("fields", "kind", "value"), FOREIGN, ids=range(len(FOREIGN)))
    async def test_what_they_write_is_an_event(
        self,
        redis: RedisServer,
        store: RedisEventStore,
        fields: list[str | bytes],
        kind: str,
        value: Any,
    ) -> None:
        written = xadd(redis, store, *fields)
        assert await store.status(RUN) == "open"
        (event,) = await store.get_events(RUN)
        assert (event.id, event.type, event.data) == (written, kind, value)
        await store.add(RUN, "t", 2)
        assert len(await store.get_events(RUN)) == 2

    async def test_a_stream_that_only_they_write_is_a_run_and_gets_its_expiry(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        last = [xadd(redis, store, "type", "t", "data", str(n)) for n in range(250)][-1]
        info = await store.describe(RUN)
        assert (info.status, info.n, info.length, str(info.last)) == ("open", 250, 250, last)
        stream, meta = ttls(redis, store, RUN)
        assert 86_000_000 < stream <= 86_400_000 < meta
        xadd(redis, store, "type", "t", "data", "250")
        assert (await store.describe(RUN)).n == 251

    async def test_before_between_and_after_ours_they_keep_their_place(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        xadd(redis, store, "type", "t", "data", '"f1"')
        await store.add(RUN, "t", "o2")
        xadd(redis, store, "type", "t", "data", '"f3"')
        xadd(redis, store, "type", "t", "data", '"f4"')
        await store.append(RUN, [store.draft("t", "o5"), store.draft("t", "o6")])
        xadd(redis, store, "type", "t", "data", '"f7"')
        entries = await entries_of(store, RUN)
        assert b"".join(each.data for each in entries) == b'"f1""o2""f3""f4""o5""o6""f7"'
        ours = [(each.n, each.prev) for each in entries if each.n]
        assert ours == [(2, entries[0].id), (5, entries[3].id), (6, entries[4].id)]
        for before, each in itertools.pairwise(entries):
            assert continuity(before.id, each.prev) is None
        info = await store.describe(RUN)
        assert (info.n, info.length, info.last) == (7, 7, entries[-1].id)

    async def test_one_that_trims_as_it_writes_is_noticed(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        for n in range(5):
            await store.add(RUN, "t", n)
        stream = store.keys(RUN).stream
        newest = redis.execute("XADD", stream, "MAXLEN", 5, "*", "type", "t", "data", "5")
        assert isinstance(newest, bytes)
        info = await store.describe(RUN)
        assert (info.n, info.length, str(info.last)) == (6, 5, newest.decode())
        newest = redis.execute("XADD", stream, "MAXLEN", 5, "*", "type", "t", "data", "6")
        (entry,) = await store.append(RUN, [store.draft("t", 7)])
        assert isinstance(newest, bytes)
        assert (entry.n, str(entry.prev)) == (8, newest.decode())

    @pytest.mark.parametrize("kind", ["workflow_complete", "workflow_error", "run_lost"])
    async def test_their_end_ends_the_run(
        self, redis: RedisServer, store: RedisEventStore, kind: str
    ) -> None:
        await store.add(RUN, "t", 1)
        end = xadd(redis, store, "type", kind, "data", "2")
        info = await store.describe(RUN)
        assert (info.status, str(info.end), info.end_origin) == ("ended", end, None)
        with pytest.raises(RunEnded):
            await store.add(RUN, "t", 3)

    async def test_their_end_is_found_by_the_first_write_after_it(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        end = xadd(redis, store, "type", "workflow_complete", "data", "1")
        with pytest.raises(RunEnded):
            await store.add(RUN, "t", 2)
        info = await store.describe(RUN)
        assert (info.status, str(info.end), info.n) == ("ended", end, 1)
        assert min(ttls(redis, store, RUN)) > 0

    async def test_what_they_write_after_the_end_moves_nothing(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        end = await store.add(RUN, "workflow_complete", 1)
        xadd(redis, store, "type", "workflow_error", "data", "2")
        info = await store.describe(RUN)
        assert (str(info.end), info.n) == (end.id, 2)

    async def test_a_type_that_only_looks_like_an_end_is_none_for_anybody(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        xadd(redis, store, "type", "workflow_complete\n", "data", "1")
        xadd(redis, store, "type", "workflow_complete", "type", "t", "data", "2")
        assert await store.status(RUN) == "open"
        assert [entry.terminal for entry in await entries_of(store, RUN)] == [False, False]

    @pytest.mark.parametrize("at", ["*", "1-0"])
    async def test_a_stream_they_bring_back_after_expiry_expires_again(
        self, redis: RedisServer, store: RedisEventStore, at: str
    ) -> None:
        await store.add(RUN, "workflow_complete", 1)
        redis.execute("DEL", store.keys(RUN).stream)
        assert await store.status(RUN) == "expired"
        xadd(redis, store, "type", "t", "data", "2", at=at)
        with pytest.raises(RunEnded):
            await store.add(RUN, "t", 3)
        assert await store.status(RUN) == "ended"
        assert min(ttls(redis, store, RUN)) > 0

    async def test_a_stream_they_made_persistent_expires_again(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        await store.add(RUN, "t", 1)
        redis.execute("PERSIST", store.keys(RUN).stream)
        await store.describe(RUN)
        assert ttls(redis, store, RUN)[0] > 0

    async def test_the_largest_id_there_is_is_told_as_an_error_of_that_run(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        xadd(redis, store, "type", "t", "data", "1", at=f"{2**64 - 1}-{2**64 - 1}")
        assert await store.status(RUN) == "open"
        with pytest.raises(Exception, match="ID"):
            await store.add(RUN, "t", 2)
        (event,) = await store.get_events(RUN)
        assert event.created_at.year == 9999
        assert await store.get_events_after(RUN, event.id) == []

    @pytest.mark.parametrize("which", ["stream", "meta"])
    async def test_a_key_that_holds_something_else_is_corrupt_and_no_outage(
        self, redis: RedisServer, store: RedisEventStore, which: str
    ) -> None:
        redis.execute("SET", getattr(store.keys(RUN), which), "x", "EX", 60)
        await store.add("another", "t", 1)
        for verb in (store.status(RUN), store.add(RUN, "t", 1)):
            with pytest.raises(CorruptData, match="'run'"):
                await verb
        if which == "stream":
            with pytest.raises(CorruptData):
                await store.get_events(RUN)
        assert store.available
        await store.delete("another")


class TestBudgets:
    async def test_a_hundred_megabyte_events_stay_under_the_budget(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        budget = 10 << 20
        async with opened(redis.url, key_prefix, stream_max_run_bytes=budget) as small:
            for number in range(40):
                await small.add(RUN, "t", [number, "x" * ((1 << 20) - 100)])
            kept = [event.data[0] for event in await small.get_events(RUN)]
            assert kept == list(range(40 - len(kept), 40))
            assert len(kept) == 10
            used = redis.execute("MEMORY", "USAGE", small.keys(RUN).stream, "SAMPLES", 0)
            assert isinstance(used, int)
            assert used < 1.3 * budget  # Redis' allocator rounds up by a quarter

    async def test_bytes_of_other_programs_count(self, redis: RedisServer, key_prefix: str) -> None:
        async with opened(redis.url, key_prefix, stream_max_run_bytes=10_000) as small:
            for number in range(30):
                xadd(redis, small, "type", "t", "data", json.dumps([number, "x" * 900]))
            await small.add(RUN, "t", [30, "x" * 900])
            kept = [event.data[0] for event in await small.get_events(RUN)]
            assert kept == list(range(31 - len(kept), 31))
            assert 9 <= len(kept) <= 11
            assert await small.status(RUN) == "open"

    async def test_what_maxlen_trimmed_is_not_counted_twice(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        bounds = {"stream_maxlen": 100, "stream_max_run_bytes": 300_000}
        async with opened(redis.url, key_prefix, **bounds) as small:
            for start in range(0, 1000, 50):
                await small.append(
                    RUN, [small.draft("t", [start + n, "x" * 900]) for n in range(50)]
                )
            # About 100 KB are kept of 900 KB: far below the budget, so nothing but MAXLEN trims.
            kept = [event.data[0] for event in await small.get_events(RUN, limit=1000)]
            assert kept == list(range(1000 - len(kept), 1000))
            assert 100 <= len(kept) <= 300

    async def test_a_large_history_is_read_in_replies_that_fit_a_deadline(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        for number in range(60):
            await store.add(RUN, "t", [number, "x" * (1 << 19)])
        events = await store.get_events(RUN, limit=500)
        assert [event.data[0] for event in events] == list(range(60))
        first = await store.read(RUN, ZERO, None, 500, max_bytes=1 << 20)
        assert len(first) == 1


class TestLives:
    async def test_ids_grow_over_a_deletion_with_the_clock_behind(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        ahead = int(time.time() * 1000) + 1_000_000
        xadd(redis, store, "type", "t", "data", "1", at=f"{ahead}-5")
        await store.delete(RUN)
        first = await store.add(RUN, "t", 2)
        assert first.id == f"{ahead}-6"
        second = await store.add(RUN, "t", 3)
        assert parse_id(second.id) > parse_id(first.id)  # type: ignore[operator]
        entries = await entries_of(store, RUN)
        assert [(entry.n, entry.prev) for entry in entries] == [(1, ZERO), (2, entries[0].id)]

    async def test_a_deletion_knows_the_newest_id_though_its_entry_was_removed(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        await store.add(RUN, "t", 1)
        ahead = int(time.time() * 1000) + 1_000_000
        newest = xadd(redis, store, "type", "t", "data", "2", at=f"{ahead}-0")
        await store.describe(RUN)
        redis.execute("XDEL", store.keys(RUN).stream, newest)
        await store.delete(RUN)
        assert (await store.add(RUN, "t", 3)).id == f"{ahead}-1"

    async def test_a_stream_of_other_programs_can_be_deleted_unread(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        xadd(redis, store, "type", "t", "data", "1")
        assert await store.delete(RUN)
        assert await store.status(RUN) == "absent"
        assert ttls(redis, store, RUN)[0] == -2
        xadd(redis, store, "type", "t", "data", "2")
        assert await store.status(RUN) == "open"
        assert (await store.describe(RUN)).n == 1

    async def test_publishers_go_on_in_a_new_life_after_a_flush(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        runs = [RunPublisher(RUN, store=store) for _ in range(2)]
        for run in runs:
            await run.emit("t", "before")
        life = (await store.describe(RUN)).life
        for key in (store.keys(RUN).stream, store.keys(RUN).meta):
            redis.execute("DEL", key)
        await RunPublisher(RUN, store=store).emit("t", "stranger")
        await asyncio.gather(*(run.emit("t", n) for n in range(5) for run in runs))
        info = await store.describe(RUN)
        assert info.life not in {None, life}
        assert (info.n, info.status) == (11, "open")
        assert (await entries_of(store, RUN))[0].prev == ZERO
        await store.delete(RUN)
        for run in runs:
            with pytest.raises(RunEnded, match="deleted"):
                await run.emit("t", "late")

    async def test_a_publisher_of_an_earlier_life_is_refused_in_every_later_one(
        self, store: RedisEventStore
    ) -> None:
        early = RunPublisher(RUN, store=store)
        await early.emit("t", 1)
        for n in (2, 3):
            await store.delete(RUN)
            await RunPublisher(RUN, store=store).emit("t", n)
        with pytest.raises(RunEnded, match="deleted"):
            await early.emit("t", 4)
        assert await data_of(store, RUN) == [3]

    async def test_a_run_whose_stream_was_evicted_is_expired(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        await store.add(RUN, "t", 1)
        redis.execute("DEL", store.keys(RUN).stream)
        with pytest.raises(RunExpired):
            await store.add(RUN, "t", 2)
        assert ttls(redis, store, RUN)[0] == -2

    async def test_a_run_whose_meta_was_evicted_is_counted_anew(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        for n in range(3):
            await store.add(RUN, "t", n)
        redis.execute("DEL", store.keys(RUN).meta)
        info = await store.describe(RUN)
        assert (info.status, info.n, info.length) == ("open", 3, 3)
        await store.add(RUN, "workflow_complete", 3)
        assert await data_of(store, RUN) == [0, 1, 2, 3]


class TestProcesses:
    async def test_of_two_ends_from_two_processes_one_wins(
        self, redis: RedisServer, store: RedisEventStore, key_prefix: str
    ) -> None:
        async with opened(redis.url, key_prefix) as other:
            outcomes = await asyncio.gather(
                *(each.add(RUN, "workflow_complete", 1) for each in (store, other)),
                return_exceptions=True,
            )
        assert sorted(isinstance(each, RunEnded) for each in outcomes) == [False, True]
        assert await data_of(store, RUN) == [1]

    async def test_what_two_processes_write_has_one_order_and_dense_numbers(
        self, redis: RedisServer, store: RedisEventStore, key_prefix: str
    ) -> None:
        async with opened(redis.url, key_prefix) as other:
            await asyncio.gather(*(e.add(RUN, "t", n) for n in range(200) for e in (store, other)))
        entries = await entries_of(store, RUN)
        assert [entry.n for entry in entries] == list(range(1, 401))
        assert [entry.prev for entry in entries] == [ZERO, *(e.id for e in entries[:-1])]
        for producer in {entry.producer for entry in entries}:
            seqs = [entry.seq for entry in entries if entry.producer == producer]
            assert seqs == list(range(1, 201))

    async def test_a_bell_is_heard_in_another_process(
        self, redis: RedisServer, store: RedisEventStore, key_prefix: str
    ) -> None:
        heard: list[int] = []
        async with opened(redis.url, key_prefix) as other:
            bell = other.doorbell(lambda run_id, news: heard.append(news.n), lambda: None)
            await bell.add(RUN)
            for n in range(3):
                await store.add(RUN, "t", n)
            await until(lambda: heard == [1, 2, 3])
            await store.delete(RUN)
            await until(lambda: heard == [1, 2, 3, 0])
            await bell.discard(RUN)
            await bell.aclose()

    async def test_a_burst_is_written_in_few_calls(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        await store.add(RUN, "t", 0)
        before = _calls(redis)
        await asyncio.gather(*(store.add(RUN, "t", n) for n in range(1, 1001)))
        assert _calls(redis) - before <= 4
        assert await data_of(store, RUN) == list(range(1001))


class TestExpiry:
    async def test_the_expiry_slides_and_meta_outlives_the_stream(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with opened(redis.url, key_prefix, stream_retention=100) as short:
            await short.add(RUN, "t", 1)
            redis.execute("PEXPIRE", short.keys(RUN).stream, 5_000)
            redis.execute("HSET", short.keys(RUN).meta, "kept", 1)  # set long ago
            await short.add(RUN, "t", 2)
            stream, meta = ttls(redis, short, RUN)
            assert 99_000 < stream <= 100_000
            assert 86_400_000 < meta <= 86_500_000

    async def test_the_end_sets_the_retention(self, redis: RedisServer, key_prefix: str) -> None:
        async with opened(redis.url, key_prefix, stream_retention=100) as short:
            await short.add(RUN, "t", 1)
            redis.execute("PEXPIRE", short.keys(RUN).stream, 5_000)
            await short.add(RUN, "workflow_complete", 2)
            assert ttls(redis, short, RUN)[0] > 99_000

    async def test_a_late_event_does_not_bring_a_forgotten_run_back_for_ever(
        self, redis: RedisServer, store: RedisEventStore
    ) -> None:
        run = RunPublisher(RUN, store=store)
        await run.emit("t", 1)
        keys = store.keys(RUN)
        redis.execute("DEL", keys.stream)
        with pytest.raises(RunExpired):
            await run.emit("t", 2)
        redis.execute("DEL", keys.meta)
        await run.emit("t", 3)
        assert min(ttls(redis, store, RUN)) > 0


@pytest.mark.parametrize("reply", [[b"ok"], [b"ok", b"", 1, b"x", 0, b"1-0"], b"?", None])
async def test_an_answer_that_cannot_be_read_is_told_and_blocks_nothing(
    store: RedisEventStore, reply: Any
) -> None:
    told: list[Any] = []
    outbox = Outbox(10, 10)
    draft = store.draft("t", 1)
    outbox.put(RUN, [draft], [told.append], sender=None, owner=None, life=None, now_ms=1)
    batch = outbox.head(RUN)
    life, results = replies.results(RUN, batch, reply)
    outbox.done(RUN, batch, results)
    assert life is None
    assert [type(each) for each in told] == [CorruptData]
    assert outbox.waiting_runs() == []


async def test_all_keys_of_a_run_share_one_slot(store: RedisEventStore) -> None:
    for run_id in ("abc", "a:b", "é/ü", "x" * 256):
        keys = store.keys(run_id)
        assert slot(keys.meta) == slot(keys.stream) == slot(keys.bell)
    assert slot("run:abc:events") == 12059  # as a Redis Cluster says
    assert slot("{abc}x") == slot("abc")


def slot(key: str) -> int:
    """The cluster slot of a key (redis.io, "Redis cluster specification": CRC16/XMODEM)."""
    raw = key.encode()
    start = raw.find(b"{")
    if start >= 0 and (end := raw.find(b"}", start + 1)) > start + 1:
        raw = raw[start + 1 : end]
    crc = 0
    for byte in raw:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


def _calls(redis: RedisServer) -> int:
    """How many scripts this server has run."""
    stats = redis.execute("INFO", "commandstats")
    assert isinstance(stats, bytes)
    for line in stats.decode().splitlines():
        if line.startswith("cmdstat_evalsha:"):
            return int(line.split("calls=")[1].split(",")[0])
    return 0
