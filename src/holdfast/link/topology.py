"""Where the nodes of one Redis are: found by the supervisor, read by every connection it allows.

Behind Sentinel that is the address of the master, in a Cluster who has which slot. Nothing is asked
here: `sentinel` and `cluster` ask, and tell it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from holdfast.errors import RedisUnavailable
from holdfast.jitter import one_of
from holdfast.link import slots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast.link.client import Target
    from holdfast.link.slots import Address
    from holdfast.link.translate import Arg, Reply


class Topology:
    """The nodes behind one URL.

    Every attribute is replaced as a whole, or in one slot, by plain assignments: it is read from
    any thread, and at worst a moment old.

    Args:
        configured: what the settings say: the server itself, or whom to ask.

    Attributes:
        configured: as it was given.
        clustered: whether keys lie on several masters.
        nodes: the masters that have slots; empty without a Cluster, or before it was asked.
    """

    def __init__(self, configured: Target) -> None:
        self.clustered = configured.clustered
        self.nodes: tuple[Address, ...] = ()
        self.configured = configured
        self._target = configured
        self._hosts = deque(configured.hosts)
        self._table: list[Address] = []

    @property
    def target(self) -> Target:
        """Where to connect: the server, or the master found last, or any master of a Cluster."""
        if self.nodes:
            return self.at(one_of(self.nodes))
        return self._target

    @target.setter
    def target(self, target: Target) -> None:
        self._target = target

    def at(self, address: Address) -> Target:
        """The same way in, to the node at *address*."""
        return self.configured.at(address)

    def found(self, address: Address) -> None:
        """Take note of the master that the sentinels name."""
        self._target = self.at(address)

    def hosts(self) -> Iterator[Address]:
        """The addresses of the URL; the one at which the caller stops is the first next time."""
        for _ in range(len(self._hosts)):
            yield self._hosts[0]
            self._hosts.rotate(-1)

    def doubt(self) -> None:
        """Begin with another host the next time: what this one said led to nothing.

        A node on the wrong side of a partition goes on answering.
        """
        self._hosts.rotate(-1)

    def learn(self, reply: Reply, asked: Address) -> None:
        """Take over the answer to ``CLUSTER SLOTS``.

        Args:
            reply: the answer.
            asked: who gave it; a node that does not know its own address leaves it out.

        Raises:
            RedisUnavailable: ``cluster_down``, somebody is missing; keys of those slots have no
                home.
        """
        table = slots.table(reply, asked)
        if None in table:
            raise RedisUnavailable("cluster_down", "not every slot of its cluster has a node")
        self._table = [address for address in table if address is not None]
        self.nodes = tuple(dict.fromkeys(self._table))

    def moved(self, slot: int, address: Address) -> None:
        """Take note of one slot's new home, until the next `learn`."""
        if self._table:
            self._table[slot] = address

    @property
    def homes(self) -> Sequence[Address]:
        """The master of each slot; empty before a Cluster was asked."""
        return self._table

    def node_of(self, command: Sequence[Arg]) -> Address | None:
        """Return the node that has the key of *command*; ``None`` where any node will do.

        Raises:
            RedisUnavailable: nobody has been asked yet.
        """
        key = slots.key_of(command)
        if key is None:
            return None
        if not self._table:
            raise RedisUnavailable("cluster_down", "its nodes are not known yet")
        return self._table[slots.slot_of(key)]
