"""Tools for testing what is built on holdfast: conformance suites, faults, a real Redis to kill.

What is here starts processes and threads only when asked to. Nothing here is needed to serve a
request.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.testing.event_store import EventStoreSuite as EventStoreSuite
    from holdfast.testing.fault_proxy import FaultProxy as FaultProxy
    from holdfast.testing.faulty_store import FaultyStore as FaultyStore
    from holdfast.testing.frozen_clock import FrozenClock as FrozenClock
    from holdfast.testing.redis_nodes import RedisCluster as RedisCluster
    from holdfast.testing.redis_nodes import redis_cluster as redis_cluster
    from holdfast.testing.redis_process import RedisServer as RedisServer
    from holdfast.testing.redis_process import redis_server as redis_server
    from holdfast.testing.session_middleware import SessionMiddlewareSuite as SessionMiddlewareSuite
    from holdfast.testing.session_store import SessionStoreSuite as SessionStoreSuite

__all__ = [
    "EventStoreSuite",
    "FaultProxy",
    "FaultyStore",
    "FrozenClock",
    "RedisCluster",
    "RedisServer",
    "SessionMiddlewareSuite",
    "SessionStoreSuite",
    "redis_cluster",
    "redis_server",
]

# No module bears the name of what it offers: importing the one would hide the other.
_HOMES = {
    "EventStoreSuite": "holdfast.testing.event_store",
    "FaultProxy": "holdfast.testing.fault_proxy",
    "FaultyStore": "holdfast.testing.faulty_store",
    "FrozenClock": "holdfast.testing.frozen_clock",
    "RedisCluster": "holdfast.testing.redis_nodes",
    "RedisServer": "holdfast.testing.redis_process",
    "SessionMiddlewareSuite": "holdfast.testing.session_middleware",
    "SessionStoreSuite": "holdfast.testing.session_store",
    "redis_cluster": "holdfast.testing.redis_nodes",
    "redis_server": "holdfast.testing.redis_process",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
