"""What is read, changed and written in one piece: sums, comparisons, and how often to try.

Pure, save for the random pause between two tries. The stores judge by these functions, and
``Session.incr`` and ``Session.update_with`` go by them; no store and no request is known here.
"""

from __future__ import annotations

import math
import re
from typing import Any

from holdfast.jitter import between

#: How often a compare-and-set is tried before it gives up: some two seconds under contention.
TRIES = 100
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05

_WHOLE = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_LEAST, _MOST = -(2**63), 2**63 - 1


def fits(number: object) -> bool:
    """Whether *number* is a whole one that every store can add in one step: 64 bits, as Redis."""
    return type(number) is int and _LEAST <= number <= _MOST


def incremented(raw: bytes | None, by: int) -> int | None:
    """Return the whole number *raw* (JSON) and *by* together.

    ``None`` where *raw* is no whole number or the sum leaves 64 bits.
    """
    if raw is not None and not _WHOLE.fullmatch(raw):
        return None
    value = int(raw or 0) + by
    return value if fits(value) and (raw is None or fits(int(raw))) else None


def added(key: str, value: Any, by: float) -> int | float:
    """Return *value* and *by* together.

    Raises:
        TypeError: one of both is no number, or the sum is none that JSON has.
    """
    if not is_number(value):
        raise TypeError(f"session[{key!r}] is {type(value).__name__}, and incr() adds to numbers")
    if not is_number(by):
        raise TypeError(f"incr() adds numbers, not {type(by).__name__}")
    try:
        total: int | float = value + by
    except OverflowError:
        total = math.inf
    if isinstance(total, float) and not math.isfinite(total):
        raise TypeError(f"session[{key!r}] would be no number that JSON has")
    return total


def is_number(value: object) -> bool:
    """Whether *value* counts as a number; a bool is a truth, not a number."""
    return type(value) is int or type(value) is float


def pause(tried: int) -> float:
    """Return how many seconds to wait after *tried* tries: random, so that two rivals part."""
    longest = min(_FIRST_PAUSE * 2.0 ** min(tried, 10), _LONGEST_PAUSE)
    return between(0.0, longest)
