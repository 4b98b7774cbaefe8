"""What a request waits for in an outage, and how soon its end is noticed, for each kind of failure.

Run it as ``python -m tests.benchmarks.outages [fault …]``: a uvicorn in ``local`` mode, its Redis
behind a proxy, 50 connections at once, each with a session of its own. All faults together are
written into docs/sessions/outages.md; those that are named are printed only.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.matrix.faults import FAULTS, Backend
from tests.support.process import ServerProcess, uvicorn_command
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.matrix.faults import Fault

CONNECTIONS = 50
WAVES = 20
TIMEOUT = 0.25
PATIENCE = 60.0
# The prober would have seen it by then.
GLANCE = 5.0
PAGE = Path(__file__).resolve().parents[2] / "docs" / "sessions" / "outages.md"
BEGIN, END = "<!-- outages -->\n", "<!-- /outages -->\n"
ENV = {
    "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
    "HOLDFAST_SESSION_ON_OUTAGE": "local",
    "HOLDFAST_STREAM_ACCESS": "open",
    "HOLDFAST_REDIS_TIMEOUT": str(TIMEOUT),
}
#: Those in which Redis is away and comes back; what it loses changes nothing about time.
MEASURED = [name for name, fault in FAULTS.items() if not fault.loses]


class Measure(NamedTuple):
    """What one fault has cost; all in seconds.

    Attributes:
        first: the slowest request of the first fifty.
        added, added_late: what later ones took more than pages without a session, the median and
            the 99th percentile.
        noticed: from the end of the fault to the first session that is read from Redis again;
            ``None`` where Redis was never taken for away.
    """

    first: float
    added: float
    added_late: float
    noticed: float | None


class Crowd:
    """Fifty visitors of one server, each on a connection of its own."""

    def __init__(self, port: int) -> None:
        self._wires = [Wire(port) for _ in range(CONNECTIONS)]
        self._cookies: list[str] = []

    async def log_in(self) -> None:
        """Begin the sessions, and have the server see them."""
        told = await asyncio.gather(
            *(wire.ask("POST", f"/login/u{n}") for n, wire in enumerate(self._wires))
        )
        self._cookies = [each.set_cookie or "" for each in told]
        assert all(self._cookies), told
        for _ in range(3):
            await self.wave("/me")
            await self.wave("/free")

    async def wave(self, path: str, *, away: bool = False) -> list[float]:
        """Ask for *path* all at once, and return how long each took; *away*: see that Redis is."""
        pairs = zip(self._wires, self._cookies, strict=True)
        told = await asyncio.gather(*(wire.ask("GET", path, cookie) for wire, cookie in pairs))
        assert {each.status for each in told} == {200}
        assert not away or all(each.body["degraded"] == "stale" for each in told)
        return [each.seconds for each in told]

    async def until(self, degraded: str | None, patience: float) -> bool:
        """Wait for a session to be served from a copy (``"stale"``) or from Redis (``None``).

        False where that has not come within *patience* seconds.
        """
        deadline = time.monotonic() + patience
        while True:
            told = await self._wires[0].ask("GET", "/me", self._cookies[0])
            if told.status == 200 and told.body["degraded"] == degraded:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)

    def close(self) -> None:
        for wire in self._wires:
            wire.close()


async def measure(fault: Fault, waves: int = WAVES) -> Measure:
    """Do *fault* to a Redis in use, and end it."""
    with ExitStack() as stack:
        backend = Backend()
        stack.callback(backend.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = [
            "--factory",
            "--log-level",
            "warning",
            "--no-access-log",
            "--timeout-keep-alive",
            "99",
        ]
        command = uvicorn_command("tests.matrix.app:create_app", options)
        env = {**ENV, "HOLDFAST_REDIS_URL": backend.proxy.url}
        server = ServerProcess(command, folder / "log", env)
        stack.callback(server.close)
        server.start()
        crowd = Crowd(server.port)
        stack.callback(crowd.close)
        await asyncio.to_thread(fault.prepare, backend)
        await crowd.log_in()
        await asyncio.to_thread(fault.begin, backend)
        first = max(await crowd.wave("/me"))
        # A Redis that only refuses to write is noticed by the next write, or the next probe.
        away = await crowd.until("stale", GLANCE)
        free, known = [], []
        for _ in range(waves):
            free += await crowd.wave("/free")
            known += await crowd.wave("/me", away=away)
        # Out of the hold-down: what is measured is how soon it is noticed.
        await asyncio.sleep(2.0)
        # One that loads may have loaded by now.
        await crowd.wave("/me")
        await asyncio.to_thread(fault.end, backend)
        ended = time.monotonic()
        if not await crowd.until(None, PATIENCE):
            raise TimeoutError("Redis is back, and nobody notices")
        noticed = time.monotonic() - ended if away else None
    added = statistics.median(known) - statistics.median(free)
    return Measure(first, added, _late(known) - _late(free), noticed)


def _late(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def row(fault: Fault, found: Measure) -> str:
    """Return the line of the table."""
    times = (f"{seconds * 1000:.1f} ms" for seconds in found[:3])
    noticed = "never away: connected anew"
    if found.noticed is not None:
        noticed = f"{found.noticed:.1f} s"
    return f"| {fault.words} | {' | '.join(times)} | {noticed} |"


def write(rows: Sequence[str]) -> None:
    """Put the table into its page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    head = (
        "| Redis | slowest of the first 50 | later, median | later, 99 of 100 | return noticed |",
        "|---|---|---|---|---|",
    )
    PAGE.write_text(before + BEGIN + "\n".join((*head, *rows)) + "\n" + END + after)


def main() -> None:
    """Measure the faults that are named, or all and write them down."""
    names = sys.argv[1:] or MEASURED
    rows = []
    for name in names:
        rows.append(row(FAULTS[name], asyncio.run(measure(FAULTS[name]))))
        print(rows[-1], flush=True)
    if names is MEASURED:
        write(rows)


if __name__ == "__main__":
    main()
