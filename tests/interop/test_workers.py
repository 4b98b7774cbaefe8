"""Publishing from other people's processes: a pool of multiprocessing, Flask behind gunicorn."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.streams.redis_stores import data_of, entries_of, opened_sync

from holdfast.client import follow_sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

POOL = """
    import multiprocessing, os
    from holdfast import SyncRunPublisher

    shared = SyncRunPublisher("run")

    def work(job):
        for number in range(10):
            shared.emit("t", [job, number])
        with SyncRunPublisher(f"job-{job}") as run:
            run.emit("t", os.getpid())
        return os.getpid()

    if __name__ == "__main__":
        with SyncRunPublisher("run") as run:
            run.emit("begun")
            with multiprocessing.get_context("fork").Pool(4) as pool:
                workers = set(pool.map(work, range(40), chunksize=1))
            run.workflow_complete(sorted(workers))
"""

STREAMS = """
    from holdfast import EventStreamApp
    app = EventStreamApp()
"""

SITE = """
    import os, signal
    from flask import Flask
    from holdfast import SyncRunPublisher

    app = Flask(__name__)
    shared = SyncRunPublisher("shared")
    shared.emit("made", os.getpid())  # in the arbiter, before any worker is forked

    @app.post("/shared/<int:count>")
    def publish(count):
        for number in range(count):
            shared.emit("t", [os.getpid(), number])
        return str(os.getpid())

    @app.post("/end")
    def end():
        shared.workflow_complete()
        return ""

    @app.post("/die/<run_id>")
    def die(run_id):
        with SyncRunPublisher(run_id) as run:
            run.emit("t", 1)
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def env(redis: RedisServer, key_prefix: str) -> dict[str, str]:
    return {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_STREAM_ACCESS": "open",
        "HOLDFAST_STREAM_LEASE": "1",
    }


@pytest.fixture
def store(redis: RedisServer, key_prefix: str) -> Iterator[RedisEventStore]:
    with opened_sync(redis.url, key_prefix) as made:
        yield made


@pytest.fixture
def streams(serve: Serve, tmp_path: Path, env: dict[str, str]) -> ServerProcess:
    (tmp_path / "streams_of_workers.py").write_text(textwrap.dedent(STREAMS))
    return serve(tmp_path / "streams_of_workers.py", env=env)


@pytest.fixture
def site(serve: Serve, tmp_path: Path, env: dict[str, str]) -> ServerProcess:
    pytest.importorskip("gunicorn")
    (tmp_path / "site_of_workers.py").write_text(textwrap.dedent(SITE))
    command = ["-m", "gunicorn", "--preload", "--workers", "3", "--threads", "4"]
    where = ["--chdir", str(tmp_path), "--bind", "127.0.0.1:{port}", "site_of_workers:app"]
    return serve([*command, *where], env=env)


def test_a_pool_of_forked_processes(
    store: RedisEventStore, env: dict[str, str], tmp_path: Path
) -> None:
    program = tmp_path / "pool.py"
    program.write_text(textwrap.dedent(POOL))
    command = [sys.executable, str(program)]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    begun, *found, end = asyncio.run(data_of(store, "run"))
    assert begun is None
    assert len(found) == 400
    for job in range(40):
        assert [number for by, number in found if by == job] == list(range(10))
        by, completed = asyncio.run(data_of(store, f"job-{job}"))
        assert by in end["output"]
        assert completed == {"output": None}
    producers = Counter(entry.producer for entry in asyncio.run(entries_of(store, "run")))
    assert len(producers) == 1 + len(end["output"])


def test_flask_behind_gunicorn_publishes_and_a_reader_elsewhere_sees_it_once(
    streams: ServerProcess, site: ServerProcess, store: RedisEventStore
) -> None:
    seen: list[tuple[str, object]] = []

    def read() -> None:
        followed = follow_sync(f"{streams.url}/runs/shared/events/stream")
        seen.extend(
            (getattr(item, "type", "end"), getattr(item, "data", None)) for item in followed
        )

    reader = threading.Thread(target=read)
    reader.start()
    # Each on a connection of its own, until a second worker has taken one: the kernel chooses.
    answers: list[httpx.Response] = []
    with ThreadPoolExecutor(12) as pool:
        while len({answer.text for answer in answers}) < 2:
            assert len(answers) < 1200
            answers += pool.map(
                lambda _: httpx.post(f"{site.url}/shared/10", timeout=30), range(60)
            )
        assert {answer.status_code for answer in answers} == {200}
    assert httpx.post(f"{site.url}/end", timeout=30).status_code == 200
    reader.join(30)
    assert not reader.is_alive()
    assert seen[0][0] == "made"
    assert [kind for kind, _ in seen[-2:]] == ["workflow_complete", "end"]
    workers = Counter(int(answer.text) for answer in answers)
    found = Counter(tuple(data) for kind, data in seen if kind == "t" and isinstance(data, list))
    assert found == {(pid, number): count for pid, count in workers.items() for number in range(10)}
    producers = Counter(entry.producer for entry in asyncio.run(entries_of(store, "shared")))
    assert sum(producers.values()) == 10 * len(answers) + 2
    assert len(producers) >= 1 + len(workers)


def test_the_run_of_a_worker_that_gunicorn_lost_is_lost(
    streams: ServerProcess, site: ServerProcess
) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(f"{site.url}/die/doomed", timeout=30)
    items = list(follow_sync(f"{streams.url}/runs/doomed/events/stream"))
    assert [getattr(item, "type", "end") for item in items] == ["t", "run_lost", "end"]
