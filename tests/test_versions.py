"""Both stores on other servers than the one in PATH: Redis 5 to 8, Valkey, whatever is at hand.

``HOLDFAST_TEST_REDIS_SERVERS`` names their programs, separated by commas.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import Settings
from holdfast.link import Link
from holdfast.link.capabilities import inspect
from holdfast.sessions.redis import RedisSessionStore
from holdfast.streams.redis import RedisEventStore
from holdfast.testing import EventStoreSuite, SessionStoreSuite, redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from holdfast.sessions.store import SessionStore
    from holdfast.streams.store import EventStore

PROGRAMS = [name for name in os.environ.get("HOLDFAST_TEST_REDIS_SERVERS", "").split(",") if name]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not PROGRAMS, reason="HOLDFAST_TEST_REDIS_SERVERS names no other server"),
]


@pytest.fixture(scope="module", params=PROGRAMS or ["none"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with redis_server(binary=request.param) as server:
        yield server.url


def settings_of(url: str, prefix: str, **more: Any) -> Settings:
    values: dict[str, Any] = {"redis_timeout": 5, "key_prefix": prefix, "secret_key": "k" * 32}
    return Settings(redis_url=url, **values, **more)


def test_it_is_known_for_what_it_is_and_passes_its_inspection(url: str) -> None:
    found = {each.name: each for each in inspect(settings_of(url, "look:")).findings}
    assert found["version"].text.startswith(("Redis ", "Valkey "))
    assert not [each for each in found.values() if each.verdict == "problem"]


class TestSessions(SessionStoreSuite):
    @pytest.fixture(autouse=True)
    def _at(self, url: str, key_prefix: str) -> None:
        self.settings = settings_of(url, key_prefix)

    async def make_store(self) -> SessionStore:
        return RedisSessionStore(self.settings)


class TestStreams(EventStoreSuite):
    @pytest.fixture(autouse=True)
    async def _at(self, url: str, key_prefix: str) -> AsyncIterator[None]:
        self._url, self._prefix, self._links = url, key_prefix, list[Link]()
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
        settings = settings_of(
            self._url,
            self._prefix,
            stream_maxlen=maxlen,
            stream_max_run_bytes=max_run_bytes,
            stream_retention=int(retention),
        )
        self._links.append(Link(settings))
        return RedisEventStore(self._links[-1], settings)
