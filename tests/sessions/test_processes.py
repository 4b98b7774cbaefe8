"""Several real server processes and one Redis: what is kept, what stays gone, what leaks."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from tests.sessions.monitor import monitor

from holdfast.sessions.cookie import CookieSigner, Credential

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

PROCESSES, TASKS = 4, 25
SECRET_KEY = "the key of four processes, which is in no log"
APP = "tests.sessions.served:app"


@dataclass
class Shop:
    """The same shop, served by several processes."""

    servers: list[ServerProcess]
    client: httpx.AsyncClient
    cookies: set[str] = field(default_factory=set)

    async def ask(
        self, method: str, path: str, cookie: str | None = None, at: int = 0
    ) -> httpx.Response:
        headers = {} if cookie is None else {"cookie": f"session={cookie}"}
        url = self.servers[at % len(self.servers)].url + path
        answer = await self.client.request(method, url, headers=headers)
        assert answer.status_code == 200, answer.text
        if given := cookie_of(answer):
            self.cookies.add(given)
        return answer

    async def new_session(self) -> str:
        """Return the cookie of a session with a cart."""
        cookie = cookie_of(await self.ask("POST", "/put/cart"))
        assert cookie
        return cookie

    async def data(self, cookie: str, at: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = (await self.ask("GET", "/", cookie, at)).json()
        return found


def cookie_of(answer: httpx.Response) -> str | None:
    """Return the session cookie that *answer* sets."""
    sent = answer.headers.get("set-cookie", "").partition(";")[0].removeprefix("session=")
    return None if sent in {"", "null"} else sent


@contextlib.asynccontextmanager
async def shop_of(serve: Serve, redis: RedisServer, prefix: str, count: int) -> AsyncIterator[Shop]:
    env = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_SECRET_KEY": SECRET_KEY,
        "HOLDFAST_KEY_PREFIX": prefix,
        # A busy machine is no outage, and looks like one.
        "HOLDFAST_REDIS_TIMEOUT": "10",
    }
    servers = [serve(APP, env=env) for _ in range(count)]
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None)) as client:
        # The cookies are in our own hands: a jar would send what the last of many answers said.
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        yield Shop(servers, client)


def keys_of(redis: RedisServer, prefix: str) -> list[str]:
    found = redis.execute("KEYS", f"*{prefix}*")
    assert isinstance(found, list)
    return [key.decode() for key in found if isinstance(key, bytes)]


@pytest.mark.slow
async def test_four_processes_write_a_hundred_keys_and_no_logout_is_undone(
    serve: Serve, redis: RedisServer, key_prefix: str
) -> None:
    async with shop_of(serve, redis, key_prefix, PROCESSES) as shop:
        await a_hundred_keys_are_kept(shop)
        await a_hundred_increments_count(shop)
        await ten_logouts_win_over_a_hundred_writers(shop, redis, key_prefix)
        await parallel_first_visits_are_sessions_of_their_own(shop)
        for server in shop.servers:
            server.stop()
            assert "Traceback" not in server.log()


async def a_hundred_keys_are_kept(shop: Shop) -> None:
    cookie = await shop.new_session()
    async with anyio.create_task_group() as group:
        for number in range(PROCESSES * TASKS):
            group.start_soon(shop.ask, "POST", f"/put/k{number}?slow=0.1", cookie, number)
    found = await shop.data(cookie)
    assert len(found) == 1 + PROCESSES * TASKS
    assert all(f"k{number}" in found for number in range(PROCESSES * TASKS))


async def a_hundred_increments_count(shop: Shop) -> None:
    cookie = await shop.new_session()
    async with anyio.create_task_group() as group:
        for number in range(PROCESSES * TASKS):
            group.start_soon(shop.ask, "POST", "/count", cookie, number)
    assert (await shop.data(cookie))["n"] == PROCESSES * TASKS


async def ten_logouts_win_over_a_hundred_writers(
    shop: Shop, redis: RedisServer, prefix: str
) -> None:
    cookie = await shop.new_session()
    id_hash = (await shop.ask("POST", "/put/seen", cookie)).json()
    chance = random.Random(4)  # which of them begins when differs, and can be had again
    async with anyio.create_task_group() as group:

        async def later(path: str, at: int) -> None:
            await anyio.sleep(chance.random() / 5)
            answer = await shop.ask("POST", path, cookie, at)
            # Of a session that is gone nobody gets a cookie back; who came after it was gone has
            # a session of his own.
            assert cookie_of(answer) is None or answer.json() != id_hash

        for number in range(100):
            group.start_soon(later, f"/put/k{number}?slow=0.05", number)
        for number in range(10):
            group.start_soon(later, "/logout", number)
    for at in range(len(shop.servers)):
        assert await shop.data(cookie, at) == {}
    left = [key for key in keys_of(redis, prefix) if id_hash in key]
    assert left == [f"{{{prefix}session:{id_hash}}}:gone"]


async def parallel_first_visits_are_sessions_of_their_own(shop: Shop) -> None:
    cookies = []

    async def visit(number: int) -> None:
        cookies.append(cookie_of(await shop.ask("POST", f"/put/v{number}", at=number)))

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(visit, number)
    assert len({cookie for cookie in cookies if cookie}) == 3
    assert [len(await shop.data(cookie)) for cookie in cookies if cookie] == [1, 1, 1]


READERS: dict[str, tuple[str, ...]] = {
    "string": ("GET",),
    "hash": ("HGETALL",),
    "zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
    "set": ("SMEMBERS",),
    "list": ("LRANGE", "0", "-1"),
    "stream": ("XRANGE", "-", "+"),
    "none": ("EXISTS",),  # it ended meanwhile
}


def everything_in(redis: RedisServer) -> bytes:
    """Return every key of the server with its value, whatever its type."""
    dump = []
    for key in keys_of(redis, ""):
        kind = redis.execute("TYPE", key)
        assert isinstance(kind, bytes)
        command, *more = READERS[kind.decode()]
        value = redis.execute(command, key, *more)
        dump.append(repr((key, value)).encode())
    return b"\n".join(dump)


async def test_neither_a_dump_of_redis_nor_what_it_is_told_nor_a_log_holds_a_cookie(
    serve: Serve, fresh_redis: RedisServer
) -> None:
    dumps = []
    with monitor(fresh_redis) as watched:
        async with shop_of(serve, fresh_redis, "", 2) as shop:

            async def visitor(number: int) -> None:
                for step in range(5):
                    cookie = await shop.new_session()
                    login = await shop.ask("POST", f"/login/u{number}", cookie, number)
                    cookie = cookie_of(login) or ""
                    renewed = await shop.ask("POST", "/renew", cookie, number + step)
                    cookie = cookie_of(renewed) or ""
                    await shop.ask("POST", "/put/late", cookie, number)
                    if step % 2:
                        await shop.ask("POST", "/logout", cookie, number)

            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(visitor, number)
                while len(shop.cookies) < 8 * 5 * 3:
                    dumps.append(everything_in(fresh_redis))
                    await anyio.sleep(0.02)
            dumps.append(everything_in(fresh_redis))
            logs = b"".join(server.log().encode() for server in shop.servers)
            traffic = watched.text()
            await what_is_in_the_dump_opens_nothing(shop, fresh_redis)
    assert len(dumps) > 2
    told = {"dumps": b"".join(dumps), "traffic": traffic, "logs": logs}
    assert len(shop.cookies) == 8 * 5 * 3
    for place, text in told.items():
        for cookie in shop.cookies:
            for part in (cookie, *cookie.split(".")):
                assert part.encode() not in text, f"{part} is in the {place}"
        assert SECRET_KEY.encode() not in text, place
    # The search finds what is there: a secret of a cookie, planted.
    planted = next(iter(shop.cookies)).split(".")[1]
    fresh_redis.execute("SET", "planted", planted)
    assert planted.encode() in everything_in(fresh_redis)


async def what_is_in_the_dump_opens_nothing(shop: Shop, redis: RedisServer) -> None:
    """Even who knows the key to sign with can make no cookie of what is stored."""
    signer = CookieSigner([SECRET_KEY])
    stored = [key.removeprefix("session:") for key in keys_of(redis, "session:") if "{" not in key]
    assert stored
    for id_hash in stored[:5]:
        meta = redis.execute("HGET", f"session:{id_hash}", b"\xffmeta")
        assert isinstance(meta, bytes)
        secret_hash = meta.split()[1].decode()
        forged = signer.sign(Credential(id_hash[:24], secret_hash[:32]))
        assert await shop.data(forged) == {}
