"""Many runs over one WebSocket: frames, runs that come and go, and clients that talk nonsense."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.asgi import Call, taking
from tests.streams.clients import until
from tests.streams.doors import test_sse
from tests.streams.doors.test_many_sse import END, token
from tests.streams.doors.test_sse import app_of
from tests.streams.redis_stores import opened

from holdfast.streams.composite import parse
from holdfast.streams.doors import many_websocket, websocket
from holdfast.streams.fanout import pulse
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from tests.streams.patchy import PatchyStore

    from holdfast import EventStore
    from holdfast.testing import RedisServer

PATH = "/events/ws"


def many(store: Any, *runs: str, query: str = "wait=0", **settings: Any) -> Call:
    path = f"{PATH}?{'&'.join(f'run={run}' for run in runs)}&{query}"
    return Call(app_of(store, **settings), path, kind="websocket")


def say(call: Call, kind: str, run_id: Any, **more: Any) -> None:
    tell(call, json.dumps({"kind": kind, "run_id": run_id, **more}))


def tell(call: Call, text: str | None) -> None:
    data = {"text": text} if text is not None else {"bytes": b"\0"}
    call._inbox.put_nowait({"type": "websocket.receive", **data})


def numbers(call: Call, run: str) -> list[int]:
    return [f["data"] for f in call.frames if f["kind"] == "event" and f["run_id"] == run]


def said(call: Call) -> list[tuple[str, Any]]:
    """Everything but events: what was told of which run."""
    return [
        (frame.get("code") or frame["kind"], frame["run_id"])
        for frame in call.frames
        if frame["kind"] != "event"
    ]


async def told(call: Call, what: str, run: str | None) -> None:
    await until(lambda: (what, run) in said(call), 5, lambda: f"{call.frames}")


def cursor(call: Call) -> str:
    return [str(frame["cursor"]) for frame in call.frames if frame["kind"] == "event"][-1]


# -- what comes


async def test_events_of_all_runs_are_frames_with_a_cursor_that_resumes_them_all(
    store: EventStore,
) -> None:
    for n in range(1, 4):
        for run in "ab":
            await store.add(run, "t", n)
    async with many(store, "a", "b") as call:
        await until(lambda: numbers(call, "a") == numbers(call, "b") == [1, 2, 3])
    composite = parse(cursor(call))
    assert composite is not None
    for run in "ab":
        last = [frame for frame in call.frames if frame["run_id"] == run][-1]
        assert str(composite.position(run)) == last["id"]
    await store.add("b", "t", 4)
    async with many(store, "a", "b", query=f"wait=0&last_id={cursor(call)}") as again:
        await until(lambda: numbers(again, "b") == [4])
        assert numbers(again, "a") == []


async def test_each_end_is_a_frame_and_the_last_closes_with_1000(store: EventStore) -> None:
    for run in "ab":
        await store.add(run, "t", 1)
    async with many(store, "a", "b") as call:
        await store.add("a", END, None)
        await told(call, "end", "a")
        assert call.close_code is None
        await store.add("b", END, None)
        await call.ended()
    assert said(call) == [("end", "a"), ("end", "b")]
    assert call.close_code == 1000
    async with many(store, "a", "b", query=f"last_id={cursor(call)}") as again:
        await again.ended()
    assert (sorted(said(again)), again.close_code) == ([("end", "a"), ("end", "b")], 1000)


async def test_a_run_that_is_not_there_is_an_error_and_the_others_go_on(store: EventStore) -> None:
    await store.add("a", "t", 1)
    async with many(store, "none", "a", query="wait=0.05") as call:
        await told(call, "RUN_NOT_FOUND", "none")
        await store.add("a", "t", 2)
        await until(lambda: numbers(call, "a") == [1, 2])


async def test_stop_is_code_1001(store: EventStore) -> None:
    await store.add("a", "t", 1)
    async with many(store, "a") as call, many(store) as empty:
        await until(lambda: numbers(call, "a") == [1])
        await until(lambda: len(hub_of(store).subscribers) == 3)
        hub_of(store).stop()
        for each in (call, empty):
            await each.ended()
            assert each.close_code == 1001


async def test_a_client_that_leaves_takes_everything_with_it(store: EventStore) -> None:
    await store.add("a", "t", 1)
    async with many(store, "a", "b", query="wait=30") as call:
        await until(lambda: numbers(call, "a") == [1])
        call.leave()
        await call.ended()
    assert call.close_code is None
    assert repr(hub_of(store)) == "<Hub 0 runs, 0 subscribers>"


async def test_a_client_that_takes_nothing_is_left(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "SEND_TIMEOUT", 0.1)
    monkeypatch.setattr(pulse, "SEND_TIMEOUT", 0.1)
    await store.add("a", "t", 1)
    async with Call(taking(app_of(store), 1), f"{PATH}?run=a", kind="websocket") as call:
        await call.ended()
        assert len(call.sent) == 1
        assert not hub_of(store).subscribers


async def test_a_run_that_cannot_be_read_is_an_error_and_harms_no_other(
    redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(redis.url, key_prefix) as store:
        await store.add("a", "t", 1)
        redis.execute("SET", store.keys("bad").stream, "not a stream")
        async with many(store, "bad", "a") as call:
            await told(call, "CORRUPT_DATA", "bad")
            await until(lambda: numbers(call, "a") == [1])
        async with many(store, "bad") as call:
            await call.ended()
        assert call.close_code == 1000
        await close_hubs(store)
    assert "breaks off" in caplog.text


# -- runs that come and go


async def test_a_socket_may_begin_without_a_run_and_add_and_drop_them(store: EventStore) -> None:
    for run in "ab":
        await store.add(run, "t", 1)
    async with many(store, query="wait=30") as call:
        say(call, "add", "a")
        await told(call, "added", "a")
        await until(lambda: numbers(call, "a") == [1])
        say(call, "add", "b", last_id="$")
        await told(call, "added", "b")
        await store.add("b", "t", 2)
        await until(lambda: numbers(call, "b") == [2])
        say(call, "drop", "a")
        await told(call, "dropped", "a")
        await store.add("a", "t", 2)
        await store.add("b", "t", 3)
        await until(lambda: numbers(call, "b") == [2, 3])
        assert numbers(call, "a") == [1]
        say(call, "drop", "b")
        await told(call, "dropped", "b")
        # It has no run now and waits for one: nothing has ended.
        say(call, "add", "c", last_id="0")
        await told(call, "added", "c")
        assert call.close_code is None
    assert repr(hub_of(store)) == "<Hub 0 runs, 0 subscribers>"


async def test_added_dropped_and_added_again_nothing_comes_twice_or_is_lost(
    store: EventStore,
) -> None:
    async with many(store, "other", query="wait=30") as call:
        for n in range(1, 21):
            await store.add("r", "t", n)
            say(call, "add" if n % 2 else "drop", "r")
            if n % 4 == 3:
                await until(lambda n=n: numbers(call, "r")[-1:] == [n])  # type: ignore[misc]
        say(call, "add", "r")
        await until(lambda: numbers(call, "r")[-1:] == [20])
    assert numbers(call, "r") == list(range(1, 21))


async def test_a_run_added_without_a_position_goes_on_where_the_composite_has_it(
    store: EventStore,
) -> None:
    await store.add("a", "t", 1)
    async with many(store, "a") as call:
        await until(lambda: numbers(call, "a") == [1])
    await store.add("a", "t", 2)
    async with many(store, query=f"last_id={cursor(call)}") as again:
        say(again, "add", "a")
        await until(lambda: numbers(again, "a") == [2])
        say(again, "drop", "a")
        say(again, "add", "a", last_id="0")
        await until(lambda: numbers(again, "a") == [2, 1, 2])


async def test_a_run_that_ended_may_be_added_again_and_a_socket_closes_with_its_last_run(
    store: EventStore,
) -> None:
    await store.add("a", END, None)
    async with many(store, "b", query="wait=30") as call:
        say(call, "add", "a")
        await told(call, "end", "a")
        say(call, "add", "a")
        await until(lambda: said(call).count(("end", "a")) == 2)
        say(call, "drop", "b")
        await told(call, "dropped", "b")
        say(call, "add", "a")
        await call.ended()
    assert said(call).count(("added", "a")) == 3
    assert call.close_code == 1000


async def test_a_hundred_runs_are_enough(store: EventStore) -> None:
    runs = [f"run-{n}" for n in range(100)]
    async with many(store, *runs, query="wait=30") as call:
        say(call, "add", "another")
        await told(call, "TOO_MANY_RUNS", "another")
        say(call, "drop", "run-7")
        say(call, "add", "another")
        await told(call, "added", "another")


async def test_a_socket_without_a_run_is_closed_after_a_while(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_websocket, "EMPTY_SECONDS", 0.2)
    query = "wait=30"
    async with many(store, query=query) as call, many(store, "a", query=query) as full:
        say(call, "add", "a")
        await told(call, "added", "a")
        say(call, "drop", "a")
        await call.ended()
        assert (call.close_code, full.close_code) == (1000, None)


async def test_readers_are_counted_with_their_runs(store: EventStore) -> None:
    async with many(store, "a", query="wait=30", stream_max_subscribers=3) as call:
        await until(lambda: len(hub_of(store).subscribers) == 2)
        async with many(store, "b", stream_max_subscribers=3) as second:
            await second.ended()
        assert second.close_code == 1013
        say(call, "add", "b")
        say(call, "add", "c")
        await told(call, "added", "b")
        await told(call, "TOO_MANY_READERS", "c")


# -- nonsense


@pytest.mark.parametrize(
    ("text", "code", "run"),
    [
        ("hello", "INVALID_FRAME", None),
        (None, "INVALID_FRAME", None),
        ("[" * 8000, "INVALID_FRAME", None),
        ("x" * 100_000, "FRAME_TOO_LARGE", None),
        ('{"kind":"add","run_id":"\\u0000"}', "INVALID_RUN_ID", "\0"),
        ('{"kind":"add","run_id":"b","last_id":"x"}', "INVALID_ID", "b"),
        ('{"kind":"add","run_id":"a"}', "REPEATED_RUN", "a"),
        ('{"kind":"drop","run_id":"b"}', "RUN_NOT_READ", "b"),
    ],
)
async def test_nonsense_is_answered_with_an_error_and_harms_nothing(
    text: str | None, code: str, run: str | None
) -> None:
    store = MemoryEventStore()
    await store.add("a", "t", 1)
    async with many(store, "a") as call:
        tell(call, text)
        await told(call, code, run)
        await store.add("a", "t", 2)
        await until(lambda: numbers(call, "a") == [1, 2])
        assert call.close_code is None
    await close_hubs(store)


async def test_one_who_talks_nothing_but_nonsense_is_closed(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_websocket, "MAX_ERRORS", 10)
    await store.add("a", "t", 1)
    async with many(store, "a") as call:
        for _ in range(1000):
            tell(call, "nonsense")
        await call.ended()
    assert call.close_code == 1008
    assert len(call.frames) < 20


async def test_errors_of_long_ago_are_forgiven(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_websocket, "MAX_ERRORS", 3)
    monkeypatch.setattr(many_websocket, "ERROR_SECONDS", 0.1)
    await store.add("a", "t", 1)
    async with many(store, "a") as call:
        for told_by_now in (3, 6, 9):
            for _ in range(3):
                tell(call, "nonsense")
            await until(lambda count=told_by_now: len(said(call)) == count)  # type: ignore[misc]
            await asyncio.sleep(0.15)
        assert call.close_code is None


@pytest.mark.parametrize(
    "query", ["run=a&run=a", "run=%00", "run=a&last_id=1-0", "run=a&wait=x", "last_id=x"]
)
async def test_a_malformed_query_refuses_the_handshake(query: str) -> None:
    call = Call(app_of(MemoryEventStore()), f"{PATH}?{query}", kind="websocket")
    call._scope["extensions"] = {"websocket.http.response": {}}
    async with call:
        await call.ended()
    assert call.sent[0]["type"] == "websocket.http.response.start"
    assert call.sent[0]["status"] == 400


async def test_a_foreign_origin_is_refused() -> None:
    headers = {"origin": "https://evil.example", "host": "shop.example"}
    app = app_of(MemoryEventStore())
    async with Call(app, f"{PATH}?run=a", kind="websocket", headers=headers) as call:
        await call.ended()
    assert (call.close_code, len(call.sent)) == (1008, 1)


# -- who may read what


async def test_a_run_is_added_by_the_token_in_the_frame_or_one_of_the_handshake(
    store: EventStore,
) -> None:
    for run in "abcd":
        await store.add(run, "t", 1)
    async with many(store, "a", query=f"token={token('a', 'b')}", stream_access="token") as call:
        say(call, "add", "b")
        say(call, "add", "c", token=token("c"))
        say(call, "add", "d")
        say(call, "add", "a2", token=token("a"))
        say(call, "add", "x" * 9, token="no such")
        await told(call, "UNAUTHORIZED", "d")
        await told(call, "FORBIDDEN", "a2")
        await told(call, "UNAUTHORIZED", "x" * 9)
        await until(lambda: all(numbers(call, run) == [1] for run in "abc"))
        assert numbers(call, "d") == []


async def test_no_grant_refuses_the_handshake_and_some_is_an_error(store: EventStore) -> None:
    await store.add("a", "t", 1)
    call = many(store, "a", "b", stream_access="token")
    call._scope["extensions"] = {"websocket.http.response": {}}
    async with call:
        await call.ended()
    assert call.sent[0]["status"] == 401
    async with many(store, "a", "b", query=f"token={token('a')}", stream_access="token") as some:
        await told(some, "UNAUTHORIZED", "b")
        await until(lambda: numbers(some, "a") == [1])


async def test_a_token_that_expires_ends_its_run_alone_and_another_brings_it_back(
    store: EventStore,
) -> None:
    for run in "ab":
        await store.add(run, "t", 1)
    async with many(store, "a", query=f"token={token('a')}", stream_access="token") as call:
        say(call, "add", "b", token=token("b", ttl=0.3))
        await told(call, "UNAUTHORIZED", "b")
        await store.add("b", "t", 2)
        await store.add("a", "t", 2)
        await until(lambda: numbers(call, "a") == [1, 2])
        assert numbers(call, "b") == [1]
        say(call, "add", "b", token=token("b"))
        await until(lambda: numbers(call, "b") == [1, 2])


# -- while Redis is away


async def test_an_unknown_run_is_held_and_served_when_redis_is_back(patchy: PatchyStore) -> None:
    patchy.away = True
    async with many(patchy, "r", query="wait=5") as call:
        await until(lambda: len(hub_of(patchy).subscribers) == 2)
        assert len(call.sent) == 1
        patchy.come_back()
        patchy.own()
        await until(lambda: numbers(call, "r") == [0])


@pytest.mark.parametrize("allowed", [True, False, None])
async def test_a_right_that_cannot_be_decided_is_held_then_served_or_denied_or_sent_back(
    patchy: PatchyStore, allowed: bool | None
) -> None:
    patchy.own()
    patchy.away = True
    test_sse.decisions["answer"] = None
    async with many(patchy, stream_access=f"{test_sse.__name__}:decide") as call:
        say(call, "add", "r")
        await told(call, "added", "r")
        test_sse.decisions["answer"] = allowed
        patchy.come_back()
        if allowed:
            await until(lambda: numbers(call, "r") == [0])
            return
        await call.ended()
        assert (("FORBIDDEN", "r") in said(call)) == (allowed is False)
        assert call.close_code == (1013 if allowed is None else 1000)


async def test_a_composite_that_outgrows_its_limit_resets_the_run_that_names_most_processes(
    patchy: PatchyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process that publishes in an outage is named for each of its runs."""
    monkeypatch.setattr("holdfast.streams.composite.MAX_TEXT", 36)
    other = Call(app_of(patchy), "/runs/r/events/ws?wait=5", kind="websocket")
    # The other one keeps in memory what a new reader could be shown at once.
    async with other, many(patchy, "r", query="wait=5") as call:
        await until(lambda: len(hub_of(patchy).subscribers) == 3)
        patchy.own()
        await until(lambda: numbers(call, "r") == [0])
        patchy.away = True
        patchy.own(count=3)
        await told(call, "reset", "r")
        # Until the store is back, its start cannot be read: nothing is made up meanwhile.
        patchy.own()
        await asyncio.sleep(0.5)
        assert numbers(call, "r") == [0]
        patchy.come_back()
        await until(lambda: numbers(call, "r") == [0] * 6)
    ids = [frame["id"] for frame in call.frames if frame["kind"] == "event"]
    assert ids[1:] == [str(entry.id) for entry in patchy.entries]
    assert said(call) == [("reset", "r")]
