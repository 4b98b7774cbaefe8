"""gunicorn with ``--preload`` and four workers of each class, killed under load.

No visitor ever sees another's session, none is lost, and no connection to Redis is of two
processes.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLASSES = {
    "sync": ("--worker-class", "sync"),
    "gthread": ("--worker-class", "gthread", "--threads", "4"),
    "gevent": ("--worker-class", "gevent"),
}
WORKERS, VISITORS, KILLS = 4, 5, 2
VISITS = 25
PATIENCE = 60.0


class Visitor(threading.Thread):
    """One who counts in his session, whatever happens to the workers."""

    def __init__(self, url: str, me: str) -> None:
        super().__init__(daemon=True)
        self.me, self.done, self.wrong = me, 0, ""
        self.pids: list[int] = []
        self._url = url
        self.halt = threading.Event()

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self._url, timeout=20) as client:
                self._visit(client)
        except Exception as error:  # noqa: BLE001 - told by the test
            self.wrong = repr(error)

    def _visit(self, client: httpx.Client) -> None:
        self._ask(client, f"/begin/{self.me}")
        least = 0
        while not (self.halt.is_set() and self.done >= VISITS):
            said = self._ask(client, "/next").json()
            # A request whose worker was killed may have counted.
            if said["me"] != self.me or said["n"] <= least:
                self.wrong = f"{self.me} at {least} was told {said}"
                return
            least, self.done = said["n"], self.done + 1
            self.pids.append(said["pid"])

    def _ask(self, client: httpx.Client, path: str) -> httpx.Response:
        last = time.monotonic() + PATIENCE
        while True:
            try:
                answer = client.get(path)
            except httpx.TransportError:
                # The worker was killed under it; another serves the next try.
                if time.monotonic() > last:
                    raise
                time.sleep(0.02)
            else:
                answer.raise_for_status()
                return answer


def workers_of(server: ServerProcess) -> set[int]:
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return {int(pid) for pid in children.split()}


def await_workers(server: ServerProcess, without: int | None = None) -> set[int]:
    last = time.monotonic() + PATIENCE
    while time.monotonic() < last:
        found = workers_of(server)
        if len(found) == WORKERS and without not in found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{workers_of(server)} are not {WORKERS} workers:\n{server.log()}")


def await_serving(server: ServerProcess, visitors: list[Visitor]) -> int:
    """Return a worker that serves visitors now, once all are at work."""
    last = time.monotonic() + PATIENCE
    while time.monotonic() < last:
        workers = await_workers(server)
        for visitor in visitors:
            if visitor.pids and visitor.pids[-1] in workers:
                return visitor.pids[-1]
        time.sleep(0.02)
    raise AssertionError(f"nobody is served: {[visitor.wrong for visitor in visitors]}")


def sockets_to(port: int, pid: int) -> set[str]:
    """Return the inodes of the sockets of *pid* that lead to *port*."""
    inodes = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[2].endswith(f":{port:04X}") and columns[9] != "0":
            inodes.add(columns[9])
    held = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(each.readlink())
        except OSError:
            continue
        if found := re.fullmatch(r"socket:\[(\d+)\]", target):
            held.add(found[1])
    return inodes & held


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="looks into /proc")
@pytest.mark.parametrize("worker", CLASSES)
def test_no_session_is_mixed_up_and_no_connection_is_of_two_processes(
    worker: str, serve: Serve, fresh_redis: RedisServer, key_prefix: str
) -> None:
    pytest.importorskip("gunicorn")
    if worker == "gevent":
        pytest.importorskip("gevent")
    where = ["--chdir", str(ROOT), "--bind", "127.0.0.1:{port}", "--workers", str(WORKERS)]
    options = [*where, "--preload", "--graceful-timeout", "2", *CLASSES[worker]]
    server = serve(
        ["-m", "gunicorn", *options, "tests.frameworks.prefork_app:app"],
        env={
            "HOLDFAST_REDIS_URL": fresh_redis.url,
            "HOLDFAST_KEY_PREFIX": key_prefix,
            "HOLDFAST_SECRET_KEY": "the key of four forked workers",
            # A busy machine is slow, not away.
            "HOLDFAST_REDIS_TIMEOUT": "10",
        },
    )
    await_workers(server)
    visitors = [Visitor(server.url, f"visitor-{number}") for number in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    for _ in range(KILLS):
        killed = await_serving(server, visitors)
        os.kill(killed, signal.SIGKILL)
        await_workers(server, without=killed)
    for visitor in visitors:
        visitor.halt.set()
    for visitor in visitors:
        visitor.join(PATIENCE)
    assert [visitor.wrong for visitor in visitors] == [""] * VISITORS, server.log()
    assert all(visitor.done >= VISITS for visitor in visitors)
    assert len(set().union(*(visitor.pids for visitor in visitors))) > 1

    processes = [server.pid, *await_workers(server)]
    held = {pid: sockets_to(fresh_redis.port, pid) for pid in processes}
    all_held = [inode for found in held.values() for inode in found]
    assert len(all_held) == len(set(all_held)), f"of two processes: {held}"
    assert held[server.pid], "the parent had connections that its children could inherit"
    assert any(held[pid] for pid in processes[1:])
    await_clients(fresh_redis, processes)


def await_clients(redis: RedisServer, processes: list[int]) -> None:
    """Wait until Redis sees as many clients as *processes* have connections, and who asks."""
    last = time.monotonic() + PATIENCE
    while True:
        held = sum(len(sockets_to(redis.port, pid)) for pid in processes)
        clients = redis.execute("CLIENT", "LIST")
        assert isinstance(clients, bytes)
        if len(clients.splitlines()) <= held + 1:
            return
        assert time.monotonic() < last, f"{held} connections, and {clients.decode()}"
        time.sleep(0.1)
