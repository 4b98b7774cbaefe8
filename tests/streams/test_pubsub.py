"""Runs on Pub/Sub: passed on and kept nowhere, and honest about it, in memory and on Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from redis import Redis
from tests.streams.asgi import Call
from tests.streams.clients import until
from tests.streams.redis_stores import data_of, opened, ttls

from holdfast import EventStreamApp, RunPublisher, RunResponse, Settings, SyncRunPublisher
from holdfast.errors import RunEnded
from holdfast.streams.cursor import Cursor
from holdfast.streams.event import ZERO, EventId
from holdfast.streams.fanout.ring import Ring
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.frames import encode
from holdfast.streams.rollout import bucket
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.store import Entry, News, Once
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.streams.stores.pubsub import Heard, Transports, foreign

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from tests.conftest import Serve

    from holdfast.streams.store import EventStore, RunInfo
    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

ROOT = Path(__file__).resolve().parents[2]
SSE, REST, WS = "/runs/r/events/stream", "/runs/r/events", "/runs/r/events/ws"


def app_of(store: EventStore, **more: Any) -> EventStreamApp:
    values = {"stream_access": "open", "secret_key": "k" * 32, "stream_wait": 5, **more}
    return EventStreamApp(settings=Settings(**values), store=store)


@pytest.fixture(params=["memory", "redis"])
async def store(
    request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str
) -> AsyncIterator[EventStore]:
    """A store whose new runs use Pub/Sub."""
    if request.param == "memory":
        memory = MemoryEventStore(enabled=False)
        yield memory
        await close_hubs(memory)
        return
    async with opened(redis.url, key_prefix, stream_enabled=False) as made:
        yield made
        await close_hubs(made)
        assert -1 not in ttls(redis, made, "r")


@contextlib.asynccontextmanager
async def reading(store: EventStore, path: str = SSE, **more: Any) -> AsyncIterator[Call]:
    """A reader that has joined its run."""
    hub, kind = hub_of(store), "websocket" if "/ws" in path else "http"
    headers = more.pop("headers", None)
    async with Call(app_of(store, **more), path, kind=kind, headers=headers) as c:
        await until(lambda: c.task.done() or "r" in hub._rings)
        yield c


class Subscriber:
    """What has subscribed to the channels for years: redis-py, and nothing of holdfast."""

    def __init__(self, redis: RedisServer, pattern: str) -> None:
        self._client = Redis.from_url(redis.url)
        self._pubsub: Any = self._client.pubsub()  # type: ignore[no-untyped-call]
        self._pattern = pattern
        self.seen: list[Any] = []

    def __enter__(self) -> Self:
        self._pubsub.psubscribe(self._pattern)
        assert self._pubsub.get_message(timeout=5)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pubsub.close()
        self._client.close()

    def take(self, count: int) -> list[Any]:
        """Wait for *count* messages in all, and return them."""
        deadline = time.monotonic() + 10
        while len(self.seen) < count and time.monotonic() < deadline:
            message = self._pubsub.get_message(timeout=0.1)
            if message:
                self.seen.append(json.loads(message["data"]))
        return self.seen


def names(call: Call) -> list[str]:
    return [name for name, _ in call.events]


class TestTheProtocolIsHonest:
    async def test_a_reader_from_the_start_gets_every_event_without_ids_and_the_end(
        self, store: EventStore
    ) -> None:
        async with reading(store) as call:
            async with RunPublisher("r", store=store) as run:
                for n in range(20):
                    await run.emit("t", {"n": n})
            await call.ended()
        assert [data for name, data in call.events if name == "t"] == [{"n": n} for n in range(20)]
        assert names(call)[-1] == "workflow_complete"
        assert "holdfast.gap" not in names(call)
        assert not [line for line in call.text.split("\n") if line.startswith("id")]

    async def test_an_envelope_has_no_id_line_either(self, store: EventStore) -> None:
        async with reading(store, SSE + "?envelope=1") as call:
            await store.add("r", "workflow_complete", 1)
            await call.ended()
        assert "\nid" not in call.text
        assert call.events[0][1]["type"] == "workflow_complete"

    async def test_who_comes_late_is_told_a_gap_first(self, store: EventStore) -> None:
        await store.add("r", "t", 1)
        async with reading(store) as call:
            await store.add("r", "t", 2)
            await until(lambda: len(call.events) == 2)
        kind, gap = call.events[0]
        assert (kind, gap["requested"], gap["earliest"]) == ("holdfast.gap", "0-0", None)
        assert call.events[1] == ("t", 2)

    async def test_a_given_id_is_a_gap_though_it_is_the_last_one(self, store: EventStore) -> None:
        event = await store.add("r", "t", 1)
        async with reading(store, headers={"last-event-id": event.id}) as call:
            await until(lambda: call.events)
        assert [(kind, gap["requested"]) for kind, gap in call.events] == [
            ("holdfast.gap", event.id)
        ]

    async def test_an_id_given_before_the_first_event_is_a_gap(self, store: EventStore) -> None:
        async with reading(store, SSE + "?last_id=5-0") as call:
            await store.add("r", "t", 1)
            await until(lambda: len(call.events) == 2)
        assert names(call) == ["holdfast.gap", "t"]

    async def test_only_what_comes_from_now_is_no_gap(self, store: EventStore) -> None:
        await store.add("r", "t", 1)
        async with reading(store, SSE + "?last_id=$") as call:
            await store.add("r", "t", 2)
            await until(lambda: call.events)
        assert call.events == [("t", 2)]

    async def test_history_over_rest_is_a_404_of_its_own(self, store: EventStore) -> None:
        for kind in ("t", "workflow_complete"):
            await store.add("r", kind, 1)
            async with Call(app_of(store), REST) as call:
                await call.ended()
            assert call.status == 404
            assert json.loads(call.text)["code"] == "NO_HISTORY"
        assert await store.get_events("r") == []
        assert await store.exists("r") is False

    @pytest.mark.parametrize("position", ["", "?last_id=$", "?last_id=1-0", "?last_id=0"])
    async def test_any_request_for_an_ended_run_is_204(
        self, store: EventStore, position: str
    ) -> None:
        await store.add("r", "t", 1)
        await store.add("r", "workflow_complete", 2)
        async with Call(app_of(store), SSE + position) as call:
            await call.ended()
        assert call.status == 204
        async with Call(app_of(store), WS + position, kind="websocket") as call:
            await until(lambda: call.close_code)
        assert (call.frames, call.close_code) == ([{"kind": "end", "run_id": "r"}], 1000)

    async def test_the_end_closes_every_reader(self, store: EventStore) -> None:
        async with reading(store) as sse, reading(store, WS) as ws:
            await until(lambda: len(hub_of(store).subscribers) == 2)
            await store.add("r", "t", 1)
            await store.add("r", "workflow_error", {"error": "x"})
            await sse.ended()
            await until(lambda: ws.close_code)
        assert names(sse) == ["t", "workflow_error"]
        assert [frame["kind"] for frame in ws.frames] == ["event", "event", "end"]
        assert ws.close_code == 1000
        with pytest.raises(RunEnded):
            await store.add("r", "t", 3)

    async def test_the_status_tells_open_and_ended(self, store: EventStore) -> None:
        assert await store.status("r") == "absent"
        await store.add("r", "t", 1)
        info = await store.describe("r")
        assert (info.status, info.transport, info.n, info.length) == ("open", "pubsub", 1, 0)
        await store.add("r", "workflow_complete", 1)
        assert await store.status("r") == "ended"
        assert await store.set_expire("r", 5) is False

    async def test_a_deleted_run_is_reset_and_its_next_life_is_read(
        self, store: EventStore
    ) -> None:
        async with reading(store) as call:
            await store.add("r", "t", 1)
            await until(lambda: len(call.events) == 1)
            assert await store.delete("r")
            await until(lambda: "holdfast.reset" in names(call))
            await store.add("r", "t", 2)
            await until(lambda: len(call.events) == 3)
        assert names(call) == ["t", "holdfast.reset", "t"]
        assert call.events[2][1] == 2

    async def test_a_reader_slower_than_the_ring_is_told_the_gap(self, store: EventStore) -> None:
        async with reading(store) as call:
            await store.add("r", "t", 0)
            await until(lambda: len(call.events) == 1)
            hub_of(store)._rings["r"]._max_bytes = 3000
            fast = RunPublisher("r", store=store)
            await asyncio.gather(*(fast.emit("t", ["x" * 900, n]) for n in range(1, 9)))
            await until(lambda: call.events[-1] == ("t", ["x" * 900, 8]))
        assert names(call).count("holdfast.gap") == 1


class TestWhoeverPublishes:
    async def test_the_request_that_begins_a_run_gets_all_of_it(self, store: EventStore) -> None:
        """By the time it could look, the run has ended and nothing of it is kept."""

        async def agent() -> AsyncIterator[tuple[str, int]]:
            for n in range(3):
                yield "t", n

        async with Call(RunResponse("r", agent(), store=store), "/") as call:
            await call.ended()
        assert call.status == 200
        assert [data for name, data in call.events if name == "t"] == [0, 1, 2]
        assert names(call)[-1] == "workflow_complete"
        async with Call(RunResponse("r", agent(), store=store), "/") as again:
            await again.ended()
        assert again.status == 204

    async def test_a_thread_follows_a_run_to_the_transport_that_it_has(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with (
            opened(redis.url, key_prefix, stream_enabled=False) as off,
            opened(redis.url, key_prefix) as on,
        ):
            await off.add("r", "t", 0)

            def publish() -> None:
                with SyncRunPublisher("r", store=on) as run:
                    for n in range(1, 4):
                        run.emit("t", n)

            async with reading(off) as call:
                await asyncio.to_thread(publish)
                await call.ended()
            await close_hubs(off)
            info = await on.describe("r")
        assert (info.transport, info.status, info.n) == ("pubsub", "ended", 5)
        assert [data for name, data in call.events if name == "t"] == [1, 2, 3]


class TestTheTransportIsDecidedOnce:
    @pytest.mark.parametrize("backend", ["memory", "redis"])
    async def test_the_first_event_decides_by_the_percentage(
        self, redis: RedisServer, key_prefix: str, backend: str
    ) -> None:
        async with opened(redis.url, key_prefix, stream_rollout=50) as on_redis:
            store: EventStore = on_redis
            if backend == "memory":
                store = MemoryEventStore(rollout=50)
            for number in range(20):
                run = f"run-{number}"
                await store.add(run, "t", 1)
                expected = "streams" if bucket(run) < 50 else "pubsub"
                assert (await store.describe(run)).transport == expected

    async def test_another_setting_splits_no_run(self, redis: RedisServer, key_prefix: str) -> None:
        async with (
            opened(redis.url, key_prefix, stream_enabled=False) as off,
            opened(redis.url, key_prefix) as on,
            opened(redis.url, key_prefix, stream_rollout=50, stream_dual_write=True) as half,
        ):
            for first, second in ((off, on), (on, off), (off, half), (half, off)):
                run = f"{id(first)}-{id(second)}"
                await first.add(run, "t", 1)
                begun = await second.describe(run)
                await second.add(run, "t", 2)
                await first.add(run, "t", 3)
                info = await first.describe(run)
                assert (info.transport, info.n) == (begun.transport, 3)
                kept = [1, 2, 3] if info.transport == "streams" else []
                assert await data_of(first, run) == kept

    async def test_the_next_life_is_decided_anew(self, redis: RedisServer, key_prefix: str) -> None:
        async with (
            opened(redis.url, key_prefix, stream_enabled=False) as off,
            opened(redis.url, key_prefix) as on,
        ):
            await off.add("r", "t", 1)
            await on.add("r", "t", 1)
            await on.delete("r")
            await on.add("r", "t", 2)
            assert (await off.describe("r")).transport == "streams"
            await off.add("r", "t", 3)
            assert await data_of(on, "r") == [2, 3]

    async def test_a_life_that_begins_after_another_process_deleted_is_decided_anew(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with (
            opened(redis.url, key_prefix, stream_rollout=0) as off,
            opened(redis.url, key_prefix) as on,
        ):
            await on.add("r", "t", 1)
            await off.add("r", "t", 2)
            await on.delete("r")
            await off.add("r", "t", 3)
            assert (await on.describe("r")).transport == "pubsub"

    async def test_a_server_that_forgot_everything_is_told_again(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with (
            opened(redis.url, key_prefix, stream_enabled=False) as off,
            opened(redis.url, key_prefix) as on,
        ):
            await off.add("r", "t", 1)
            await on.add("r", "t", 2)
            redis.execute("SCRIPT", "FLUSH")
            await on.add("r", "t", 3)
            assert (await on.describe("r")).n == 3


class TestOldSubscribers:
    async def test_the_channel_carries_every_event_in_the_known_form(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with opened(redis.url, key_prefix, stream_enabled=False) as store:
            with Subscriber(redis, f"{key_prefix}run:*") as old:
                event = await store.add('r"/1', 'a "b"/\\', {"é": [1, ',"id":"x"', None]})
                (seen,) = old.take(1)
        assert seen == {
            "run_id": 'r"/1',
            "type": 'a "b"/\\',
            "data": {"é": [1, ',"id":"x"', None]},
            "id": event.id,
            "created_at": f"{event.created_at:%Y-%m-%dT%H:%M:%S}"
            f".{event.created_at.microsecond // 1000:03d}Z",
        }

    async def test_dual_write_counts_every_event_of_both_transports_once(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        values = {"stream_dual_write": True, "stream_rollout": 50}
        async with opened(redis.url, key_prefix, **values) as store:
            with Subscriber(redis, f"{key_prefix}run:*") as old:
                runs = [RunPublisher(f"run-{n}", store=store) for n in range(20)]
                for n in range(5):
                    await asyncio.gather(*(run.emit("t", n) for run in runs for _ in range(2)))
                for run in runs:
                    await run.workflow_complete()
                seen = old.take(220)
            transports = {(await store.describe(run.run_id)).transport for run in runs}
        assert transports == {"streams", "pubsub"}
        for run in runs:
            mine = [each for each in seen if each["run_id"] == run.run_id]
            assert [each["data"] for each in mine[:-1]] == [n for n in range(5) for _ in range(2)]
            assert mine[-1]["type"] == "workflow_complete"
            assert len({each["id"] for each in mine}) == 11

    async def test_a_stream_without_dual_write_publishes_nothing(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with (
            opened(redis.url, key_prefix) as plain,
            opened(redis.url, key_prefix, stream_dual_write=True) as dual,
        ):
            with Subscriber(redis, f"{key_prefix}run:*") as old:
                await plain.add("r", "t", 1)
                await dual.add("r", "t", 2)
                assert [each["data"] for each in old.take(1)] == [2]

    async def test_a_reader_of_holdfast_gets_a_dual_written_event_once(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with opened(redis.url, key_prefix, stream_dual_write=True) as store:
            async with reading(store) as call:
                for n in range(5):
                    await store.add("r", "t", n)
                await until(lambda: len(call.events) >= 5)
                async with reading(store) as second:
                    await store.add("r", "workflow_complete", 5)
                    await call.ended()
                    await second.ended()
            await close_hubs(store)
        assert [data for _, data in call.events] == [0, 1, 2, 3, 4, 5]
        assert [data for _, data in second.events] == [0, 1, 2, 3, 4, 5]

    async def test_a_settled_reader_is_not_sent_the_copies(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with opened(redis.url, key_prefix, stream_dual_write=True) as store:
            await store.add("r", "t", 0)
            async with reading(store):
                channel = store.transports.channel("r")

                def subscribed() -> Any:
                    counts: Any = redis.execute("PUBSUB", "NUMSUB", channel)
                    return counts[1]

                await until(lambda: subscribed() == 0)
            await close_hubs(store)

    async def test_the_channel_has_the_prefix_and_its_own_template(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        values = {"stream_enabled": False, "stream_channel": "jobs/{run_id}/log"}
        async with opened(redis.url, key_prefix, **values) as store:
            with Subscriber(redis, f"{key_prefix}jobs/r/log") as old:
                await store.add("r", "t", 1)
                assert old.take(1)[0]["data"] == 1


def test_the_example_shows_both_sides_of_a_dual_write(
    redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    env = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_STREAM_DUAL_WRITE": "true",
    }
    example = serve([str(ROOT / "examples/dual_write.py")], env=env, wait=False)
    assert example.wait() == 0, example.log()
    told = example.log()
    kinds = ["word", "word", "word", "workflow_complete"]
    assert re.findall(r"subscriber: (\w+)", told) == kinds
    assert re.findall(r"history: +(\w+)", told) == kinds


@pytest.fixture
async def off(redis: RedisServer, key_prefix: str) -> AsyncIterator[RedisEventStore]:
    async with opened(redis.url, key_prefix, stream_enabled=False) as made:
        yield made
        await close_hubs(made)


class TestForeignPublishers:
    def publish(self, redis: RedisServer, store: RedisEventStore, message: Any) -> None:
        payload = message if isinstance(message, str) else json.dumps(message)
        assert redis.execute("PUBLISH", store.transports.channel("r"), payload) == 1

    async def test_a_waiting_reader_gets_what_other_programs_publish(
        self, redis: RedisServer, off: RedisEventStore
    ) -> None:
        async with reading(off) as call:
            self.publish(redis, off, {"type": "token", "data": {"text": "Hel"}})
            await until(lambda: call.status == 200)
            self.publish(redis, off, {"type": "token", "data": {"text": "lo"}, "id": "abc"})
            self.publish(redis, off, "no json\n\nevent: x")
            self.publish(redis, off, {"type": "holdfast.gap"})
            self.publish(redis, off, {"type": "workflow_complete"})
            await call.ended()
        assert call.events == [
            ("token", {"text": "Hel"}),
            ("token", {"text": "lo"}),
            ("message", "no json\n\nevent: x"),
            ("message", None),
            ("workflow_complete", None),
        ]

    async def test_the_first_reader_registers_the_run_and_its_end(
        self, redis: RedisServer, off: RedisEventStore
    ) -> None:
        async with reading(off) as call:
            self.publish(redis, off, {"type": "t", "data": 1})
            await until(lambda: call.events)
            assert hub_of(off)._rings["r"].noted
            deadline = time.monotonic() + 5
            while await off.status("r") != "open":
                assert time.monotonic() < deadline
            self.publish(redis, off, {"type": "workflow_complete", "data": 1})
            await call.ended()
            while await off.status("r") != "ended":
                assert time.monotonic() < deadline
        async with Call(app_of(off), SSE) as late:
            await late.ended()
        assert late.status == 204
        assert 0 < ttls_of_meta(redis, off) <= 2 * 86_400_000

    async def test_holdfast_goes_on_with_a_run_that_another_program_began(
        self, redis: RedisServer, off: RedisEventStore, key_prefix: str
    ) -> None:
        async with reading(off) as call, opened(redis.url, key_prefix) as on:
            self.publish(redis, off, {"type": "t", "data": 1})
            await until(lambda: call.events)
            deadline = time.monotonic() + 5
            while await off.status("r") != "open":
                assert time.monotonic() < deadline
            await on.add("r", "t", 2)
            await on.add("r", "workflow_complete", 3)
            await call.ended()
        assert [data for _, data in call.events] == [1, 2, 3]

    async def test_what_is_published_beside_a_stream_is_not_heard(
        self, redis: RedisServer, key_prefix: str
    ) -> None:
        async with opened(redis.url, key_prefix) as on:
            async with reading(on) as call:
                await on.add("r", "t", 1)
                await until(lambda: call.events)
                redis.execute("PUBLISH", on.transports.channel("r"), '{"type":"x"}')
                await on.add("r", "workflow_complete", 2)
                await call.ended()
            await close_hubs(on)
        assert names(call) == ["t", "workflow_complete"]


def ttls_of_meta(redis: RedisServer, store: RedisEventStore) -> int:
    reply = redis.execute("PTTL", store.keys("r").meta)
    assert isinstance(reply, int)
    return reply


class TestSeveralProcesses:
    async def test_two_publishers_are_read_in_one_order_and_once(
        self, redis: RedisServer, key_prefix: str, off: RedisEventStore
    ) -> None:
        """Each has readers of its own, who must see what the other's see."""
        async with opened(redis.url, key_prefix, stream_enabled=False) as other:
            async with reading(off) as here, reading(other) as there:
                await asyncio.gather(
                    *(store.add("r", "t", n) for n in range(100) for store in (off, other))
                )
                await off.add("r", "workflow_complete", "end")
                await here.ended()
                await there.ended()
            await close_hubs(other)
        assert here.events == there.events
        assert len(here.events) == 201

    async def test_what_came_over_http_is_read_once_and_a_repeated_request_is_answered_the_same(
        self, off: RedisEventStore
    ) -> None:
        async with reading(off) as call:
            drafts = [off.draft("t", 1), off.draft("t", 2)]
            first = await off.write("r", drafts, once=Once("key", "body"))
            again = await off.write("r", drafts, once=Once("key", "body"))
            assert [entry.id for entry in again] == [entry.id for entry in first]
            await off.add("r", "workflow_complete", 3)
            await call.ended()
        assert [data for _, data in call.events] == [1, 2, 3]

    async def test_a_lost_reply_publishes_nothing_twice(
        self, redis: RedisServer, off: RedisEventStore
    ) -> None:
        with Subscriber(redis, off.transports.channel("r")) as old:
            await off.add("r", "t", 1)
            again = off._writes.now("r", off.producer, 1, [off.draft("t", 1)])
            reply: Any = await off._link.run(off._writes.publish, *again)
            assert (reply[0], reply[4]) == (b"live", 1)
            await off.add("r", "t", 2)
            assert [each["data"] for each in old.take(2)] == [1, 2]

    async def test_messages_lost_with_a_connection_are_told_as_a_gap(
        self, redis: RedisServer, key_prefix: str, off: RedisEventStore
    ) -> None:
        async with (
            opened(redis.url, key_prefix, stream_enabled=False) as other,
            reading(off) as call,
        ):
            await other.add("r", "t", 1)
            await until(lambda: call.events)
            redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
            await other.add("r", "t", 2)
            await other.add("r", "workflow_complete", 3)
            await call.ended()
        assert names(call) == ["t", "holdfast.gap"]


