"""What goes wrong with event streams elsewhere and must not here, on memory and on a real Redis.

docs/streams/pitfalls.md is the list, and each row names its tests; here are those that no other
file shows on both stores. All go through the sub-app, as a reader does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.sessions.monitor import monitor
from tests.streams.asgi import Call
from tests.streams.clients import until
from tests.streams.redis_stores import opened, ttls

from holdfast import EventStreamApp, RunPublisher, Settings
from holdfast.errors import EventTooLarge, InvalidEvent, RunEnded, RunExpired
from holdfast.streams.select import close_hubs
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from holdfast.streams.store import EventStore
    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

RUN = "r"
KEY = "a-key-of-sixteen-characters-or-more"


@dataclass
class Site:
    """A store and the sub-app that serves it.

    Attributes:
        expire: have the run's events be forgotten now.
        trim: the most events that a trimmed run may keep.
    """

    store: EventStore
    expire: Callable[[], Awaitable[None]]
    trim: int = 200

    def call(self, path: str, run: str = RUN, **headers: str) -> Call:
        """Ask for ``/runs/{run}/{path}``, with underscores of header names as dashes."""
        app = EventStreamApp(
            settings=Settings(secret_key=KEY, stream_access="open", stream_wait=0), store=self.store
        )
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Call(app, f"/runs/{run}/{path}", headers=named)

    async def got(self, path: str, run: str = RUN, **headers: str) -> Call:
        """The same, once it has been answered whole."""
        async with self.call(path, run, **headers) as call:
            await call.ended()
        return call

    async def history(self) -> list[Any]:
        call = await self.got("events?limit=1000")
        events: list[Any] = json.loads(call.text)["events"]
        return events

    async def fill(self, count: int, *, end: bool = False) -> list[str]:
        """Publish ``{"n": 1}`` to ``{"n": count}``, and return the ids."""
        publisher = RunPublisher(RUN, store=self.store)
        tickets = [await publisher.emit("t", {"n": n}) for n in range(1, count + 1)]
        if end:
            tickets.append(await publisher.workflow_complete())
        return [event.id for event in tickets]


def numbers(call: Call) -> list[Any]:
    """What was read: the number of each event, or the kind of whatever else was told."""
    return [
        data["n"] if kind == "t" else kind.removeprefix("holdfast.") for kind, data in call.events
    ]


@pytest.fixture(params=["memory", "redis"])
async def site(
    request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str
) -> AsyncIterator[Site]:
    if request.param == "memory":
        ticks = itertools.count(1, 0.001)
        later = [1.7e9]
        memory = MemoryEventStore(maxlen=100, retention=100, clock=lambda: later[0] + next(ticks))

        async def pass_by() -> None:
            later[0] += 1000

        yield Site(memory, pass_by, 100)
        await close_hubs(memory)
        return
    async with opened(redis.url, key_prefix, stream_maxlen=100) as store:

        async def drop() -> None:
            redis.execute("DEL", store.keys(RUN).stream)

        yield Site(store, drop)
        assert -1 not in ttls(redis, store, RUN), "a key that never ends"
        await close_hubs(store)


@pytest.fixture
async def store(redis: RedisServer, key_prefix: str) -> AsyncIterator[RedisEventStore]:
    async with opened(redis.url, key_prefix) as store:
        yield store
        await close_hubs(store)


# --- ids and cursors -----------------------------------------------------------------------------


async def test_a_malformed_id_costs_redis_nothing(
    store: RedisEventStore, redis: RedisServer, key_prefix: str
) -> None:
    site = Site(store, asyncio.Event().wait)  # type: ignore[arg-type]
    await site.fill(1)
    odd = ["%205-0", "%2B5-0", "05-0", "5-00", "5", "5-", "-", "(5-0", "5-0%00", "9" * 10_000]
    with monitor(redis) as seen:
        for position in [*odd, f"{2**64}-0", "%D9%A5-0"]:
            for path in (f"events/stream?last_id={position}", f"events?start_id={position}"):
                assert (await site.got(path)).status == 400, position
        assert seen.commands(key_prefix) == []


@pytest.mark.parametrize("start", ["", "?last_id=", "?last_id=0", "?last_id=0-0", "?last_id=-1"])
async def test_the_start_has_several_spellings(site: Site, start: str) -> None:
    await site.fill(3, end=True)
    assert numbers(await site.got(f"events/stream{start}"))[:3] == [1, 2, 3]


async def test_the_tail_is_what_comes_from_now(site: Site) -> None:
    await site.fill(3)
    async with site.call("events/stream?last_id=$") as call:
        await until(lambda: call.sent)
        await RunPublisher(RUN, store=site.store).emit("t", {"n": 4})
        await until(lambda: numbers(call) == [4])


async def test_the_header_of_a_reconnect_beats_the_address(site: Site) -> None:
    ids = await site.fill(3, end=True)
    call = await site.got(f"events/stream?last_id={ids[0]}", last_event_id=ids[1])
    assert numbers(call) == [3, "workflow_complete"]


async def test_an_id_that_the_run_has_not_reached_is_a_reset(site: Site) -> None:
    ids = await site.fill(3)
    beyond = f"{int(ids[-1].partition('-')[0]) + 10_000}-0"
    async with site.call("events/stream", last_event_id=beyond) as call:
        await until(lambda: numbers(call) == ["reset", 1, 2, 3])
        assert call.events[0][1]["requested"] == beyond


async def test_ids_are_compared_as_numbers(
    store: RedisEventStore, redis: RedisServer, key_prefix: str
) -> None:
    for n, entry in enumerate(["9-0", "10-0", "10-9", "10-10"], 1):
        redis.execute("XADD", store.keys(RUN).stream, entry, "type", "t", "data", f'{{"n":{n}}}')
    site = Site(store, asyncio.Event().wait)  # type: ignore[arg-type]
    for entry, rest in [("9-0", [2, 3, 4]), ("10-0", [3, 4]), ("10-9", [4])]:
        async with site.call("events/stream", last_event_id=entry) as call:
            await until(lambda call=call, rest=rest: numbers(call) == rest)  # type: ignore[misc]


async def test_ids_are_compared_as_numbers_in_memory() -> None:
    clock = iter([0.009, *[0.010] * 50])
    store = MemoryEventStore(clock=lambda: next(clock))
    ids = [(await store.add(RUN, "t", n)).id for n in range(12)]
    assert ids[0] == "9-0"
    assert ids[-1] == "10-10"
    assert [e.id for e in await store.get_events_after(RUN, "9-0")] == ids[1:]


async def test_an_id_that_never_was_an_entry_is_told(site: Site) -> None:
    ids = await site.fill(3)
    ms, seq = ids[0].split("-")
    between = f"{ms}-{int(seq) + 999}"
    before = f"{int(ms) - 1000}-0"
    for odd in (between, before):
        if odd < ids[1]:  # else the run was written within one millisecond
            async with site.call("events/stream", last_event_id=odd) as call:
                await until(lambda call=call: numbers(call) == ["reset", 1, 2, 3])  # type: ignore[misc]
            told = call.events[0][1]
            assert (told["requested"], told["earliest"]) == (odd, ids[0])


async def test_an_entry_that_was_removed_alone_is_no_silent_hole(
    store: RedisEventStore, redis: RedisServer
) -> None:
    site = Site(store, asyncio.Event().wait)  # type: ignore[arg-type]
    ids = await site.fill(4)
    redis.execute("XDEL", store.keys(RUN).stream, ids[1], ids[2])
    async with site.call("events/stream", last_event_id=ids[0]) as call:
        await until(lambda: numbers(call) == ["gap", 4])
    async with site.call("events/stream") as call:
        await until(lambda: numbers(call) == [1, "gap", 4])


async def test_odd_bounds_of_a_page(site: Site) -> None:
    ids = await site.fill(3)
    call = await site.got(f"events?start_id={ids[2]}&end_id={ids[0]}")
    assert call.status == 200
    assert json.loads(call.text)["events"] == []
    for limit in ("0", "-1", "1e3", "x", "1_0"):
        assert (await site.got(f"events?limit={limit}")).status == 400, limit
    assert len(json.loads((await site.got("events?limit=1000000000")).text)["events"]) == 3


# --- history to live -----------------------------------------------------------------------------


async def test_joins_at_any_moment_lose_and_double_nothing(site: Site) -> None:
    """Every tenth reader is there before the run begins, and every other comes when it likes."""
    total = 90

    async def read(delay: float) -> list[Any]:
        await asyncio.sleep(delay)
        return numbers(await site.got("events/stream?wait=10"))

    delays = [0 if n % 10 == 0 else random.random() * 0.3 for n in range(100)]
    readers = [asyncio.create_task(read(delay)) for delay in delays]
    publisher = RunPublisher(RUN, store=site.store)
    for n in range(1, total + 1):
        await publisher.emit("t", {"n": n})
        await asyncio.sleep(random.random() * 0.005)
    await publisher.workflow_complete()
    whole = [*range(1, total + 1), "workflow_complete"]
    assert all(seen == whole for seen in await asyncio.gather(*readers))


async def test_ids_of_one_millisecond_lose_and_double_nothing_at_a_page_border(site: Site) -> None:
    drafts = [site.store.draft("t", {"n": n}) for n in range(1, 91)]
    entries = await site.store.append(RUN, drafts)
    found: list[Any] = []
    start: str | None = "0"
    while start:
        page = json.loads((await site.got(f"events?limit=7&start_id={start}")).text)
        found += [event["data"]["n"] for event in page["events"]]
        start = page["next_id"]
    assert found == list(range(1, 91))
    for entry in entries[::10]:
        async with site.call("events/stream", last_event_id=str(entry.id)) as call:
            rest = list(range(entry.n + 1, 91))
            await until(lambda call=call, rest=rest: numbers(call) == rest)  # type: ignore[misc]


async def test_a_run_that_nobody_started_is_waited_for(site: Site) -> None:
    assert (await site.got("events/stream?wait=0.05")).status == 404
    async with site.call("events/stream?wait=10") as call:
        await asyncio.sleep(0.02)
        assert not call.sent
        await site.fill(3, end=True)
        await call.ended()
    assert (call.status, numbers(call)) == (200, [1, 2, 3, "workflow_complete"])


# --- end and expiry ------------------------------------------------------------------------------


async def test_an_ended_run_is_served_to_its_end_and_then_no_more(site: Site) -> None:
    ids = await site.fill(2, end=True)
    call = await site.got("events/stream", last_event_id=ids[0])
    assert (call.status, numbers(call)) == (200, [2, "workflow_complete"])
    beyond = f"{int(ids[-1].partition('-')[0]) + 1}-0"
    for past in (ids[-1], beyond, "$"):
        call = await site.got(f"events/stream?last_id={past}")
        assert (call.status, call.text) == (204, ""), past


async def test_what_has_expired_is_gone_and_not_unknown(site: Site) -> None:
    ids = await site.fill(1, end=True)
    await site.expire()
    assert (await site.got("events")).status == 410
    assert (await site.got("events/stream")).status == 410
    assert (await site.got("events/stream", last_event_id=ids[-1])).status == 204
    assert (await site.got("events", run="another")).status == 404


async def test_nothing_follows_an_end_or_an_expiry(site: Site) -> None:
    await site.fill(1, end=True)
    with pytest.raises(RunEnded):
        await site.fill(1)
    await site.expire()
    with pytest.raises(RunExpired):
        await RunPublisher(RUN, store=site.store).emit("t")
    assert (await site.got("events")).status == 410


# --- trims and gaps ------------------------------------------------------------------------------


async def test_history_that_was_trimmed_is_told_and_the_rest_follows(site: Site) -> None:
    ids = await site.fill(400)
    async with site.call("events/stream", last_event_id=ids[2]) as call:
        await until(lambda: numbers(call)[-1:] == [400])
    first, *rest = numbers(call)
    kept = [event["data"]["n"] for event in await site.history()]
    assert (first, rest) == ("gap", kept)
    assert len(kept) <= site.trim
    assert call.events[0][1]["requested"] == ids[2]
    assert call.events[0][1]["earliest"] == ids[kept[0] - 1]


async def test_an_id_just_before_what_is_left_is_no_gap(site: Site) -> None:
    ids = await site.fill(400)
    kept = [event["data"]["n"] for event in await site.history()]
    async with site.call("events/stream", last_event_id=ids[kept[0] - 2]) as call:
        await until(lambda: numbers(call) == kept)


async def test_a_life_that_was_deleted_is_never_mixed_with_the_next(site: Site) -> None:
    ids = await site.fill(3)
    async with site.call("events/stream") as call:
        await until(lambda: numbers(call) == [1, 2, 3])
        await site.store.delete(RUN)
        await site.fill(2)
        await until(lambda: numbers(call) == [1, 2, 3, "reset", 1, 2])
    async with site.call("events/stream", last_event_id=ids[-1]) as call:
        await until(lambda: numbers(call) == ["reset", 1, 2])


async def test_neither_a_gap_nor_a_heartbeat_moves_the_position(site: Site) -> None:
    ids = await site.fill(400)
    async with site.call("events/stream", last_event_id=ids[0]) as call:
        await until(lambda: numbers(call)[-1:] == [400])
    for block in call.text.split("\n\n"):
        lines = block.split("\n")
        assert any(line.startswith("id: ") for line in lines) == ("event: t" in lines), block


# --- publishing ----------------------------------------------------------------------------------


async def test_what_one_task_emits_keeps_its_order(site: Site) -> None:
    publisher = RunPublisher(RUN, store=site.store)
    emits = [publisher.emit("t", {"n": n}) for n in range(1, 91)]
    events = await asyncio.gather(*emits)
    assert [event["data"]["n"] for event in await site.history()] == list(range(1, 91))
    assert [event["id"] for event in await site.history()] == [event.id for event in events]


async def test_an_event_that_is_too_large_is_refused_before_anything_is_asked(
    store: RedisEventStore, redis: RedisServer, key_prefix: str
) -> None:
    publisher = RunPublisher(RUN, store=store)
    with monitor(redis) as seen:
        with pytest.raises(EventTooLarge):
            # One byte too many: in UTF-8 two a letter, one for the x, and the quotation marks.
            await publisher.emit("t", "x" + "é" * (1_048_574 // 2))
        assert seen.commands(key_prefix) == []
    await publisher.emit("t", "é" * (1_048_574 // 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"a": {1, 2}}])
async def test_what_is_no_json_is_refused_and_begins_nothing(site: Site, value: object) -> None:
    with pytest.raises(InvalidEvent):
        await RunPublisher(RUN, store=site.store).emit("t", value)
    assert (await site.got("events")).status == 404


@pytest.mark.parametrize("kind", ["a\rb", "a\nb", "a\0b", "", "x" * 10_000, "holdfast.gap"])
async def test_a_type_that_would_break_a_frame_is_refused(site: Site, kind: str) -> None:
    with pytest.raises(InvalidEvent):
        await RunPublisher(RUN, store=site.store).emit(kind)


async def test_no_data_breaks_out_of_its_line(site: Site) -> None:
    hostile = ["a\rb", "a\u2028b\u0085c\x0bd", "\n\nevent: x\nid: 1-1\ndata: {}\n\n", 2**63 + 1]
    publisher = RunPublisher(RUN, store=site.store)
    for text in hostile:
        await publisher.emit("error", {"n": text})
    await publisher.workflow_complete()
    call = await site.got("events/stream")
    assert [data["n"] for kind, data in call.events[:-1] if kind == "error"] == hostile
    assert [event["data"]["n"] for event in (await site.history())[:-1]] == hostile
    assert call.text.count("\r") == 0


# --- access and addresses ------------------------------------------------------------------------


async def test_run_ids_are_exact_and_decoded_once(site: Site) -> None:
    for run in ("a%2Fb", "*", "é", "A", "a%252Fb"):
        assert (await site.got("events", run=run)).status == 404, run
    for run in ("..", "%2e%2e", ".", "%00", "%7Bx%7D", "x" * 257, "%ff", "a%0Ab"):
        assert (await site.got("events", run=run)).status in {400, 404}, run
    await site.store.add("a/b", "t", {"n": 1})
    assert (await site.got("events", run="a%2Fb")).status == 200
    assert (await site.got("events", run="a%252Fb")).status == 404
    assert (await site.got("events", run="A%2FB")).status == 404
