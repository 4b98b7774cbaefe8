"""What a request asks for, read from its headers and its query: from where, how long, in what form.

Pure. What is malformed is ``None``, and the door says which problem that is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from holdfast.streams.cursor import parse_position

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from holdfast.streams.access import Verdict
    from holdfast.streams.cursor import Position

MAX_WAIT = 60.0
"""The longest that anybody is kept waiting for a run to begin, in seconds."""


def position_of(connection: HTTPConnection) -> Position | None:
    """A reconnect's header beats the query, where the browser still has the first position."""
    header = connection.headers.get("last-event-id")
    return parse_position(connection.query_params.get("last_id") if header is None else header)


def wait_of(connection: HTTPConnection, default: float, verdict: Verdict | None) -> float | None:
    """Return how long to wait for a run to begin; never longer than the permission lasts."""
    text = connection.query_params.get("wait")
    try:
        seconds = float(text) if text else default
    except ValueError:
        return None
    if not seconds >= 0:
        return None
    until = verdict.until if verdict else None
    return min(seconds, MAX_WAIT, max(until - time.time(), 0) if until else MAX_WAIT)
