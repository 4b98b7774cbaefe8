"""Every event store is held to the published suite; what memory does beside it is here too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.streams.hold import Hold
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.testing import EventStoreSuite

if TYPE_CHECKING:
    from holdfast.streams.store import EventStore


class TestMemory(EventStoreSuite):
    async def make_store(
        self,
        *,
        maxlen: int = 10_000,
        max_run_bytes: int = 134_217_728,
        retention: float = 86_400,
    ) -> EventStore:
        return MemoryEventStore(maxlen=maxlen, max_run_bytes=max_run_bytes, retention=retention)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.anyio
class TestMemoryAlone:
    async def test_ids_grow_though_the_clock_is_set_back(self) -> None:
        clock = Clock()
        store = MemoryEventStore(clock=clock)
        ids = []
        for step in (0.0, -5.0, 0.0, 10.0):
            clock.now += step
            ids.append((await store.add("run", "t", step)).id)
        assert ids == [
            "1000000000-0",
            "1000000000-1",
            "1000000000-2",
            "1000005000-0",
        ]

    async def test_ids_grow_over_a_deletion_though_the_clock_is_set_back(self) -> None:
        clock = Clock()
        store = MemoryEventStore(clock=clock)
        await store.add("run", "t", 1)
        await store.delete("run")
        clock.now -= 100
        assert (await store.add("run", "t", 2)).id == "1000000000-1"

    async def test_memory_is_given_back_after_expiry_and_the_run_forgotten_later(self) -> None:
        clock = Clock()
        store = MemoryEventStore(retention=100, clock=clock)
        await store.add("old", "t", 1)
        clock.now += 150
        await store.add("new", "t", 1)
        assert await store.status("old") == "expired"
        assert store._runs["old"].entries == []
        clock.now += 86_400
        await store.add("new2", "t", 1)
        assert await store.status("old") == "absent"
        assert "old" not in repr(store)

    async def test_an_expired_run_keeps_no_event_for_a_reader(self) -> None:
        clock = Clock()
        store = MemoryEventStore(retention=100, clock=clock)
        await store.add("run", "t", 1)
        clock.now += 101
        info = await store.describe("run")
        assert (info.status, info.length, info.n) == ("expired", 0, 1)

    async def test_a_silent_run_does_not_expire_under_its_publisher(self) -> None:
        clock = Clock()
        store = MemoryEventStore(retention=100, clock=clock)
        hold = Hold("run", lambda: None)
        await store.claim(hold)
        store.attend(hold)
        await store.add("run", "t", 1)
        clock.now += 200_000
        await store.add("other", "t", 1)  # sweeps
        assert [event.data for event in await store.get_events("run")] == [1]
        store.leave(hold)
        clock.now += 99
        assert await store.status("run") == "open"
        clock.now += 1
        assert await store.status("run") == "expired"

    async def test_a_stop_waits_an_hour_for_its_run_and_no_longer(self) -> None:
        for waited, stops in ((3590, True), (3610, False)):
            clock = Clock()
            store = MemoryEventStore(clock=clock)
            await store.request_stop("run")
            clock.now += 3580
            await store.add("other", "t", 1)  # sweeps, and not again within a minute
            clock.now += waited - 3580
            (entry,) = await store.append("run", [store.draft("t", 1)])
            assert entry.stopping is stops
        clock = Clock()
        store = MemoryEventStore(clock=clock)
        await store.request_stop("never")
        clock.now += 3700
        await store.add("run2", "t", 1)
        assert not store._stops
