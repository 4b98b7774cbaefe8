"""Commands to a Redis Cluster: each goes to the node that has its key, and after it when it moves.

A redirected command has not been done (redis.io, "Redis cluster specification"), so sending it on
cannot do it twice; a lost one is never sent again, here as elsewhere. Each node's connection is a
lane as of a single server (`lane`, `sync`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from holdfast.errors import HoldfastError, RedisReplyError, RedisUnavailable
from holdfast.link import slots
from holdfast.link.lane import Lane
from holdfast.link.sync import Answers, Command, SyncConversation, SyncLane
from holdfast.link.translate import Redirected, raised

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from holdfast.link.lane import Report
    from holdfast.link.slots import Address
    from holdfast.link.supervisor import Gate
    from holdfast.link.topology import Topology
    from holdfast.link.translate import Arg, Reply

# While a slot is on its way, a script whose keys are on both sides has to wait (TRYAGAIN), and two
# nodes may each hold the other for the owner.
PAUSE = 0.01
HOPS_AT_ONCE = 3

Ask: TypeAlias = "Callable[[Address, Sequence[Command], float], Answers]"


def deliver(topology: Topology, commands: Sequence[Command], deadline: float, ask: Ask) -> Answers:
    """Send each of *commands* to its node, and those that are redirected to the next.

    Args:
        topology: who has what.
        commands: one batch; those of one node keep their order.
        deadline: ``time.monotonic()`` by which all are to be answered.
        ask: sends some to one node.

    Returns:
        The answers in the order of *commands*, errors in place.

    Raises:
        RedisUnavailable: a node did not answer.
    """
    answers: Answers = [None] * len(commands)
    for address, places in _by_node(topology, commands).items():
        told = ask(address, [commands[at] for at in places], deadline)
        for at, answer in zip(places, told, strict=True):
            answers[at] = answer
    for at, answer in enumerate(answers):
        if isinstance(answer, Redirected):
            answers[at] = _follow(topology, commands[at], answer, deadline, ask)
    return answers


def _by_node(topology: Topology, commands: Sequence[Command]) -> dict[Address, list[int]]:
    """The places of the commands of each node; one without a key goes with the one before it."""
    found: defaultdict[Address, list[int]] = defaultdict(list)
    last = None
    for at, command in enumerate(commands):
        last = topology.node_of(command) or last or topology.nodes[0]
        found[last].append(at)
    return found


def _follow(
    topology: Topology, command: Command, answer: Redirected, deadline: float, ask: Ask
) -> Reply | HoldfastError:
    hops, told = 0, answer
    while True:
        hops += 1
        if told.kind == "TRYAGAIN" or hops > HOPS_AT_ONCE:
            time.sleep(PAUSE)
        if time.monotonic() >= deadline:
            return RedisUnavailable("timeout", told.detail)
        address, sent = _next(topology, command, told)
        *_, last = ask(address, sent, deadline)
        if not isinstance(last, Redirected):
            return last
        told = last


def _next(
    topology: Topology, command: Command, told: Redirected
) -> tuple[Address, Sequence[Command]]:
    """Where a redirected *command* goes next, and with what before it."""
    if told.kind == "MOVED" and told.address is not None:
        topology.moved(told.slot, told.address)
    if told.kind == "ASK" and told.address is not None:
        return told.address, [("ASKING",), command]
    return topology.node_of(command) or topology.nodes[0], [command]


class ClusterConversation:
    """The supervisor's way to a Cluster: one blocking connection to each master.

    Args:
        topology: brought up to date here.
        timeout: seconds for each step of opening a connection.
    """

    def __init__(self, topology: Topology, timeout: float) -> None:
        self._topology = topology
        self._timeout = timeout
        self._open: dict[Address, SyncConversation] = {}

    @classmethod
    def open(cls, topology: Topology, timeout: float) -> ClusterConversation:
        """Find out anew who has what; a connection is made when it is first needed.

        Raises:
            RedisUnavailable: as `canaries`.
        """
        conversation = cls(topology, timeout)
        try:
            conversation._refresh(time.monotonic() + timeout)
        except BaseException:
            conversation.close()
            raise
        return conversation

    def canaries(self, key: str) -> list[str]:
        """Make names out of *key*, one for each master that has slots now.

        Raises:
            RedisUnavailable: no node says who has what, or a slot has no master.
        """
        self._refresh(time.monotonic() + self._timeout)
        return slots.spread(key, self._topology.homes, self._topology.nodes)

    def call(self, commands: Sequence[Command], deadline: float) -> Answers:
        """As `SyncConversation.call`, each command to its node."""
        return deliver(self._topology, commands, deadline, self._ask)

    def stale(self) -> bool:
        """Never as a whole; a connection that was closed while it was idle is made anew."""
        for address, each in list(self._open.items()):
            if each.stale():
                self._drop(address)
        return False

    def close(self) -> None:
        """Close every connection."""
        for address in list(self._open):
            self._drop(address)

    def _drop(self, address: Address) -> None:
        self._open.pop(address).close()

    def _ask(self, address: Address, commands: Sequence[Command], deadline: float) -> Answers:
        if address not in self._open:
            self._open[address] = SyncConversation.open(self._topology.at(address), self._timeout)
        try:
            return self._open[address].call(commands, deadline)
        except RedisUnavailable:
            self._drop(address)
            raise

    def _refresh(self, deadline: float) -> None:
        """Ask one node who has what: a connected one, else those of the URL, else any known."""
        failure = None
        asked = [*self._open, *self._topology.hosts(), *self._topology.nodes]
        for address in dict.fromkeys(asked):
            try:
                (reply,) = self._ask(address, [("CLUSTER", "SLOTS")], deadline)
                self._topology.learn(_slots_told(reply), address)
            except RedisUnavailable as error:
                failure = failure or error
            else:
                return self._forget_departed()
        raise failure or RedisUnavailable("cluster_down")

    def _forget_departed(self) -> None:
        for address in set(self._open) - set(self._topology.nodes):
            self._drop(address)


def _slots_told(reply: Reply | HoldfastError) -> Reply:
    if isinstance(reply, RedisReplyError):
        # "This instance has cluster support disabled", or a server older than clusters.
        raise RedisUnavailable("unsupported", "it is not a node of a cluster")
    return raised(reply)


class ClusterLane:
    """One loop's way to a Cluster: a `Lane` to each node, the same to use.

    Commands to one node keep their order; one that is redirected comes after those sent meanwhile.
    The arguments are those of `Lane`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        topology: Topology,
        timeout: float,
        gate: Gate,
        report: Report,
        closed: Callable[[ClusterLane], None],
    ) -> None:
        self.loop = loop
        self._topology = topology
        self._timeout = timeout
        self._gate = gate
        self._report = report
        self._closed = closed
        self._lanes: dict[Address, Lane] = {}
        self._last: Address | None = None

    def send(self, args: tuple[Arg, ...], *, more: bool = False) -> asyncio.Future[Reply]:
        """As `Lane.send`; the future ends with what the last node said."""
        self._last = self._topology.node_of(args) or self._last or self._topology.nodes[0]
        errand = _Errand(self.loop.create_future(), args, self.loop.time() + self._timeout)
        self._go(errand, self._lane(self._last).send(args, more=more))
        errand.outcome.add_done_callback(errand.give_up)
        return errand.outcome

    def _lane(self, address: Address) -> Lane:
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = Lane(
                self.loop,
                partial(self._topology.at, address),
                self._timeout,
                self._gate,
                partial(tell_unless_redirected, self._report),
                lambda _: self._closed(self),
            )
        return lane

    def _go(self, errand: _Errand, reply: asyncio.Future[Reply]) -> None:
        errand.reply = reply
        reply.add_done_callback(partial(self._settle, errand))

    def _settle(self, errand: _Errand, reply: asyncio.Future[Reply]) -> None:
        if reply.cancelled():
            return
        error, outcome = reply.exception(), errand.outcome
        if outcome.done():
            return
        if error is None:
            outcome.set_result(reply.result())
        elif isinstance(error, Redirected) and self._gate.up:
            self._follow(errand, error)
        else:
            outcome.set_exception(error)

    def _follow(self, errand: _Errand, told: Redirected) -> None:
        if errand.timer is None:
            errand.timer = self.loop.call_at(errand.due, self._expire, errand)
        errand.hops += 1
        if told.kind == "TRYAGAIN" or errand.hops > HOPS_AT_ONCE:
            self.loop.call_later(PAUSE, self._resend, errand, told)
        else:
            self._resend(errand, told)

    def _resend(self, errand: _Errand, told: Redirected) -> None:
        if errand.outcome.done():
            return
        if not self._gate.up:
            errand.outcome.set_exception(told)
            return
        address, commands = _next(self._topology, errand.args, told)
        lane = self._lane(address)
        *before, last = [lane.send(tuple(command), more=True) for command in commands]
        for each in before:
            each.add_done_callback(_ignore)
        self._go(errand, last)

    def _expire(self, errand: _Errand) -> None:
        if not errand.outcome.done():
            error = RedisUnavailable("timeout")
            errand.outcome.set_exception(error)
            self._report(error, self._gate.generation)

    def close(self) -> None:
        """As `Lane.close`."""
        for lane in list(self._lanes.values()):
            lane.close()
        self._closed(self)

    def abandon(self) -> None:
        """As `Lane.abandon`."""
        for lane in self._lanes.values():
            lane.abandon()


