"""Readers that are cut off and publishers that lose replies, for as long as it takes.

``python -m tests.outages.soak`` delivers a million events to fifty readers, and says what came of
it; ``--events N`` of each publisher makes it shorter. Everything is real: three publishing
processes, a server, a Redis, and the networks between them fail at random moments.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.interop.crowd import Reader
from tests.support.process import ServerProcess, uvicorn_command

from holdfast import RunPublisher, Settings
from holdfast.runtime import aclose, runtime
from holdfast.streams.select import default_store
from holdfast.testing import FaultProxy, redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from holdfast.testing import RedisServer

RUN = "soak"
READERS = 50
NETWORKS = 5
PUBLISHERS = ("async-1", "async-2", "threads")
MAXLEN = 10_000_000  # whoever publishes trims; nothing is to be
PATH = f"/streams/runs/{RUN}/events/stream"
ENV = {
    "HOLDFAST_STREAM_ACCESS": "open",
    "HOLDFAST_STREAM_MAXLEN": str(MAXLEN),
    "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
}
REPLY_SECONDS = 2.0


@dataclass
class Faults:
    """What the networks have done.

    Attributes:
        cuts: of a network between readers and server.
        lost_replies: times that Redis answered a publisher and no answer came.
    """

    cuts: int = 0
    lost_replies: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        wrong: what is not as it must be, in words; empty where all is well.
        deliveries: events that readers have had.
        connections: that readers have made.
        seconds: from the first event to the last delivery.
    """

    wrong: list[str]
    deliveries: int
    connections: int
    seconds: float
    faults: Faults

    def __str__(self) -> str:
        told = "every reader has every event once and in order" if not self.wrong else "WRONG"
        return (
            f"{told}: {self.deliveries:,} deliveries to {READERS} readers in {self.seconds:.0f} s"
            f" over {self.connections} connections; readers were cut off {self.faults.cuts} times,"
            f" replies to publishers lost {self.faults.lost_replies} times"
        )


async def soak(events: int, rate: float, folder: Path) -> Outcome:
    """Publish *events* by each publisher, *rate* of them a second, and see who gets what.

    Args:
        folder: an empty one, for logs.
    """
    faults = Faults()
    with redis_server() as redis:
        env = {**ENV, "HOLDFAST_REDIS_URL": redis.url}
        command = uvicorn_command("tests.streams.served:app", ["--log-level", "warning"])
        server = ServerProcess(command, folder / "server.log", env)
        server.start()
        try:
            async with _readers(server.port, faults) as readers:
                begun = time.monotonic()
                await _publish(redis, events, rate, folder, faults)
                await _end(redis.url)
                await _all_done(readers)
                seconds = time.monotonic() - begun
        finally:
            server.close()
        stored = _stored(redis)
    wrong = _judge(readers, stored, events)
    if "Traceback" in server.log():
        wrong.append(f"the server complains:\n{server.log()}")
    return Outcome(
        wrong,
        sum(len(reader.numbers) for reader in readers),
        sum(len(reader.statuses) for reader in readers),
        seconds,
        faults,
    )


# --- the readers, and their networks --------------------------------------------------------------


@contextlib.asynccontextmanager
async def _readers(port: int, faults: Faults) -> AsyncIterator[list[Reader]]:
    with contextlib.ExitStack() as stack:
        networks = [
            stack.enter_context(FaultProxy.threaded("127.0.0.1", port)) for _ in range(NETWORKS)
        ]
        readers = [
            Reader([networks[n % NETWORKS].port], PATH, delay=0.2).start() for n in range(READERS)
        ]
        cutting = asyncio.create_task(_cut(networks, faults))
        try:
            yield readers
        finally:
            cutting.cancel()
            for reader in readers:
                await reader.aclose()


async def _cut(networks: Sequence[FaultProxy], faults: Faults) -> None:
    while True:
        await asyncio.sleep(random.uniform(0.1, 0.6))
        network = random.choice(networks)
        network.cut(reset=random.random() < 0.5)
        faults.cuts += 1


