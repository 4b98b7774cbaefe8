"""Our middleware under the published suite, on every store of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.sessions.aging import patient

from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.stores.encryption import EncryptedSessionStore
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing.session_middleware import Handle, SessionMiddlewareSuite, session_app

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from holdfast.sessions.store import SessionStore
    from holdfast.testing import RedisServer


class TestOnMemory(SessionMiddlewareSuite):
    store: SessionStore

    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        self.store = MemorySessionStore()

    def make_app(self, handle: Handle, settings: Settings) -> ASGIApp:
        return SessionMiddleware(session_app(handle), settings=settings, store=self.store)


class TestOnRedis(SessionMiddlewareSuite):
    """Every application has a store of its own, as every process has."""

    @pytest.fixture(autouse=True)
    def _settings_of_redis(self, redis: RedisServer, key_prefix: str) -> None:
        self.own = patient(redis, key_prefix)

    def make_store(self) -> SessionStore:
        return RedisSessionStore(self.own)

    def make_app(self, handle: Handle, settings: Settings) -> ASGIApp:
        return SessionMiddleware(session_app(handle), settings=settings, store=self.make_store())


class TestOnTheFallbackWhileRedisIsThere(TestOnRedis):
    def make_store(self) -> SessionStore:
        return FallbackSessionStore(self.own)


class TestOnRedisEncrypted(TestOnRedis):
    def make_store(self) -> SessionStore:
        keys = ["the newest key of a suite", "the key before it"]
        return EncryptedSessionStore(RedisSessionStore(self.own), keys, strict=True)


class TestWithTheImportTurnedOn(TestOnMemory):
    def _settings(self, **changed: Any) -> Settings:
        return super()._settings(**changed).override(session_import=("starlette", "django"))


def test_a_subclass_is_told_what_it_has_to_say() -> None:
    with pytest.raises(NotImplementedError, match="make_app"):
        SessionMiddlewareSuite().make_app(dict, Settings())
