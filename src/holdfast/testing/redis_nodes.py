"""A real Redis Cluster of one's own: masters, replicas, and slots to be moved while it works.

Like `redis_process`: processes, and the bytes of RESP that setting it up needs.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from holdfast.testing.redis_process import RedisServer, reserve_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOTS = 16384

_READY_SECONDS = 30.0
# Short, so that a test waits seconds for a failover, not a quarter of a minute.
_NODE_TIMEOUT_MS = 2000


class RedisCluster:
    """A Cluster on loopback ports. It starts empty and keeps nothing.

    Args:
        masters: how many masters share the slots evenly. Default 3, the least that a Cluster needs
            to survive the loss of one.
        replicas: replicas of each master. Default none.
        options: further options of every redis-server.
        binary: the program, as of :class:`RedisServer`. Redis 7 or newer, or Valkey.

    Attributes:
        masters, replicas: the servers as they were started; a failover changes their roles, not
            these lists. Replica *n* follows master ``n % len(masters)``.
    """

    def __init__(
        self, *options: str, masters: int = 3, replicas: int = 0, binary: str | None = None
    ) -> None:
        self._buses = [reserve_port() for _ in range(masters * (1 + replicas))]
        self._ids: dict[int, str] = {}
        servers = [
            RedisServer(
                "--cluster-enabled", "yes", "--cluster-node-timeout", str(_NODE_TIMEOUT_MS),
                "--cluster-port", str(bus.getsockname()[1]), "--repl-diskless-sync-delay", "0",
                "--cluster-replica-validity-factor", "0", *options, binary=binary,
            )
            for bus in self._buses
        ]  # fmt: skip
        self.masters, self.replicas = servers[:masters], servers[masters:]

    def __repr__(self) -> str:
        return f"<RedisCluster of {len(self.masters)} masters, {len(self.replicas)} replicas>"

    @property
    def servers(self) -> list[RedisServer]:
        """Masters first, then replicas."""
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        """``redis+cluster://`` with the address of every master."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.masters)
        return f"redis+cluster://{hosts}"

    def start(self) -> None:
        """Start all and make one Cluster of them; return once every node sees it whole.

        Raises:
            RuntimeError: that did not come about within 30 s.
        """
        for server in self.servers:
            server.start()
        for n, server in enumerate(self.masters):
            first, last = self._share(n), self._share(n + 1) - 1
            server.execute("CLUSTER", "ADDSLOTSRANGE", first, last)
            server.execute("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for server, bus in zip(self.servers, self._buses, strict=True):
            meet = ("CLUSTER", "MEET", "127.0.0.1", server.port, bus.getsockname()[1])
            self.servers[0].execute(*meet)
        self._wait(lambda: all(self._sees(server) for server in self.servers))
        for n, replica in enumerate(self.replicas):
            replica.execute("CLUSTER", "REPLICATE", self.id_of(self.masters[n % len(self.masters)]))
        self._wait(lambda: all(self._follows(replica) for replica in self.replicas))

    def in_step(self) -> bool:
        """Whether every replica has all that its master has, as long as nobody has failed over."""
        return all(
            _offset(self.masters[n % len(self.masters)]) == _offset(replica)
            for n, replica in enumerate(self.replicas)
        )

    def owner(self, slot: int) -> RedisServer:
        """Return the server that says it is the master of *slot*.

        Raises:
            LookupError: none does now.
        """
        for server in self.servers:
            if server.running and slot in self._slots_of(server):
                return server
        raise LookupError(f"slot {slot} has no master")

    def begin_move(self, slot: int, to: RedisServer) -> RedisServer:
        """Have *slot* be on its way to *to*; return where it comes from.

        New keys go to *to* from now on, those that are there stay until :meth:`move_keys`.
        """
        source = self.owner(slot)
        to.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))
        return source

    def move_keys(self, slot: int, source: RedisServer, to: RedisServer) -> None:
        """Move every key of a *slot* that :meth:`begin_move` has opened."""
        while keys := source.execute("CLUSTER", "GETKEYSINSLOT", slot, 100):
            names = [each for each in keys if isinstance(each, bytes)]  # type: ignore[union-attr]
            source.execute("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *names)

    def end_move(self, slot: int, to: RedisServer) -> None:
        """Make *to* the master of *slot*, on every master."""
        for server in [to, *(each for each in self.masters if each is not to and each.running)]:
            server.execute("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(to))

    def move(self, slot: int, to: RedisServer) -> None:
        """Move *slot* with all its keys to the master *to*."""
        source = self.begin_move(slot, to)
        if source is not to:
            self.move_keys(slot, source, to)
        self.end_move(slot, to)

    def id_of(self, server: RedisServer) -> str:
        """Return the name that *server* has among the nodes."""
        if server.port not in self._ids:
            self._ids[server.port] = _text(server.execute("CLUSTER", "MYID"))
        return self._ids[server.port]

    def close(self) -> None:
        """Stop all and remove what they wrote."""
        for server in self.servers:
            server.close()
        for bus in self._buses:
            bus.close()

    def _share(self, n: int) -> int:
        return n * SLOTS // len(self.masters)

    def _sees(self, server: RedisServer) -> bool:
        told = _text(server.execute("CLUSTER", "INFO"))
        known = f"cluster_known_nodes:{len(self.servers)}\r\n"
        return "cluster_state:ok" in told and known in told

    def _follows(self, replica: RedisServer) -> bool:
        told = _text(replica.execute("INFO", "replication"))
        return "role:slave" in told and "master_link_status:up" in told

    def _slots_of(self, server: RedisServer) -> set[int]:
        lines = _text(server.execute("CLUSTER", "NODES")).splitlines()
        (mine,) = [line.split() for line in lines if "myself" in line]
        found: set[int] = set()
        for part in mine[8:] if "master" in mine[2] else []:
            if not part.startswith("["):
                first, _, last = part.partition("-")
                found.update(range(int(first), int(last or first) + 1))
        return found

    @staticmethod
    def _wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError("the cluster did not come about")
            time.sleep(0.05)


@contextlib.contextmanager
def redis_cluster(
    *options: str, masters: int = 3, replicas: int = 0, binary: str | None = None
) -> Iterator[RedisCluster]:
    """Run a :class:`RedisCluster` for the length of a ``with`` block; the arguments are its own."""
    cluster = RedisCluster(*options, masters=masters, replicas=replicas, binary=binary)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def _offset(server: RedisServer) -> str:
    told = _text(server.execute("INFO", "replication"))
    return told.partition("master_repl_offset:")[2].partition("\r")[0]


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
