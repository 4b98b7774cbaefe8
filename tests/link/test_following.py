"""Where a redirected command goes next, decided without a server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from holdfast.errors import RedisUnavailable
from holdfast.link.client import Target
from holdfast.link.cluster import deliver
from holdfast.link.slots import SLOTS, Address, slot_of
from holdfast.link.topology import Topology
from holdfast.link.translate import Redirected, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.link.sync import Answers, Command

A, B = ("a", 1), ("b", 2)


def all_at(home: Address) -> Topology:
    topology = Topology(Target("redis", {}, hosts=(A, B)))
    topology.learn([[0, SLOTS - 1, [home[0].encode(), home[1]]]], home)
    return topology


class Nodes:
    """What was asked of whom; *says* answers."""

    def __init__(self, says: Callable[[Address, Command], Reply | Redirected]) -> None:
        self.asked: list[tuple[Address, list[Command]]] = []
        self._says = says

    def ask(self, address: Address, commands: Sequence[Command], _: float) -> Answers:
        self.asked.append((address, list(commands)))
        return [self._says(address, command) for command in commands]


def test_a_command_that_is_asked_elsewhere_says_so_there() -> None:
    nodes = Nodes(lambda at, _: b"here" if at == B else Redirected("ASK 5 b:2"))
    topology = all_at(A)
    assert deliver(topology, [("GET", "k")], time.monotonic() + 5, nodes.ask) == [b"here"]
    assert nodes.asked[1:] == [(B, [("ASKING",), ("GET", "k")])]
    # Only this once: the slot is still where it was.
    assert topology.node_of(("GET", "k")) == A


def test_a_slot_that_has_moved_is_known_from_then_on() -> None:
    slot = slot_of("k")
    nodes = Nodes(lambda at, _: b"here" if at == B else Redirected(f"MOVED {slot} b:2"))
    topology = all_at(A)
    assert deliver(topology, [("GET", "k")], time.monotonic() + 5, nodes.ask) == [b"here"]
    assert topology.node_of(("GET", "k")) == B
    assert topology.node_of(("GET", "another")) == A


@pytest.mark.parametrize(
    "text", ["TRYAGAIN …", "MOVED 5 a:1", "MOVED 5 ?:1", "ASK 5 a:1"], ids=str.split
)
def test_a_command_without_a_home_ends_with_its_deadline(text: str) -> None:
    left = 60

    def says(_: Address, __: Command) -> Reply | Redirected:
        nonlocal left
        left -= 1
        if not left:
            raise AssertionError("it is sent on for ever")
        return Redirected(text)

    nodes = Nodes(says)
    (answer,) = deliver(all_at(A), [("GET", "k")], time.monotonic() + 0.1, nodes.ask)
    assert isinstance(answer, RedisUnavailable)
    assert answer.reason == "timeout"


def test_commands_of_one_node_go_together_and_answers_keep_their_places() -> None:
    topology = all_at(A)
    topology.moved(slot_of("x"), B)
    nodes = Nodes(lambda at, command: f"{at[0]} {command[-1]!s}".encode())
    commands = [("TIME",), ("GET", "k"), ("GET", "x"), ("TIME",), ("GET", "l")]
    answers = deliver(topology, commands, time.monotonic() + 5, nodes.ask)
    assert answers == [b"a TIME", b"a k", b"b x", b"b TIME", b"a l"]
    assert [address for address, _ in nodes.asked] == [A, B]


def test_before_anybody_was_asked_there_is_no_node() -> None:
    with pytest.raises(RedisUnavailable) as error:
        Topology(Target("redis", {}, hosts=(A,))).node_of(("GET", "k"))
    assert error.value.reason == "cluster_down"
