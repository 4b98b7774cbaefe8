"""Many runs over one event stream: each run's events once and in order, one id for all of them."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from starlette.datastructures import Headers
from tests.streams.asgi import Call, taking
from tests.streams.clients import client, event_source, until
from tests.streams.doors import test_sse
from tests.streams.doors.test_sse import KEY, app_of
from tests.streams.patchy import PatchyStore
from tests.streams.redis_stores import opened

from holdfast import Settings, stream_token
from holdfast.streams.composite import parse
from holdfast.streams.fanout import pulse
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send
    from tests.conftest import Serve

    from holdfast import EventStore
    from holdfast.testing import RedisServer

PATH = "/events/stream"
END = "workflow_complete"


def asking(*runs: str, last_id: str = "", **query: str) -> str:
    more = {"last_id": last_id, **query} if last_id else query
    names = [f"run={run}" for run in runs] + [f"{k}={v}" for k, v in more.items()]
    return f"{PATH}?{'&'.join(names)}"


def many(store: Any, *runs: str, last_id: str = "", wait: str = "0", **settings: Any) -> Call:
    return Call(app_of(store, **settings), asking(*runs, last_id=last_id, wait=wait))


def ids(call: Call) -> list[str]:
    return re.findall(r"^id: (.*)$", call.text, re.MULTILINE)


def numbers(call: Call, run: str) -> list[int]:
    """What was told of *run*, in the order in which it came."""
    return [
        data["data"]
        for _, data in call.events
        if data["run_id"] == run and data["kind"] == "event" and isinstance(data["data"], int)
    ]


def controls(call: Call) -> list[tuple[str, Any]]:
    return [(kind, data) for kind, data in call.events if kind.startswith("holdfast.")]


def error(run: str, code: str) -> tuple[str, Any]:
    return "holdfast.error", {"kind": "error", "run_id": run, "code": code}


def end(run: str) -> tuple[str, Any]:
    return "holdfast.end", {"kind": "end", "run_id": run}


def token(*runs: str, **more: Any) -> str:
    settings = Settings(secret_key=KEY)
    return "&token=".join(stream_token(run, settings=settings, **more) for run in runs)


# -- what comes


async def test_history_and_live_events_of_all_runs_come_once_and_in_order(
    store: EventStore,
) -> None:
    for n in range(1, 6):
        for run in "abc":
            await store.add(run, "t", n)
    async with many(store, "a", "b", "c") as call:
        await until(lambda: all(len(numbers(call, run)) == 5 for run in "abc"))
        for n in range(6, 11):
            for run in "cab":
                await store.add(run, "t", n)
        await until(lambda: all(len(numbers(call, run)) == 10 for run in "abc"))
    for run in "abc":
        assert numbers(call, run) == list(range(1, 11))


async def test_an_event_is_its_type_the_frame_of_the_websocket_and_an_id_for_all_runs(
    store: EventStore,
) -> None:
    event = await store.add("a", "token", {"x": "ä\n"})
    async with many(store, "a", "b") as call, many(store, "a", wait="0&envelope=1") as enveloped:
        await until(lambda: "token" in dict(call.events) and "message" in dict(enveloped.events))
    assert call.events[0][0] == "token" or call.events[1][0] == "token"
    data = dict(call.events)["token"]
    assert data == {
        "kind": "event",
        "run_id": "a",
        "id": event.id,
        "type": "token",
        "data": {"x": "ä\n"},
        "created_at": data["created_at"],
    }
    assert dict(enveloped.events)["message"] == data
    composite = parse(ids(call)[-1])
    assert composite is not None
    assert str(composite.position("a")) == event.id


async def test_every_id_resumes_all_runs_without_loss_or_double(store: EventStore) -> None:
    for n in range(1, 7):
        await store.add("a" if n % 2 else "b", "t", n)
    async with many(store, "a", "b") as call:
        await until(lambda: len(numbers(call, "a") + numbers(call, "b")) == 6)
    seen = [data["data"] for _, data in call.events if data["kind"] == "event"]
    assert len(ids(call)) == 6
    for cut, composite in enumerate(ids(call), 1):
        rest = sorted(seen[cut:])
        async with many(store, "a", "b", last_id=composite) as again:
            await store.add("c", "t", 0)
            await until(
                lambda again=again, rest=rest: (
                    len(numbers(again, "a") + numbers(again, "b"))  # type: ignore[misc]
                    == len(rest)
                )
            )
        for run in "ab":
            assert numbers(again, run) == [n for n in numbers(call, run) if n in rest]


async def test_a_run_that_the_composite_does_not_know_begins_at_its_start(
    store: EventStore,
) -> None:
    await store.add("a", "t", 1)
    await store.add("b", "t", 1)
    async with many(store, "a") as call:
        await until(lambda: numbers(call, "a") == [1])
    async with many(store, "a", "b", last_id=ids(call)[-1]) as call:
        await until(lambda: numbers(call, "b") == [1])
        assert numbers(call, "a") == []


async def test_dollar_is_what_comes_from_now_on_of_every_run_also_after_a_cut(
    store: EventStore,
) -> None:
    for run in "ab":
        await store.add(run, "t", 1)
    async with many(store, "a", "b", last_id="$") as call:
        await until(lambda: len(hub_of(store).subscribers) == 3)
        await asyncio.sleep(0.05)
        await store.add("a", "t", 2)
        await until(lambda: numbers(call, "a") == [2])
    await store.add("b", "t", 2)
    async with many(store, "a", "b", last_id=ids(call)[-1]) as call:
        await until(lambda: numbers(call, "b") == [2])
        assert numbers(call, "a") == []


async def test_the_header_of_a_reconnect_beats_the_query(store: EventStore) -> None:
    await store.add("a", "t", 1)
    async with many(store, "a") as call:
        await until(lambda: numbers(call, "a") == [1])
    await store.add("a", "t", 2)
    headers = {"last-event-id": ids(call)[-1]}
    async with Call(app_of(store), asking("a", last_id="0"), headers=headers) as call:
        await until(lambda: numbers(call, "a") == [2])


async def test_a_run_with_a_long_history_does_not_keep_the_others_waiting(
    store: EventStore,
) -> None:
    for _ in range(40):
        await store.append("long", [store.draft("t", "x" * 10000)] * 25)
    await store.add("short", "t", 1)
    async with many(store, "long", "short") as call:
        await until(lambda: numbers(call, "short") == [1])
        before = call.text.index('"run_id":"short"')
        await until(lambda: call.text.count("\ndata: ") == 1001)
    assert before < len(call.text) / 4


async def test_a_hundred_runs_come_over_one_connection_and_resume(store: EventStore) -> None:
    runs = [f"run-{n}" for n in range(100)]
    for run in runs:
        await store.add(run, "t", 1)
    async with many(store, *runs) as call:
        await until(lambda: len(call.events) == 100)
    last = ids(call)[-1]
    assert len(last) < 4096
    await store.add("run-50", "t", 2)
    async with many(store, *runs, last_id=last) as call:
        await until(lambda: len(call.events) == 1)
        assert numbers(call, "run-50") == [2]


async def test_a_list_of_other_runs_than_the_position_knows_stays_within_its_size() -> None:
    store = MemoryEventStore()
    old, new = ([f"{name}-{n}" for n in range(100)] for name in ("old", "new"))
    for run in (*old, *new):
        await store.add(run, "t", 1)
    async with many(store, *old) as call:
        await until(lambda: len(call.events) == 100)
    async with many(store, *new, last_id=ids(call)[-1]) as again:
        await until(lambda: len(again.events) == 100)
    composite = parse(ids(again)[-1])
    assert composite is not None
    assert len(composite) == 100
    await close_hubs(store)


@pytest.mark.parametrize("path", [f"{PATH}?run=a", "/runs/a/events/stream"])
async def test_what_a_middleware_writes_into_an_answer_reaches_no_other_visitor(
    store: EventStore, path: str
) -> None:
    await store.add("a", END, None)
    app, visitors = app_of(store), iter(["ada", "bob"])

    async def naming(scope: Scope, receive: Receive, send: Send) -> None:
        visitor = next(visitors)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"set-cookie", visitor.encode()))
            await send(message)

        await app(scope, receive, named)

    for visitor in ["ada", "bob"]:
        async with Call(naming, path) as call:
            await call.ended()
        head = Headers(raw=call.sent[0]["headers"])
        assert head.getlist("set-cookie") == [visitor]


# -- how it ends


async def test_each_end_is_told_and_the_last_closes_the_stream(store: EventStore) -> None:
    for run in "ab":
        await store.add(run, "t", 1)
    async with many(store, "a", "b") as call:
        await store.add("a", END, None)
        await until(lambda: end("a") in call.events)
        await store.add("b", "t", 2)
        await until(lambda: numbers(call, "b") == [1, 2])
        assert not call.task.done()
        await store.add("b", END, None)
        await call.ended()
    assert call.complete
    assert call.events[-1] == end("b")
    async with many(store, "a", "b", last_id=ids(call)[-1]) as again:
        await again.ended()
        assert (again.status, again.text) == (204, "")
    async with many(store, "a", "b", last_id=ids(call)[0]) as again:
        await again.ended()
        assert again.status == 200
        assert {data["run_id"] for kind, data in controls(again) if kind == "holdfast.end"} == {
            *"ab"
        }


async def test_the_stream_closes_with_its_last_run_however_far_the_next_heartbeat(
    store: EventStore,
) -> None:
    await store.add("a", END, None)
    async with many(store, "a", "absent", stream_heartbeat=60) as call:
        await call.ended()
    assert call.complete
    assert end("a") in call.events


async def test_at_the_end_of_some_the_others_go_on(store: EventStore) -> None:
    await store.add("a", END, None)
    await store.add("b", "t", 1)
    async with many(store, "a", "b") as call:
        await until(lambda: end("a") in call.events and numbers(call, "b") == [1])
    async with many(store, "a", "b", last_id=ids(call)[-1]) as call:
        await store.add("b", "t", 2)
        await until(lambda: numbers(call, "b") == [2])
        assert controls(call) == [end("a")]


async def test_a_run_that_nobody_starts_is_an_error_after_the_wait_and_no_reason_to_come_back(
    store: EventStore,
) -> None:
    await store.add("a", END, None)
    async with many(store, "a", "none", wait="0.1") as call:
        await call.ended()
        assert error("none", "RUN_NOT_FOUND") in call.events
    async with many(store, "a", "none", last_id=ids(call)[-1], wait="30") as again:
        await again.ended()
        assert again.status == 204
    await store.add("none", "t", 1)
    async with many(store, "a", "none", last_id=ids(call)[-1]) as again:
        await until(lambda: numbers(again, "none") == [1])


async def test_who_was_told_that_a_run_is_not_there_does_not_wait_for_it_again(
    store: EventStore,
) -> None:
    await store.add("b", "t", 1)
    async with many(store, "none", "b") as call:
        await until(lambda: error("none", "RUN_NOT_FOUND") in call.events)
        await until(lambda: numbers(call, "b") == [1])
    async with many(store, "none", "b", last_id=ids(call)[-1], wait="30") as again:
        await until(lambda: error("none", "RUN_NOT_FOUND") in again.events)


async def test_a_run_that_begins_within_the_wait_is_read_from_its_first_event(
    store: EventStore,
) -> None:
    async with many(store, "a", "b", wait="30") as call:
        await until(lambda: len(hub_of(store).subscribers) == 3)
        await store.add("b", "t", 1)
        await until(lambda: numbers(call, "b") == [1])
        assert controls(call) == []


async def test_an_expired_run_is_an_error_and_the_others_go_on() -> None:
    now = [0.0]
    store = MemoryEventStore(clock=lambda: now[0], retention=10)
    await store.add("old", END, None)
    now[0] = 20
    await store.add("b", "t", 1)
    async with many(store, "old", "b") as call:
        await until(lambda: error("old", "RUN_EXPIRED") in call.events and numbers(call, "b"))
        await store.add("b", END, None)
        await call.ended()
    async with many(store, "old", "b", last_id=ids(call)[-1]) as again:
        await again.ended()
        assert again.status == 204
    await close_hubs(store)


async def test_a_deleted_run_is_a_reset_of_that_run_alone(store: EventStore) -> None:
    for run in "ab":
        await store.add(run, "t", 1)
    async with many(store, "a", "b") as call:
        await until(lambda: numbers(call, "a") == numbers(call, "b") == [1])
        await store.delete("a")
        await store.add("a", "t", 2)
        await store.add("b", "t", 2)
        await until(lambda: numbers(call, "a") == numbers(call, "b") == [1, 2])
    assert [(kind, data["run_id"]) for kind, data in controls(call)] == [("holdfast.reset", "a")]
    async with many(store, "a", "b", last_id=ids(call)[-1]) as again:
        await store.add("a", "t", 3)
        await until(lambda: numbers(again, "a") == [3])
        assert controls(again) == []


async def test_a_gap_is_told_of_its_run_and_carries_no_id(patchy: PatchyStore) -> None:
    for _ in range(4):
        patchy.other()
    patchy.trim(2)
    async with many(patchy, "r") as call:
        await until(lambda: len(call.events) == 3)
    gap = next(block for block in call.text.split("\n\n") if "holdfast.gap" in block)
    assert "id:" not in gap.split("data:")[0]
    assert call.events[0][1]["earliest"] == str(patchy.entries[0].id)


async def test_heartbeats_come_in_silence_and_a_stop_sends_the_client_back(
    store: EventStore,
) -> None:
    await store.add("a", "t", 1)
    async with many(store, "a", "b", wait="30") as call:
        await until(lambda: call.text.count("\n:\n") >= 2)
        assert re.match(r"retry: \d+\n\n", call.text)
        hub_of(store).stop()
        await call.ended()
        assert call.complete
        assert controls(call) == []


async def test_a_client_that_leaves_takes_everything_with_it(store: EventStore) -> None:
    await store.add("a", "t", 1)
    async with many(store, "a", "b", "c", wait="30") as call:
        await until(lambda: numbers(call, "a") == [1])
        call.leave()
        await call.ended()
    assert not call.complete
    assert repr(hub_of(store)) == "<Hub 0 runs, 0 subscribers>"


async def test_a_client_that_takes_nothing_is_left(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "SEND_TIMEOUT", 0.1)
    await store.add("a", "t", 1)
    async with Call(taking(app_of(store), 2), asking("a")) as call:
        await call.ended()
        assert len(call.sent) == 2
        assert not hub_of(store).subscribers


async def test_a_reader_more_than_there_may_be_is_told_to_come_back(store: EventStore) -> None:
    await store.add("a", "t", 1)
    async with many(store, "a", "b", stream_max_subscribers=2) as call:
        await call.ended()
        assert (call.status, call.events) == (200, [])
        assert call.text.startswith("retry: ")


# -- what is refused


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "NO_RUN"),
        ("?last_id=0", "NO_RUN"),
        ("?run=a&run=b&run=a", "REPEATED_RUN"),
        ("?run=%00", "INVALID_RUN_ID"),
        ("?run=", "INVALID_RUN_ID"),
        ("?run=a&last_id=1795258887617-0", "INVALID_ID"),
        ("?run=a&last_id=AQA", "INVALID_ID"),
        ("?run=a&wait=x", "INVALID_WAIT"),
        ("?run=a" + "".join(f"&token={n}" for n in range(101)), "TOO_MANY_TOKENS"),
        ("?" + "&".join(f"run={n}" for n in range(101)), "TOO_MANY_RUNS"),
    ],
)
async def test_what_cannot_be_meant_is_a_problem(query: str, code: str) -> None:
    store = MemoryEventStore()
    async with Call(app_of(store), PATH + query) as call:
        await call.ended()
    assert call.status == 400
    assert f'"code":"{code}"' in call.text


async def test_head_tells_what_get_would_be(store: EventStore) -> None:
    await store.add("a", END, None)
    for last_id, status in ((None, 200), ("$", 204)):
        call = many(store, "a", last_id=last_id or "")
        call._scope["method"] = "HEAD"
        async with call:
            await call.ended()
        assert (call.status, call.text) == (status, "")


async def test_other_methods_are_refused(store: EventStore) -> None:
    call = many(store, "a")
    call._scope["method"] = "POST"
    async with call:
        await call.ended()
    assert call.status == 405


# -- who may read what


async def test_each_run_is_opened_by_any_of_the_tokens_and_the_others_are_errors(
    store: EventStore,
) -> None:
    for run in ("a", "b", "c", "p:1"):
        await store.add(run, "t", 1)
    app = app_of(store, stream_access="token")
    tokens = token("b", "other") + "&token=" + token("p:", prefix=True) + "&token=nonsense"
    headers = {"authorization": f"Bearer {token('a')}"}
    path = asking("a", "b", "c", "p:1", token=tokens)
    async with Call(app, path, headers=headers) as call:
        await until(lambda: all(numbers(call, run) == [1] for run in ("a", "b", "p:1")))
    assert controls(call) == [error("c", "UNAUTHORIZED")]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("", 401),
        ("nonsense", 401),
        (token("b"), 403),
        (f"nonsense&token={token('b', 'c')}", 403),
        (token("a", actions=["stop"]), 403),
    ],
    ids=["none", "nonsense", "another run", "and nonsense", "another action"],
)
async def test_no_grant_at_all_is_a_status_alike_whether_the_run_exists(
    given: str, status: int
) -> None:
    store = MemoryEventStore()
    await store.add("a", "t", 1)
    app = app_of(store, stream_access="token")
    texts = set()
    for run in ("a", "none"):
        async with Call(app, asking(run, token=given) if given else asking(run)) as call:
            await call.ended()
        assert call.status == status
        texts.add(call.text)
    assert len(texts) == 1


async def test_a_composite_at_the_end_of_all_granted_runs_is_204(store: EventStore) -> None:
    await store.add("a", END, None)
    await store.add("secret", "t", 1)
    app = app_of(store, stream_access="token")
    async with Call(app, asking("a", "secret", token=token("a"))) as call:
        await call.ended()
        assert error("secret", "UNAUTHORIZED") in call.events
    path = asking("a", "secret", last_id=ids(call)[-1], token=token("a"))
    async with Call(app, path) as call:
        await call.ended()
        assert call.status == 204


async def test_a_token_that_expires_ends_its_run_alone(store: EventStore) -> None:
    for run in "ab":
        await store.add(run, "t", 1)
    app = app_of(store, stream_access="token", stream_heartbeat=60)
    short = f"{token('a', ttl=0.3)}&token={token('b')}"
    async with Call(app, asking("a", "b", token=short)) as call:
        await until(lambda: error("a", "UNAUTHORIZED") in call.events)
        await store.add("a", "t", 2)
        await store.add("b", "t", 2)
        await until(lambda: numbers(call, "b") == [1, 2])
    assert numbers(call, "a") == [1]


async def test_tokens_are_judged_by_the_callable_one_at_a_time(store: EventStore) -> None:
    await store.add("a", "t", 1)
    test_sse.decisions["answer"] = True
    app = app_of(store, stream_access=f"{__name__}:last_letter")
    async with Call(app, asking("a", "b", "c", token="x-a&token=x-c", wait="0")) as call:
        await until(lambda: len(controls(call)) == 2)
        await until(lambda: numbers(call, "a") == [1])
    assert error("b", "FORBIDDEN") in call.events
    assert error("c", "RUN_NOT_FOUND") in call.events


async def last_letter(connection: Any, run_id: str, action: str) -> bool:
    assert len(connection.query_params.getlist("token")) <= 1
    return bool(connection.query_params.get("token", "").endswith(f"-{run_id}"))


# -- while Redis is away


async def test_runs_that_nobody_knows_are_held_and_served_when_redis_is_back(
    patchy: PatchyStore,
) -> None:
    patchy.away = True
    async with many(patchy, "r") as call:
        await until(lambda: ": waiting" in call.text)
        assert (call.status, call.events) == (200, [])
        patchy.away = False
        patchy.own()
        await until(lambda: numbers(call, "r") == [0])


async def test_events_of_an_outage_have_ids_that_resume_once_they_are_stored(
    patchy: PatchyStore,
) -> None:
    patchy.own()
    async with many(patchy, "r") as call:
        await until(lambda: len(ids(call)) == 1)
        patchy.away = True
        patchy.own(count=2)
        await until(lambda: len(ids(call)) == 3)
    composite = parse(ids(call)[-1])
    assert composite is not None
    assert "~own.3" in str(composite.position("r"))
    async with many(patchy, "r", last_id=ids(call)[1]) as again:
        await until(lambda: len(ids(again)) == 1)
        patchy.come_back()
        patchy.own()
        await until(lambda: len(ids(again)) == 2)
        await asyncio.sleep(0.05)
    assert len(ids(again)) == 2
    assert controls(again) == []


async def test_heartbeat_of_runs_that_are_read_says_that_redis_is_away(
    patchy: PatchyStore,
) -> None:
    patchy.own()
    async with Call(app_of(patchy, stream_heartbeat=0.05), asking("r")) as call:
        await until(lambda: ":\n\n" in call.text)
        assert ": waiting" not in call.text
        patchy.away = True
        await until(lambda: ": waiting\n\n" in call.text)


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_right_that_cannot_be_decided_is_held_then_served_or_denied(
    patchy: PatchyStore, allowed: bool
) -> None:
    patchy.own()
    patchy.away = True
    test_sse.decisions["answer"] = None
    app = app_of(patchy, stream_access=f"{test_sse.__name__}:decide")
    async with Call(app, asking("r", "other", wait="30")) as call:
        await until(lambda: ": waiting" in call.text)
        test_sse.decisions["answer"] = allowed
        patchy.come_back()
        if allowed:
            await until(lambda: numbers(call, "r") == [0])
        else:
            await call.ended()
            denied = {"kind": "denied", "run_id": "r", "code": "FORBIDDEN"}
            assert ("holdfast.denied", denied) in call.events
            assert call.complete


async def test_who_may_not_be_allowed_to_read_a_run_is_not_told_that_it_has_ended(
    patchy: PatchyStore,
) -> None:
    patchy.own(kind=END)
    test_sse.decisions["answer"] = None
    app = app_of(patchy, stream_access=f"{test_sse.__name__}:decide")
    async with Call(app, asking("r", last_id="$")) as call:
        await until(lambda: call.status is not None)
    assert call.status == 200
    assert controls(call) == []


async def test_a_right_that_cannot_be_learnt_on_this_connection_sends_the_client_back(
    patchy: PatchyStore,
) -> None:
    patchy.own()
    patchy.away = True
    test_sse.decisions["answer"] = None
    app = app_of(patchy, stream_access=f"{test_sse.__name__}:decide")
    async with Call(app, asking("r")) as call:
        await until(lambda: ": waiting" in call.text)
        patchy.come_back()
        await call.ended()
        assert (call.complete, call.events) == (True, [])


async def test_a_run_that_cannot_be_read_is_an_error_and_harms_no_other(
    redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(redis.url, key_prefix) as store:
        await store.add("a", "t", 1)
        redis.execute("SET", store.keys("bad").stream, "not a stream")
        async with many(store, "bad", "a") as call:
            await until(lambda: numbers(call, "a") == [1] and controls(call))
        assert controls(call) == [error("bad", "CORRUPT_DATA")]
        await store.add("a", END, None)
        async with many(store, "bad", "a", last_id=ids(call)[-1]) as call:
            await call.ended()
        async with many(store, "bad", "a", last_id=ids(call)[-1]) as call:
            await call.ended()
            assert call.status == 500
        await close_hubs(store)


# -- runs on Pub/Sub


async def test_events_of_a_pubsub_run_come_without_an_id_beside_those_that_have_one(
    redis: RedisServer, key_prefix: str
) -> None:
    async with (
        opened(redis.url, key_prefix, stream_enabled=False) as passing,
        opened(redis.url, key_prefix) as kept,
    ):
        await kept.add("kept", "t", 1)
        await passing.add("passing", "t", 0)
        async with many(kept, "kept", "passing") as call:
            await until(lambda: numbers(call, "kept") == [1])
            await until(lambda: len(hub_of(kept).subscribers) == 3)
            for n in (2, 3):
                await passing.add("passing", "t", n)
            await until(lambda: numbers(call, "passing") == [2, 3])
            await kept.add("kept", END, None)
            await passing.add("passing", END, None)
            await call.ended()
        assert len(ids(call)) == 2
        for block in call.text.split("\n\n"):
            assert ("id: " in block.split("data:")[0]) == ('"run_id":"kept","id"' in block)
        for last_id in ids(call)[-1], "":
            runs = ("kept", "passing") if last_id else ("passing",)
            async with many(kept, *runs, last_id=last_id) as again:
                await again.ended()
                assert again.status == 204
        await close_hubs(kept)


async def test_a_pubsub_run_that_nobody_has_started_is_waited_for(
    redis: RedisServer, key_prefix: str
) -> None:
    async with opened(redis.url, key_prefix, stream_enabled=False) as store:
        async with many(store, "late", "other", wait="30") as call:
            await until(lambda: len(hub_of(store).subscribers) == 3)
            await asyncio.sleep(0.05)
            await store.add("late", "t", 1)
            await until(lambda: numbers(call, "late") == [1])
        await close_hubs(store)


async def test_a_run_whose_data_turns_bad_in_mid_stream_is_an_error_of_that_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rotten = PatchyStore()
    for _ in range(1000):
        rotten.other()
    whole = rotten._answer

    async def answer() -> None:
        rotten.corrupt = rotten.reads > 3
        await whole()

    rotten._answer = answer  # type: ignore[method-assign]
    async with many(rotten, "r") as call:
        await call.ended()
    assert call.complete
    assert 0 < len(ids(call)) < 1000
    assert controls(call) == [error("r", "CORRUPT_DATA")]
    assert "breaks off" in caplog.text
    await close_hubs(rotten)


@pytest.mark.slow
async def test_a_reader_that_is_cut_and_moves_between_processes_gets_each_event_once(
    serve: Serve, redis: RedisServer, key_prefix: str
) -> None:
    env = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_STREAM_ACCESS": "open",
        "HOLDFAST_SECRET_KEY": KEY,
    }
    servers = [serve("tests.streams.served:app", env=env) for _ in range(2)]
    runs = [f"run-{n}" for n in range(5)]
    with (
        FaultProxy.threaded("127.0.0.1", servers[0].port) as first,
        FaultProxy.threaded("127.0.0.1", servers[1].port) as second,
    ):
        urls = [
            f"http://127.0.0.1:{proxy.port}/streams{asking(*runs)}" for proxy in (first, second)
        ]
        async with event_source(urls[0]) as source, client() as http:
            for n, run in enumerate(runs):
                await http.post(f"{servers[n % 2].url}/start/{run}?count=150&pause=0.01")
            for cut in range(6):
                await source.until(lambda cut=cut: len(source.events) > 100 * cut)  # type: ignore[misc]
                source.url = urls[cut % 2]
                for proxy in (first, second):
                    proxy.cut(reset=cut % 3 == 0)
            await source.until(lambda: source.closed, 30)
    assert source.statuses[-1] == 204
    assert len(source.statuses) > 3
    for run in runs:
        events = [event.data for event in source.events if event.data["run_id"] == run]
        assert [each["data"]["n"] for each in events if each.get("type") == "t"] == list(
            range(1, 151)
        )
        assert not [each for each in events if each["kind"] in {"gap", "reset", "error"}]
