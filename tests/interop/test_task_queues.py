"""Publishing from the workers of Celery, RQ and Dramatiq, as their own commands run them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest
from tests.streams.redis_stores import data_of, opened_sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from holdfast.streams.stores.redis import RedisEventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

JOBS = 12

# What the tasks of each queue do. Its module is imported, and publishes, before workers are forked.
WORK = """
import os, sys, time
from holdfast import SyncRunPublisher

shared = SyncRunPublisher("shared")
shared.emit("made", -1)
BROKER = os.environ["BROKER"]

def publish(number):
    with SyncRunPublisher(f"job-{number}") as run:
        for n in range(10):
            run.emit("t", n)
            shared.emit("t", [number, n])

def go_on(run_id):
    with SyncRunPublisher(run_id) as run:
        while True:
            run.emit("tick")
            time.sleep(0.02)
"""

QUEUES = {
    "celery": """
        from celery import Celery
        app = Celery("tasks", broker=BROKER)
        app.conf.broker_connection_retry_on_startup = True
        first, second = app.task(publish), app.task(go_on)
        def send(task, argument):
            task.delay(argument)
    """,
    "rq": """
        from redis import Redis
        from rq import Queue
        queue = Queue(connection=Redis.from_url(BROKER))
        first, second = publish, go_on
        def send(task, argument):
            queue.enqueue(f"tasks.{task.__name__}", argument)
    """,
    "dramatiq": """
        import dramatiq
        from dramatiq.brokers.redis import RedisBroker
        dramatiq.set_broker(RedisBroker(url=BROKER))
        first, second = dramatiq.actor(publish), dramatiq.actor(go_on)
        def send(task, argument):
            task.send(argument)
    """,
}

SENDING = f"""
if __name__ == "__main__":
    import tasks
    for number in range({JOBS}):
        tasks.send(tasks.first, number)
    tasks.send(tasks.second, "long")
"""

CELERY = ["-m", "celery", "-A", "tasks", "worker", "-c", "3", "-l", "warning", "-P"]

# By queue and, where it has several, by how it works its tasks at once.
WORKERS = {
    "celery": [*CELERY, "prefork"],
    "celery threads": [*CELERY, "threads"],
    "celery gevent": [*CELERY, "gevent"],
    "rq": [
        "-c",
        "import tasks, rq; rq.Worker([tasks.queue], connection=tasks.queue.connection).work()",
    ],
    "dramatiq": ["-m", "dramatiq", "tasks", "-p", "2", "-t", "4"],
}


@pytest.fixture
def store(fresh_redis: RedisServer) -> Iterator[RedisEventStore]:
    with opened_sync(fresh_redis.url, "h:") as made:
        yield made


def until_ended(store: RedisEventStore, *runs: str) -> None:
    last = time.monotonic() + 60
    while not all(asyncio.run(store.status(run)) == "ended" for run in runs):
        assert time.monotonic() < last, "the runs do not end"
        time.sleep(0.1)


@pytest.mark.parametrize("worker", WORKERS)
def test_its_tasks_publish_and_are_stopped(
    worker: str, fresh_redis: RedisServer, store: RedisEventStore, tmp_path: Path
) -> None:
    queue, _, pool = worker.partition(" ")
    pytest.importorskip(queue)
    if pool == "gevent":
        pytest.importorskip("gevent")
    source = "\n".join([WORK, textwrap.dedent(QUEUES[queue]), SENDING])
    (tmp_path / "tasks.py").write_text(source)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "BROKER": fresh_redis.url.replace("/0", "/1"),
        "HOLDFAST_REDIS_URL": fresh_redis.url,
        "HOLDFAST_KEY_PREFIX": "h:",
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        command = [sys.executable, *WORKERS[worker]]
        working = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=out, stderr=out)
    try:
        command = [sys.executable, str(tmp_path / "tasks.py")]
        subprocess.run(command, env=env, cwd=tmp_path, check=True, timeout=60)
        until_ended(store, *(f"job-{number}" for number in range(JOBS)))
        found = [each for each in asyncio.run(data_of(store, "shared")) if each != -1]
        assert len(found) == JOBS * 10
        for job in range(JOBS):
            assert [number for by, number in found if by == job] == list(range(10))
            *numbers, end = asyncio.run(data_of(store, f"job-{job}"))
            assert (numbers, end) == (list(range(10)), {"output": None})
        assert asyncio.run(store.request_stop("long")) == "requested"
        until_ended(store, "long")
        events = asyncio.run(store.get_events("long", limit=10_000))
        assert events[-1].type == "run_stopped"
    finally:
        working.terminate()
        working.wait(30)
        print(log.read_text())
