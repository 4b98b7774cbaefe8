"""Server-Sent Events: what is on the wire, and when the stream is held, ends, or is not begun."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.asgi import Call, taking
from tests.streams.clients import until
from tests.streams.patchy import PatchyStore

from holdfast import EventStreamApp, Settings, stream_token
from holdfast.errors import RedisUnavailable
from holdfast.streams.fanout import pulse
from holdfast.streams.frames import Frame
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH = "/runs/r/events/stream"
KEY = "a-key-of-sixteen-characters-or-more"


def app_of(store: Any, **more: Any) -> EventStreamApp:
    values = {"stream_access": "open", "secret_key": KEY, "stream_heartbeat": 0.05, **more}
    return EventStreamApp(settings=Settings(**values), store=store)


@pytest.fixture
def store(patchy: PatchyStore) -> PatchyStore:
    return patchy


async def test_stream_begins_with_a_jittered_retry_and_beats_with_comments(
    store: PatchyStore,
) -> None:
    store.own()
    delays = set()
    app = app_of(store, stream_retry=2)
    for _ in range(10):
        async with Call(app, PATH) as call:
            await until(lambda call=call: call.text.count("\n:\n") >= 2)  # type: ignore[misc]
        first = call.text.split("\n\n")[0]
        delays.add(first)
        assert 1000 <= int(first.removeprefix("retry: ")) <= 3000
        assert [event for event, _ in call.events] == ["t"]
    assert len(delays) > 5


async def test_heartbeat_waits_for_silence(store: PatchyStore) -> None:
    store.own()
    async with Call(app_of(store, stream_heartbeat=0.3), PATH) as call:
        for n in range(2, 9):
            store.own()
            await until(lambda n=n: len(call.events) == n)  # type: ignore[misc]
            await asyncio.sleep(0.05)
        assert ":\n" not in call.text.replace("retry:", "")
        await until(lambda: "\n:\n" in call.text)


class Watched:
    """A client of *app* that notes which task sent, and takes as much as it is told to.

    Attributes:
        senders: the task that was running at each message.
        open: messages are taken; else a send waits.
        broken: a send fails.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.senders: list[Any] = []
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            self.senders.append(asyncio.current_task())
            await self.open.wait()
            if self.broken:
                raise OSError("the client is gone")
            await send(message)

        await self._app(scope, receive, watched)


def asleep(store: PatchyStore) -> Any:
    """What the only reader waits for."""
    (subscription,) = hub_of(store).subscribers
    return subscription._sleeper  # type: ignore[attr-defined]


async def test_a_reader_is_sent_an_event_by_his_task_without_its_being_woken(
    store: PatchyStore,
) -> None:
    store.own()
    client = Watched(app_of(store, stream_heartbeat=60))
    async with Call(client, PATH) as call:
        await until(lambda: len(call.events) == 1)
        await until(lambda: not asleep(store).done())
        sleeper = asleep(store)
        for n in range(2, 6):
            store.own()
            await until(lambda n=n: len(call.events) == n)  # type: ignore[misc]
        assert asleep(store) is sleeper
        assert not sleeper.done()
        assert set(client.senders) == {call.task}
        store.own(kind="workflow_complete")
        await call.ended()
        assert call.complete


async def test_what_a_slow_client_gets_stays_in_order_and_is_once(store: PatchyStore) -> None:
    store.own()
    client = Watched(app_of(store, stream_heartbeat=60))
    async with Call(client, PATH) as call:
        await until(lambda: len(call.events) == 1)
        for n in range(2, 30, 3):
            await until(lambda: not asleep(store).done())
            sleeper = asleep(store)
            client.open.clear()
            store.own()
            await until(sleeper.done)
            store.own(count=2)
            await asyncio.sleep(0)
            client.open.set()
            await until(lambda n=n: len(call.events) == n + 2)  # type: ignore[misc]
        ids = re.findall(r"^id: (\d+)-(\d+)$", call.text, re.MULTILINE)
        assert len(ids) == 31
        assert ids == sorted(set(ids), key=lambda each: (int(each[0]), int(each[1])))