async def test_what_comes_while_a_reader_is_let_in_is_that_readers() -> None:
    store = MemoryEventStore(enabled=False)
    hub = hub_of(store)
    reader = Subscription(hub, "r", Cursor())
    joining = asyncio.create_task(reader.__aenter__())
    while "r" not in hub._rings:
        await asyncio.sleep(0)
    assert not joining.done()
    await store.add("r", "t", 1)
    await joining
    await until(lambda: reader.begun)
    assert [due.cursor for due in await reader.take()] == [str((await store.describe("r")).last)]
    await reader.__aexit__(None, None, None)
    await close_hubs(store)


async def test_the_word_of_ones_own_after_its_echo_is_nothing_new() -> None:
    store = MemoryEventStore(enabled=False)
    hub = hub_of(store)
    async with Subscription(hub, "r", Cursor()):
        entry = Entry(EventId(5, 0), "t", b"1", 1, created_ms=5, life="0.a", kept=False)
        hub._on_ring("r", News("0.a", [entry], 1))
        hub._on_ring("r", News("0.a", [entry]))
        second = entry._replace(id=EventId(6, 0), n=2)
        hub._on_ring("r", News("0.a", [second], 2))
        await until(lambda: hub._rings["r"].last_n == 2)
        assert hub._rings["r"].end == 2
    await close_hubs(store)


