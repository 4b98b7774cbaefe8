"""The WSGI middleware under the published suite of middlewares, on every store of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.frameworks.wsgi_client import asgi_of, session_wsgi_app
from tests.sessions.aging import patient

from holdfast.sessions.doors.wsgi import WSGISessionMiddleware
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.session import get_session
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.testing.session_middleware import Handle, SessionMiddlewareSuite

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from holdfast.sessions.store import SessionStore
    from holdfast.settings import Settings
    from holdfast.testing import RedisServer


class TestOnMemory(SessionMiddlewareSuite):
    store: SessionStore

    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        self.store = MemorySessionStore()

    def make_app(self, handle: Handle, settings: Settings) -> ASGIApp:
        inner = session_wsgi_app(handle, get_session)
        return asgi_of(WSGISessionMiddleware(inner, settings=settings, store=self.store))

    async def test_a_cancelled_request_saves_nothing_and_the_next_is_served(self) -> None:
        """A thread cannot be cancelled."""


class TestOnTheFallbackWhileRedisIsThere(TestOnMemory):
    @pytest.fixture(autouse=True)
    def _store_on_redis(self, redis: RedisServer, key_prefix: str) -> None:
        self.store = FallbackSessionStore(patient(redis, key_prefix))
