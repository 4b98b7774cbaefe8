"""A link on which chance decides what happens: what the simulations of both halves are made of.

Each command waits until it is carried to a real Redis, and its reply until it is handed over. Who
asks, what else happens and what may be seen is each simulation's own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from holdfast.errors import RedisUnavailable
from holdfast.link import LinkState, LinkStatus, Script
from holdfast.link.lane import NOT_YET, new_reader, pack
from holdfast.link.translate import raised
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random


class Connection:
    """One connection to a real Redis."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = new_reader()
        #: What it knows, by digest.
        self.scripts: dict[str, Script] = {}

    def learn(self, script: Script) -> None:
        """Have it know *script*."""
        if script.sha not in self.scripts:
            self.scripts[script.sha] = script
            self.call("SCRIPT", "LOAD", script.source)

    def call(self, *args: Any) -> Any:
        self._socket.sendall(pack(args))
        return self.read()

    def read(self) -> Any:
        """The next reply, or message."""
        while (reply := self._replies.gets()) is NOT_YET:
            self._replies.feed(self._socket.recv(65536))
        return reply

    def close(self) -> None:
        self._socket.close()

    def spelled(self, args: Sequence[Any]) -> str:
        """A command or its reply as a person reads it, with the names of scripts."""
        text = " ".join(
            str(each.decode("utf-8", "replace") if isinstance(each, bytes) else each)
            for each in args
        )
        for sha, script in self.scripts.items():
            text = text.replace(sha, script.name)
        return text


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


class Carrier(Protocol):
    """The world of a link: who knows when something reaches Redis."""

    chance: Random
    redis: Any

    def carry(self, args: Sequence[Any]) -> Any:
        """Have Redis do something."""