class LateStore(MemoryEventStore):
    """What is asked of it may be answered later, with what was true when it was asked."""

    def __init__(self) -> None:
        super().__init__(enabled=False)
        self.answers = asyncio.Event()
        self.answers.set()

    async def describe(self, run_id: str) -> RunInfo:
        info = await super().describe(run_id)
        await self.answers.wait()
        return info


async def test_an_audit_that_is_answered_late_resets_nobody() -> None:
    store = LateStore()
    async with reading(store) as call:
        hub = hub_of(store)
        await until(lambda: not hub._refreshing)
        store.answers.clear()
        audits = [hub._audit_run("r"), hub._look_live(hub._rings["r"])]
        auditing = [asyncio.create_task(audit) for audit in audits]
        await asyncio.sleep(0)
        await store.add("r", "t", 1)
        await until(lambda: hub._rings["r"].end == 1)
        store.answers.set()
        await asyncio.gather(*auditing)
        await store.add("r", "workflow_complete", 2)
        await call.ended()
    assert call.events == [("t", 1), ("workflow_complete", 2)]
    await close_hubs(store)


def test_what_a_bell_announces_is_numbered_and_the_rest_is_foreign() -> None:
    heard = Heard("r")
    message = b'{"run_id":"r","type":"t","data":1,"id":"5-0","created_at":"x"}'
    assert heard.bell(b"0.a:7:2:p:4") is None
    first, second, third = (heard.message(message, 9) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert [(news.n, news.entries[0].seq) for news in (first, second)] == [(6, 4), (7, 5)]
    assert (third.n, third.life) == (0, None)
    assert heard.bell(b"0.a:8") is not None
    assert heard.message(message, 9) is None
    heard.bell(b"")
    assert heard.message(message, 9) is not None


@pytest.mark.parametrize(
    "carried", [b"no id h\nt\n1", b"5-0 3 4-0 9 p\nt\n1", b"5-0 2 4-0 9 p 1\nt\n1"]
)
def test_what_a_bell_carries_and_cannot_be_read_is_left_to_a_look(carried: bytes) -> None:
    news = Heard("r").bell(b"0.a:3\n" + carried)
    assert news is not None
    assert (news.life, news.n, list(news.entries)) == ("0.a", 3, [])


def test_what_was_shown_before_it_was_published_is_not_shown_again() -> None:
    ring = Ring("r", ZERO, None)
    early = Entry(ZERO, "t", b"1", producer="p", seq=1, provisional=True, kept=False)
    ring.pass_on(encode("r", early))
    ring.pass_on(encode("r", early._replace(id=EventId(5, 0), n=1, provisional=False)))
    assert (ring.end, ring.last_n, ring.last) == (1, 1, (5, 0))
    ring.pass_on(encode("r", early._replace(id=EventId(6, 0), n=2, seq=2, provisional=False)))
    assert ring.end == 2


@pytest.mark.parametrize(
    ("payload", "kind", "data"),
    [
        (b'{"type":"t","data":{"a":[1, 2]}}', "t", b'{"a":[1,2]}'),
        (b'{"type":"t"}', "t", b"null"),
        (b'{"a": 1}', "message", b'{"a":1}'),
        (b"[1]", "message", b"[1]"),
        (b"\xff\n", "message", '"\ufffd\\n"'.encode()),
        (b'{"type":"holdfast.end","data":0}', "message", b"0"),
        (b'{"type":7,"data":0}', "message", b'{"type":7,"data":0}'),
    ],
)
def test_what_other_programs_publish_is_made_to_fit(payload: bytes, kind: str, data: bytes) -> None:
    entry = foreign(payload, 1)
    assert (entry.type, entry.data, entry.kept) == (kind, data, False)


@pytest.fixture
def plain() -> Transports:
    return Transports(Settings(redis_url="redis://h"))


def test_the_ordinary_write_says_nothing_of_transports(plain: Transports) -> None:
    assert plain.options("r") == ()
    plain.learn("r", live=False)
    assert plain.options("r") == ()
    plain.learn("r", live=True)
    assert "channel" in plain.options("r")
    plain.forget("r")
    assert plain.options("r") == ()


def test_what_is_known_of_runs_is_bounded(plain: Transports) -> None:
    for n in range(10_050):
        plain.learn(str(n), live=True)
    assert len(plain._live) == 10_000
    assert plain.expects_live("10049")
