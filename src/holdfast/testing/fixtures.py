"""pytest fixtures over the tools of this folder; a project's conftest asks for them by name.

``pytest_plugins = ["holdfast.testing.fixtures"]``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.testing.fault_proxy import FaultProxy
from holdfast.testing.redis_process import RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def holdfast_redis() -> Iterator[RedisServer]:
    """A real, empty redis-server of the test's own, to be killed, frozen or filled."""
    with redis_server() as server:
        yield server


@pytest.fixture
def holdfast_proxy(holdfast_redis: RedisServer) -> Iterator[FaultProxy]:
    """A TCP proxy before ``holdfast_redis``: point ``HOLDFAST_REDIS_URL`` at its ``url``."""
    with FaultProxy("127.0.0.1", holdfast_redis.port) as proxy:
        yield proxy
