"""HOLDFAST_REDIS_WAIT: what is written is on replicas before anybody is told that it is."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import pytest
from tests.sessions.browser import Browser, app_of
from tests.sessions.outage import HOUR, KEY, until

from holdfast import RunPublisher, SessionMiddleware, SyncRunPublisher
from holdfast.errors import SessionNotReplicated
from holdfast.runtime import aclose
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.store import Change, Missing, Outcome, Record
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.sessions.stores.sync import driven
from holdfast.settings import Settings
from holdfast.testing import redis_server
from holdfast.testing.session_store import new_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.link import Link
    from holdfast.testing import RedisServer


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    with (
        redis_server("--repl-diskless-sync-delay", "0") as master,
        redis_server("--replicaof", "127.0.0.1", str(master.port)) as replica,
    ):
        deadline = time.monotonic() + 20
        # Called online before it has said so itself, once a second; until then WAIT counts it not.
        while not re.search(
            r"state=online,offset=[1-9]", str(master.execute("INFO", "replication"))
        ):
            assert time.monotonic() < deadline, "the replica did not come"
            master.execute("SET", "something", "to tell")
            time.sleep(0.02)
        yield master, replica


def settings_of(master: RedisServer, prefix: str, wait: int, timeout: float = 2) -> Settings:
    return Settings(
        redis_url=master.url,
        secret_key=KEY,
        key_prefix=prefix,
        redis_wait=wait,
        redis_timeout=timeout,
    )


async def test_a_session_write_is_on_the_replica_when_it_is_acknowledged(
    pair: tuple[RedisServer, RedisServer], key_prefix: str
) -> None:
    master, replica = pair
    store, key = RedisSessionStore(settings_of(master, key_prefix, 1)), new_key()
    name = f"{key_prefix}session:{key.id_hash}"
    assert await store.create(key, {"a": b"1"}, max_age=HOUR) is Outcome.DONE
    assert replica.execute("HGET", name, "a") == b"1"
    for number in range(2, 7):
        await store.save(key, Change({"a": b"%d" % number}))
        assert replica.execute("HGET", name, "a") == b"%d" % number
    assert await store.increment(key, "a", 4) == 10
    assert replica.execute("HGET", name, "a") == b"10"
    assert driven(store.delete(key.id_hash)) is Outcome.DONE
    assert replica.execute("EXISTS", name) == 0
    assert await store.load(key) is Missing.ABSENT


async def test_many_that_wait_at_once_share_the_answer(
    pair: tuple[RedisServer, RedisServer], key_prefix: str
) -> None:
    master, replica = pair
    store = RedisSessionStore(settings_of(master, key_prefix, 1, timeout=10))
    before = _calls_of_wait(master)
    keys = [new_key() for _ in range(200)]

    async def one(number: int) -> None:
        assert await store.create(keys[number], {"a": b"1"}, max_age=HOUR) is Outcome.DONE
        assert replica.execute("EXISTS", f"{key_prefix}session:{keys[number].id_hash}") == 1

    await asyncio.gather(*map(one, range(200)))
    assert 1 <= _calls_of_wait(master) - before < 100


def _calls_of_wait(master: RedisServer) -> int:
    told = master.execute("INFO", "commandstats")
    assert isinstance(told, bytes)
    line = next((each for each in told.split(b"\r\n") if each.startswith(b"cmdstat_wait:")), b"")
    return int(line.partition(b"calls=")[2].partition(b",")[0] or 0)


async def test_a_write_that_too_few_replicas_hold_is_not_acknowledged(
    pair: tuple[RedisServer, RedisServer], key_prefix: str
) -> None:
    master, _ = pair
    settings = settings_of(master, key_prefix, 2, timeout=1)
    store, key = FallbackSessionStore(settings), new_key()
    with pytest.raises(SessionNotReplicated, match="1 replicas hold"):
        await store.create(key, {"a": b"1"}, max_age=HOUR)
    # It is there all the same, and Redis is not taken for away.
    assert isinstance(await store.load(key), Record)
    with pytest.raises(SessionNotReplicated, match="asks for 2"):
        driven(store.delete(key.id_hash))
    assert await store.load(key) is Missing.ABSENT
    assert store.link.up
    answer = await Browser(
        SessionMiddleware(app_of(lambda session: session.update(a=1)), settings=settings)
    ).get()
    assert (answer.status, answer.set_cookie) == (503, None)


async def test_the_end_of_a_run_is_on_the_replica_or_told(
    pair: tuple[RedisServer, RedisServer], key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    master, replica = pair
    for wait in (1, 2):
        settings = settings_of(master, f"{key_prefix}{wait}:", wait)
        async with RunPublisher("a", settings=settings) as run:
            await run.emit("step")
        await asyncio.to_thread(_publish_in_a_thread, settings)
        for run_id in ("a", "b"):
            assert replica.execute("XLEN", f"{key_prefix}{wait}:run:{run_id}:events") == 2
            assert (f"the end of run {run_id} is on 1 replicas" in caplog.text) is (wait == 2)
    await aclose()


def _publish_in_a_thread(settings: Settings) -> None:
    with SyncRunPublisher("b", settings=settings) as run:
        run.emit("step")


async def test_what_waits_for_replicas_is_told_of_an_outage(key_prefix: str) -> None:
    with redis_server() as master:
        settings = settings_of(master, key_prefix, 1)
        store, key = RedisSessionStore(settings), new_key()
        with pytest.raises(SessionNotReplicated, match="0 replicas hold"):
            await store.create(key, {"a": b"1"}, max_age=HOUR)
        master.kill()
        await until(lambda: not _reachable(store.link))
        with pytest.raises(SessionNotReplicated, match="could not be waited for"):
            await store._replicated(f"{key_prefix}session:{key.id_hash}")


def _reachable(link: Link) -> bool:
    try:
        link.execute_sync("PING")
    except Exception:  # noqa: BLE001 - whatever says that it is not
        return False
    return True
