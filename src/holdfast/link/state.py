"""What the link knows of Redis: five states, and the table that moves between them.

Rule 1: no clock and no I/O in here; the supervisor turns time and sockets into events.
Rule 2: a pair that is not in the table changes nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class LinkState(enum.Enum):
    """Where the link stands. Commands are sent in ``UP`` and in no other state."""

    STARTING = "starting"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    RECOVERING = "recovering"


class Event(enum.Enum):
    """What can happen to a link."""

    FAILED = "a command was refused, cut off, or told that Redis cannot serve"
    TIMEOUT = "a command was not answered in time"
    PROBE_OK = "the canary was written and read back"
    PROBE_FAILED = "the canary was not"
    HELD = "the canary is well and the hold-down is over"
    RECOVERED = "every recovery hook has run"
    RECOVERY_FAILED = "Redis went away again while they ran"


@dataclass(frozen=True)
class LinkStatus:
    """A state and its history.

    Attributes:
        state: the state.
        since: when it was entered, in Unix seconds.
        reason: why Redis is away, a word as in ``RedisUnavailable.reason``; ``None`` when up.
    """

    state: LinkState
    since: float
    reason: str | None = None


_S, _E = LinkState, Event

TABLE: Mapping[tuple[LinkState, Event], LinkState] = MappingProxyType(
    {
        # The first verdict. Hooks run then too: requests may have been served from memory.
        (_S.STARTING, _E.PROBE_OK): _S.RECOVERING,
        (_S.STARTING, _E.PROBE_FAILED): _S.DOWN,
        (_S.UP, _E.FAILED): _S.DOWN,
        (_S.UP, _E.PROBE_FAILED): _S.DOWN,
        # One missed deadline is no outage yet: an immediate probe decides.
        (_S.UP, _E.TIMEOUT): _S.SUSPECT,
        # Requests were served as in DOWN, so what they left behind has to be replayed first.
        (_S.SUSPECT, _E.PROBE_OK): _S.RECOVERING,
        (_S.SUSPECT, _E.PROBE_FAILED): _S.DOWN,
        (_S.SUSPECT, _E.FAILED): _S.DOWN,
        # A good probe alone does not end DOWN: the hold-down bounds the cost of a flapping server.
        (_S.DOWN, _E.HELD): _S.RECOVERING,
        (_S.RECOVERING, _E.RECOVERED): _S.UP,
        (_S.RECOVERING, _E.RECOVERY_FAILED): _S.DOWN,
    }
)


def after(state: LinkState, event: Event) -> LinkState:
    """Return the state that follows *event* in *state*."""
    return TABLE.get((state, event), state)


def event_of_probe(state: LinkState, failure: str | None, *, held: bool) -> Event:
    """Name the event that a finished probe is.

    Args:
        state: the state in which it was made.
        failure: the reason it failed for, ``None`` if it did not.
        held: whether the hold-down of ``DOWN`` is over.
    """
    if failure is None:
        return Event.HELD if state is LinkState.DOWN and held else Event.PROBE_OK
    if failure == "timeout" and state is LinkState.UP:
        return Event.TIMEOUT
    return Event.PROBE_FAILED
