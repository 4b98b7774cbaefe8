"""What a real Redis is asked, by its own MONITOR: nothing of ours has a say in the count."""

from __future__ import annotations

import re
import socket
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.testing import RedisServer

_COMMAND = re.compile(rb'^\+\d+\.\d+ \[\d+ [^\]]*\] "(\w+)"', re.MULTILINE)


@dataclass
class Monitor:
    """What was seen since the start.

    Args:
        redis: the server.
        connection: one on which MONITOR was said.
    """

    redis: RedisServer
    connection: socket.socket
    seen: bytes = b""

    def text(self) -> bytes:
        """Return everything that was asked up to now."""
        mark = uuid.uuid4().hex.encode()
        # Redis reports in the order of execution: once the mark is seen, all before it is.
        self.redis.execute("ECHO", mark)
        deadline = time.monotonic() + 10
        while mark not in self.seen:
            assert time.monotonic() < deadline, "MONITOR said nothing"
            self.seen += self.connection.recv(1 << 20)
        return self.seen

    def commands(self, about: str) -> list[str]:
        """Return the commands that name *about*, without those that a script made of them."""
        lines = [line for line in self.text().splitlines() if about.encode() in line]
        found = [_COMMAND.match(line) for line in lines if b" lua] " not in line]
        return [match[1].decode().lower() for match in found if match]


@contextmanager
def monitor(redis: RedisServer) -> Iterator[Monitor]:
    """Watch *redis*."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=10) as connection:
        connection.sendall(b"MONITOR\r\n")
        assert connection.recv(5) == b"+OK\r\n"
        yield Monitor(redis, connection)