class _Errand:
    """One command on its way through the nodes."""

    __slots__ = ("args", "due", "hops", "outcome", "reply", "timer")

    def __init__(self, outcome: asyncio.Future[Reply], args: tuple[Arg, ...], due: float) -> None:
        self.outcome = outcome
        self.args = args
        self.due = due
        self.hops = 0
        self.reply: asyncio.Future[Reply] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def give_up(self, outcome: asyncio.Future[Reply]) -> None:
        """Nobody waits any longer, be it that the answer is there."""
        if self.timer is not None:
            self.timer.cancel()
        if outcome.cancelled() and self.reply is not None:
            self.reply.cancel()


def _ignore(reply: asyncio.Future[Reply]) -> None:
    if not reply.cancelled():
        reply.exception()


class ClusterThreads:
    """The connections of a process's threads to a Cluster; the same to use as a `SyncLane`.

    The arguments are those of `SyncLane`.
    """

    def __init__(self, topology: Topology, timeout: float, gate: Gate, report: Report) -> None:
        self._topology = topology
        self._timeout = timeout
        self._gate = gate
        self._report = report
        self._lanes: dict[Address, SyncLane] = {}

    def call(self, commands: Sequence[Command], deadline: float) -> Answers:
        """As `SyncLane.call`, each command to its node."""
        generation = self._gate.generation
        answers = deliver(self._topology, commands, deadline, self._ask)
        for answer in answers:
            # A node's own timeout has been raised: this one is of a command that found no home.
            if isinstance(answer, RedisUnavailable) and answer.reason == "timeout":
                self._report(answer, generation)
        return answers

    def _ask(self, address: Address, commands: Sequence[Command], deadline: float) -> Answers:
        lane = self._lanes.get(address)
        if lane is None:
            lane = SyncLane(
                partial(self._topology.at, address),
                self._timeout,
                self._gate,
                partial(tell_unless_redirected, self._report),
            )
            # Two threads at once: both use the one that was first.
            lane = self._lanes.setdefault(address, lane)
        return lane.call(commands, deadline)

    def close(self) -> None:
        """As `SyncLane.close`."""
        for lane in list(self._lanes.values()):
            lane.close()


def tell_unless_redirected(report: Report, error: RedisUnavailable, generation: int) -> None:
    """Report an outage; a key that lies elsewhere is none."""
    if not isinstance(error, Redirected):
        report(error, generation)
