"""Sessions of Quart applications: what its views await, and what its WebSockets may do."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest
import quart
from quart import Quart
from tests.frameworks.wsgi_client import settle
from tests.sessions.browser import CountingStore

from holdfast.errors import SessionError, SessionTooLate
from holdfast.quart import QuartSession, QuartSessionInterface, get_session
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings

if TYPE_CHECKING:
    from quart.wrappers import Response

    from holdfast.sessions.store import SessionStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

KEY = "a key of more than sixteen characters"
Handle = Callable[[QuartSession], Awaitable[Any]]


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, key_prefix: str) -> SessionStore:
    if request.param == "memory":
        return MemorySessionStore()
    redis: RedisServer = request.getfixturevalue("redis")
    url = redis.url
    return RedisSessionStore(Settings(redis_url=url, key_prefix=key_prefix, redis_timeout=10))


class Site:
    """A Quart application whose page and socket do what a test says."""

    def __init__(self, store: SessionStore | None = None, **settings: Any) -> None:
        self.app = Quart(__name__)
        self.app.secret_key = KEY
        self.app.testing = True
        self.store = MemorySessionStore() if store is None else store
        interface = QuartSessionInterface(Settings(**settings), self.store)
        self.app.session_interface = interface  # type: ignore[assignment]
        self.app.add_url_rule("/", "page", self._page)
        self.app.add_websocket("/ws", "socket", self._socket)
        self.client = self.app.test_client()

    async def _page(self) -> Response:
        return quart.jsonify(await self.handle(get_session()))

    async def _socket(self) -> None:
        await quart.websocket.accept()
        await quart.websocket.send(str(await self.handle(get_session())))

    async def do(self, handle: Handle) -> Response:
        self.handle = handle
        return await self.client.get("/")

    async def write(self, **values: Any) -> Response:
        async def update(session: QuartSession) -> None:
            session.update(values)

        return await self.do(update)

    async def data(self) -> dict[str, Any]:
        seen: list[dict[str, Any]] = []

        async def look(session: QuartSession) -> None:
            seen.append(dict(session))

        await self.do(look)
        return seen[0]

    async def in_socket(self, handle: Handle) -> str:
        self.handle = handle
        async with self.client.websocket("/ws") as socket:
            return str(await socket.receive())


async def test_what_one_request_writes_the_next_one_reads(store: SessionStore) -> None:
    site = Site(store)
    first = await site.write(pair=(1, b"x"), name="Zoë")
    assert "HttpOnly; Path=/; SameSite=Lax" in first.headers["Set-Cookie"]
    assert (first.headers["Cache-Control"], first.headers["Vary"]) == ("no-store", "Cookie")
    assert await site.data() == {"pair": (1, b"x"), "name": "Zoë"}


async def test_who_has_no_cookie_asks_the_store_nothing() -> None:
    store = CountingStore()
    site = Site(store)

    async def nothing(session: QuartSession) -> None:
        """Look at nothing."""

    answer = await site.do(nothing)
    assert store.told() == []
    assert "Set-Cookie" not in answer.headers


async def test_the_verbs_are_awaited(store: SessionStore) -> None:
    site = Site(store)
    await site.write(user_id=7, n=1, pair=(1,))
    seen: list[Any] = []

    async def handle(session: QuartSession) -> None:
        session["pair"] = (1, 2)
        await session.save()
        seen.append(await session.incr("n", 2))
        seen.append(await session.update_with("pair", lambda pair: (*pair, 3)))

        async def longer(pair: Any) -> Any:
            return (*pair, 4)

        seen.append(await session.update_with("pair", longer))
        session.regenerate_id()

    answer = await site.do(handle)
    assert seen == [3, (1, 2, 3), (1, 2, 3, 4)]
    assert "Set-Cookie" in answer.headers
    assert await site.data() == {"user_id": 7, "n": 3, "pair": (1, 2, 3, 4)}


async def test_a_socket_reads_and_writes_a_session_that_is_there() -> None:
    site = Site()
    await site.write(n=(1,))

    async def handle(session: QuartSession) -> Any:
        session["more"] = (2,)
        return session["n"]

    assert await site.in_socket(handle) == "(1,)"
    assert await site.data() == {"n": (1,), "more": (2,)}


async def test_no_session_begins_in_a_socket(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    site = Site()

    async def handle(session: QuartSession) -> str:
        session["a"] = 1
        try:
            await session.save()
        except SessionTooLate:
            return "too late"
        return "stored"

    assert await site.in_socket(handle) == "too late"
    assert len(site.store) == 0  # type: ignore[arg-type]


async def test_without_a_key_quart_says_so_itself() -> None:
    site = Site()
    site.app.secret_key = None
    async with site.app.test_request_context("/"):
        with pytest.raises(SessionError, match="QuartSessionInterface"):
            get_session()
        with pytest.raises(RuntimeError, match="secret key"):
            quart.session["a"] = 1


async def test_a_null_session_is_not_ours_to_save() -> None:
    site = Site()
    with pytest.raises(SessionError, match="no session of holdfast"):
        await site.app.session_interface.save_session(site.app, quart.sessions.NullSession(), None)


async def test_while_redis_is_away_a_write_is_503(
    fresh_redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    settings = Settings(
        redis_url=fresh_redis.url,
        key_prefix=key_prefix,
        secret_key=KEY,
        session_on_outage="readonly",
        redis_timeout=10,
    )
    store = FallbackSessionStore(settings)
    await anyio.to_thread.run_sync(settle, store)
    site = Site(store)
    await site.write(a=[1])
    fresh_redis.kill()
    assert await site.data() == {"a": [1]}
    refused = await site.write(a=2)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert "Set-Cookie" not in refused.headers

    async def inside(session: QuartSession) -> None:
        session["a"].append(2)

    assert (await site.do(inside)).status_code == 503
    await store.link.aclose()


async def test_without_the_redis_that_is_required_nothing_is_served(
    free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    site = Site(redis_url=f"redis://127.0.0.1:{free_port}", redis_required=True)
    assert (await site.write(a=1)).status_code == 503
