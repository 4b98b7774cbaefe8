"""The eleven things that a visitor does, each in three parts: before, during and after the fault.

Each part asks and writes down. It expects nothing: `invariants` judges the story that comes of it.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, ClassVar

from tests.matrix.clients import Browser, Reader, emit, end
from tests.matrix.history import Story

if TYPE_CHECKING:
    from tests.matrix.site import Site

ROUNDS = 3
ROUND_SECONDS = 0.15


class Action:
    """What one visitor does. `during` is called in rounds: at once, and when all have noticed.

    Attributes:
        last_acts: what is done before the fault and may be lost by a failover.
    """

    def __init__(self, site: Site, *, loses: bool) -> None:
        self.site = site
        self.story = Story(site.mode, len(site.urls), loses)
        self.browser = Browser(site.client, site.urls, self.story)
        self.everywhere = range(len(site.urls))
        self.user = f"u{uuid.uuid4().hex[:8]}"

    @property
    def stories(self) -> list[Story]:
        return [self.story]

    async def before(self) -> None:
        """Prepare what a failover keeps."""

    async def last(self) -> None:
        """Do what a failover loses."""

    async def during(self, number: int) -> None:
        """Act in round *number*, from 0."""

    async def after(self) -> None:
        """Look at what is left, at every process."""

    async def aclose(self) -> None:
        """Leave."""

    async def _log_in_everywhere(self) -> None:
        await self.browser.do("login", "user_id", self.user)
        await self.browser.do("write", "cart", "1")
        await self._read_everywhere()

    async def _read_everywhere(self) -> None:
        for at in self.everywhere:
            await self.browser.do("read", at=at)

    async def _use_it(self) -> None:
        """Find the session again, and go on with it."""
        await self._read_everywhere()
        await self.browser.do("write", "late", "1")
        await self._read_everywhere()


class Anonymous(Action):
    """Look at pages that need no session, and one that asks whether there is one."""

    async def during(self, number: int) -> None:
        for at in self.everywhere:
            await self.browser.do("free", at=at)
            await self.browser.do("read", at=at)

    async def after(self) -> None:
        await self._read_everywhere()


class KnownRead(Action):
    """Be logged in, and read."""

    async def before(self) -> None:
        await self._log_in_everywhere()

    async def last(self) -> None:
        await self.browser.do("write", "last", "1")
        await self._read_everywhere()

    async def during(self, number: int) -> None:
        await self._read_everywhere()

    async def after(self) -> None:
        await self._use_it()


class KnownWrite(KnownRead):
    """Be logged in, and write: a key of each process's own, and read it there."""

    async def during(self, number: int) -> None:
        for at in self.everywhere:
            await self.browser.do("write", f"k{at}", str(number), at=at)
            await self.browser.do("read", at=at)


class Login(Action):
    """Log in, as one who had a cart before, and stay with one process."""

    async def before(self) -> None:
        await self.browser.do("write", "cart", "1")
        await self._read_everywhere()

    async def during(self, number: int) -> None:
        await self.browser.do("login", "user_id", f"{self.user}-{number}")
        await self.browser.do("read")

    async def after(self) -> None:
        await self._use_it()


class Logout(KnownRead):
    """Log out, having kept a copy of the cookie."""

    async def during(self, number: int) -> None:
        if self.browser.cookies.get("session"):
            self.browser.old_cookies = dict(self.browser.cookies)
            await self.browser.do("logout")
        if "session" not in self.browser.cookies:
            for at in self.everywhere:
                await self.browser.do("steal", at=at)

    async def after(self) -> None:
        await self._read_everywhere()
        if "session" not in self.browser.cookies:
            for at in self.everywhere:
                await self.browser.do("steal", at=at)


