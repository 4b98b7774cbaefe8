"""Streams that a session opens, while Redis is away: held, and opened by the session itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route
from tests.streams.asgi import Call
from tests.streams.clients import until

from holdfast import EventStreamApp, RunPublisher, SessionMiddleware, Settings, runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from holdfast.testing import RedisServer

RUN = "/streams/runs/run/events"


@pytest.fixture
async def site(fresh_redis: RedisServer, key_prefix: str) -> AsyncIterator[tuple[ASGIApp, str]]:
    """A site whose sessions cannot be seen while Redis is away, and a cookie of its user."""
    settings = Settings(
        redis_url=fresh_redis.url,
        redis_timeout=5,
        key_prefix=key_prefix,
        secret_key="a-key-of-sixteen-characters-or-more",
        session_on_outage="closed",
        session_https_only=False,
        stream_access="session",
        stream_heartbeat=0.2,
        stream_retry=0.1,
    )

    async def login(request: Request) -> Response:
        request.session["user_id"] = "1"
        return Response()

    streams = EventStreamApp(settings=settings)
    routes = [Route("/login", login), Mount("/streams", streams)]
    app = SessionMiddleware(Starlette(routes=routes), settings=settings)
    async with Call(app, "/login") as call:
        await call.ended()
    cookie = dict(call.sent[0]["headers"])[b"set-cookie"].decode().partition(";")[0]
    async with RunPublisher("run", owner="user:1", settings=settings) as publisher:
        await publisher.emit("t", {"n": 1})
    yield app, cookie
    await runtime.runtime(settings).aclose()


async def test_sse_whose_session_cannot_be_seen_is_held_and_opened_anew(
    site: tuple[ASGIApp, str], fresh_redis: RedisServer
) -> None:
    app, cookie = site
    fresh_redis.execute("SAVE")
    fresh_redis.kill()
    async with Call(app, f"{RUN}/stream", headers={"cookie": cookie}) as held:
        await until(lambda: ": waiting" in held.text, 5, lambda: f"{held.sent}")
        assert held.status == 200
        fresh_redis.start()
        await held.ended()
        assert held.complete
        assert held.text.startswith("retry: ")
        assert held.events == []
    async with Call(app, f"{RUN}/stream", headers={"cookie": cookie}) as again:
        await again.ended()
        assert [kind for kind, _ in again.events] == ["t", "workflow_complete"]


async def test_websocket_whose_session_cannot_be_seen_is_told_to_try_again(
    site: tuple[ASGIApp, str], fresh_redis: RedisServer
) -> None:
    app, cookie = site
    fresh_redis.execute("SAVE")
    fresh_redis.kill()
    async with Call(app, f"{RUN}/ws", kind="websocket", headers={"cookie": cookie}) as held:
        await until(lambda: bool(held.sent), 5, lambda: f"{held.sent}")
        assert held.sent[0]["type"] == "websocket.accept"
        fresh_redis.start()
        await held.ended()
        assert held.close_code == 1013
        assert held.frames == []
    async with Call(app, f"{RUN}/ws", kind="websocket", headers={"cookie": cookie}) as again:
        await again.ended()
        assert (again.close_code, len(again.frames)) == (1000, 3)
