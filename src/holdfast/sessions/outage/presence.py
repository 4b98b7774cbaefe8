"""Which processes share the sessions, and whether this is still the Redis that they knew.

A Redis that comes back may be another one, or have lost what it held: a restart without
persistence, an old snapshot, a replica that was behind. It is told by three marks: the *epoch*,
which is data; the run id, which is the life of one server; and the time at which this process was
there last, which says how old the data is. What follows is done in ``restoration.py``.
"""

from __future__ import annotations

import enum
import os
import secrets
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.link import Reply, Script

#: Seconds for which a process that says nothing is still counted.
SILENCE_SECONDS = 15.0
#: Seconds for which it is remembered when it was there.
MEMORY_SECONDS = 86_400.0

_token = cache(secrets.token_hex)


class Census(NamedTuple):
    """What Redis answered to a process that says it is there.

    Attributes:
        epoch: of its data; another one, or none, and the data is gone.
        run: of its life; empty where it may not be asked.
        before: when the process was there last, as Redis remembers it; ``None`` for never.
        others: processes that were there since they were last counted.
        at: milliseconds since the epoch by its clock.
    """

    epoch: bytes
    run: bytes
    before: int | None
    others: int
    at: int


class Loss(enum.Enum):
    """What Redis may have lost since it was last seen."""

    NONE = "nothing"
    LAST = "its very last writes, if any: it is another server, or a new life of it"
    LATER = "what was written after an older state, with which it came back"
    EVERYTHING = "all that it held"
    EMPTIED = "all that it held: somebody has emptied it, and it lives on"


def loss(before: Census | None, now: Census) -> Loss:
    """Return what lies between two answers."""
    if before is None:
        return Loss.NONE
    reborn = before.run != now.run or not now.run
    if before.epoch != now.epoch:
        return Loss.EVERYTHING if reborn else Loss.EMPTIED
    if not reborn:
        return Loss.NONE
    # It may be later than what was answered here: the last answer may have been lost.
    kept = now.before is not None and now.before >= before.at
    return Loss.LAST if kept else Loss.LATER


class Presence:
    """One process among those that share the sessions of a Redis.

    Args:
        prefix: put before every key.
    """

    def __init__(self, prefix: str) -> None:
        self._name = f"{prefix}holdfast:processes"
        self._first = 0
        self._known: Census | None = None

    def attend(self, run: Callable[..., Reply]) -> Census | None:
        """Tell Redis that this process is there, and return what it answers.

        Args:
            run: runs a script with keys and arguments.

        Raises:
            RedisUnavailable: it is gone.
            RedisReplyError: it refuses, and nothing can be said.
        """
        # After a fork the child is a process of its own.
        args = (f"{os.getpid()}-{_token(8)}", secrets.token_hex(8), _ms(SILENCE_SECONDS))
        reply = run(_script(), (self._name,), (*args, _ms(MEMORY_SECONDS), self._first))
        if not isinstance(reply, list):
            return None
        epoch, run_id, before, others, at = reply
        # A process killed a moment ago is still remembered: who spoke after we first did counts.
        self._first = self._first or int(at)
        before = int(before) if before else None
        return Census(epoch, run_id, before, int(others), int(at))

    def loss(self, census: Census) -> Loss:
        """Return what *census* says that Redis may have lost."""
        return loss(self._known, census)

    def acknowledge(self, census: Census) -> None:
        """Note that what followed from *census* is done."""
        self._known = census


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


@cache
def _script() -> Script:
    from holdfast.link import Script

    return Script.load("session_attend")
