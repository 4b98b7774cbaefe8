"""The suites of both stores on a Redis of the test module's choosing.

The module subclasses them, and has a fixture ``store_settings`` that makes settings for its Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast import RedisSessionStore
from holdfast.link import Link
from holdfast.streams.stores.redis import RedisEventStore
from holdfast.testing import EventStoreSuite, SessionStoreSuite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from holdfast import EventStore, SessionStore, Settings


class SessionsOnRedis(SessionStoreSuite):
    @pytest.fixture(autouse=True)
    def _at(self, store_settings: Callable[..., Settings]) -> None:
        self.settings = store_settings()

    async def make_store(self) -> SessionStore:
        return RedisSessionStore(self.settings)


class StreamsOnRedis(EventStoreSuite):
    @pytest.fixture(autouse=True)
    async def _at(self, store_settings: Callable[..., Settings]) -> AsyncIterator[None]:
        self._settings, self._links = store_settings, list[Link]()
        yield
        for link in self._links:
            await link.aclose()

    async def make_store(
        self,
        *,
        maxlen: int = 10_000,
        max_run_bytes: int = 134_217_728,
        retention: float = 86_400,
    ) -> EventStore:
        settings = self._settings(
            stream_maxlen=maxlen,
            stream_max_run_bytes=max_run_bytes,
            stream_retention=int(retention),
        )
        self._links.append(Link(settings))
        return RedisEventStore(self._links[-1], settings)
