"""Several processes and one Redis in one event loop, where chance decides what happens next.

Stores, hubs and doors are the real ones, and so is Redis; the link is not: each command waits until
it is carried there, and its reply until it is handed over, so that a seed decides what an outage
finds on its way. ``python -m tests.streams.simulated`` lives thousands of lives, and tells the ones
that went wrong step by step.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.matrix.history import Act, Frame, Story
from tests.matrix.invariants import delivered
from tests.support import simulated_link
from tests.support.simulated_link import LinkedWorld, Recovery, in_thread, tell_of_lives

from holdfast.errors import RedisUnavailable
from holdfast.link import LinkState, LinkStatus, Script
from holdfast.settings import Settings
from holdfast.streams.cursor import Cursor, parse_position
from holdfast.streams.doors import sse
from holdfast.streams.fanout.hub import Hub
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.store import Draft
from holdfast.streams.stores import redis_bell
from holdfast.streams.stores.redis import RedisEventStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RUN = "r"
_SCRIPTS = ("stream_publish", "stream_append", "stream_look", "stream_audit")


class Connection(simulated_link.Connection):
    """One connection to a real Redis, and another that hears what is published there."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._news = simulated_link.Connection(port)
        self._news.call("PSUBSCRIBE", "*")
        for name in _SCRIPTS:
            self.learn(Script.load(name))

    def heard(self) -> Iterator[tuple[bytes, bytes]]:
        """What has been published since this was last asked."""
        reply = self._news.call("PING")
        while reply[0] != b"pong":
            yield reply[2], reply[3]
            reply = self._news.read()

    def close(self) -> None:
        super().close()
        self._news.close()


class SimulatedLink(simulated_link.SimulatedLink):
    """One with a listener beside it."""

    listener: SimulatedListener | None = None


