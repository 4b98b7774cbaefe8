"""Reading the names of all keys, at every master: for people who look, never for a request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError
from holdfast.link.sync import SyncConversation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.link.client import Target
    from holdfast.link.link import Link

_AT_ONCE = 1000


def scan(link: Link, pattern: str) -> Iterator[bytes]:
    """Yield each key that matches, over connections of its own; it blocks between them.

    A key that comes or goes meanwhile may be missed, or told twice (Redis, ``SCAN``).

    Args:
        link: says where the masters are; it has to be up.
        pattern: a glob pattern of Redis's.

    Raises:
        RedisUnavailable: a master does not answer within ``REDIS_TIMEOUT``, or its user lacks
            ``+scan``.
    """
    nodes = [link.topology.at(address) for address in link.topology.nodes]
    for target in nodes or [link.target]:
        yield from _scan_at(target, pattern, link.timeout)


def literal(text: str) -> str:
    """Return *text* as a pattern that matches itself alone."""
    return "".join(f"\\{each}" if each in r"\*?[]^-" else each for each in text)


def _scan_at(target: Target, pattern: str, timeout: float) -> Iterator[bytes]:
    conversation, cursor = SyncConversation.open(target, timeout), b"0"
    try:
        while True:
            command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _AT_ONCE)
            reply: Any = conversation.call([command], time.monotonic() + timeout)[0]
            if isinstance(reply, HoldfastError):
                raise reply
            cursor, keys = reply
            yield from keys
            if cursor == b"0":
                return
    finally:
        conversation.close()
