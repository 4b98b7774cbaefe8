"""What a load balancer may ask. Pure: the state of the link in, a status and a body out.

Liveness never depends on Redis. Readiness does only where Redis is required: taking every instance
out because Redis is away would be the outage.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.link import LinkStatus

Body = dict[str, str | None]


def liveness() -> tuple[int, Body]:
    """The process answers."""
    return 200, {"status": "ok"}


def readiness(
    link: LinkStatus | None, *, required: bool = False, stopping: bool = False
) -> tuple[int, Body]:
    """Return the HTTP status and the JSON body of ``/readyz``.

    Args:
        link: the link's status, ``None`` where no Redis is configured.
        required: ``HOLDFAST_REDIS_REQUIRED``.
        stopping: shutdown has begun.

    The body names no host and no user.
    """
    if stopping:
        return 503, {"status": "stopping"}
    if link is None:
        return 200, {"status": "ok", "redis": "off"}
    since = (
        datetime.fromtimestamp(link.since, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
    if link.state.name == "UP":
        return 200, {"status": "ok", "redis": "up", "since": since}
    # Whatever is not up is served as down, so it is told as down.
    body: Body = {"status": "degraded", "redis": "down", "since": since, "reason": link.reason}
    return (503 if required else 200), body
