"""A store for the runs of a test: in memory, and in a real Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast import EventStore, Settings, StreamEvent

if TYPE_CHECKING:
    from holdfast.testing import RedisServer


@pytest.fixture(params=["memory", "redis"])
def settings(request: pytest.FixtureRequest, key_prefix: str) -> Settings:
    if request.param == "memory":
        return Settings(key_prefix=key_prefix)
    server: RedisServer = request.getfixturevalue("redis")
    return Settings(redis_url=server.url, key_prefix=key_prefix, redis_timeout=5)


class Log:
    """The events of a store's runs, as a test looks at them."""

    def __init__(self, settings: Settings) -> None:
        self.store = EventStore.from_settings(settings)

    async def events(self, run_id: str = "r") -> list[StreamEvent]:
        return await self.store.get_events(run_id, "0", None, 1000)

    async def types(self, run_id: str = "r") -> list[str]:
        return [event.type for event in await self.events(run_id)]


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings)