class SimulatedLink:
    """What a store needs of a link, and no more happens on it than it is told to."""

    decided = True

    def __init__(self, world: Carrier) -> None:
        self._world = world
        self.up = True
        self.status = LinkStatus(LinkState.UP, time.time())
        self.wire = Wire()
        self.old: list[Wire] = []
        self.hooks: list[Callable[[Any], None]] = []
        self.beats: list[Callable[[Any], None]] = []
        self.callbacks: list[Callable[[LinkStatus], None]] = []

    def slot(self, _: str) -> int:
        return 0

    async def ready(self) -> bool:
        return self.up

    def on_recovery(self, _: str, hook: Callable[[Any], None]) -> None:
        self.hooks.append(hook)

    def on_beat(self, _: str, hook: Callable[[Any], None]) -> None:
        self.beats.append(hook)

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
        self._world.redis.learn(script)
        return await self.execute(*script.evalsha(keys, args))

    def post(self, script: Script, keys: Sequence[Any], args: Sequence[Any] = ()) -> None:
        self._world.redis.learn(script)
        posted = self.send(*script.evalsha(keys, args))
        posted.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        futures = [self.send(*command) for command in commands]
        return list(await asyncio.gather(*futures, return_exceptions=True))

    def execute_sync(self, *args: Any) -> Any:
        return raised(self.pipeline_sync([args])[0])

    def run_sync(self, script: Script, keys: Sequence[Any], args: Sequence[Any] = ()) -> Any:
        self._world.redis.learn(script)
        return self.execute_sync(*script.evalsha(keys, args))

    def pipeline_sync(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        if not self.up:
            raise RedisUnavailable("refused")
        return [self._world.carry(command) for command in commands]

    # -- what the world does to it

    @property
    def wires(self) -> list[Wire]:
        return [*self.old, self.wire]

    def part(self) -> None:
        """What the connection has is still there; nothing more is sent over it."""
        self.old.append(self.wire)
        self.wire = Wire()

    def tell(self, state: LinkState) -> None:
        self.up = state is LinkState.UP
        self.status = LinkStatus(state, time.time(), None if self.up else "refused")
        in_thread(lambda: [callback(self.status) for callback in self.callbacks])


class Recovery:
    """What a hook gets; Redis goes away again after so many calls."""

    def __init__(self, world: Carrier, calls: int) -> None:
        self._world = world
        self._left = calls

    def execute(self, *args: Any) -> Any:
        return raised(self._call(args))

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        self._world.redis.learn(script)
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


def in_thread(do: Callable[[], object]) -> None:
    """As the supervisor does it: in a thread of its own, while the loop is at rest."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - raised again, where it is looked at
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


class Linked(Protocol):
    """A process: it has a name and a link."""

    name: str

    @property
    def link(self) -> SimulatedLink:
        """Its link."""


P = TypeVar("P", bound=Linked)
Steps: TypeAlias = "tuple[Sequence[Callable[..., Awaitable[None]]], Sequence[int]]"


class LinkedWorld(Generic[P]):
    """Processes, and what happens between them and Redis.

    Args:
        redis: a connection to a Redis of its own.
        chance: decides.
        steps: what may come next, each a method that takes a process, and how likely each is.
    """

    def __init__(self, redis: Connection, chance: Random, steps: Steps) -> None:
        self.redis = redis
        self.chance = chance
        self._steps = steps
        self.processes: list[P] = []
        self.log: list[str] = []

    def note(self, text: str) -> None:
        self.log.append(text)

    def carry(self, args: Sequence[Any]) -> Any:
        """Have Redis do something."""
        return self.redis.call(*args)

    def carry_for(self, _: P, args: Sequence[Any]) -> Any:
        """Have Redis do what a process has sent."""
        return self.carry(args)

    def gone(self, process: P) -> None:
        """The connection is lost."""
        process.link.tell(LinkState.DOWN)

    def late(self, process: P) -> None:
        """The connection has been given up."""
        process.link.tell(LinkState.SUSPECT)

    # -- steps

    async def step(self) -> None:
        process = self.chance.choice(self.processes)
        what = self.chance.choices(*self._steps)[0]
        await what(self, process)
        for _ in range(self.chance.choice((0, 0, 1, 1, 2, 3, 5, 20))):
            await asyncio.sleep(0)

    async def carry_one(self, process: P) -> None:
        """The next command reaches Redis."""
        self._carry_one(process)

    def _carry_one(self, process: P) -> None:
        for wire in process.link.wires:
            if wire.sent:
                args, future = wire.sent.popleft()
                reply = self.carry_for(process, args)
                if not future.done():
                    wire.carried.append((reply, future))
                return

    async def answer_one(self, process: P) -> None:
        """The next answer comes."""
        self._answer_one(process)

    def _answer_one(self, process: P) -> None:
        for wire in process.link.wires:
            if wire.carried:
                reply, future = wire.carried.popleft()
                if not future.done():
                    if isinstance(reply, Exception):
                        future.set_exception(reply)
                    else:
                        future.set_result(reply)
                return

    async def converse(self, process: P) -> None:
        """All that is on its way arrives, and is answered."""
        for _ in range(self.chance.randint(1, 6)):
            self._carry_all(process)
            await asyncio.sleep(0)

    def _carry_all(self, process: P) -> None:
        wires = process.link.wires
        while any(wire.sent or wire.carried for wire in wires):
            self._carry_one(process)
            self._answer_one(process)

    async def cut(self, process: P) -> None:
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
        link.part()
        self.gone(process)

    async def be_late(self, process: P) -> None:
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
        link.part()
        self.late(process)

    async def wait(self, _: P) -> None:
        """Nothing happens but what is under way."""

    async def some_turns(self) -> None:
        for _ in range(self.chance.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)


def tell_of_lives(
    life: Callable[..., Awaitable[tuple[list[str], list[str]]]],
    connect: Callable[[int], Connection],
    title: str,
    *,
    steps: int,
    processes: int,
    modes: Sequence[str] = (),
) -> int:
    """Live as many lives as the command line says, and print what went wrong in which.

    Args:
        life: what a life is: of a connection and a seed, what went wrong and what happened.
        connect: makes the connection, to a port.
        title: what the command line's help says.
        steps: how much happens in a life, unless it is said.
        processes: how many there are, unless it is said.
        modes: of which one may be said, the first by default; none, and a life is not asked.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--lives", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--processes", type=int, default=processes)
    parser.add_argument("--losses", action="store_true")
    if modes:
        parser.add_argument("--mode", choices=modes, default=modes[0])
    parser.add_argument("--show", action="store_true")
    chosen = parser.parse_args()
    logging.disable()
    bad, begun = 0, time.monotonic()
    names = ("steps", "processes", "losses", *(["mode"] if modes else []))
    how = {name: getattr(chosen, name) for name in names}

    async def lived(redis: Connection, seed: int) -> tuple[list[str], list[str]]:
        return await life(redis, seed, **how)

    with redis_server("--save", "") as server:
        redis = connect(server.port)
        for seed in range(chosen.first, chosen.first + chosen.lives):
            wrong, log = asyncio.run(lived(redis, seed))
            if wrong:
                bad += 1
                print(seed, *wrong, sep="\n   ", flush=True)
                if chosen.show:
                    print(*log, sep="\n")
    print(f"{bad} of {chosen.lives} lives went wrong in {time.monotonic() - begun:.0f} s")
    return 1 if bad else 0
