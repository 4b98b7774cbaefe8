"""Signals: streams end first, then whoever had the signal before does his work."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.asgi import Call
from tests.streams.clients import until

from holdfast import EventStreamApp, RunPublisher, Settings
from holdfast.streams import shutdown
from holdfast.streams.cursor import TAIL
from holdfast.streams.fanout.hub import Hub
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def _own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shutdown, "_chained", {})
    monkeypatch.setattr(shutdown, "_stopping_pid", None)
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_signal_ends_streams_and_reaches_the_handler_before() -> None:
    heard: list[Any] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    hub = Hub(MemoryEventStore())
    shutdown.watch(hub)
    async with Subscription(hub, "r", TAIL) as subscription:
        assert not shutdown.stopping()
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: heard)
        await asyncio.wait_for(subscription.wait(), 5)
        assert subscription.over
    assert (heard, shutdown.stopping()) == ([signal.SIGTERM], True)
    await hub.aclose()


async def test_handler_is_chained_once_and_again_when_another_was_put_before_it() -> None:
    heard: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append("first"))
    hub = Hub(MemoryEventStore())
    shutdown.watch(hub)
    ours = signal.getsignal(signal.SIGTERM)
    shutdown.watch(hub)
    assert signal.getsignal(signal.SIGTERM) is ours
    signal.signal(signal.SIGTERM, lambda *_: heard.append("second"))
    shutdown.watch(hub)
    signal.raise_signal(signal.SIGTERM)
    await until(lambda: heard)
    assert (heard, hub.stopping) == (["second"], True)
    await hub.aclose()


async def test_default_handlers_are_left_alone() -> None:
    hub = Hub(MemoryEventStore())
    for handler in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGTERM, handler)
        shutdown.watch(hub)
        assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    await hub.aclose()


async def test_another_thread_chains_nothing() -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)
    hub = Hub(MemoryEventStore())
    thread = threading.Thread(target=shutdown.watch, args=(hub,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    await hub.aclose()


async def test_closed_app_lets_its_readers_go_and_every_later_one_too() -> None:
    store = MemoryEventStore()
    await RunPublisher("r", store=store).emit("t", {"n": 1})
    app = EventStreamApp(settings=Settings(stream_access="open"), store=store)
    path = "/runs/r/events/stream"
    async with Call(app, path) as open_then:
        await until(lambda: open_then.events)
        await asyncio.to_thread(app.close)
        await open_then.ended()
    # Another event loop, another hub: closed is closed there too.
    await asyncio.to_thread(asyncio.run, _let_go_at_once(app, path))
    async with Call(app, "/readyz") as ready:
        await ready.ended()
    assert ready.status == 503


async def _let_go_at_once(app: EventStreamApp, path: str) -> None:
    async with Call(app, path) as late:
        await late.ended()
    assert (late.status, late.events, late.complete) == (200, [], True)
    assert late.text.startswith("retry: ")
    async with Call(app, path.replace("stream", "ws"), kind="websocket") as socket:
        await socket.ended()
    assert socket.close_code == 1001
