"""What visitors and runs do while anything may happen to Redis, each a life of some seconds.

A life writes down a story. Its last acts are made in a calm moment, and only they are held to what
holds after recovery; what is promised of the first moments of a fault is the matrix's to ask.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.matrix.clients import Browser, Reader, emit, end
from tests.matrix.history import Story

if TYPE_CHECKING:
    import random

    from tests.chaos.calm import Calm
    from tests.matrix.history import Act, Frame
    from tests.matrix.site import Site

_KEYS = ("cart", "theme", "draft")
_PATIENCE = 15.0
_READERS = (("stays", "sse"), ("moves", "sse"), ("socket", "ws"))


class Life:
    """One visitor or one run.

    Args:
        site: where.
        calm: says when nothing is broken.
        chance: where all that it does comes from.
        seconds: how long it acts before it looks at what is left.
    """

    def __init__(self, site: Site, calm: Calm, chance: random.Random, seconds: float) -> None:
        self.site = site
        count = len(site.urls)
        self.story = Story(site.mode, count, loses=False, in_traffic=count > 1)
        self.browser = Browser(site.client, site.urls, self.story)
        self.browser.phase = "during"
        self._calm = calm
        self._chance = chance
        self._until = time.monotonic() + seconds
        self._user = f"u{uuid.uuid4().hex[:8]}"

    async def run(self) -> Story:
        """Live, and return what was seen."""
        raise NotImplementedError

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self._until

    def _somewhere(self) -> int:
        return self._chance.randrange(len(self.site.urls))

    async def _rest(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.02, 0.25))

    async def _finally(self, what: str, *arguments: str, at: int = 0) -> None:
        """Ask until it is answered, and have only that answer be one of after recovery.

        On a busy machine a healthy Redis may be late for once; an answer from a copy says so.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            act = await self.browser.do(what, *arguments, at=at)
            answered = act.status not in {0, 503} and not _is_degraded(act)
            if answered or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        self.story.acts[-1] = replace(act, phase="after")


def _is_degraded(act: Act) -> bool:
    return isinstance(act.body, dict) and bool(act.body.get("degraded"))


class Visitor(Life):
    """Logs in, reads, writes, renews the cookie, and may log out, at whatever process."""

    async def run(self) -> Story:
        """Live, and return what was seen."""
        await self.browser.do("login", "user_id", self._user, at=self._somewhere())
        number = 0
        while self._goes_on:
            number += 1
            await self._do_something(str(number))
            await self._rest()
        if self._chance.random() < 0.3:
            await self._log_out()
        async with self._calm.shared():
            await self._look_back()
        return self.story

    async def _do_something(self, number: str) -> None:
        at = self._somewhere()
        what = self._chance.choices(["read", "write", "rotate", "login"], [5, 5, 1, 1])[0]
        if what == "write":
            await self.browser.do("write", self._chance.choice(_KEYS), number, at=at)
        elif what == "login":
            await self.browser.do("login", "user_id", f"{self._user}-{number}", at=at)
        else:
            await self.browser.do(what, at=at)

    async def _log_out(self) -> None:
        # At the first process: it is the one that can be held to it while Redis is away.
        self.browser.old_cookies = dict(self.browser.cookies)
        await self.browser.do("logout")
        if "session" not in self.browser.cookies:
            await self.browser.do("steal")

    async def _look_back(self) -> None:
        for at in range(len(self.site.urls)):
            await self._finally("read", at=at)
            if self.browser.old_cookies and "session" not in self.browser.cookies:
                await self._finally("steal", at=at)


class Run(Life):
    """Is published by every process, read by three readers, and ended."""

    async def run(self) -> Story:
        """Live, and return what was seen."""
        name = f"run-{uuid.uuid4().hex[:10]}"
        async with self._calm.shared():
            await self._finally("login", "user_id", self._user)
            # Nobody may read what nobody knows of: from here on it is known whose run it is.
            await emit(self.browser, name, self._user, "p0", range(1, 2), 0)
        readers = [self._reader(name, label, kind) for label, kind in _READERS]
        try:
            await self._publish(name, dict(readers))
            async with self._calm.shared():
                # Who is without Redis has events that an end of another process would shut out.
                await self.site.back()
                await end(self.browser, name, self._user, 0)
                await asyncio.gather(*(reader.over() for _, reader in readers))
                for by, n in await asyncio.to_thread(self.site.backend.events, name):
                    self.story.stored.setdefault(by, []).append(n)
        finally:
            await asyncio.gather(*(reader.aclose() for _, reader in readers))
        return self.story

    def _reader(self, run: str, label: str, kind: str) -> tuple[str, Reader]:
        frames: list[Frame] = self.story.readers.setdefault(label, [])
        reader = Reader(self.browser, run, range(len(self.site.urls)), frames)
        reader.start(kind)
        return label, reader

    async def _publish(self, run: str, readers: dict[str, Reader]) -> None:
        number = 2
        while self._goes_on:
            at, count = self._somewhere(), self._chance.randint(1, 4)
            numbers = range(number, number + count)
            number += count
            await emit(self.browser, run, self._user, f"p{at}", numbers, at)
            if self._chance.random() < 0.2:
                await readers["moves"].let_go()
            await self._rest()
