"""Redis comes and goes five times a second: what a link makes of it, and what it leaves behind.

``python -m tests.link.flapping [seconds]`` prints it; a test does it for a few seconds.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.link import Link, LinkState, LinkStatus, Listener
from holdfast.link.supervisor import HOLD_DOWN
from holdfast.settings import Settings
from holdfast.testing import FaultProxy, redis_server

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

HALF_PERIOD = 0.1
FDS = Path("/proc/self/fd")


@dataclass(frozen=True)
class Held:
    """What a process holds at one moment."""

    tasks: int
    threads: int
    descriptors: int
    clients: int
    max_rss_kib: int

    @classmethod
    def now(cls, server: RedisServer) -> Held:
        """Count; *clients* are the connections that Redis sees."""
        info = server.execute("INFO", "clients")
        assert isinstance(info, bytes)
        (clients,) = [line for line in info.splitlines() if line.startswith(b"connected_clients:")]
        return cls(
            tasks=len(asyncio.all_tasks()),
            threads=threading.active_count(),
            descriptors=len(list(FDS.iterdir())) if FDS.exists() else 0,
            clients=int(clients.partition(b":")[2]),
            max_rss_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        )


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        flaps: how often Redis went away.
        downs: when the link went down, in Unix seconds.
        answered, refused: commands.
        before, after: what was held while Redis was well.
    """

    flaps: int
    downs: list[float]
    answered: int
    refused: int
    before: Held
    after: Held

    @property
    def shortest_gap(self) -> float:
        """Seconds between the two downs that were closest; a hold-down, where there were fewer."""
        gaps = [b - a for a, b in zip(self.downs, self.downs[1:], strict=False)]
        return min(gaps, default=HOLD_DOWN)


async def flap(server: RedisServer, prefix: str, seconds: float) -> Outcome:
    """Cut the way to *server* every 0.2 s for 0.1 s, under traffic of a loop and of threads."""
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        settings = Settings(redis_url=f"redis://127.0.0.1:{proxy.port}", key_prefix=prefix)
        link = Link(settings)
        listener = Listener(link, lambda *_: None, lambda: None)
        try:
            return await _under_traffic(link, listener, proxy, server, seconds)
        finally:
            await listener.aclose()
            await link.aclose()


async def _under_traffic(
    link: Link, listener: Listener, proxy: FaultProxy, server: RedisServer, seconds: float
) -> Outcome:
    downs: list[float] = []

    def notice(status: LinkStatus) -> None:
        if status.state is LinkState.DOWN:
            downs.append(status.since)

    link.on_transition(notice)
    await _until_well(link, listener)
    before, answered, refused, flaps = Held.now(server), 0, 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for change in (proxy.refuse, proxy.heal):
            change()
            answers = await link.pipeline([("PING",)] * 20)
            answers += await asyncio.gather(
                *[asyncio.to_thread(link.execute_sync, "PING") for _ in range(4)],
                return_exceptions=True,
            )  # type: ignore[arg-type]
            answered += answers.count(b"PONG")
            refused += len(answers) - answers.count(b"PONG")
            await asyncio.sleep(HALF_PERIOD)
        flaps += 1
    await _until_well(link, listener)
    return Outcome(flaps, downs, answered, refused, before, await _settled(server, before))


async def _until_well(link: Link, listener: Listener) -> None:
    link.start()
    deadline = time.monotonic() + 30
    while not link.up:
        if time.monotonic() > deadline:
            raise TimeoutError("the link did not come back")
        await asyncio.sleep(0.01)
    await listener.add("flapping")
    await link.execute("PING")
    await asyncio.gather(*[asyncio.to_thread(link.execute_sync, "PING") for _ in range(4)])


async def _settled(server: RedisServer, before: Held) -> Held:
    """What is held once Redis and the proxy have let go of what was closed."""
    deadline = time.monotonic() + 15
    while True:
        after = Held.now(server)
        if after.clients <= before.clients + 4 or time.monotonic() > deadline:
            return after
        await asyncio.sleep(0.05)


def main() -> None:
    """Run it, and print what came of it."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with redis_server() as server:
        outcome = asyncio.run(flap(server, "flapping:", seconds))
    sys.stdout.write(
        f"{outcome.flaps} flaps in {seconds:.0f} s: {len(outcome.downs)} outages, the closest"
        f" {outcome.shortest_gap:.2f} s apart; {outcome.answered} commands answered,"
        f" {outcome.refused} refused\nbefore {outcome.before}\nafter  {outcome.after}\n"
    )


if __name__ == "__main__":
    main()
