"""Health: alive whatever Redis does, ready unless Redis is required or the process stops."""

from __future__ import annotations

import pytest

from holdfast.health import liveness, readiness
from holdfast.link import LinkState, LinkStatus

SINCE = "2026-01-01T00:00:00.125Z"


def status(state: LinkState, reason: str | None = None) -> LinkStatus:
    return LinkStatus(state, 1767225600.125, reason)


def test_liveness_is_the_process_alone() -> None:
    assert liveness() == (200, {"status": "ok"})


def test_without_redis_it_is_ready_and_says_so() -> None:
    assert readiness(None) == (200, {"status": "ok", "redis": "off"})


def test_with_redis_up_it_tells_since_when() -> None:
    body = {"status": "ok", "redis": "up", "since": SINCE}
    assert readiness(status(LinkState.UP)) == (200, body)


@pytest.mark.parametrize(
    "state", [LinkState.STARTING, LinkState.SUSPECT, LinkState.DOWN, LinkState.RECOVERING]
)
def test_whatever_is_not_up_is_degraded_and_out_only_where_redis_is_required(
    state: LinkState,
) -> None:
    body = {"status": "degraded", "redis": "down", "since": SINCE, "reason": "refused"}
    assert readiness(status(state, "refused")) == (200, body)
    assert readiness(status(state, "refused"), required=True) == (503, body)


def test_a_stopping_process_is_out_whatever_redis_does() -> None:
    for link in (None, status(LinkState.UP)):
        assert readiness(link, stopping=True) == (503, {"status": "stopping"})
