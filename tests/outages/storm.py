"""Many runs published through crashes, stalls and failovers of Redis, and what their readers saw.

``python -m tests.outages.storm`` publishes 100 runs in two processes for as long as the faults
take, and says what came of it; ``--runs`` and ``--faults`` make it shorter. Of each run one reader
stays at each process, and two (one by WebSocket) move between them all the time, with whatever
position they have. Judged by the answers to the publishers, by what the readers saw, and by what
Redis holds at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import websockets
from tests.interop.crowd import Reader
from tests.outages.histories import judge_reader, judge_stored
from tests.outages.replicated import Replicated, replicated
from tests.support.process import ServerProcess, uvicorn_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.outages.histories import Seen

APP = "tests.outages.storm_app:app"
ENV = {
    "HOLDFAST_STREAM_ACCESS": "open",
    "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
    "HOLDFAST_STREAM_HEARTBEAT": "1",
    "HOLDFAST_STREAM_MAXLEN": "1000000",
    "HOLDFAST_STREAM_JOURNAL": "100000",
    # A machine that is busy is no outage.
    "HOLDFAST_REDIS_TIMEOUT": "1",
}
FAULTS = ("crash", "pause", "fail_over", "split", "lose")
BREAKS = ("gap", "reset")
PATIENCE = 180.0


@dataclass
class Follower(Reader):
    """A reader that keeps what it saw in order, and may move on by itself.

    Attributes:
        moves: seconds, at the most, for which it stays anywhere; 0: it stays.
        history: what it saw.
        moved: how often it came back with the position of an outage.
    """

    moves: float = 0.0
    history: list[Seen] = field(default_factory=list)
    moved: int = 0

    async def _connect(self, port: int) -> None:
        self.moved += "~" in self.last_id
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0.1, self.moves) if self.moves else None):
                await self._read(port)

    async def _read(self, port: int) -> None:
        await super()._connect(port)

    def _dispatch(self, block: bytes) -> None:
        count, others = len(self.numbers), len(self.others)
        super()._dispatch(block)
        if len(self.numbers) > count:
            self.history.append((self.producers[-1], self.numbers[-1]))
        elif len(self.others) > others:
            self._note(self.others[-1].removeprefix("holdfast."))

    def _note(self, kind: str) -> None:
        match kind:
            case "gap" | "reset":
                self.history.append(kind)


@dataclass
class SocketFollower(Follower):
    """The same by WebSocket."""

    async def _read(self, port: int) -> None:
        url = f"ws://127.0.0.1:{port}{self.path}?last_id={self.last_id}"
        try:
            async with websockets.connect(url, max_size=None, proxy=None) as socket:
                async for text in socket:
                    self._take(json.loads(text))
        except (websockets.ConnectionClosedError, websockets.InvalidHandshake):
            self.cuts += 1

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["kind"] == "event":
            self.last_id = frame["id"]
            if frame["type"] == "t":
                self.history.append((frame["data"]["p"], frame["data"]["n"]))
        elif frame["kind"] == "end":
            self.over = True
        else:
            self._note(frame["kind"])


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        wrong: what is not as it must be, in words; empty where all is well.
        acknowledged: events that publishers were told are accepted, and of those ``provisional``
            while Redis was away.
        deliveries: events that readers have had.
        moved: how often a reader came to the other process with the position of an outage.
        told: gaps and resets.
        faults: what was done to Redis.
    """

    wrong: list[str]
    acknowledged: int
    provisional: int
    deliveries: int
    moved: int
    told: dict[str, int]
    faults: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        said = "nothing is missing that was not told" if not self.wrong else "WRONG"
        return (
            f"{said}: {self.acknowledged:,} events acknowledged in {self.seconds:.0f} s,"
            f" {self.provisional:,} of them while Redis was away; {self.deliveries:,} deliveries;"
            f" {self.moved} moves with the position of an outage; told: {self.told};"
            f" faults: {self.faults}"
        )


async def storm(runs: int, faults: Sequence[str], folder: Path, *, pause: float = 0.25) -> Outcome:
    """Publish *runs* runs through *faults*, one after the other.

    Args:
        pause: seconds between two events of a publisher, or so.
        folder: an empty one, for logs.
    """
    begun = time.monotonic()
    with replicated() as redis:
        async with _apps(redis.url, folder) as apps, httpx.AsyncClient(timeout=PATIENCE) as http:
            acknowledged, followers, wrong = await _weather(http, redis, apps, runs, faults, pause)
        stored = {run: _stored(redis, run) for run in followers}
    wrong += [f"a server complains:\n{app.log()}" for app in apps if "Traceback" in app.log()]
    for run, readers in followers.items():
        counts = {name: len(told) for name, told in acknowledged[run].items()}
        wrong += [f"{run}, Redis: {each}" for each in judge_stored(stored[run], counts)]
        for place, reader in enumerate(readers):
            said = judge_reader(reader.history, counts)
            wrong += [f"{run}, reader {place}: {each}" for each in said]
    everybody = [reader for readers in followers.values() for reader in readers]
    ids = [told[1] for run in acknowledged.values() for each in run.values() for told in each]
    told = collections.Counter(str(x) for each in everybody for x in each.history if x in BREAKS)
    return Outcome(
        wrong,
        acknowledged=len(ids),
        provisional=sum("~" in each for each in ids),
        deliveries=sum(len(each.history) for each in everybody) - told.total(),
        moved=sum(each.moved for each in everybody),
        told=dict(told),
        faults=dict(collections.Counter(faults)),
        seconds=time.monotonic() - begun,
    )


