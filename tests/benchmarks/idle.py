"""Ten thousand readers who wait: what each costs in memory and time, and how soon all are served.

Run it as ``python -m tests.benchmarks.idle [readers]``. They read one run over raw sockets, opened
by this process to several loopback addresses; what serves them is a uvicorn of one process. Memory
is the server's resident memory, all of its own included; a bare ASGI app is measured beside it.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.fanout import many_files, publish, resident, served

from holdfast.testing import redis_server

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

IDLE = 30.0
"""Two heartbeats."""

SETTLE = 3.0
"""Seconds until all have the history as well: to send that is not to wait."""


def measure(redis: RedisServer, which: str, count: int) -> None:
    """Open *count* readers, let them wait, and publish one event to them."""
    path = "/bare" if which == "bare" else "/runs/idle/events/stream"
    with served(redis) as server:
        publish(server.port, which, "idle", frames=1)
        for warm in [_open(server.port, path, number) for number in range(200)]:
            _take(warm, b"retry: ")
            warm.close()
        time.sleep(1)
        before, began = resident(server.pid), time.monotonic()
        readers = [_open(server.port, path, number) for number in range(count)]
        for reader in readers:
            _take(reader, b"retry: ")
        took = time.monotonic() - began
        time.sleep(SETTLE)
        cpu = _cpu(server.pid)
        time.sleep(IDLE)
        idle = (_cpu(server.pid) - cpu) / IDLE
        each = (resident(server.pid) - before) / count
        publish(server.port, which, "idle", frames=1)  # to warm up, as in the first measurement
        for reader in readers:
            _take(reader, b"data: {")
        last = _served(server.port, which, readers)
        after = resident(server.pid)
        for reader in readers:
            reader.close()
        time.sleep(3)
        print(
            f"  {which:10} {each:5.1f} kB a reader, {idle:5.2%} of a core while idle;"
            f" opened in {took:.1f} s, all served {last:.2f} s after an event;"
            f" {(after - before) / count:.1f} kB a reader then,"
            f" {(resident(server.pid) - before) / 1024:.0f} MB left when they have gone"
        )


def _open(port: int, path: str, number: int) -> socket.socket:
    reader = socket.create_connection((f"127.0.0.{1 + number % 4}", port), timeout=60)
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return reader


def _take(reader: socket.socket, until: bytes) -> None:
    answer = b""
    while until not in answer:
        more = reader.recv(65536)
        assert more, answer
        answer += more


def _served(port: int, which: str, readers: list[socket.socket]) -> float:
    """Publish one event; return after how many seconds the last reader has it."""
    selector = selectors.DefaultSelector()
    for each in readers:
        each.setblocking(False)
        selector.register(each, selectors.EVENT_READ)
    control = socket.create_connection(("127.0.0.1", port), timeout=60)
    query = f"/publish/{which}/idle?frames=1&fill=1"
    control.sendall(f"GET {query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    waiting, late = set(readers), 0.0
    while waiting:
        for key, _ in selector.select(60):
            reader: Any = key.fileobj
            data = reader.recv(65536)
            at = data.find(b'{"t":')
            if at >= 0:
                sent = int(data[at + 5 : data.index(b",", at)])
                late = max(late, (time.monotonic_ns() - sent) / 1e9)
                waiting.discard(reader)
    control.close()
    selector.close()
    return late


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure on a server of our own."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    many_files()
    with redis_server() as redis:
        print(f"\n{count} idle SSE readers of one process")
        for which in ("bare", "holdfast"):
            measure(redis, which, count)


if __name__ == "__main__":
    main()