class SimulatedListener:
    """Pub/Sub of one process: messages wait until they are handed over."""

    def __init__(
        self,
        link: SimulatedLink,
        on_message: Callable[[bytes, bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        self.on_message, self.on_gap = on_message, on_gap
        self.channels: set[bytes] = set()
        self.inbox: deque[tuple[bytes, bytes]] = deque()
        self.connected = link.up
        link.listener = self

    async def add(self, *channels: str) -> None:
        self.channels.update(channel.encode() for channel in channels)
        await asyncio.sleep(0)

    async def discard(self, channel: str) -> None:
        self.channels.discard(channel.encode())

    async def aclose(self) -> None:
        self.channels.clear()


class Process:
    """One process: its link, store and hub, and who publishes there."""

    def __init__(self, world: World, number: int, settings: Settings) -> None:
        self.name = f"p{number}"
        self.link = SimulatedLink(world)
        self.store = RedisEventStore(self.link, settings)  # type: ignore[arg-type]
        self.hub = Hub(self.store)
        assert self.link.listener is not None
        self.listener = self.link.listener
        self.number = 0
        self.emitting: asyncio.Task[Any] | None = None


@dataclass
class Told:
    """One thing that a reader was told."""

    kind: str
    id: str
    by: str = ""
    n: int = 0


@dataclass
class Reader:
    """One reader, by ``text/event-stream``, at whatever process."""

    name: str
    told: list[Told] = field(default_factory=list)
    last_id: str = ""
    at: int = 0
    status: int = 0
    task: asyncio.Task[None] | None = None
    text: str = ""

    @property
    def over(self) -> bool:
        return (bool(self.told) and self.told[-1].kind == "end") or self.status == 204

    def start(self, process: Process) -> None:
        self.status = 0
        self.task = asyncio.create_task(self._read(process.hub))

    async def leave(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.text = ""

    async def _read(self, hub: Hub) -> None:
        async def receive() -> Any:
            await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            else:
                self._hear(message["body"].decode())

        position = parse_position(self.last_id)
        assert position is not None
        terms = sse.Terms(wait=15, heartbeat=1e6, retry=1)
        scope: Any = {"type": "http", "method": "GET"}
        subscription = Subscription(hub, RUN, position)
        await sse.serve(hub, subscription, position, terms, scope, receive, send)

    def _hear(self, text: str) -> None:
        self.text += text
        while "\n\n" in self.text:
            block, _, self.text = self.text.partition("\n\n")
            fields = dict(line.partition(": ")[::2] for line in block.splitlines())
            self.last_id = fields.get("id", self.last_id)
            kind = fields.get("event", "")
            if kind == "t":
                body = json.loads(fields["data"])
                self.told.append(Told("event", self.last_id, body["p"], body["n"]))
            elif kind == "workflow_complete":
                self.told.append(Told("end", self.last_id))
            elif kind.startswith("holdfast."):
                self.told.append(Told(kind.removeprefix("holdfast."), self.last_id))


class World(LinkedWorld[Process]):
    """Everything, and what is done to it.

    Args:
        redis: a connection to a Redis of its own.
        seed: everything follows from it.
        processes: how many there are.
        losses: Redis may come back without what it had.
    """

    redis: Connection

    def __init__(
        self, redis: Connection, seed: int, processes: int, *, losses: bool = False
    ) -> None:
        super().__init__(redis, random.Random(seed), _WEIGHTS)
        self.losses = losses
        settings = Settings(redis_url="redis://unused", redis_timeout=30)
        self.processes = [Process(self, number, settings) for number in range(processes)]
        self.readers: list[Reader] = []
        self.acked: dict[str, list[int]] = {}
        self.ended = False
        # What Redis had once, by key; and what had been acknowledged when it lost something.
        self._kept: dict[bytes, bytes] = {}
        self._at_risk: dict[str, set[int]] = {}
        self._lost = False
        self._held: list[str] = []

    def carry(self, args: Sequence[Any]) -> Any:
        """Have Redis do something, and put what it publishes on its way."""
        reply = super().carry(args)
        for channel, payload in self.redis.heard():
            for process in self.processes:
                if process.listener.connected and channel in process.listener.channels:
                    process.listener.inbox.append((channel, payload))
        return reply

    def carry_for(self, process: Process, args: Sequence[Any]) -> Any:
        reply = self.carry(args)
        self.note(f"{process.name}: Redis gets {self._short(args)} -> {self._short([reply])}")
        return reply

    def _short(self, args: Sequence[Any]) -> str:
        return self.redis.spelled(args)[:300]

    def gone(self, process: Process) -> None:
        super().gone(process)
        process.listener.connected = False
        process.listener.inbox.clear()

    def late(self, process: Process) -> None:
        if self.chance.random() < 0.5:
            self.gone(process)

    # -- steps

    async def ring_one(self, process: Process) -> None:
        """The next bell is heard."""
        if process.listener.inbox:
            process.listener.on_message(*process.listener.inbox.popleft())

    async def emit(self, process: Process) -> None:
        """A process publishes an event, or two."""
        if not self.ended and (process.emitting is None or process.emitting.done()):
            count = self.chance.choice((1, 1, 1, 2))
            numbers = [process.number + each + 1 for each in range(count)]
            process.number += count
            self.note(f"{process.name}: emits {numbers}")
            process.emitting = asyncio.create_task(self._emitted(process, numbers))

    async def end(self, process: Process, *, surely: bool = False) -> None:
        """Somebody ends the run, when nobody else has anything on its way."""
        if self.ended or (not surely and self.chance.random() < 0.7):
            return
        for each in self.processes:
            if each.emitting is not None and not each.emitting.done():
                return
            if each is not process and each.store._outbox.waiting_runs():
                return
        lane = process.store._outbox._lanes.get(RUN)
        others = any(each.number for each in self.processes if each is not process)
        if others and not surely and (lane is None or lane.alone):
            return  # it cannot know of the others, and tells the end at once: not promised
        if self._lost and not all(each.link.up for each in self.processes):
            return  # what was lost and is to be written again is refused after an end
        self.ended = True
        self.note(f"{process.name}: ends the run")
        drafts = [Draft("workflow_complete", b"{}")]
        process.emitting = asyncio.create_task(process.store.append(RUN, drafts))

    async def _emitted(self, process: Process, numbers: Sequence[int]) -> None:
        drafts = [Draft("t", b'{"p":"%s","n":%d}' % (process.name.encode(), n)) for n in numbers]
        entries = await process.store.append(RUN, drafts)
        self.note(f"{process.name}: has emitted {[entry.public_id for entry in entries]}")
        self.acked.setdefault(process.name, []).extend(numbers)

    async def save(self, _: Process) -> None:
        """Redis keeps what it has now."""
        keys = self.redis.call("KEYS", "*")
        self._kept = {key: self.redis.call("DUMP", key) for key in keys}

    async def lose(self, _: Process) -> None:
        """Redis is away from everybody, and comes back with what it once had."""
        if not self.losses or self.ended or self.chance.random() < 0.5:
            return
        for process in self.processes:
            await self.cut(process)
            self.gone(process)
            for wire in process.link.old:
                wire.lose()
                wire.sent.clear()
        self.note(f"Redis loses all but {len(self._kept)} keys of old")
        self._lost = True
        for by, numbers in self.acked.items():
            self._at_risk.setdefault(by, set()).update(numbers)
        for key in self.redis.call("KEYS", "*"):
            self.redis.call("DEL", key)
        for key, value in self._kept.items():
            self.redis.call("RESTORE", key, 0, value)

    async def recover(self, process: Process, *, surely: bool = False) -> None:
        """Redis is back for this process, perhaps only for a part of what is to be written."""
        link = process.link
        if link.up:
            return
        calls = 99 if surely or self.chance.random() < 0.7 else self.chance.randint(0, 3)
        self.note(f"{process.name}: RECOVERING, {calls} calls")
        link.status = LinkStatus(LinkState.RECOVERING, time.time(), "refused")
        recovery = Recovery(self, calls)
        try:
            for hook in link.hooks:
                in_thread(lambda hook=hook: hook(recovery))  # type: ignore[misc]
        except RedisUnavailable:
            self.note(f"{process.name}: DOWN again")
            return
        await self.some_turns()
        self.note(f"{process.name}: UP")
        link.up = True
        await self.some_turns()
        link.tell(LinkState.UP)

    async def reconnect(self, process: Process) -> None:
        """The bells hang again."""
        if process.link.up and not process.listener.connected:
            self.note(f"{process.name}: hears again")
            process.listener.connected = True
            process.listener.on_gap()

    async def audit(self, process: Process) -> None:
        """The hub looks whether it has lost a bell."""
        process.hub._audit_now.set()

    async def join(self, process: Process) -> None:
        """A reader comes, from the start or with the cursor of another."""
        if len(self.readers) >= 6:
            return
        reader = Reader(f"r{len(self.readers)}")
        known = [(each, n) for each in self.readers for n in range(len(each.told))]
        if known and self.chance.random() < 0.7:
            other, count = self.chance.choice(known)
            reader.told = other.told[: count + 1]
            reader.last_id = reader.told[-1].id
            reader.name += f" from {other.name}"
        self.readers.append(reader)
        reader.at = self.processes.index(process)
        self.note(f"{reader.name} joins {process.name} with {reader.last_id!r}")
        reader.start(process)

    async def move(self, process: Process) -> None:
        """A reader goes elsewhere, with the last position it was given."""
        moving = [reader for reader in self.readers if not reader.over]
        if moving:
            reader = self.chance.choice(moving)
            await reader.leave()
            reader.at = self.processes.index(process)
            self.note(f"{reader.name} moves to {process.name} with {reader.last_id!r}")
            reader.start(process)

    async def stay_away(self, process: Process) -> None:
        """Redis is away for long: who reads where an event is published gets it all the same."""
        up = process.link.up
        if self.ended or not (up or process.link.status.state is LinkState.DOWN):
            return
        for wire in process.link.old:
            wire.lose()
            wire.sent.clear()
        await self._turns()
        ready = [each for each in self.readers if self._is_up_to_date(each, process)]
        known = list(self.acked.get(process.name, ()))
        await self.emit(process)
        await self._turns()
        if up:
            await self.cut(process)
            await self._turns()
        news = [n for n in self.acked.get(process.name, ()) if n not in known]
        for reader in ready:
            if not self._lost and not self._has(reader, process):
                self._held.append(f"{reader.name} at {process.name} is not shown {news}")
                self.note(self._held[-1])

    def _is_up_to_date(self, reader: Reader, process: Process) -> bool:
        """Whether it reads there and has seen everything, as its process has."""
        ring, position = process.hub._rings.get(RUN), parse_position(reader.last_id)
        if self.processes[reader.at] is not process or reader.status != 200 or ring is None:
            return False
        if not isinstance(position, Cursor) or ring.locate(position.base) is None:
            return False
        stored = self.redis.call("XREVRANGE", process.store.keys(RUN).stream, "+", "-", "COUNT", 1)
        if stored and str(ring.last) != stored[0][0].decode():
            return False
        return all(self._has(reader, each) for each in self.processes)

    def _has(self, reader: Reader, process: Process) -> bool:
        got = {told.n for told in reader.told if told.by == process.name}
        return got >= set(self.acked.get(process.name, ()))

    async def _turns(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    # -- a life

    async def live(self, steps: int) -> list[str]:
        """Live, and return what went wrong."""
        await self.emit(self.processes[0])
        await self._settle()
        # Some readers come before anything happens, as most do.
        for _ in range(self.chance.randint(0, 3)):
            await self.join(self.chance.choice(self.processes))
        for _ in range(steps):
            await self.step()
        await self._settle()
        while not self.ended and not self._unanswered():
            await self.end(self.processes[0], surely=True)
        await self._settle()
        for reader in self.readers:
            seen = (f"{each.kind} {each.by}{each.n or ''} at {each.id}" for each in reader.told)
            self.note(f"{reader.name} saw: {', '.join(seen)}")
        wrong = [text for reader in self.readers for text in self._judge(reader)]
        wrong += self._unanswered() + self._held
        return wrong + (delivered(self._story()) if self._lost else [])

    def _unanswered(self) -> list[str]:
        emitting = [each.emitting for each in self.processes if each.emitting is not None]
        return [f"{each} got no answer" for each in emitting if not each.done()]

    def _story(self) -> Story:
        """What was seen, for the judge of what Redis lost."""
        acts = [
            Act(
                "before" if n in self._at_risk.get(by, ()) else "after",
                "emit",
                200,
                argument=(by, [n]),
            )
            for by, numbers in self.acked.items()
            for n in numbers
        ]
        story = Story("local", len(self.processes), loses=True, acts=acts)
        for reader in self.readers:
            story.readers[reader.name] = [Frame(each.kind, each.by, each.n) for each in reader.told]
        stream = self.processes[0].store.keys(RUN).stream
        for _, fields in self.redis.call("XRANGE", stream, "-", "+"):
            if fields[1] == b"t":
                body = json.loads(fields[3])
                story.stored.setdefault(body["p"], []).append(body["n"])
        return story

    async def _settle(self) -> None:
        """Have everything well again, and all said."""
        quiet = 0
        while quiet < 4:
            for process in self.processes:
                await self.recover(process, surely=True)
                await self.reconnect(process)
                process.hub._audit_now.set()
            before = self._state()
            for _ in range(30):
                for process in self.processes:
                    self._carry_all(process)
                    while process.listener.inbox:
                        await self.ring_one(process)
                await asyncio.sleep(0)
            for reader in self.readers:
                if reader.task is not None and reader.task.done() and not reader.over:
                    reader.start(self.processes[reader.at])
            quiet = quiet + 1 if before == self._state() else 0

    def _state(self) -> Any:
        return [len(reader.told) for reader in self.readers], self.acked

    def _judge(self, reader: Reader) -> Iterator[str]:
        if not reader.over:
            yield f"{reader.name} was never told the end"
        if self._lost:
            return
        for told in reader.told:
            if told.kind not in {"event", "end"}:
                yield f"{reader.name} was told of a {told.kind}"
        for by, numbers in self.acked.items():
            got = [told.n for told in reader.told if told.by == by]
            if got != sorted(numbers):
                yield f"{reader.name} has of {by} {got}, acknowledged were {numbers}"

    async def aclose(self) -> None:
        for reader in self.readers:
            await reader.leave()
        for process in self.processes:
            await process.hub.aclose()


_WEIGHTS = (
    (
        World.carry_one,
        World.answer_one,
        World.converse,
        World.ring_one,
        World.emit,
        World.cut,
        World.be_late,
        World.recover,
        World.reconnect,
        World.audit,
        World.join,
        World.move,
        World.wait,
        World.stay_away,
        World.end,
        World.save,
        World.lose,
    ),
    (20, 20, 10, 10, 12, 3, 2, 8, 6, 3, 4, 4, 5, 4, 2, 2, 3),
)


async def life(
    redis: Connection, seed: int, *, steps: int = 80, processes: int = 2, losses: bool = False
) -> tuple[list[str], list[str]]:
    """Return what went wrong in one life, and what happened in it.

    Args:
        redis: of which everything is deleted.
        seed: what is done, and when, follows from it.
        steps: how much happens before everything is well again.
        processes: how many there are.
        losses: Redis may come back without what it had.
    """
    redis.call("FLUSHALL")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(redis_bell, "Listener", SimulatedListener)
        world = World(redis, seed, processes, losses=losses)
        try:
            async with asyncio.timeout(60):
                return await world.live(steps), world.log
        except TimeoutError:
            return ["it came to no end"], world.log
        finally:
            await world.aclose()


if __name__ == "__main__":
    title = (__doc__ or "").partition("\n")[0]
    sys.exit(tell_of_lives(life, Connection, title, steps=80, processes=2))
