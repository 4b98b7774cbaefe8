"""The percentage is turned up and back under traffic, by two processes that never agree."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from tests.streams.clients import client, until
from tests.streams.redis_stores import opened
from tests.streams.test_pubsub import Subscriber

from holdfast.streams.cursor import Cursor
from holdfast.streams.event import decode_data
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.frames import Frame
from holdfast.streams.rollout import transport_of_new
from holdfast.streams.select import close_hubs, hub_of

if TYPE_CHECKING:
    import httpx
    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

APP = "tests.streams.served:app"
PHASES = [0, 10, 50, 100, 0]
RUNS = 12


class Traffic:
    """Runs that live over a change of the percentage, and a reader of each from before it began."""

    def __init__(self, store: RedisEventStore, http: httpx.AsyncClient) -> None:
        self.read: dict[str, list[Any]] = defaultdict(list)
        self.sent: dict[str, int] = {}
        self.begun_at: dict[str, int] = {}
        self._store, self._http = store, http
        self._readers: list[asyncio.Task[None]] = []

    async def begin(self, names: list[str], percent: int) -> None:
        """Have each run read, before anything is written to it."""
        for name in names:
            self.sent[name], self.begun_at[name] = 0, percent
            self._readers.append(asyncio.create_task(self._follow(name)))
        await until(lambda: names[-1] in hub_of(self._store)._rings)

    async def emit(self, server: ServerProcess, name: str, *, end: bool = False) -> None:
        first = self.sent[name]
        query = f"first={first}&count=3" + ("&end=1" if end else "")
        answer = await self._http.post(f"{server.url}/emit/{name}?{query}")
        assert answer.status_code == 200, answer.text
        self.sent[name] = first + 3

    async def _follow(self, name: str) -> None:
        async with Subscription(hub_of(self._store), name, Cursor()) as subscription:
            while not subscription.done:
                for due in await subscription.take():
                    assert isinstance(due.item, Frame), (name, due)
                    self.read[name].append(decode_data(due.item.entry.data))
                if not subscription.done:
                    await subscription.wait()

    async def finished(self) -> None:
        """Wait until every reader has been told the end."""
        await asyncio.wait_for(asyncio.gather(*self._readers), 20)


@pytest.mark.slow
async def test_no_run_is_split_and_no_event_lost_from_0_to_100_percent_and_back(
    redis: RedisServer, key_prefix: str, serve: Serve
) -> None:
    def start(percent: int) -> ServerProcess:
        return serve(
            APP,
            env={
                "HOLDFAST_REDIS_URL": redis.url,
                "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters",
                "HOLDFAST_KEY_PREFIX": key_prefix,
                "HOLDFAST_STREAM_ROLLOUT": str(percent),
                "HOLDFAST_STREAM_DUAL_WRITE": "true",
            },
        )

    async with opened(redis.url, key_prefix) as store, client() as http:
        traffic = Traffic(store, http)
        with Subscriber(redis, f"{key_prefix}run:*") as old:
            servers, open_runs = {PHASES[0]: start(PHASES[0])}, list[str]()
            before, server = PHASES[0], servers[PHASES[0]]
            for phase, percent in enumerate(PHASES[1:], 1):
                # One process has the new setting already, the other the old one still.
                newer = start(percent)
                runs = [f"run-{phase}-{number}" for number in range(RUNS)]
                await traffic.begin(runs, percent)
                for name, one in zip(runs, itertools.cycle([newer, server]), strict=False):
                    traffic.begun_at[name] = percent if one is newer else before
                    await traffic.emit(one, name)
                for name in runs:
                    await traffic.emit(server, name)
                    await traffic.emit(newer, name)
                for name in open_runs:  # begun in the phase before, and ended in this one
                    await traffic.emit(newer, name, end=True)
                server.stop()
                open_runs, before, server = runs, percent, newer
            for name in open_runs:
                await traffic.emit(server, name, end=True)
            await traffic.finished()
            total = sum(traffic.sent.values()) + len(traffic.sent)
            heard = await asyncio.to_thread(old.take, total)

        assert len(heard) == total
        used = set()
        for name, count in traffic.sent.items():
            expected = [{"n": n} for n in range(count)]
            assert traffic.read[name][:-1] == expected
            assert [each["data"] for each in heard if each["run_id"] == name][:-1] == expected
            info = await store.describe(name)
            chosen = transport_of_new(name, enabled=True, percent=traffic.begun_at[name])
            assert (info.transport, info.status) == (chosen, "ended")
            assert info.length == (count + 1 if chosen == "streams" else 0)
            used.add(chosen)
        assert used == {"streams", "pubsub"}
        await close_hubs(store)
