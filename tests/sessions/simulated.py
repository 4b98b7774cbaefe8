"""Browsers, processes and one Redis in one event loop, where chance decides what happens next.

Middleware, store, journal and scripts are the real ones, and so is Redis; the link is not: each
command waits until it is carried there, and its reply until it is handed over, so that a seed
decides what an outage finds on its way. ``python -m tests.sessions.simulated`` lives thousands of
lives, and tells the ones that went wrong step by step.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.sessions.browser import Browser, app_of
from tests.support.simulated_link import (
    Connection,
    LinkedWorld,
    Recovery,
    SimulatedLink,
    in_thread,
    tell_of_lives,
)

from holdfast.errors import HoldfastError, RedisUnavailable
from holdfast.link import LinkState, LinkStatus
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.outage import presence, replay
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

__all__ = ["Connection", "Process", "Recovery", "World", "in_thread", "life"]

KEY = "a key of more than sixteen characters"
_HEX = re.compile(r"[0-9a-f]{64}")


class Process:
    """One process: its link, its store, and the middleware in front of any handler."""

    def __init__(self, world: World, number: int, settings: Settings, room: int) -> None:
        self.name = f"p{number}"
        self.settings = settings
        self.link = SimulatedLink(world)
        #: How often the link has come up: who saw it down, and as often up, has sent nothing.
        self.times_up = 1
        self.store = FallbackSessionStore(settings, link=self.link, max_sessions=room)  # type: ignore[arg-type]
        self.store._patience = 0.005
        self.door = SessionMiddleware(_nothing, settings=settings, store=self.store)

    async def serve(self, cookies: dict[str, str], handle: Callable[[Any], Any]) -> tuple[int, str]:
        """Have *handle* use the session of *cookies*; return the status and change the cookies."""
        self_door = SessionMiddleware(app_of(handle), settings=self.settings, store=self.store)
        browser = Browser(self_door, cookies)
        answer = await browser.get()
        return answer.status, answer.set_cookie or ""


async def _nothing(*_: Any) -> None:
    """No application."""


@dataclass
class Visitor:
    """One session, as its browser knows it, and what may be true of it.

    Attributes:
        inside: logged in; ``None`` where an answer left it open.
        values: by key, what may be found there, ``None`` for nothing; one unless in doubt.
        dead: cookies that are good no more.
        planted: cookies from before a login, which another may have: good until it at most, and
            nobody is logged in with one.
        browsed: what is there without a login; ``None`` where nobody can tell.
        epoch: how often its cookie was given up: what was asked before is not judged by it.
    """

    name: str
    at: int
    cookies: dict[str, str] = field(default_factory=dict)
    inside: bool | None = False
    values: dict[str, set[Any]] = field(default_factory=dict)
    dead: list[dict[str, str]] = field(default_factory=list)
    planted: list[dict[str, str]] = field(default_factory=list)
    browsed: int | None = None
    epoch: int = 0
    acting: asyncio.Task[None] | None = None
    looking: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return self.acting is None or self.acting.done()

    def begin(self, *, fresh: bool) -> None:
        """Be logged in: into a session of its own, or one that may be that of before."""
        kept = {} if fresh else {key: values | {None} for key, values in self.values.items()}
        self.inside, self.values, self.browsed = True, kept | {"user_id": {self.name}}, None

    def may_be(self, key: str) -> set[Any]:
        return self.values.setdefault(key, {None})


class World(LinkedWorld[Process]):
    """Everything, and what is done to it.

    Args:
        redis: a connection to a Redis of its own.
        seed: everything follows from it.
        processes: how many there are.
        losses: Redis may come back without what it had. Then only who has logged out is looked
            at: who was not seen since the loss before is lost, and so is a new secret.
        mode: of the processes in an outage. But in ``local`` visitors go anywhere at any time.
    """

    def __init__(
        self,
        redis: Connection,
        seed: int,
        processes: int,
        *,
        losses: bool = False,
        mode: str = "local",
    ) -> None:
        super().__init__(redis, random.Random(seed), _WEIGHTS)
        self.losses = losses
        self.kept_here = mode == "local"
        # Some have no room for all that happens; who has forgotten a logout cannot tell it again.
        self.room = 100 if losses else self.chance.choice((1, 2, 3, 100, 100, 100))
        settings = Settings(
            redis_url="redis://unused",
            secret_key=KEY,
            session_idle_timeout=self.chance.choice((0, 3600)),
            session_on_outage=mode,
        )
        self.processes = [Process(self, number, settings, self.room) for number in range(processes)]
        self.visitors = [
            Visitor(f"v{number}", self.chance.randrange(processes)) for number in range(4)
        ]
        self.wrong: list[str] = []
        self._life = 0
        self._numbers = iter(range(1, 10**9))
        self._kept: dict[bytes, tuple[int, bytes]] = {}
        self._lost = False

    @property
    def alone(self) -> bool:
        return len(self.processes) == 1

    def blame(self, text: str) -> None:
        self.note(f"WRONG: {text}")
        self.wrong.append(text)

    def carry(self, args: Sequence[Any]) -> Any:
        """Have Redis do something."""
        reply = super().carry(args)
        script = self.redis.scripts.get(str(args[1])) if args[0] == "EVALSHA" else None
        if script is not None and script.name == "session_attend" and isinstance(reply, list):
            # The one Redis of all these lives plays one that is started again.
            reply[1] = b"%040x" % self._life
        self.note(f"    Redis gets {self._short(args)} -> {self._short([reply])}")
        return reply

    def _short(self, args: Sequence[Any]) -> str:
        text = self.redis.spelled(args)
        return _HEX.sub(lambda found: f"{found[0][:6]}…", text)[:400]

    # -- what happens on the way

    async def part(self, process: Process, state: LinkState) -> None:
        """What the connection has is still there; nothing more is sent over it."""
        process.link.part()
        process.link.tell(state)

    async def recover(self, process: Process, *, surely: bool = False) -> None:
        """Redis is back for this process, perhaps only for a part of what is to be written."""
        link = process.link
        if link.up:
            return
        # What comes over one connection after the first of the next is nobody's order any more:
        # closed with its data, it does not come.
        for wire in link.old:
            if self.chance.random() < 0.5:
                while wire.sent:
                    self._carry_one(process)
            for _, future in wire.sent:
                if not future.done():
                    future.set_exception(RedisUnavailable("reset"))
            wire.sent.clear()
        link.old = [wire for wire in link.old if wire.carried]
        calls = 999 if surely or self.chance.random() < 0.6 else self.chance.randint(0, 6)
        self.note(f"{process.name}: RECOVERING, {calls} calls")
        link.status = LinkStatus(LinkState.RECOVERING, time.time(), "refused")
        if not self._have_run(process, link.hooks, calls):
            self.note(f"{process.name}: DOWN again")
            link.status = LinkStatus(LinkState.DOWN, time.time(), "refused")
            return
        await self.some_turns()
        self.note(f"{process.name}: UP")
        process.times_up += 1
        link.up = True
        await self.some_turns()
        link.tell(LinkState.UP)

    def _have_run(self, process: Process, hooks: list[Callable[[Any], None]], calls: int) -> bool:
        recovery = Recovery(self, calls)
        for hook in list(hooks):
            with pytest.MonkeyPatch.context() as patched:
                # Each of these processes has a name of its own.
                patched.setattr(presence, "_token", lambda _: process.name)
                try:
                    in_thread(lambda hook=hook: hook(recovery))  # type: ignore[misc]
                except RedisUnavailable:
                    return False
        return True

    async def beat(self, process: Process) -> None:
        """The process says that it is there."""
        if process.link.up:
            self._have_run(process, process.link.beats, 999)

    async def restart(self, _: Process) -> None:
        """Redis is started anew, with all that it had."""
        await self._all_down()
        self._life += 1
        self.note("Redis is started again")

    async def save(self, _: Process) -> None:
        """Redis keeps what it has now."""
        keys = self.redis.call("KEYS", "*")
        self._kept = {
            key: (self.redis.call("PTTL", key), self.redis.call("DUMP", key)) for key in keys
        }

    async def lose(self, process: Process) -> None:
        """Redis is away from everybody, and comes back with what it once had."""
        if not self.losses or self.chance.random() < 0.5:
            return
        await self.restart(process)
        for each in self.processes:
            for wire in each.link.old:
                wire.lose()
                wire.sent.clear()
        self.note(f"Redis loses all but {len(self._kept)} keys of old")
        self._lost = True
        for key in self.redis.call("KEYS", "*"):
            self.redis.call("DEL", key)
        for key, (left, value) in self._kept.items():
            self.redis.call("RESTORE", key, max(0, left), value)

    async def _all_down(self) -> None:
        for process in self.processes:
            await self.cut(process)
            if process.link.status.state is not LinkState.DOWN:
                process.link.tell(LinkState.DOWN)

    # -- what visitors do

    async def act(self, _: Process) -> None:
        """A visitor does something, at the process where it is."""
        visitor = self.chance.choice(self.visitors)
        if not visitor.idle:
            return
        if visitor.inside is None:
            return  # nobody knows; nothing is to be learnt of it any more
        if not self.kept_here:
            visitor.at = self.chance.randrange(len(self.processes))
        here = _DEEDS if self.kept_here else _DEEDS_ANYWHERE
        deeds = here if visitor.inside else _ARRIVALS
        deed = self.chance.choices(*deeds)[0]
        visitor.acting = asyncio.create_task(self._done(deed, visitor))

    async def _done(self, deed: Callable[..., Awaitable[None]], visitor: Visitor) -> None:
        process = self.processes[visitor.at]
        self.note(f"{visitor.name} at {process.name}: {deed.__name__}")
        try:
            await deed(self, visitor, process)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            self.blame(f"{visitor.name}: {deed.__name__} raised {error!r}")

    async def _asked(
        self,
        visitor: Visitor,
        process: Process,
        do: Callable[[Any], Any],
        cookies: dict[str, str] | None = None,
    ) -> tuple[int, bool]:
        """Have the session used.

        Returns:
            The status, and whether Redis surely heard nothing.
        """
        before, was_up = process.times_up, process.link.up

        async def handle(session: Any) -> None:
            self._judge(visitor, session)
            result = do(session)
            if asyncio.iscoroutine(result):
                await result

        cookies = visitor.cookies if cookies is None else cookies
        status, set_cookie = await process.serve(cookies, handle)
        told = f" and the cookie {set_cookie[:14]}…" if set_cookie else ""
        self.note(f"{visitor.name} at {process.name}: is answered {status}{told}")
        if status not in {200, 503}:
            self.blame(f"{visitor.name} is answered {status}")
        return status, not was_up and process.times_up == before

    def _judge(self, visitor: Visitor, session: Any) -> None:
        if not session.available or not visitor.inside or self._lost:
            return
        data = dict(session)
        self.note(f"{visitor.name} sees {data} {session.degraded or ''}")
        if data.get("user_id") != visitor.name:
            self.blame(f"{visitor.name} is logged out: it sees {data}")
            return
        if session.degraded == "stale" and not self.alone:
            return  # a copy of before it was elsewhere
        for key, values in visitor.values.items():
            if data.get(key) not in values:
                self.blame(f"{visitor.name} sees {key}={data.get(key)}, and not of {values}")

    async def log_in(self, visitor: Visitor, process: Process) -> None:
        """A new session, or one that is there and whose cookie another may have planted."""
        before = dict(visitor.cookies)
        status, _ = await self._asked(
            visitor, process, lambda session: session.update(user_id=visitor.name)
        )
        if status == 200 and (visitor.cookies != before or not before):
            visitor.begin(fresh=not before)
            if before and not self.losses:
                visitor.dead.append(before)
        elif status == 200:
            # Another has it by now, or it was refused before, and done all the same.
            if not self.kept_here and not self._lost:
                self.blame(f"{visitor.name} has logged in, and has the cookie from before")
            visitor.cookies.clear()
            visitor.browsed = None

    async def browse(self, visitor: Visitor, process: Process) -> None:
        """Something is put into a cart before the login."""
        before, number = dict(visitor.cookies), next(self._numbers)
        browse = self._asked(visitor, process, lambda session: session.update(cart=number))
        status, sure = await browse
        if visitor.cookies and visitor.cookies not in visitor.planted:
            visitor.planted.append(dict(visitor.cookies))
        if visitor.cookies != before or (status == 200 and not self.kept_here):
            visitor.browsed = number
        elif before and (status == 200 or not sure):
            visitor.browsed = None

    async def read(self, visitor: Visitor, process: Process) -> None:
        """A look."""
        await self._asked(visitor, process, dict)

    async def write(self, visitor: Visitor, process: Process) -> None:
        """A key is written."""
        key, number = f"k{self.chance.randrange(2)}.{process.name}", next(self._numbers)
        answer = await self._asked(visitor, process, lambda session: session.update({key: number}))
        self._became(visitor, key, number, *answer)

    async def remove(self, visitor: Visitor, process: Process) -> None:
        """A key is removed."""
        key = f"k{self.chance.randrange(2)}.{process.name}"
        removed = []
        remove = lambda session: removed.append(session.pop(key, None))  # noqa: E731
        answer = await self._asked(visitor, process, remove)
        if self.kept_here or removed != [None]:
            # A copy of earlier may not have it; then nothing is removed.
            self._became(visitor, key, None, *answer)

    async def count(self, visitor: Visitor, process: Process) -> None:
        """A number is added to."""
        key, told = f"n.{process.name}", []

        async def add(session: Any) -> None:
            told.append(await session.incr(key))

        possible = {(each or 0) + 1 for each in visitor.may_be(key)}
        status, sure = await self._asked(visitor, process, add)
        if told:
            # It is stored as soon as it is told.
            if told[0] not in possible and not self._lost:
                self.blame(f"{visitor.name} counts {told[0]}, and not one of {possible}")
            visitor.values[key] = {told[0]}
        elif status != 200 and not sure:
            visitor.values[key] = visitor.may_be(key) | possible

    def _became(self, visitor: Visitor, key: str, value: Any, status: int, sure: bool) -> None:
        if status == 200:
            visitor.values[key] = {value}
        elif not sure:
            visitor.may_be(key).add(value)

    async def rotate(self, visitor: Visitor, process: Process) -> None:
        """The cookie is renewed."""
        before = dict(visitor.cookies)
        visitor.epoch += 1
        status, _ = await self._asked(visitor, process, lambda session: session.regenerate_id())
        visitor.epoch += 1
        if visitor.cookies != before and not self.losses:
            visitor.dead.append(before)
        if (status == 200) != (visitor.cookies != before) and not self._lost:
            self.blame(f"{visitor.name} rotates, is answered {status}, and has {visitor.cookies}")

    async def leave(self, visitor: Visitor, process: Process) -> None:
        """The session goes on without a user, under another cookie."""
        visitor.epoch += 1
        before = dict(visitor.cookies)
        # Where nothing else is in it, it ends.
        leave = lambda session: session.update(cart=session.pop("user_id", 0))  # noqa: E731
        status, sure = await self._asked(visitor, process, leave)
        visitor.epoch += 1
        if status == 200:
            visitor.dead.append(before)
            # What else was in it stays, and is there after the next login.
            visitor.inside, visitor.browsed = False, None
            if visitor.cookies == before and not self._lost:
                self.blame(f"{visitor.name} has left, and keeps its cookie")
        elif not sure:
            visitor.inside = None

    async def log_out(self, visitor: Visitor, process: Process) -> None:
        """The session is ended."""
        await self._ended(visitor, process, lambda session: session.invalidate())

    async def clear(self, visitor: Visitor, process: Process) -> None:
        """The session is emptied, which ends it."""
        await self._ended(visitor, process, lambda session: session.clear())

    async def _ended(self, visitor: Visitor, process: Process, end: Callable[[Any], None]) -> None:
        before = dict(visitor.cookies)
        visitor.epoch += 1
        status, sure = await self._asked(visitor, process, end)
        visitor.epoch += 1
        if status == 200:
            visitor.dead.append(before)
            visitor.inside, visitor.values = False, {}
            if visitor.cookies and not self._lost:
                self.blame(f"{visitor.name} has logged out, and keeps its cookie")
        elif not sure:
            visitor.inside = None

    async def look(self, _: Process) -> None:
        """Another tab reads, at the same time; or somebody with a cookie of old."""
        visitor = self.chance.choice(self.visitors)
        if visitor.looking is not None and not visitor.looking.done():
            return
        dead = bool(visitor.dead) and self.chance.random() < 0.5
        looked = self._looked_dead if dead else self._looked
        if visitor.planted and self.chance.random() < 0.5:
            looked = self._looked_planted
        visitor.looking = asyncio.create_task(looked(visitor, self.processes[visitor.at]))

    async def _looked(self, visitor: Visitor, process: Process) -> None:
        epoch = visitor.epoch
        seen: list[dict[str, Any] | None] = []
        known = visitor.inside
        status, _ = await process.serve(
            dict(visitor.cookies), lambda s: seen.append(dict(s) if s.available else None)
        )
        if status != 200:
            self.blame(f"a tab of {visitor.name} is answered {status}")
        for data in seen:
            # An odd one: the cookie was being given up when it began to look.
            if data is None or epoch % 2 or epoch != visitor.epoch:
                continue
            if not (known and visitor.inside):
                continue
            if self._lost:
                continue
            if data.get("user_id") != visitor.name:
                self.blame(f"a tab of {visitor.name} is logged out: it sees {data}")

    async def _looked_dead(self, visitor: Visitor, process: Process) -> None:
        cookies = self.chance.choice(visitor.dead)
        seen: list[dict[str, Any]] = []
        await process.serve(dict(cookies), lambda s: seen.append(dict(s)))
        if self.alone and not self._lost and any(seen):
            self.blame(f"a cookie of {visitor.name} is back from the dead: it sees {seen}")

    async def _looked_planted(self, visitor: Visitor, process: Process) -> None:
        cookies = self.chance.choice(visitor.planted)
        await process.serve(dict(cookies), lambda s: self._judge_planted(visitor, dict(s)))

    def _judge_planted(self, visitor: Visitor, seen: dict[str, Any]) -> None:
        if "user_id" in seen:
            self.blame(f"a cookie from before the login of {visitor.name} sees {seen}")

    async def move(self, process: Process) -> None:
        """A visitor goes elsewhere, when nothing of it waits where it was."""
        visitor = self.chance.choice(self.visitors)
        link = self.processes[visitor.at].link
        waiting = self.processes[visitor.at].store.waiting
        held = self.kept_here and (waiting or not link.up)
        if self.alone or not visitor.idle or held or visitor.inside is None:
            return
        visitor.at = self.processes.index(process)
        self.note(f"{visitor.name} goes to {process.name}")

    # -- a life

    async def live(self, steps: int) -> list[str]:
        """Live, and return what went wrong."""
        for process in self.processes:
            process.link.tell(LinkState.STARTING)
            await self.recover(process, surely=True)
        for _ in range(steps):
            await self.step()
        await self._settle()
        for process in self.processes:
            await self._check(process)
        await self._check(Process(self, 99, self.processes[0].settings, 100))
        return self.wrong

    async def _settle(self) -> None:
        """Have everything well again, and all said."""
        quiet, turns = 0, 0
        while quiet < 3:
            for process in self.processes:
                await self.recover(process, surely=True)
                for _ in range(30):
                    self._carry_all(process)
                    await asyncio.sleep(0)
            await asyncio.sleep(0.002)
            busy = any(task for task in self._tasks() if not task.done())
            quiet = 0 if busy else quiet + 1
            turns += 1
            if turns > 2000:
                self.blame("somebody got no answer")
                return
        for process in self.processes:
            await self.beat(process)
            if process.store.waiting:
                self.blame(f"{process.name} still has something to tell Redis")

    def _tasks(self) -> Iterator[asyncio.Task[None]]:
        for visitor in self.visitors:
            yield from filter(None, (visitor.acting, visitor.looking))

    async def _check(self, process: Process) -> None:
        """Look at every cookie there was, with all well."""
        self.note(f"{process.name} is asked at the end")
        for visitor in self.visitors:
            if visitor.inside and not self._lost:
                seen = await self._seen(process, visitor.cookies)
                if seen is None or seen.get("user_id") != visitor.name:
                    self.blame(f"at the end {visitor.name} is logged out at {process.name}: {seen}")
                    continue
                for key, values in visitor.values.items():
                    if seen.get(key) not in values:
                        text = f"{key}={seen.get(key)} at {process.name}, and not of {values}"
                        self.blame(f"at the end {visitor.name} has {text}")
            await self._check_before_login(visitor, process)
            for cookies in visitor.dead:
                if await self._seen(process, cookies):
                    self.blame(f"at the end a cookie of {visitor.name} is back from the dead")

    async def _check_before_login(self, visitor: Visitor, process: Process) -> None:
        if visitor.browsed is not None and not self._lost:
            seen = await self._seen(process, visitor.cookies)
            # What it had before it left may be there as well.
            if seen is None or seen.get("cart") != visitor.browsed or "user_id" in seen:
                self.blame(f"at the end {visitor.name} browses {seen} at {process.name}")
        for cookies in visitor.planted:
            self._judge_planted(visitor, await self._seen(process, cookies) or {})

    async def _seen(self, process: Process, cookies: dict[str, str]) -> dict[str, Any] | None:
        seen: list[dict[str, Any] | None] = []
        look = process.serve(dict(cookies), lambda s: seen.append(dict(s) if s.available else None))
        await self.driven(process, look)
        return seen[0]

    async def driven(self, process: Process, work: Awaitable[Any]) -> None:
        """Have *work* done, with all that it asks carried and answered."""
        done = asyncio.ensure_future(work)
        while not done.done():
            self._carry_all(process)
            await asyncio.sleep(0)
        await done

    async def aclose(self) -> None:
        for task in self._tasks():
            task.cancel()
        await asyncio.gather(*self._tasks(), return_exceptions=True)


_WEIGHTS = (
    (
        World.carry_one,
        World.answer_one,
        World.converse,
        World.act,
        World.look,
        World.cut,
        World.be_late,
        World.recover,
        World.beat,
        World.restart,
        World.move,
        World.wait,
        World.save,
        World.lose,
    ),
    (20, 20, 10, 30, 5, 5, 4, 10, 2, 1, 4, 3, 2, 2),
)
_ARRIVALS = ((World.log_in, World.browse), (2, 1))
_DEEDS = (
    (
        World.read,
        World.write,
        World.remove,
        World.count,
        World.rotate,
        World.log_out,
        World.clear,
    ),
    (4, 10, 3, 5, 7, 2, 1),
)
_DEEDS_ANYWHERE = ((*_DEEDS[0], World.leave), (*_DEEDS[1], 2))


async def life(
    redis: Connection,
    seed: int,
    *,
    steps: int = 150,
    processes: int = 1,
    losses: bool = False,
    mode: str = "local",
) -> tuple[list[str], list[str]]:
    """Return what went wrong in one life, and what happened in it.

    Args:
        redis: of which everything is deleted.
        seed: what is done, and when, follows from it.
        steps: how much happens before everything is well again.
        processes: how many there are.
        losses: Redis may come back without what it had.
        mode: of the processes in an outage.
    """
    redis.call("FLUSHALL")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replay, "_TURN_SECONDS", 0.01)
        world = World(redis, seed, processes, losses=losses, mode=mode)
        try:
            async with asyncio.timeout(60):
                return await world.live(steps), world.log
        except (TimeoutError, HoldfastError) as error:
            return [f"it came to no end: {error!r}"], world.log
        finally:
            await world.aclose()


if __name__ == "__main__":
    title = (__doc__ or "").partition("\n")[0]
    modes = ("local", "readonly", "closed")
    sys.exit(tell_of_lives(life, Connection, title, steps=150, processes=1, modes=modes))
