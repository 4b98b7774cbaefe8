"""Event streams from gunicorn's threads and greenlets: workers killed, stopped, filled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.frameworks.test_prefork import sockets_to, workers_of
from tests.streams.clients import EventSource, client, until

from holdfast import RunPublisher, Settings, stream_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
THREADS = {"gthread": ["--threads", "8"], "gevent": []}
READERS = 6
PATIENCE = 60.0


@pytest.fixture
def settings(redis: RedisServer, key_prefix: str) -> Settings:
    return Settings(
        redis_url=redis.url,
        key_prefix=key_prefix,
        secret_key="the key of all workers",
        stream_access="open",
        # A busy machine is slow, not away.
        redis_timeout=10,
    )


def has(reader: EventSource, count: int) -> Callable[[], bool]:
    return lambda: len(reader.numbers) >= count


class Site:
    """A gunicorn whose workers are of one class."""

    def __init__(
        self, serve: Serve, settings: Settings, worker: str, *options: str, **more: str
    ) -> None:
        pytest.importorskip("gunicorn")
        pytest.importorskip("gevent")
        assert settings.redis_url is not None
        where = ["--chdir", str(ROOT), "--bind", "127.0.0.1:{port}", "--worker-class", worker]
        command = ["-m", "gunicorn", *where, *THREADS[worker], *options]
        self.server: ServerProcess = serve(
            [*command, "tests.streams.wsgi_served:app"],
            env={
                "HOLDFAST_REDIS_URL": settings.redis_url.get_secret_value(),
                "HOLDFAST_KEY_PREFIX": settings.key_prefix,
                "HOLDFAST_SECRET_KEY": "the key of all workers",
                "HOLDFAST_STREAM_ACCESS": "open",
                "HOLDFAST_REDIS_TIMEOUT": "10",
                **more,
            },
        )
        self.readers: list[EventSource] = []

    @property
    def url(self) -> str:
        return f"{self.server.url}/streams"

    async def workers(self, count: int, without: int = 0) -> list[int]:
        def there() -> bool:
            found = workers_of(self.server)
            return len(found) == count and without not in found

        await until(there, PATIENCE, self.server.log)
        return sorted(workers_of(self.server))

    def read(self, path: str) -> EventSource:
        reader = EventSource(self.url + path).start()
        self.readers.append(reader)
        return reader

    async def all_have(self, count: int) -> None:
        await asyncio.gather(
            *(reader.until(has(reader, count), PATIENCE) for reader in self.readers)
        )

    async def leave(self) -> None:
        await asyncio.gather(*(reader.aclose() for reader in self.readers))


@pytest.mark.parametrize("worker", THREADS)
async def test_readers_go_on_when_their_worker_is_killed(
    worker: str, serve: Serve, settings: Settings
) -> None:
    site = Site(serve, settings, worker, "--workers", "2", "--preload", LOAD="1")
    enough = asyncio.Event()

    async def publish() -> int:
        count = 0
        async with RunPublisher("r", settings=settings) as run:
            while not enough.is_set():
                count += 1
                await run.emit("t", {"n": count})
                await asyncio.sleep(0.02)
        return count

    publishing = asyncio.create_task(publish())
    try:
        for _ in range(READERS):
            site.read("/runs/r/events/stream")
        await site.all_have(5)
        for _ in range(2):
            seen = max(reader.numbers[-1] for reader in site.readers)
            killed, *_ = await site.workers(2)
            os.kill(killed, signal.SIGKILL)
            await site.workers(2, without=killed)
            await site.all_have(seen + 5)
        late = site.read("/runs/r/events/stream")
        enough.set()
        count = await publishing
        await until(lambda: all(reader.closed for reader in site.readers), PATIENCE)
        for reader in site.readers:
            assert reader.numbers == list(range(1, count + 1))
            assert reader.statuses[-1] == 204, "who has seen the end is told not to come back"
        assert late.errors == 0
    finally:
        enough.set()
        await asyncio.gather(publishing, return_exceptions=True)
        await site.leave()
        # A signal that a worker gets while it begins is lost to it; how it stops is seen below.
        site.server.kill()


@pytest.mark.parametrize("worker", THREADS)
async def test_every_reader_of_a_worker_shares_its_connections(
    worker: str, serve: Serve, fresh_redis: RedisServer, settings: Settings
) -> None:
    own = settings.override(redis_url=fresh_redis.url)
    site = Site(serve, own, worker, HOLDFAST_STREAM_HEARTBEAT="1")
    (pid,) = await site.workers(1)
    await RunPublisher("r", settings=own).emit("t", {"n": 1})
    try:
        found = []
        for _ in range(2):
            for _ in range(READERS // 2):
                site.read("/runs/r/events/stream")
            await site.all_have(1)
            found.append(len(sockets_to(fresh_redis.port, pid)))
        assert found[0] == found[1] <= 4
        await RunPublisher("r", settings=own).emit("t", {"n": 2})
        await site.all_have(2)
    finally:
        await site.leave()
    # Who has left gives the thread back, and is counted no more.
    async with client() as http:

        async def left() -> bool:
            state = (await http.get(f"{site.server.url}/state")).json()
            return not state["subscribers"]

        last = time.monotonic() + PATIENCE
        while not await left():
            assert time.monotonic() < last, site.server.log()
            await asyncio.sleep(0.05)


def documented(directory: Path) -> Path:
    """gunicorn's configuration as the docs have it."""
    page = (ROOT / "docs" / "streams" / "wsgi.md").read_text()
    _, code = page.split("```python\n# gunicorn.conf.py\n")
    found = directory / "gunicorn.conf.py"
    found.write_text(code.partition("```")[0])
    return found


