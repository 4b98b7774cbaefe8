"""One site: one or three processes of the app before one Redis, and what of them can be seen.

Started once and used for many outages. It starts, stops and looks; it judges nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
from tests.matrix.faults import Backend
from tests.matrix.history import Mode, Process
from tests.support.process import ServerProcess, uvicorn_command

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT = 0.25
_PATIENCE = 30.0
# Before the server closes what is idle, which would look like an answer that never came; and long,
# for the pool may close what has been idle for so long just as it is given to another request.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=50, keepalive_expiry=60.0)
_ENV = {
    "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
    "HOLDFAST_REDIS_TIMEOUT": str(TIMEOUT),
    "HOLDFAST_STREAM_ACCESS": "session",
    "HOLDFAST_STREAM_HEARTBEAT": "0.5",
    "HOLDFAST_STREAM_RETRY": "0.2",
}


class Site:
    """Processes, their Redis and a client to ask them by.

    Args:
        mode: ``HOLDFAST_SESSION_ON_OUTAGE``.
        processes: how many.
        folder: for logs.
        env: more variables.
    """

    def __init__(
        self, mode: Mode, processes: int, folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.mode = mode
        self.backend = Backend()
        variables = {
            **_ENV,
            "HOLDFAST_REDIS_URL": self.backend.proxy.url,
            "HOLDFAST_SESSION_ON_OUTAGE": mode,
            **(env or {}),
        }
        command = uvicorn_command(
            "tests.matrix.app:create_app",
            # A connection is never closed from this side while a request is on its way to it.
            ["--factory", "--log-level", "warning", "--timeout-keep-alive", "75"],
        )
        self._servers = [
            ServerProcess(command, folder / f"{mode}-{processes}-{number}.log", variables)
            for number in range(processes)
        ]
        self.client = httpx.AsyncClient(timeout=10, limits=_LIMITS)
        self.silent: list[str] = []
        self._read: dict[int, int] = {}

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self._servers]

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in self._servers))
            await self.back()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        for server in self._servers:
            with contextlib.suppress(AssertionError):
                await asyncio.to_thread(server.close)
        await asyncio.to_thread(self.backend.close)

    async def readiness(self, at: int) -> dict[str, Any]:
        """What a process says at ``/readyz``; `silent` keeps the stacks of one that says nothing.

        Raises:
            AssertionError: it says nothing for as long as a minute.
        """
        for _ in range(6):
            try:
                answer = await self.client.get(f"{self.urls[at]}/streams/readyz")
            except httpx.TimeoutException:
                self.silent.append(f"I4: process {at} was silent\n{await self._stacks(at)}")
            except httpx.HTTPError:
                continue  # it has closed an idle connection just now
            else:
                told: dict[str, Any] = answer.json()
                return told
        raise AssertionError(f"process {at} cannot be reached\n{await self._stacks(at)}")

    async def _stacks(self, at: int) -> str:
        server = self._servers[at]
        if not server.running:
            return f"it has ended:\n{server.log()[-4000:]}"
        os.kill(server.pid, signal.SIGUSR1)
        await asyncio.sleep(1)
        return server.log()[-8000:]

    async def back(self) -> None:
        """Wait until every process says that Redis is up."""
        await asyncio.gather(*(self._said(at, lambda told: told == "up") for at in self._all()))

    async def since(self) -> list[Any]:
        """Return since when each process has its Redis; what no log tells changes it too."""
        return [(await self.readiness(at)).get("since") for at in self._all()]

    async def noticed(self, patience: float) -> list[str]:
        """Wait until every process says that Redis is away; return the reasons given."""
        reasons = await asyncio.gather(*(self._reason(at, patience) for at in self._all()))
        return [reason for reason in reasons if reason]

    def _all(self) -> range:
        return range(len(self._servers))

    async def _said(self, at: int, condition: Any) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            told = await self.readiness(at)
            if condition(told["redis"]):
                return
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"process {at} says {told}:\n{self._servers[at].log()[-4000:]}"
                )
            await asyncio.sleep(0.03)

    async def _reason(self, at: int, patience: float) -> str:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            told = await self.readiness(at)
            if told["redis"] == "down":
                return str(told["reason"])
            await asyncio.sleep(0.02)
        return ""

    async def look(self) -> list[Process]:
        """Count what each process holds now; what it had before is for :func:`joined` to add."""
        return list(await asyncio.gather(*map(self._look_at, self._all())))

    async def _look_at(self, number: int) -> Process:
        server = self._servers[number]
        counted = (await self.client.get(f"{server.url}/inside")).json()
        return Process(
            tasks=(0, counted["tasks"]),
            threads=(0, counted["threads"]),
            connections=(0, self.backend.proxy.live),
            megabytes=(0.0, _resident_megabytes(server.pid)),
        )

    def printed(self) -> list[tuple[str, ...]]:
        """Return what each process has printed since this was last asked, whole lines only."""
        news = []
        for number, server in enumerate(self._servers):
            lines = server.log().rpartition("\n")[0].splitlines()
            news.append(tuple(lines[self._read.get(number, 0) :]))
            self._read[number] = len(lines)
        return news


def joined(
    before: list[Process], after: list[Process], logs: list[tuple[str, ...]]
) -> list[Process]:
    """Make one of two looks at the same processes, and what they printed between."""
    return [
        Process(
            log,
            (first.tasks[1], last.tasks[1]),
            (first.threads[1], last.threads[1]),
            (first.connections[1], last.connections[1]),
            (first.megabytes[1], last.megabytes[1]),
        )
        for first, last, log in zip(before, after, logs, strict=True)
    ]


def _resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0