class Rotate(KnownRead):
    """Renew the cookie, having kept the old one."""

    def __init__(self, site: Site, *, loses: bool) -> None:
        super().__init__(site, loses=loses)
        self._replaced = False

    async def during(self, number: int) -> None:
        act = await self.browser.do("rotate")
        self._replaced = self._replaced or act.cookie == "set"
        await self.browser.do("read")
        if self._replaced:
            await self.browser.do("steal")

    async def after(self) -> None:
        await self._use_it()
        if self._replaced:
            for at in self.everywhere:
                await self.browser.do("steal", at=at)


class Stream(Action):
    """Read a run through it all: one who was there before, and one who comes in the middle."""

    kind: ClassVar[str]
    emits: ClassVar[bool] = False

    def __init__(self, site: Site, *, loses: bool) -> None:
        super().__init__(site, loses=loses)
        self.run = f"run-{uuid.uuid4().hex[:10]}"
        self._readers: list[Reader] = []

    async def before(self) -> None:
        await self._log_in_everywhere()
        await self._emit(range(1, 4))
        self._read("early", 0)
        self._read("early elsewhere", len(self.everywhere) - 1)
        for reader in self._readers:
            await reader.opened()

    async def last(self) -> None:
        await self._emit(range(4, 6))

    async def during(self, number: int) -> None:
        if number == 0:
            self._read("late", len(self.everywhere) // 2)
        for at in self.everywhere if self.emits else [0]:
            first = 6 + 3 * number
            await emit(self.browser, self.run, self.user, f"p{at}", range(first, first + 3), at)

    async def after(self) -> None:
        await self._emit(range(6 + 3 * ROUNDS, 9 + 3 * ROUNDS))
        await end(self.browser, self.run, self.user, 0)
        for at in self.everywhere:
            self._read(f"afterwards, {at}", at)
        await asyncio.gather(*(reader.over() for reader in self._readers))
        for by, n in self.site.backend.events(self.run):
            self.story.stored.setdefault(by, []).append(n)

    async def aclose(self) -> None:
        for reader in self._readers:
            await reader.aclose()

    async def _emit(self, numbers: range) -> None:
        await emit(self.browser, self.run, self.user, "p0", numbers, 0)

    def _read(self, name: str, at: int) -> None:
        frames = self.story.readers.setdefault(name, [])
        # It goes on to the next process whenever it was let go, as behind a load balancer.
        turns = [(at + turn) % len(self.everywhere) for turn in self.everywhere]
        reader = Reader(self.browser, self.run, turns, frames)
        reader.start(self.kind)
        self._readers.append(reader)


class SSE(Stream):
    kind = "sse"


class WebSocket(Stream):
    kind = "ws"


class Publish(Stream):
    """Publish from every process at once."""

    kind = "sse"
    emits = True


class OAuthStart(Action):
    """Begin to log in at a provider while it lasts, and come back from there afterwards."""

    async def during(self, number: int) -> None:
        await self.browser.do("issue", f"v{number}")

    async def after(self) -> None:
        states = [act.body["state"] for act in self.story.acts if act.what == "issue" and act.done]
        for state in states:
            for at in self.everywhere:
                await self.browser.do("consume", state, at=at)
        act = await self.browser.do("issue", "late")
        if act.done:
            await self.browser.do("consume", act.body["state"])


class OAuthCallback(Action):
    """Come back from a provider while it lasts, to every process, and again afterwards."""

    async def last(self) -> None:
        await self.browser.do("issue", "v")

    async def _come_back(self) -> None:
        for act in [act for act in self.story.acts if act.what == "issue" and act.done]:
            for at in self.everywhere:
                await self.browser.do("consume", act.body["state"], at=at)

    async def during(self, number: int) -> None:
        await self._come_back()

    async def after(self) -> None:
        await self._come_back()


ACTIONS: dict[str, type[Action]] = {
    "anonymous": Anonymous,
    "known-read": KnownRead,
    "known-write": KnownWrite,
    "login": Login,
    "logout": Logout,
    "rotate": Rotate,
    "sse": SSE,
    "websocket": WebSocket,
    "publish": Publish,
    "oauth-start": OAuthStart,
    "oauth-callback": OAuthCallback,
}
"""By name, in the order of the table."""
