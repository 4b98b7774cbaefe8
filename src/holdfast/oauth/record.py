"""What is kept of a pending login, and what may be: names, bounds, JSON.

Pure. No state, code or verifier leaves by a message of this file.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import secrets
from typing import Any, Final

#: Seconds that a person has for the provider's pages; a code itself is good for minutes at most.
DEFAULT_TTL: Final = 600
#: The binding cookie lives as long, so that it outlives every login it is needed for.
MAX_TTL: Final = 86400
MAX_BYTES: Final = 16384
MAX_STATE: Final = 512

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


class Refusal(enum.Enum):
    """Why nothing was handed out."""

    ABSENT = "never issued, used, or expired"
    FOREIGN = "issued to another browser, and left as it was"


def new_state() -> str:
    """Return a state that nobody can guess: 256 random bits (RFC 6749, section 10.10)."""
    return secrets.token_urlsafe(32)


def possible(state: object) -> bool:
    """Whether *state* can have been issued; what cannot is never looked up."""
    return (
        isinstance(state, str)
        and 0 < len(state) <= MAX_STATE
        and state.isascii()
        and state.isprintable()
    )


def key_of(state: str, provider: str) -> str:
    """Return the name under which a login is kept; a dump of the store shows no state.

    The provider is part of it: the answer of one is no answer of another (RFC 9700, section 4.4).
    """
    name = f"{provider}\0{state}" if provider else state
    return hashlib.sha256(name.encode()).hexdigest()


def checked_state(state: str) -> str:
    """Return *state*.

    Raises:
        ValueError: no callback could bring it back.
    """
    if not possible(state):
        raise ValueError(f"a state is 1 to {MAX_STATE} printable ASCII characters")
    return state


def milliseconds(ttl: float) -> int:
    """Return *ttl* (seconds) in milliseconds.

    Raises:
        ValueError: it is not above 0, or above ``MAX_TTL``.
    """
    if isinstance(ttl, bool) or not math.isfinite(ttl) or not 0 < ttl <= MAX_TTL:
        raise ValueError(f"ttl is a number of seconds above 0, at most {MAX_TTL}")
    return max(1, round(ttl * 1000))


def encode(data: dict[str, Any]) -> bytes:
    """Return *data* as JSON.

    Raises:
        TypeError: it is no dict, or would come back as something else.
        ValueError: it takes more than ``MAX_BYTES``.
    """
    if not isinstance(data, dict):
        raise TypeError(f"the data of a login is a dict, not {type(data).__name__}")
    try:
        text = _encode(data)
        same = json.loads(text) == data
        encoded = text.encode()
    except (TypeError, ValueError, RecursionError):
        # Python's own words may hold the value.
        raise TypeError("the data of a login must be what JSON can carry") from None
    if not same:
        raise TypeError("the data of a login must come back from JSON as it went in")
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"the data of a login takes {len(encoded)} bytes, more than {MAX_BYTES}")
    return encoded


def decode(data: bytes) -> dict[str, Any]:
    """Return what :func:`encode` was given."""
    decoded: dict[str, Any] = json.loads(data)
    return decoded