async def test_a_send_that_fails_while_the_reader_sleeps_ends_his_request(
    store: PatchyStore,
) -> None:
    store.own()
    client = Watched(app_of(store, stream_heartbeat=60))
    async with Call(client, PATH) as call:
        await until(lambda: len(call.events) == 1)
        await until(lambda: not asleep(store).done())
        client.broken = True
        store.own()
        await until(call.task.done)
        with pytest.raises(OSError, match="the client is gone"):
            call.task.result()
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task
    assert not hub_of(store).subscribers


class Picky(partial[Any]):
    """A coroutine function, as far as anybody can tell, whose call may raise.

    Attributes:
        closed: it does.
    """

    closed = False

    def __call__(self, *args: Any, **more: Any) -> Any:
        if self.closed:
            raise OSError("closed")
        return super().__call__(*args, **more)


async def test_a_send_that_cannot_be_called_while_the_reader_sleeps_ends_his_request(
    store: PatchyStore,
) -> None:
    """What was to be sent is taken already: who slept on would go on later with a hole."""
    sends: list[Picky] = []
    raised: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sends.append(Picky(send))
        try:
            await inner(scope, receive, sends[0])
        except OSError as error:
            raised.append(str(error))

    store.own()
    inner = app_of(store, stream_heartbeat=60)
    async with Call(app, PATH) as call:
        await until(lambda: len(call.events) == 1)
        await until(lambda: not asleep(store).done())
        sends[0].closed = True
        store.own()
        await until(call.task.done)
    assert raised == ["closed"]
    assert len(call.events) == 1
    assert not hub_of(store).subscribers


async def test_nothing_is_sent_to_a_sleeper_who_has_left_or_is_sent_away(
    store: PatchyStore,
) -> None:
    store.own()
    app = Watched(app_of(store, stream_heartbeat=60))
    async with Call(app, PATH) as left, Call(app, PATH) as sent_away:
        calls = left, sent_away
        await until(lambda: all(len(call.events) == 1 for call in calls))
        hub = hub_of(store)
        await until(lambda: all(not each._sleeper.done() for each in hub.subscribers))  # type: ignore[attr-defined]
        left.leave()
        await until(left.task.done)
        hub.stopping = True  # as a signal handler says first
        store.own()
        await sent_away.ended()
        assert sent_away.complete
        assert [len(call.events) for call in calls] == [1, 1]


