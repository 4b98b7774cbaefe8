"""Both stores on other servers than the one in PATH: Redis 5 to 8, Valkey, whatever is at hand.

``HOLDFAST_TEST_REDIS_SERVERS`` names their programs, separated by commas.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.store_suites import SessionsOnRedis, StreamsOnRedis

from holdfast import Settings
from holdfast.link.capabilities import inspect
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


@pytest.fixture
def store_settings(url: str, key_prefix: str) -> Callable[..., Settings]:
    return partial(settings_of, url, key_prefix)


class TestSessions(SessionsOnRedis): ...


class TestStreams(StreamsOnRedis): ...
