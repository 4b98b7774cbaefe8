"""What the benchmarks compare with, and how they tell it."""

from __future__ import annotations

import statistics
from typing import Any

from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry


def tuned(url: str, **options: Any) -> Redis:
    """redis-py at its best: no socket timeout (a task per command on 3.11), a short handshake."""
    return Redis.from_url(
        url,
        protocol=2,
        socket_timeout=None,
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        retry=Retry(NoBackoff(), 0),
        **options,
    )


def spread(values: list[float], digits: int = 1) -> str:
    """Median, least and most."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def ratio(values: list[float]) -> str:
    """Median, least and most, as a factor."""
    return spread(values, 2)