@pytest.mark.parametrize(
    ("worker", "preload"), [("gthread", False), ("gthread", True), ("gevent", True)]
)
async def test_a_stop_of_the_server_lets_readers_go(
    worker: str, preload: bool, serve: Serve, settings: Settings, tmp_path: Path
) -> None:
    options = ["--preload"] if preload else []
    if preload and worker == "gthread":
        options += ["--config", str(documented(tmp_path))]
    site = Site(serve, settings, worker, *options, HOLDFAST_STREAM_MAX_SUBSCRIBERS="6")
    await RunPublisher("r", settings=settings).emit("t", {"n": 1})
    try:
        for _ in range(READERS):
            site.read("/runs/r/events/stream").reconnect = False
        await site.all_have(1)
        async with client() as http:
            # There are threads left, because somebody said how many streams are enough.
            more = await http.get(f"{site.url}/runs/r/events/stream")
            assert (more.status_code, more.text[:6]) == (200, "retry:")
            page = await http.get(f"{site.url}/runs/r/events")
            assert len(page.json()["events"]) == 1
        os.kill(site.server.pid, signal.SIGTERM)
        for reader in site.readers:
            await until(reader.task.done, PATIENCE, site.server.log)  # type: ignore[union-attr]
            assert reader.errors == 0, "its answer was ended, and not cut"
        assert site.server.wait(PATIENCE) == 0
    finally:
        await site.leave()


@pytest.mark.parametrize("worker", THREADS)
async def test_a_worker_that_has_served_enough_is_replaced_while_it_is_read(
    worker: str, serve: Serve, settings: Settings, tmp_path: Path
) -> None:
    # Left to itself it would wait for its readers, who never go, and be no worker meanwhile.
    endless = ["--max-requests", "25", "--graceful-timeout", "3600", "--timeout", "3600"]
    site = Site(serve, settings, worker, *endless, "--config", str(documented(tmp_path)))
    publisher = RunPublisher("r", settings=settings)
    await publisher.emit("t", {"n": 1})
    try:
        for _ in range(READERS):
            site.read("/runs/r/events/stream")
        await site.all_have(1)
        (first,) = await site.workers(1)
        async with client() as http:
            for _ in range(25 - READERS):
                # The last ones may come too late for this worker, and wait for the next.
                with contextlib.suppress(httpx.HTTPError):
                    await http.get(f"{site.server.url}/state", headers={"connection": "close"})
        await site.workers(1, without=first)
        await publisher.emit("t", {"n": 2})
        await site.all_have(2)
        assert all(reader.numbers == [1, 2] for reader in site.readers)
    finally:
        await site.leave()
        site.server.kill()


@pytest.mark.parametrize("worker", THREADS)
async def test_a_run_is_published_and_stopped_by_post(
    worker: str, serve: Serve, settings: Settings
) -> None:
    site = Site(serve, settings, worker)
    token = stream_token("a/b", actions=["publish", "stop"], settings=settings)
    headers = {"authorization": f"Bearer {token}"}
    run = f"{site.url}/runs/a%2Fb"
    async with client() as http:

        async def post(path: str, value: Any = None, **more: str) -> httpx.Response:
            return await http.post(run + path, json=value, headers=headers | more)

        events = [{"type": "t", "data": {"n": n}} for n in range(1, 400)]
        first = await post("/events", events, **{"idempotency-key": "one"})
        again = await post("/events", events, **{"idempotency-key": "one"})
        assert (first.status_code, again.json()) == (201, first.json())
        assert (await post("/events", {"type": "t", "more": 1})).status_code == 422
        reader = site.read("/runs/a%2Fb/events/stream")
        try:
            await site.all_have(399)
            assert (await post("/stop")).status_code == 202
            assert (await post("/events", {"type": "workflow_complete"})).status_code == 201
            assert (await post("/stop")).status_code == 409
            await reader.until(lambda: reader.closed, PATIENCE)
        finally:
            await site.leave()
        page = (await http.get(f"{run}/events?limit=1000")).json()
        assert (page["status"], len(page["events"])) == ("ended", 400)
        assert (await http.get(f"{run}/events/ws")).status_code == 501