class Between:
    """A client of *app* whose sends do one thing more, and whose request may be cancelled.

    Attributes:
        seen: what the sends noted.
        more: what each send does before the message is taken.
        cancelled: the request ended by a cancellation.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.seen: list[Any] = []
        self.more: Callable[[], Awaitable[None]] | None = None
        self.cancelled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def doing_more(message: Message) -> None:
            if self.more is not None:
                await self.more()
            await send(message)

        try:
            await self._app(scope, receive, doing_more)
        except asyncio.CancelledError:
            self.cancelled = True


async def test_a_cancellation_before_the_task_wakes_is_told_to_the_send_under_way(
    store: PatchyStore,
) -> None:
    async def wait_for_ever() -> None:
        client.seen.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            client.seen.append(asyncio.current_task())
            raise

    store.own()
    client = Between(app_of(store, stream_heartbeat=60))
    async with Call(client, PATH) as call:
        await until(lambda: len(call.events) == 1)
        await until(lambda: not asleep(store).done())
        client.more = wait_for_ever
        store.own()
        asyncio.get_running_loop().call_soon(call.task.cancel)
        await until(call.task.done)
    assert client.cancelled
    assert client.seen == ["begun", call.task]


async def test_nothing_is_begun_for_a_task_that_is_cancelled(store: PatchyStore) -> None:
    async def note() -> None:
        client.seen.append("begun")

    store.own()
    client = Between(app_of(store, stream_heartbeat=60))
    async with Call(client, PATH) as call:
        await until(lambda: len(call.events) == 1)
        await until(lambda: not asleep(store).done())
        client.more = note
        store.own()
        call.task.cancel()
        await until(call.task.done)
    assert client.cancelled
    assert client.seen == []


async def test_a_timeout_in_a_send_that_ends_before_the_task_wakes_ends_there(
    store: PatchyStore,
) -> None:
    async def give_up_at_once() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        client.seen.append("given up")

    store.own()
    client = Between(app_of(store, stream_heartbeat=60))
    async with Call(client, PATH) as call:
        await until(lambda: len(call.events) == 1)
        for n in (2, 3):
            await until(lambda: not asleep(store).done())
            client.more = give_up_at_once
            store.own()
            await until(lambda n=n: len(call.events) == n)  # type: ignore[misc]
        assert call.task.cancelling() == 0
    assert client.seen == ["given up"] * 2
    assert not client.cancelled


whose: ContextVar[str] = ContextVar("whose", default="nobody's")


async def test_what_a_send_sets_as_the_answer_begins_is_found_by_all_that_follow(
    store: PatchyStore,
) -> None:
    async def set_once() -> None:
        client.seen.append(whose.get())
        whose.set("this answer's")

    store.own()
    client = Between(app_of(store, stream_heartbeat=60))
    client.more = set_once
    async with Call(client, PATH) as call:
        await until(lambda: len(call.events) == 1)
        await until(lambda: not asleep(store).done())
        sleeper = asleep(store)
        store.own()
        await until(lambda: len(call.events) == 2)
        assert asleep(store) is sleeper
    assert client.seen == ["nobody's", *["this answer's"] * 3]


async def test_terminal_event_and_the_end_go_together(store: PatchyStore) -> None:
    store.own()
    async with Call(app_of(store), PATH) as call:
        await until(lambda: len(call.events) == 1)
        store.own(kind="workflow_complete")
        await call.ended()
        assert call.complete
        assert call.events[-1][0] == "workflow_complete"


async def test_envelope_sends_everything_as_messages_with_the_same_ids(store: PatchyStore) -> None:
    for _ in range(4):
        store.other()
    store.other(kind="workflow_complete")
    store.trim(2)
    async with (
        Call(app_of(store), PATH) as plain,
        Call(app_of(store), PATH + "?envelope=1") as call,
    ):
        await plain.ended()
        await call.ended()
    assert {event for event, _ in call.events} == {"message"}
    kinds = [data["kind"] for _, data in call.events]
    assert kinds == ["gap", "event", "event", "event"]
    ids = re.findall(r"^id: (.+)$", call.text, re.MULTILINE)
    assert ids == re.findall(r"^id: (.+)$", plain.text, re.MULTILINE)
    assert ids == [data["id"] for _, data in call.events[1:]]


async def test_control_event_has_no_id_line(store: PatchyStore) -> None:
    for _ in range(4):
        store.other()
    store.trim(2)
    async with Call(app_of(store), PATH) as call:
        await until(lambda: len(call.events) == 3)
    gap = next(block for block in call.text.split("\n\n") if "holdfast.gap" in block)
    assert "id:" not in gap.split("data:")[0]
    assert call.events[0] == (
        "holdfast.gap",
        {
            "kind": "gap",
            "run_id": "r",
            "requested": "0-0",
            "earliest": str(store.entries[0].id),
        },
    )


async def test_client_that_leaves_ends_the_call_and_nothing_is_sent_after_him(
    store: PatchyStore,
) -> None:
    store.own()
    async with Call(app_of(store), PATH) as call:
        await until(lambda: len(call.events) == 1)
        call.leave()
        await call.ended()
    assert not call.complete
    async with Call(app_of(store), "/runs/none/events/stream?wait=30") as call:
        await until(lambda: len(hub_of(store).subscribers) == 1)
        call.leave()
        await call.ended()
    assert call.sent == []


async def test_broken_receive_is_a_client_that_left(store: PatchyStore) -> None:
    store.own()
    call = Call(app_of(store), PATH)

    async def broken() -> Any:
        raise OSError

    call._inbox.get = broken  # type: ignore[method-assign]
    async with call:
        await call.ended()


async def test_unknown_run_during_an_outage_is_held_and_served_when_redis_is_back(
    store: PatchyStore,
) -> None:
    store.away = True
    async with Call(app_of(store), PATH + "?wait=0") as call:
        await until(lambda: ": waiting" in call.text)
        assert (call.status, call.events) == (200, [])
        store.away = False
        store.own()
        await until(lambda: len(call.events) == 1)


async def test_held_reader_of_a_run_that_is_absent_is_sent_back_to_learn_it_by_a_status(
    store: PatchyStore,
) -> None:
    store.away = True
    app = app_of(store)
    async with Call(app, PATH) as call:
        await until(lambda: ": waiting" in call.text)
        store.come_back()
        await call.ended()
        assert (call.complete, call.events) == (True, [])
    async with Call(app, PATH + "?wait=0") as call:
        await call.ended()
        assert call.status == 404


async def test_held_reader_is_ended_by_a_stop(store: PatchyStore) -> None:
    store.away = True
    async with Call(app_of(store), PATH) as call:
        await until(lambda: ": waiting" in call.text)
        hub_of(store).stop()
        await call.ended()
        assert (call.complete, call.events) == (True, [])


async def test_stop_sends_a_reader_of_a_run_not_yet_begun_back_not_away(
    store: PatchyStore,
) -> None:
    async with Call(app_of(store), PATH + "?wait=30") as call:
        await until(lambda: len(hub_of(store).subscribers) == 1)
        hub_of(store).stop()
        await call.ended()
    assert call.status == 200
    assert re.fullmatch(r"retry: \d+\n\n", call.text)


async def test_what_cannot_be_read_ends_the_stream_and_is_told_in_the_log(
    store: PatchyStore, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        store.other()
    app = app_of(store)
    store.gate.clear()
    async with Call(app, PATH) as call:
        await asyncio.sleep(0.01)
        store.gate.set()
        await until(lambda: len(call.events) == 20)
        store.corrupt = True
        async with Call(app, PATH) as second:
            await second.ended()
        assert second.status == 500
        assert "CORRUPT_DATA" in second.text


async def test_corruption_in_the_middle_of_a_history_breaks_off(
    store: PatchyStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Rotten(PatchyStore):
        async def _answer(self) -> None:
            self.corrupt = self.reads > 3
            await super()._answer()

    rotten = Rotten()
    for _ in range(1000):
        rotten.other()
    async with Call(app_of(rotten), PATH) as call:
        await call.ended()
        assert call.status == 200
        assert call.complete
        assert len(call.events) < 1000
    assert "breaks off" in caplog.text
    await close_hubs(rotten)


async def test_heartbeat_of_an_open_stream_says_that_redis_is_away(store: PatchyStore) -> None:
    store.own()
    app = app_of(store, stream_heartbeat=0.05)
    async with Call(app, PATH) as call:
        await until(lambda: ":\n\n" in call.text)
        assert ": waiting" not in call.text
        store.away = True
        await until(lambda: ": waiting\n\n" in call.text)
        store.come_back()
        told = call.text.count(": waiting")
        await until(lambda: call.text.endswith(":\n\n"))
        assert call.text.count(": waiting") <= told + 1
        assert len(call.events) == 1


# -- access that cannot be decided

decisions: dict[str, Any] = {}


async def decide(connection: HTTPConnection, run_id: str, action: str) -> bool:
    if decisions["answer"] is None:
        raise RedisUnavailable("refused")
    return bool(decisions["answer"])


@pytest.mark.parametrize("allowed", [True, False])
async def test_reader_whose_right_cannot_be_decided_is_held_then_served_or_denied(
    store: PatchyStore, allowed: bool
) -> None:
    store.own()
    store.away = True
    decisions["answer"] = None
    app = app_of(store, stream_access=f"{__name__}:decide")
    async with Call(app, PATH) as call, Call(app, "/runs/r/events") as rest:
        await rest.ended()
        assert rest.status == 503
        await until(lambda: ": waiting" in call.text)
        assert call.events == []
        decisions["answer"] = allowed
        store.come_back()
        if allowed:
            await until(lambda: len(call.events) == 1)
        else:
            await call.ended()
            assert call.events == [("holdfast.denied", {"kind": "denied", "run_id": "r"})]
            assert call.complete
    async with Call(app, PATH) as call:
        await until(lambda: call.status is not None)
        assert call.status == (200 if allowed else 403)


async def test_permission_that_ends_closes_the_stream_between_heartbeats() -> None:
    store = MemoryEventStore()
    settings = Settings(secret_key=KEY)
    await store.add("r", "t", 1)
    app = app_of(store, stream_access="token", stream_heartbeat=60)
    token = stream_token("r", ttl=0.3, settings=settings)
    begun = time.monotonic()
    async with Call(app, f"{PATH}?token={token}") as call:
        await call.ended()
        assert call.complete
    assert 0.2 < time.monotonic() - begun < 10
    token = stream_token("none", ttl=0.3, settings=settings)
    async with Call(app, f"/runs/none/events/stream?wait=30&token={token}") as call:
        await call.ended()
        # Not 404, which would be the last word: whoever comes back is told what is wrong.
        assert (call.status, call.events) == (200, [])
    async with Call(app, f"/runs/none/events/stream?wait=30&token={token}") as call:
        await call.ended()
        assert call.status == 401
    await close_hubs(store)


async def test_deleted_run_under_a_reader_does_not_spin_who_comes_then() -> None:
    store = MemoryEventStore()
    app = app_of(store, stream_heartbeat=60)
    await store.add("r", "t", 1)
    async with Call(app, PATH) as reader:
        await until(lambda: len(reader.events) == 1)
        await store.delete("r")
        async with Call(app, PATH + "?wait=0.1") as call:
            await call.ended()
            assert call.status == 404
        await until(lambda: reader.events[-1][0] == "holdfast.reset")
    await close_hubs(store)


async def test_client_that_takes_nothing_is_left(
    store: PatchyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "SEND_TIMEOUT", 0.1)
    store.own()
    async with Call(taking(app_of(store), 2), PATH) as call:
        await call.ended()
        assert len(call.sent) == 2
        assert not hub_of(store).subscribers


async def test_readiness_counts_runs_and_subscribers_and_names_none(store: PatchyStore) -> None:
    store.own()
    app = app_of(store)
    async with Call(app, PATH) as first, Call(app, PATH) as second:
        await until(lambda: bool(first.events and second.events))
        async with Call(app, "/readyz") as ready:
            await ready.ended()
        assert json.loads(ready.text)["streams"] == {"runs": 1, "subscribers": 2}
    async with Call(app, "/readyz") as ready:
        await ready.ended()
    assert json.loads(ready.text)["streams"] == {"runs": 0, "subscribers": 0}


async def test_reader_who_waits_keeps_nothing_of_what_it_was_sent() -> None:
    store = MemoryEventStore()
    app = app_of(store, stream_heartbeat=60)
    await store.add("r", "t", "x" * 1000)
    hub_of(store)
    async with Call(app, PATH) as late:
        await until(lambda: len(late.events) == 1)
        await store.add("r", "t", "y")
        await until(lambda: len(late.events) == 2)
        late.sent.clear()
        await asyncio.sleep(0)
        gc.collect()
        ring = hub_of(store)._rings["r"]
        # The ring keeps the one frame that came by; the page of history is nobody's any more.
        assert sum(isinstance(each, Frame) for each in gc.get_objects()) == len(ring._items) == 1
    await close_hubs(store)