async def _all_done(readers: Sequence[Reader]) -> None:
    async with asyncio.timeout(60):
        while not all(reader.over for reader in readers):
            await asyncio.sleep(0.05)


# --- the publishers, and theirs -------------------------------------------------------------------


async def _publish(
    redis: RedisServer, events: int, rate: float, folder: Path, faults: Faults
) -> None:
    """Run the publishers, each behind a network of its own, until Redis holds all they have."""
    async with asyncio.TaskGroup() as group:
        for name in PUBLISHERS:
            group.create_task(_publisher(redis.port, name, events, rate, folder, faults))


async def _publisher(
    redis_port: int, name: str, events: int, rate: float, folder: Path, faults: Faults
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis_port) as network:
        command = ["-m", "tests.outages.soak_publisher", RUN, name, str(events), str(rate)]
        env = {**ENV, "HOLDFAST_REDIS_URL": f"redis://127.0.0.1:{network.port}"}
        program = ServerProcess(command, folder / f"{name}.log", env)
        program.start(wait=False)
        losing = asyncio.create_task(_lose_replies(network, faults))
        try:
            status = await asyncio.to_thread(program.wait, 60 + 3 * events / rate)
        finally:
            losing.cancel()
            network.heal()
            program.close()
        if status:
            raise AssertionError(f"{name} ended with {status}:\n{program.log()}")


async def _lose_replies(network: FaultProxy, faults: Faults) -> None:
    """Let Redis carry out what it is sent, and lose the answer; then let it be found again."""
    while True:
        await asyncio.sleep(random.uniform(0.3, 3.0))
        before = network.reply_bytes
        network.blackhole("replies")
        deadline = time.monotonic() + REPLY_SECONDS
        while network.reply_bytes == before and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
        faults.lost_replies += network.reply_bytes > before
        network.cut(reset=random.random() < 0.5)
        network.heal()


async def _end(url: str) -> None:
    settings = Settings(redis_url=url, stream_maxlen=MAXLEN)
    store = default_store(runtime(settings))
    await RunPublisher(RUN, store=store).workflow_complete()
    await aclose()


# --- the judgement --------------------------------------------------------------------------------


def _stored(redis: RedisServer) -> list[bytes]:
    """Return the data of the run's own events, as Redis has them."""
    entries: Any = redis.execute("XRANGE", f"run:{RUN}:events", "-", "+")
    found = []
    for _, fields in entries:
        pairs = dict(zip(fields[::2], fields[1::2], strict=True))
        if pairs[b"type"] == b"t":
            found.append(pairs[b"data"])
    return found


def _judge(readers: Sequence[Reader], stored: Sequence[bytes], events: int) -> list[str]:
    wrong = []
    expected = list(range(1, events + 1))
    by_producer: dict[str, list[int]] = {name: [] for name in PUBLISHERS}
    for data in stored:
        body = json.loads(data)
        by_producer[body["p"]].append(body["n"])
    wrong += [f"Redis: {name}" for name, found in by_producer.items() if found != expected]
    checksum = hashlib.sha256(b"".join(stored)).hexdigest()
    for place, reader in enumerate(readers):
        seen: dict[str, list[int]] = {name: [] for name in PUBLISHERS}
        for name, number in zip(reader.producers, reader.numbers, strict=True):
            seen[name].append(number)
        wrong += [
            f"reader {place}: {len(found)} of {name}, or not in order"
            for name, found in seen.items()
            if found != expected
        ]
        if reader.digest.hexdigest() != checksum:
            wrong.append(f"reader {place}: its bytes are not those that are stored")
        if reader.others != ["workflow_complete"] or reader.statuses[-1] != 204:
            wrong.append(f"reader {place}: {reader.others}, {reader.statuses[-1]}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=6_667, help="by each of three publishers")
    parser.add_argument("--rate", type=float, default=130.0, help="of them a second")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(soak(chosen.events, chosen.rate, Path(folder)))
    print(outcome, *outcome.wrong, sep="\n")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
