"""Readers who take nothing, on real sockets and by rounds: left by age, and sooner by lag."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest
import uvicorn
from tests.streams.clients import until

from holdfast import EventStreamApp, Settings
from holdfast.streams.fanout import pulse
from holdfast.streams.fanout.pulse import LAGGING_SEND_TIMEOUT, SEND_TIMEOUT, Pulse, patience
from holdfast.streams.fanout.rounds import Rounds
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATH = "/runs/r/events/stream"


class Known:
    """A reader whose state the test knows."""

    def __init__(self) -> None:
        self.woken = 0
        self.left = False
        self.is_behind = False

    def wake(self) -> None:
        self.woken += 1

    def leave(self) -> None:
        self.left = True

    def behind(self) -> bool:
        return self.is_behind


def test_who_fell_behind_has_less_time_to_take_something() -> None:
    assert patience(behind=False) == SEND_TIMEOUT
    assert patience(behind=True) == LAGGING_SEND_TIMEOUT < SEND_TIMEOUT


@pytest.mark.parametrize(("behind", "left"), [(True, True), (False, False)])
async def test_client_who_takes_nothing_is_left_sooner_if_behind(
    monkeypatch: pytest.MonkeyPatch, behind: bool, left: bool
) -> None:
    monkeypatch.setattr(pulse, "LAGGING_SEND_TIMEOUT", 0.05)
    rounds, reader = Rounds(), Known()
    reader.is_behind = behind
    mine = Pulse(rounds, reader, 60)
    mine._rounds.discard(mine, mine._round)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sending = asyncio.create_task(mine.watch(never))
    await asyncio.sleep(0.1)
    mine.look()
    await asyncio.sleep(0)
    assert (reader.left, sending.done()) == (left, left)
    mine.cancel()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_cancellation_from_outside_passes_through_a_watched_send() -> None:
    rounds, reader = Rounds(), Known()
    mine = Pulse(rounds, reader, 60)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sending = asyncio.create_task(mine.watch(never))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert not reader.left
    mine.cancel()


async def test_one_timer_looks_at_all_who_ask_and_at_nobody_who_left() -> None:
    rounds, readers = Rounds(), [Known() for _ in range(100)]
    pulses = [Pulse(rounds, reader, 0.05) for reader in readers]
    for each in pulses[50:]:
        each.cancel()
    assert len(rounds) == 50
    await until(lambda: all(reader.woken >= 2 for reader in readers[:50]))
    assert not any(reader.woken for reader in readers[50:])
    for each in pulses[:50]:
        each.cancel()
    assert len(rounds) == 0


@contextlib.asynccontextmanager
async def serving(store: MemoryEventStore) -> AsyncIterator[int]:
    settings = Settings(stream_access="open", secret_key="a-key-of-sixteen-characters-or-more")
    app = EventStreamApp(settings=settings, store=store)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listening]))
    try:
        await until(lambda: server.started)
        yield listening.getsockname()[1]
    finally:
        await close_hubs(store)
        server.should_exit = server.force_exit = True
        await task


async def test_socket_that_stops_reading_is_left_and_the_others_miss_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel takes some megabytes for a client before its server sees that it takes nothing."""
    monkeypatch.setattr(pulse, "LAGGING_SEND_TIMEOUT", 0.2)
    monkeypatch.setattr(pulse, "SEND_TIMEOUT", 0.4)
    store = MemoryEventStore()
    await store.add("r", "t", 0)
    async with serving(store) as port:
        request = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stuck, ("127.0.0.1", port))
        stuck.send(request)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        writer.write(request)
        hub = hub_of(store)
        await until(lambda: len(hub.subscribers) == 2)
        text = bytearray()

        async def read() -> None:
            while b'"last"' not in text[-2000:]:
                text.extend(await reader.read(1 << 16))

        reading = asyncio.create_task(read())
        for _ in range(120):
            await store.add("r", "t", "x" * 65536)
            await asyncio.sleep(0)
        begun = time.monotonic()
        await until(lambda: len(hub.subscribers) == 1, 10)
        assert time.monotonic() - begun < 8
        assert len(hub.rounds) == 1
        await store.add("r", "t", "last")
        await asyncio.wait_for(reading, 10)
        assert bytes(text).count(b"\ndata: ") == 122
        assert hub._rings["r"]._bytes <= 1 << 20
        writer.close()
        stuck.close()
