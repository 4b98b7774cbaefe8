"""The WebSocket: frames, and a close code that says why it ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.asgi import Call, taking
from tests.streams.clients import until
from tests.streams.doors import test_sse
from tests.streams.doors.test_sse import app_of

from holdfast.streams.doors import websocket
from holdfast.streams.fanout import pulse
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from tests.streams.patchy import PatchyStore

PATH = "/runs/r/events/ws"


@pytest.fixture
def store(patchy: PatchyStore) -> PatchyStore:
    return patchy


def socket(store: Any, path: str = PATH, **settings: Any) -> Call:
    return Call(app_of(store, **settings), path, kind="websocket")


async def test_history_of_many_pages_comes_whole_though_nobody_publishes(
    store: PatchyStore,
) -> None:
    for _ in range(1500):
        store.other()
    async with socket(store) as call:
        await until(lambda: len(call.frames) == 1500)


async def test_end_of_the_run_is_a_frame_and_code_1000(store: PatchyStore) -> None:
    store.own()
    async with socket(store) as call:
        await until(lambda: len(call.frames) == 1)
        store.own(kind="workflow_complete")
        await call.ended()
    assert [frame["kind"] for frame in call.frames] == ["event", "event", "end"]
    assert (call.frames[-1], call.close_code) == ({"kind": "end", "run_id": "r"}, 1000)
    last = call.frames[1]["id"]
    async with socket(store, f"{PATH}?last_id={last}") as call:
        await call.ended()
    assert (call.frames, call.close_code) == ([{"kind": "end", "run_id": "r"}], 1000)


async def test_absent_run_is_an_error_frame_and_code_4404(store: PatchyStore) -> None:
    async with socket(store, PATH + "?wait=0.05") as call:
        await call.ended()
    error = {"kind": "error", "run_id": "r", "code": "RUN_NOT_FOUND"}
    assert (call.frames, call.close_code) == ([error], 4404)


async def test_expired_run_is_an_error_frame_and_code_4410() -> None:
    now = [0.0]
    store = MemoryEventStore(clock=lambda: now[0], retention=10)
    await store.add("r", "t", 1)
    now[0] = 20
    async with socket(store) as call:
        await call.ended()
    error = {"kind": "error", "run_id": "r", "code": "RUN_EXPIRED"}
    assert (call.frames, call.close_code) == ([error], 4410)
    await close_hubs(store)


async def test_a_run_that_expires_under_its_readers_is_told() -> None:
    now = [0.0]
    store = MemoryEventStore(clock=lambda: now[0], retention=10)
    first = await store.add("r", "t", 1)
    async with (
        socket(store) as call,
        socket(store, f"{PATH}?last_id={first.id}") as caught_up,
        Call(app_of(store), test_sse.PATH) as sse,
        Call(app_of(store), "/events/stream?run=r") as many,
    ):
        await until(lambda: call.frames and sse.events and many.events)
        now[0] = 20
        for each in (call, caught_up, sse, many):
            await each.ended()
    error = {"kind": "error", "run_id": "r", "code": "RUN_EXPIRED"}
    assert (call.frames[1:], call.close_code) == ([error], 4410)
    assert (caught_up.frames, caught_up.close_code) == ([error], 4410)
    assert [kind for kind, _ in sse.events] == ["t"]
    assert sse.complete  # EventSource comes back, and is answered 410
    assert many.events[-1] == ("holdfast.error", error)
    await close_hubs(store)


async def test_gap_and_reset_are_frames(store: PatchyStore) -> None:
    for _ in range(3):
        store.other()
    store.trim(1)
    async with socket(store) as gap, socket(store, PATH + "?last_id=9999999999999-0") as reset:
        await until(lambda: len(gap.frames) == 3 and len(reset.frames) == 4)
    fields = {"run_id": "r", "earliest": str(store.entries[0].id)}
    assert gap.frames[0] == {"kind": "gap", "requested": "0-0", **fields}
    assert reset.frames[0] == {"kind": "reset", "requested": "9999999999999-0", **fields}
    assert reset.frames[1] == gap.frames[0]


async def test_stop_is_code_1001_never_an_end_or_not_found(store: PatchyStore) -> None:
    store.own()
    async with (
        socket(store) as reading,
        socket(store, "/runs/none/events/ws?wait=30") as waiting,
    ):
        await until(lambda: len(reading.frames) == 1)
        store.away = True
        async with socket(store, "/runs/unknown/events/ws") as held:
            await until(lambda: len(hub_of(store).subscribers) == 3)
            hub_of(store).stop()
            for call in (reading, waiting, held):
                await call.ended()
                assert call.close_code == 1001
                assert [frame["kind"] for frame in call.frames[1:]] == []


async def test_unknown_run_during_an_outage_is_accepted_and_held(store: PatchyStore) -> None:
    store.away = True
    async with socket(store, PATH + "?wait=5") as call:
        await until(lambda: len(hub_of(store).subscribers) == 1)
        assert call.sent == [{"type": "websocket.accept", "subprotocol": None, "headers": []}]
        store.come_back()
        await until(lambda: not hub_of(store)._rings["r"].doubtful)
        # Absent, as it turns out: it may still begin.
        store.own()
        await until(lambda: len(call.frames) == 1)


@pytest.mark.parametrize("allowed", [True, False])
async def test_reader_whose_right_cannot_be_decided_is_held_then_served_or_denied(
    store: PatchyStore, allowed: bool
) -> None:
    store.own()
    store.away = True
    test_sse.decisions["answer"] = None
    async with socket(store, stream_access=f"{test_sse.__name__}:decide") as call:
        await until(lambda: len(hub_of(store).subscribers) == 1)
        test_sse.decisions["answer"] = allowed
        store.come_back()
        await until(lambda: call.frames)
        if allowed:
            assert call.frames[0]["kind"] == "event"
        else:
            await call.ended()
            assert call.frames == [{"kind": "error", "run_id": "r", "code": "FORBIDDEN"}]
            assert call.close_code == 1008


async def test_what_cannot_be_read_is_an_error_frame_and_code_1011(
    store: PatchyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.corrupt = True
    async with socket(store) as call:
        await call.ended()
    error = {"kind": "error", "run_id": "r", "code": "CORRUPT_DATA"}
    assert (call.frames, call.close_code) == ([error], 1011)
    assert "breaks off" in caplog.text


async def test_client_that_leaves_ends_the_call_without_a_close(store: PatchyStore) -> None:
    store.own()
    async with socket(store) as call:
        await until(lambda: len(call.frames) == 1)
        call.leave()
        await call.ended()
    assert call.close_code is None
    assert repr(hub_of(store)) == "<Hub 0 runs, 0 subscribers>"


async def test_what_the_client_says_is_passed_over(store: PatchyStore) -> None:
    store.own()
    async with socket(store) as call:
        call._inbox.put_nowait({"type": "websocket.receive", "text": "hello"})
        await until(lambda: len(call.frames) == 1)
        store.own()
        await until(lambda: len(call.frames) == 2)


async def test_sending_to_one_who_is_gone_harms_nobody(store: PatchyStore) -> None:
    """Servers differ: an OSError, an error of their own, or silence."""
    store.own()
    for error in (OSError, RuntimeError):
        call = socket(store)

        async def run(call: Call = call, error: type[Exception] = error) -> None:
            async def send(message: Any) -> None:
                if message["type"] != "websocket.accept":
                    call.leave()
                    raise error

            await call._app(call._scope, call._inbox.get, send)

        call._run = run  # type: ignore[method-assign]
        async with call:
            await call.ended()


@pytest.mark.parametrize(
    "path", ["/runs/r/events", "/runs/r/events/stream", "/runs/%00/events/ws", "/x"]
)
async def test_other_addresses_refuse_the_handshake(store: PatchyStore, path: str) -> None:
    async with socket(store, path) as call:
        await call.ended()
    assert (call.close_code, len(call.sent)) == (1008, 1)


@pytest.mark.parametrize("query", ["last_id=x", "wait=x"])
async def test_malformed_query_refuses_the_handshake(store: PatchyStore, query: str) -> None:
    call = socket(store, f"{PATH}?{query}")
    call._scope["extensions"] = {"websocket.http.response": {}}
    async with call:
        await call.ended()
    assert call.sent[0]["type"] == "websocket.http.response.start"
    assert call.sent[0]["status"] == 400


async def test_header_beats_query(store: PatchyStore) -> None:
    store.own(count=3)
    first, second, _ = (str(entry.id) for entry in store.entries)
    path = f"{PATH}?last_id={first}"
    headers = {"last-event-id": second}
    async with Call(app_of(store), path, kind="websocket", headers=headers) as call:
        await until(lambda: len(call.frames) == 1)
        await asyncio.sleep(0.02)
    assert [frame["id"] for frame in call.frames] == [str(store.last)]


async def test_client_that_takes_nothing_is_left(
    store: PatchyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "SEND_TIMEOUT", 0.1)
    monkeypatch.setattr(pulse, "SEND_TIMEOUT", 0.1)
    store.own()
    async with Call(taking(app_of(store), 1), PATH, kind="websocket") as call:
        await call.ended()
        assert len(call.sent) == 1
        assert not hub_of(store).subscribers