Acknowledged = dict[str, dict[str, list[list[Any]]]]


async def _weather(
    http: httpx.AsyncClient,
    redis: Replicated,
    apps: Sequence[ServerProcess],
    runs: int,
    faults: Sequence[str],
    pause: float,
) -> tuple[Acknowledged, dict[str, list[Follower]], list[str]]:
    ports = [app.port for app in apps]
    followers: dict[str, list[Follower]] = {}
    try:
        for number in range(runs):
            run = f"run-{number}"
            followers[run] = _followers(run, ports)
            # Some runs are fed by one process, some by both.
            for name, app in zip("ab", apps, strict=True):
                if number % 3 == 2 or "ab"[number % 3] == name:
                    url = f"{app.url}/feed/{run}?p={name}&pause={pause}"
                    (await http.post(url)).raise_for_status()
        for fault in faults:
            await asyncio.to_thread(_strike, redis, fault)
        acknowledged, wrong = await _stop(http, apps, followers)
        for run in followers:
            (await http.post(f"{apps[0].url}/end/{run}")).raise_for_status()
        wrong += await _all_over(followers)
    finally:
        for readers in followers.values():
            for reader in readers:
                await reader.aclose()
    return acknowledged, followers, wrong


def _followers(run: str, ports: Sequence[int]) -> list[Follower]:
    path = f"/streams/runs/{run}/events"
    there, back = list(ports), list(reversed(ports))
    found = [Follower([port], f"{path}/stream", delay=0.2) for port in ports]
    found.append(Follower(there, f"{path}/stream", delay=0.05, moves=2.0))
    found.append(SocketFollower(back, f"{path}/ws", delay=0.05, moves=2.0))
    for each in found:
        each.start()
    return found


def _strike(redis: Replicated, fault: str) -> None:
    time.sleep(random.uniform(0.5, 1.0))
    if fault in {"pause", "split", "lose"}:
        getattr(redis, fault)(random.uniform(0.2, 0.8))
    else:
        getattr(redis, fault)()
    redis.settle()
    # The link waits two seconds before it believes that Redis is back.
    time.sleep(random.uniform(0.5, 3.0))


async def _stop(
    http: httpx.AsyncClient, apps: Sequence[ServerProcess], followers: dict[str, list[Follower]]
) -> tuple[Acknowledged, list[str]]:
    acknowledged: Acknowledged = {run: {} for run in followers}
    wrong: list[str] = []
    for name, app in zip("ab", apps, strict=True):
        body = (await http.post(f"{app.url}/stop")).raise_for_status().json()
        wrong += body["errors"]
        for run, told in body["told"].items():
            acknowledged[run][name] = told
    return acknowledged, wrong


async def _all_over(followers: dict[str, list[Follower]]) -> list[str]:
    deadline = time.monotonic() + PATIENCE
    while True:
        late = [
            f"{run}, reader {place}: waits for ever"
            for run, readers in followers.items()
            for place, reader in enumerate(readers)
            if not reader.over
        ]
        if not late or time.monotonic() > deadline:
            return late
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def _apps(url: str, folder: Path) -> AsyncIterator[list[ServerProcess]]:
    command = uvicorn_command(APP, ["--log-level", "warning"])
    env = {**ENV, "HOLDFAST_REDIS_URL": url}
    apps = [ServerProcess(command, folder / f"{name}.log", env) for name in "ab"]
    try:
        for app in apps:
            app.start()
        yield apps
    finally:
        for app in apps:
            app.close()


def _stored(redis: Replicated, run: str) -> list[tuple[str, int]]:
    """Return the run's own events, as Redis has them."""
    entries: Any = redis.master.execute("XRANGE", f"run:{run}:events", "-", "+")
    found = []
    for _, fields in entries:
        pairs = dict(zip(fields[::2], fields[1::2], strict=True))
        if pairs[b"type"] == b"t":
            body = json.loads(pairs[b"data"])
            found.append((body["p"], body["n"]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--faults", default=",".join(FAULTS * 3), help="in this order")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two events")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = storm(chosen.runs, chosen.faults.split(","), Path(folder), pause=chosen.pause)
        try:
            outcome = asyncio.run(work)
        finally:
            print(*[path.read_text()[-4000:] for path in Path(folder).iterdir()], sep="\n")
    print(*outcome.wrong[:50], outcome, sep="\n")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
