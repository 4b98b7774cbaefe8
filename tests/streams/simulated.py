"""Several processes and one Redis in one event loop, where chance decides what happens next.

Stores, hubs and doors are the real ones, and so is Redis; the link is not: each command waits until
it is carried there, and its reply until it is handed over, so that a seed decides what an outage
finds on its way. ``python -m tests.streams.simulated`` lives thousands of lives, and tells the ones
that went wrong step by step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.matrix.history import Act, Frame, Story
from tests.matrix.invariants import delivered

from holdfast.errors import RedisUnavailable
from holdfast.link import LinkState, LinkStatus, Script
from holdfast.link.lane import NOT_YET, new_reader, pack
from holdfast.link.translate import raised
from holdfast.settings import Settings
from holdfast.streams.cursor import Cursor, parse_position
from holdfast.streams.doors import sse
from holdfast.streams.fanout.hub import Hub
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.store import Draft
from holdfast.streams.stores import redis_bell
from holdfast.streams.stores.redis import RedisEventStore
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RUN = "r"
_SCRIPTS = ("stream_publish", "stream_append", "stream_look", "stream_audit")


class Connection:
    """One connection to a real Redis, and another that hears what is published there."""

    def __init__(self, port: int) -> None:
        self._talk = socket.create_connection(("127.0.0.1", port))
        self._hear = socket.create_connection(("127.0.0.1", port))
        for each in (self._talk, self._hear):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies, self._news = new_reader(), new_reader()
        self._ask(self._hear, self._news, ("PSUBSCRIBE", "*"))
        for name in _SCRIPTS:
            self.call("SCRIPT", "LOAD", Script.load(name).source)

    def call(self, *args: Any) -> Any:
        return self._ask(self._talk, self._replies, args)

    def heard(self) -> Iterator[tuple[bytes, bytes]]:
        """What has been published since this was last asked."""
        reply = self._ask(self._hear, self._news, ("PING",))
        while reply[0] != b"pong":
            yield reply[2], reply[3]
            reply = self._next(self._hear, self._news)

    def close(self) -> None:
        self._talk.close()
        self._hear.close()

    def _ask(self, on: socket.socket, reader: Any, args: Sequence[Any]) -> Any:
        on.sendall(pack(tuple(args)))
        return self._next(on, reader)

    def _next(self, on: socket.socket, reader: Any) -> Any:
        while (reply := reader.gets()) is NOT_YET:
            reader.feed(on.recv(65536))
        return reply


class Wire:
    """The commands of one connection, in order: carried to Redis one by one, and answered so."""

    def __init__(self) -> None:
        self.sent: deque[tuple[tuple[Any, ...], asyncio.Future[Any]]] = deque()
        self.carried: deque[tuple[Any, asyncio.Future[Any]]] = deque()

    def lose(self) -> None:
        """Have all who wait know that no answer comes."""
        for _, future in [*self.carried, *self.sent]:
            if not future.done():
                future.set_exception(RedisUnavailable("reset"))
        self.carried.clear()


class SimulatedLink:
    """What a store needs of a link, and no more happens on it than it is told to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.up = True
        self.status = LinkStatus(LinkState.UP, time.time())
        self.wire = Wire()
        self.old: list[Wire] = []
        self.hooks: list[Callable[[Any], None]] = []
        self.callbacks: list[Callable[[LinkStatus], None]] = []
        self.listener: SimulatedListener | None = None

    def slot(self, _: str) -> int:
        return 0

    async def ready(self) -> bool:
        return self.up

    def on_recovery(self, _: str, hook: Callable[[Any], None]) -> None:
        self.hooks.append(hook)

    def on_transition(self, callback: Callable[[LinkStatus], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: None

    def send(self, *args: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.up:
            self.wire.sent.append((args, future))
        else:
            future.set_exception(RedisUnavailable("refused"))
        return future

    async def execute(self, *args: Any) -> Any:
        return await self.send(*args)

    async def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any] = ()) -> Any:
        return await self.execute(*script.evalsha(keys, args))

    def run_sync(self, script: Script, keys: Sequence[Any], args: Sequence[Any] = ()) -> Any:
        if not self.up:
            raise RedisUnavailable("refused")
        return raised(self._world.carry(script.evalsha(keys, args)))

    # -- what the world does to it

    def tell(self, state: LinkState) -> None:
        self.up = state is LinkState.UP
        self.status = LinkStatus(state, time.time(), None if self.up else "refused")
        in_thread(lambda: [callback(self.status) for callback in self.callbacks])


class Recovery:
    """What a hook gets; Redis goes away again after so many calls."""

    def __init__(self, world: World, calls: int) -> None:
        self._world = world
        self._left = calls

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        return raised(self._call(script.evalsha(keys, args)))

    def pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        return [self._call(command) for command in commands]

    def _call(self, command: Sequence[Any]) -> Any:
        self._left -= 1
        if self._left < 0:
            if self._world.chance.random() < 0.5:
                self._world.carry(command)
            raise RedisUnavailable("reset")
        return self._world.carry(command)


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


def in_thread(do: Callable[[], object]) -> None:
    """As the supervisor does it: in a thread of its own, while the loop is at rest."""
    failed: list[RedisUnavailable] = []

    def run() -> None:
        try:
            do()
        except RedisUnavailable as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


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


class World:
    """Everything, and what is done to it.

    Args:
        redis: a connection to a Redis of its own.
        seed: everything follows from it.
        processes: how many there are.
        losses: Redis may come back without what it had.
    """

    def __init__(
        self, redis: Connection, seed: int, processes: int, *, losses: bool = False
    ) -> None:
        self.chance = random.Random(seed)
        self.losses = losses
        self._redis = redis
        settings = Settings(redis_url="redis://unused", redis_timeout=30)
        self.processes = [Process(self, number, settings) for number in range(processes)]
        self.readers: list[Reader] = []
        self.acked: dict[str, list[int]] = {}
        self.log: list[str] = []
        self.ended = False
        # What Redis had once, by key; and what had been acknowledged when it lost something.
        self._kept: dict[bytes, bytes] = {}
        self._at_risk: dict[str, set[int]] = {}
        self._lost = False
        self._held: list[str] = []

    def note(self, text: str) -> None:
        self.log.append(text)

    def carry(self, args: Sequence[Any]) -> Any:
        """Have Redis do something, and put what it publishes on its way."""
        reply = self._redis.call(*args)
        for channel, payload in self._redis.heard():
            for process in self.processes:
                if process.listener.connected and channel in process.listener.channels:
                    process.listener.inbox.append((channel, payload))
        return reply

    # -- steps

    async def step(self) -> None:
        process = self.chance.choice(self.processes)
        what = self.chance.choices(*_WEIGHTS)[0]
        await what(self, process)
        for _ in range(self.chance.choice((0, 0, 1, 1, 2, 3, 5, 20))):
            await asyncio.sleep(0)

    async def carry_one(self, process: Process) -> None:
        """The next command reaches Redis."""
        self._carry_one(process)

    def _carry_one(self, process: Process) -> None:
        for wire in [*process.link.old, process.link.wire]:
            if wire.sent:
                args, future = wire.sent.popleft()
                reply = self.carry(args)
                self.note(f"{process.name}: Redis gets {_short(args)} -> {_short([reply])}")
                if not future.done():
                    wire.carried.append((reply, future))
                return

    async def answer_one(self, process: Process) -> None:
        """The next answer comes."""
        self._answer_one(process)

    def _answer_one(self, process: Process) -> None:
        for wire in [*process.link.old, process.link.wire]:
            if wire.carried:
                reply, future = wire.carried.popleft()
                if not future.done():
                    if isinstance(reply, Exception):
                        future.set_exception(reply)
                    else:
                        future.set_result(reply)
                return

    async def converse(self, process: Process) -> None:
        """All that is on its way arrives, and is answered."""
        for _ in range(self.chance.randint(1, 6)):
            self._carry_all(process)
            await asyncio.sleep(0)

    def _carry_all(self, process: Process) -> None:
        wires = [*process.link.old, process.link.wire]
        while any(wire.sent or wire.carried for wire in wires):
            self._carry_one(process)
            self._answer_one(process)

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

    async def cut(self, process: Process) -> None:
        """The connection is lost; of what was on its way a part arrives, perhaps the rest later."""
        link = process.link
        if not link.up:
            return
        for _ in range(self.chance.randint(0, len(link.wire.sent))):
            self._carry_one(process)
        self.note(f"{process.name}: DOWN, {len(link.wire.carried)} answers lost")
        link.up = False
        link.wire.lose()
        if self.chance.random() < 0.5:
            link.wire.sent.clear()
        link.old.append(link.wire)
        link.wire = Wire()
        self._down(process)

    async def be_late(self, process: Process) -> None:
        """The first answers come too late; the others still come."""
        link = process.link
        waiting = [*link.wire.carried, *link.wire.sent]
        if not link.up or not waiting:
            return
        late = self.chance.randint(1, len(waiting))
        self.note(f"{process.name}: SUSPECT, {late} of {len(waiting)} answers are late")
        link.up = False
        for _, future in waiting[:late]:
            if not future.done():
                future.set_exception(RedisUnavailable("timeout"))
        link.old.append(link.wire)
        link.wire = Wire()
        if self.chance.random() < 0.5:
            self._down(process)

    def _down(self, process: Process) -> None:
        process.link.tell(LinkState.DOWN)
        process.listener.connected = False
        process.listener.inbox.clear()

    async def save(self, _: Process) -> None:
        """Redis keeps what it has now."""
        keys = self._redis.call("KEYS", "*")
        self._kept = {key: self._redis.call("DUMP", key) for key in keys}

    async def lose(self, _: Process) -> None:
        """Redis is away from everybody, and comes back with what it once had."""
        if not self.losses or self.ended or self.chance.random() < 0.5:
            return
        for process in self.processes:
            await self.cut(process)
            self._down(process)
            for wire in process.link.old:
                wire.lose()
                wire.sent.clear()
        self.note(f"Redis loses all but {len(self._kept)} keys of old")
        self._lost = True
        for by, numbers in self.acked.items():
            self._at_risk.setdefault(by, set()).update(numbers)
        for key in self._redis.call("KEYS", "*"):
            self._redis.call("DEL", key)
        for key, value in self._kept.items():
            self._redis.call("RESTORE", key, 0, value)

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
        await self._some_turns()
        self.note(f"{process.name}: UP")
        link.up = True
        await self._some_turns()
        link.tell(LinkState.UP)

    async def _some_turns(self) -> None:
        for _ in range(self.chance.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)

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
        stored = self._redis.call("XREVRANGE", process.store.keys(RUN).stream, "+", "-", "COUNT", 1)
        if stored and str(ring.last) != stored[0][0].decode():
            return False
        return all(self._has(reader, each) for each in self.processes)

    def _has(self, reader: Reader, process: Process) -> bool:
        got = {told.n for told in reader.told if told.by == process.name}
        return got >= set(self.acked.get(process.name, ()))

    async def _turns(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    async def wait(self, _: Process) -> None:
        """Nothing happens but what is under way."""

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
        for _, fields in self._redis.call("XRANGE", stream, "-", "+"):
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


def _short(args: Sequence[Any]) -> str:
    text = " ".join(
        str(each.decode("utf-8", "replace") if isinstance(each, bytes) else each) for each in args
    )
    for name in _SCRIPTS:
        text = text.replace(Script.load(name).sha, name)
    return text[:300]


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--lives", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--losses", action="store_true")
    parser.add_argument("--show", action="store_true")
    chosen = parser.parse_args()
    logging.disable()
    bad = 0
    begun = time.monotonic()
    with redis_server("--save", "") as server:
        redis = Connection(server.port)
        for seed in range(chosen.first, chosen.first + chosen.lives):
            wrong, log = asyncio.run(
                life(
                    redis,
                    seed,
                    steps=chosen.steps,
                    processes=chosen.processes,
                    losses=chosen.losses,
                )
            )
            if wrong:
                bad += 1
                print(seed, *wrong, sep="\n   ", flush=True)
                if chosen.show:
                    print(*log, sep="\n")
    print(f"{bad} of {chosen.lives} lives went wrong in {time.monotonic() - begun:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
