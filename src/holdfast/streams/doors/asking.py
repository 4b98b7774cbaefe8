"""What a request asks for, read from its headers and its query: from where, how long, in what form.

Pure. What is malformed is ``None``, and the door says which problem that is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from holdfast.streams.cursor import parse_position

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import HTTPConnection

    from holdfast.streams.access import Verdict
    from holdfast.streams.cursor import Position

Form = Literal["application/json", "text/event-stream"]
_FORMS: tuple[Form, Form] = ("application/json", "text/event-stream")

MAX_WAIT = 60.0
"""The longest that anybody is kept waiting for a run to begin, in seconds."""

CAPTURED = "hf1/"
"""How the ids of captured answers begin; after the run's name they have a position."""

# A timer runs by another clock than the permission. Whoever has waited that long is told that the
# permission is over, and not that there is no run.
_PAST = 0.05


def position_of(connection: HTTPConnection) -> Position | None:
    """A reconnect's header beats the query, where the browser still has the first position."""
    header = connection.headers.get("last-event-id")
    text = connection.query_params.get("last_id") if header is None else header
    if text is not None and text.startswith(CAPTURED):
        # Whoever got it from a captured answer goes on here, where the run is asked for by name.
        text = text.removeprefix(CAPTURED).partition("/")[2].partition("/")[0]
    return parse_position(text)


def wait_of(connection: HTTPConnection, default: float, verdict: Verdict | None) -> float | None:
    """Return how long to wait for a run to begin: until the permission has ended, at most."""
    text = connection.query_params.get("wait")
    try:
        seconds = float(text) if text else default
    except ValueError:
        return None
    if not seconds >= 0:
        return None
    until = verdict.until if verdict else None
    return min(seconds, MAX_WAIT, max(until - time.time(), 0) + _PAST if until else MAX_WAIT)


def form_of(accept: str, usual: Form) -> Form:
    """Choose between history and stream by an ``Accept`` header (RFC 9110 section 12.5.1).

    Args:
        accept: the header, empty where there is none.
        usual: what the address gives to whoever does not say, or likes both equally well. It is
            what they get too who like neither: of two answers they may still read one.
    """
    other = _FORMS[usual == _FORMS[0]]
    ranges = dict(_ranges(accept))
    return other if _quality(ranges, other) > _quality(ranges, usual) else usual


def _quality(ranges: dict[str, float], form: Form) -> float:
    """The range that says most of *form* decides, whatever the others allow."""
    for name in (form, form.partition("/")[0] + "/*", "*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weights = [text[2:] for text in parameters if text.startswith("q=")]
        try:
            yield name, float(weights[0]) if weights else 1.0
        except ValueError:
            continue
