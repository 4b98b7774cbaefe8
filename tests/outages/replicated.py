"""A Redis that fails over: a master, a replica and a Sentinel, and the ways in which they fail.

Real processes only. Whoever was the master comes back as the replica, as under an orchestrator.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.testing import RedisServer, redis_server
from holdfast.testing.redis_process import reserve_port, send_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "storm"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0")
DOWN_AFTER_MS = 1500
PATIENCE = 30.0


class Replicated:
    """Two servers and who of them is the master; every method blocks.

    Attributes:
        url: for ``HOLDFAST_REDIS_URL``.
        failovers: how many there have been.
    """

    def __init__(self, servers: tuple[RedisServer, RedisServer], folder: Path) -> None:
        self.master, self.replica = servers
        self.failovers = 0
        self._folder = folder
        self._reserved = reserve_port()
        self._port: int = self._reserved.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis+sentinel://127.0.0.1:{self._port}/{NAME}/0"

    def start(self) -> None:
        """Begin to replicate, and to watch."""
        self._follow()
        conf = self._folder / "sentinel.conf"
        conf.write_text(
            f"port {self._port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {NAME} 1000\n"
        )
        with (self._folder / "sentinel.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["redis-server", str(conf), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._until(self._watched)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._reserved.close()

    def crash(self) -> None:
        """Kill the master; it is back at once, with all it had. Sentinel may not wait for it."""
        self.master.restart()

    def pause(self, seconds: float) -> None:
        """Freeze the master for less time than makes a failover."""
        self.master.freeze()
        time.sleep(seconds)
        self.master.thaw()

    def fail_over(self) -> None:
        """Kill the master for good."""
        self.master.kill()
        self._promoted()
        self.replica.start()
        self._follow()

    def split(self, seconds: float) -> None:
        """Freeze the master until another is; it comes back and is a second one for a while."""
        self.master.freeze()
        self._promoted()
        self.replica.thaw()
        time.sleep(seconds)
        self._follow()

    def lose(self, seconds: float) -> None:
        """Kill the master after *seconds* of writes that have not reached the replica."""
        self.replica.execute("REPLICAOF", "127.0.0.1", 1)
        time.sleep(seconds)
        self.fail_over()

    def settle(self) -> None:
        """Return when the replica follows the master, and Sentinel has seen both."""
        self._until(self._replicates)
        self._until(self._watched)

    def _promoted(self) -> None:
        self._until(lambda: self._address() == self.replica.port)
        self._until(lambda: b"role:master" in self._info(self.replica))
        self._change_places()

    def _replicates(self) -> bool:
        if self._address() != self.master.port:
            self._promoted()
            self.replica.execute("REPLICAOF", "127.0.0.1", self.master.port)
        return b"master_link_status:up" in self._info(self.replica)

    def _change_places(self) -> None:
        self.master, self.replica = self.replica, self.master
        self.failovers += 1

    def _follow(self) -> None:
        self.replica.execute("REPLICAOF", "127.0.0.1", self.master.port)
        self._until(lambda: b"master_link_status:up" in self._info(self.replica))

    def _watched(self) -> bool:
        """Whether a failover would be carried out now."""
        state: Any = self._ask("SENTINEL", "MASTER", NAME)
        known = dict(zip(state[::2], state[1::2], strict=True))
        replicas: Any = self._ask("SENTINEL", "REPLICAS", NAME)
        flags = [dict(zip(each[::2], each[1::2], strict=True))[b"flags"] for each in replicas]
        return b"down" not in known[b"flags"] and b"slave" in flags

    def _address(self) -> int:
        found: Any = self._ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return int(found[1])

    def _ask(self, *args: str) -> Any:
        with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
            return send_command(connection, *args)

    def _info(self, server: RedisServer) -> bytes:
        found: Any = server.execute("INFO", "replication")
        return bytes(found)

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, RuntimeError):
                if condition():
                    return
            if time.monotonic() > deadline:
                log = self._folder / "sentinel.log"
                raise AssertionError(f"not within {PATIENCE} s:\n{log.read_text()[-3000:]}")
            time.sleep(0.02)


@contextlib.contextmanager
def replicated() -> Iterator[Replicated]:
    """Run all three for the length of a ``with`` block."""
    with (
        redis_server(*DURABLE) as one,
        redis_server(*DURABLE) as two,
        tempfile.TemporaryDirectory(prefix="holdfast-sentinel-") as folder,
    ):
        made = Replicated((one, two), Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.close()
