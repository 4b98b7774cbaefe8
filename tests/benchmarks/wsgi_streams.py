"""Event streams by WSGI: what gunicorn's workers carry, and how soon an event is with the last.

Run it as ``python -m tests.benchmarks.wsgi_streams``: one worker of threads and one of greenlets,
each with as many readers of one run as it is given room for. Memory is the worker's resident
memory. The delivery is from before the emit, in this process, to the last byte at each reader.
"""

from __future__ import annotations

import os
import selectors
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.frameworks.test_prefork import workers_of
from tests.support.process import ServerProcess

from holdfast import Settings, SyncRunPublisher
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

EVENTS = 100
PAUSE = 0.02
CASES = {
    "gthread": (["--threads", "512"], (8, 64, 500)),
    "gevent": (["--worker-connections", "2000"], (8, 64, 500, 1000)),
}


def measure(redis: RedisServer, worker: str, options: list[str], count: int) -> None:
    """Open *count* readers, and publish *EVENTS* events to them."""
    prefix = f"{worker}-{count}:"
    settings = Settings(redis_url=redis.url, key_prefix=prefix, redis_timeout=5)
    publisher = SyncRunPublisher("r", settings=settings)
    publisher.emit("t", 0)
    where = ["--bind", "127.0.0.1:{port}", "--worker-class", worker, "--backlog", "2048"]
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(
            ["-m", "gunicorn", *where, *options, "tests.streams.wsgi_served:app"],
            Path(folder) / "log",
            {
                "HOLDFAST_REDIS_URL": redis.url,
                "HOLDFAST_KEY_PREFIX": prefix,
                "HOLDFAST_STREAM_ACCESS": "open",
                "HOLDFAST_SECRET_KEY": "a key of more than sixteen characters",
                "HOLDFAST_REDIS_TIMEOUT": "5",
            },
        )
        server.start()
        try:
            _open(server.port).close()
            time.sleep(2)
            (pid,) = workers_of(server)
            before = resident(pid)
            readers = [_open(server.port) for _ in range(count)]
            each = (resident(pid) - before) / count
            late = sorted(_deliveries(publisher, readers))
            print(
                f"  {worker:8} {count:5} readers: {each:6.1f} kB each,"
                f" delivered in {1000 * statistics.median(late):6.1f} ms,"
                f" P95 {1000 * late[int(len(late) * 0.95)]:6.1f} ms"
            )
            for reader in readers:
                reader.close()
        finally:
            server.kill()
            server.close()


def _open(port: int) -> socket.socket:
    reader = socket.create_connection(("127.0.0.1", port), timeout=60)
    reader.sendall(b"GET /streams/runs/r/events/stream?last_id=$ HTTP/1.1\r\nHost: h\r\n\r\n")
    _take(reader, b"retry: ")
    return reader


def _take(reader: socket.socket, until: bytes) -> None:
    answer = b""
    while until not in answer:
        more = reader.recv(65536)
        if not more:
            raise SystemExit(f"a reader was sent away: {answer!r}")
        answer += more


def _deliveries(publisher: SyncRunPublisher, readers: list[socket.socket]) -> list[float]:
    """Return how many seconds each event took to each reader."""
    found: list[float] = []
    sockets = {reader.fileno(): reader for reader in readers}
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader, selectors.EVENT_READ)
        for n in range(1, EVENTS + 1):
            mark, began, left = f"data: {n}\n".encode(), time.perf_counter(), set(readers)
            publisher.emit("t", n)
            while left:
                for key, _ in selector.select(30):
                    reader = sockets[key.fd]
                    if mark in reader.recv(65536):
                        found.append(time.perf_counter() - began)
                        left.discard(reader)
            time.sleep(PAUSE)
    return found


def resident(pid: int) -> int:
    """Resident memory of a process, in kB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    only = sys.argv[1:] or list(CASES)
    with redis_server() as redis:
        for worker in only:
            options, counts = CASES[worker]
            for count in counts:
                measure(redis, worker, options, count)


if __name__ == "__main__":
    main()
