"""What sentinels say of a master, and whether they have made another one since.

They are asked by the supervisor alone, each over a connection that is kept. Which master is used is
kept in `topology`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.errors import RedisUnavailable
from holdfast.link.sync import SyncConversation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.link.client import Target
    from holdfast.link.slots import Address
    from holdfast.link.sync import Answers, Command
    from holdfast.link.topology import Topology

# A person has to mend these: they are told as they are.
_TOLD = frozenset({"auth", "tls"})
_UNWELL = frozenset({"s_down", "o_down", "disconnected"})
# How long a sentinel that did not answer is left alone while the master is well.
PAUSE = 5.0


class Master(NamedTuple):
    """Whom a sentinel names.

    Attributes:
        epoch: of its configuration; every failover has a higher one (redis.io, "High availability
            with Redis Sentinel", "Configuration propagation").
        address: where it is.
    """

    epoch: int
    address: Address


def master_of(reply: Any) -> Master | None:
    """Read the answer to ``SENTINEL MASTER``; ``None`` where the master is not well, or none."""
    if not isinstance(reply, list):
        return None
    words = [word.decode(errors="replace") if isinstance(word, bytes) else "" for word in reply]
    told = dict(zip(words[::2], words[1::2], strict=False))
    flags = set(told.get("flags", "").split(","))
    if "master" not in flags or flags & _UNWELL:
        return None
    try:
        return Master(int(told["config-epoch"]), (told["ip"], int(told["port"])))
    except (KeyError, ValueError):
        return None


class Sentinels:
    """The sentinels of one URL, and the connections to them.

    Args:
        target: their addresses, the service and the way in.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._open: dict[Address, SyncConversation] = {}
        self._next = 0
        self._asked_in_vain = float("-inf")

    def find(self, timeout: float) -> Master:
        """Ask all, and return whom the one with the newest configuration names.

        One that was cut off names the master of before until it has heard of the failover.

        Args:
            timeout: seconds for all together: one that is silent has its share and no more.

        Raises:
            RedisUnavailable: ``failover``, none of them knows a master that is well.
        """
        found: list[Master] = []
        failure = RedisUnavailable("failover", "its sentinels name no master")
        for host in self._target.hosts:
            try:
                master = self._ask(host, timeout / len(self._target.hosts))
            except RedisUnavailable as error:
                failure = error if error.reason in _TOLD else failure
            else:
                found += [master] if master else []
        if not found:
            raise failure
        return max(found, key=lambda master: master.epoch)

    def supersede(self, known: Master, timeout: float) -> bool:
        """Whether one of them, asked now, names another master in a newer configuration.

        A sentinel that does not answer proves nothing. Another is asked the next time.
        """
        if time.monotonic() < self._asked_in_vain + PAUSE:
            return False
        host = self._target.hosts[self._next % len(self._target.hosts)]
        try:
            master = self._ask(host, timeout)
        except RedisUnavailable:
            self._next += 1
            self._asked_in_vain = time.monotonic()
            return False
        return master is not None and master.epoch > known.epoch and master.address != known.address

    def close(self) -> None:
        """Close every connection."""
        while self._open:
            self._open.popitem()[1].close()

    def _ask(self, host: Address, timeout: float) -> Master | None:
        conversation = self._open.pop(host, None)
        if conversation is None or conversation.stale():
            if conversation is not None:
                conversation.close()
            conversation = SyncConversation.open(self._target.sentinel(host), timeout)
        deadline = time.monotonic() + timeout
        try:
            (reply,) = conversation.call([("SENTINEL", "MASTER", self._target.service)], deadline)
        except BaseException:
            conversation.close()
            raise
        self._open[host] = conversation
        if isinstance(reply, RedisUnavailable):
            raise reply
        return master_of(reply)


class WatchedConversation:
    """The supervisor's way to a master that sentinels look after; to use as a `SyncConversation`.

    After a failover on purpose the old master takes writes for up to ten seconds more, until a
    sentinel has made a replica of it; what it acknowledged in that time is thrown away. Its clients
    notice nothing, so the sentinels are asked at every probe.

    Args:
        topology: told who the master is.
        timeout: seconds for all sentinels together, and for each step of a connect.

    Raises:
        RedisUnavailable: there is no master, or it could not be reached.
    """

    def __init__(self, topology: Topology, timeout: float) -> None:
        self._timeout = timeout
        self._sentinels = Sentinels(topology.configured)
        try:
            self._master = self._sentinels.find(timeout)
            topology.found(self._master.address)
            self._conversation = SyncConversation.open(topology.target, timeout)
        except BaseException:
            self._sentinels.close()
            raise

    def canaries(self, key: str) -> list[str]:
        """As `SyncConversation.canaries`.

        Raises:
            RedisUnavailable: ``failover``, there is another master now.
        """
        if self._sentinels.supersede(self._master, self._timeout):
            raise RedisUnavailable("failover", "its sentinels name another master")
        return self._conversation.canaries(key)

    def call(self, commands: Sequence[Command], deadline: float) -> Answers:
        """As `SyncConversation.call`."""
        return self._conversation.call(commands, deadline)

    def stale(self) -> bool:
        """As `SyncConversation.stale`."""
        return self._conversation.stale()

    def close(self) -> None:
        """Close the connections to the master and to its sentinels."""
        self._conversation.close()
        self._sentinels.close()
