"""Redis is back, and may not have what it said it has: a failover loses what was not replicated.

What is still kept in this process is written again, in its place and once; of the rest the readers
are told. In the supervisor's thread, before anything else is read or written.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from holdfast.errors import CorruptData
from holdfast.link import LinkState, LinkStatus, Script
from holdfast.streams.event import ZERO, EventId
from holdfast.streams.stores import replies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from holdfast.link import Link, Recovery
    from holdfast.streams.stores.outbox import Outbox
    from holdfast.streams.stores.replies import Keys

log = logging.getLogger("holdfast.streams")

WINDOW = 60.0
"""Seconds before an outage within which what was stored is asked for."""

AT_ONCE = 200


class Losses:
    """Asks Redis, whenever it is back, for the last events that it has of this process.

    Args:
        link: the supervised link. What is lost is in the journal when its next hook runs.
        outbox: what this process has written.
        keys: the names that a run has in Redis.
    """

    def __init__(self, link: Link, outbox: Outbox, keys: Callable[[str], Keys]) -> None:
        self._outbox = outbox
        self._keys = keys
        self._note = Script.load("stream_lost")
        # When it went away, in seconds since 1970.
        self._since: float | None = None
        link.on_transition(self._on_transition)
        link.on_recovery("streams lost", self._recall)

    def _on_transition(self, status: LinkStatus) -> None:
        if status.state is LinkState.UP:
            self._since = None
        elif self._since is None:
            self._since = status.since

    def _recall(self, redis: Recovery) -> None:
        since = (self._since or time.time()) - WINDOW
        written = self._outbox.written_since(int(since * 1000))
        number = f"s:{self._outbox.producer}"
        held: dict[str, tuple[int, EventId]] = {}
        for some in _slices(written):
            metas = [self._keys(run).meta for run in some]
            commands = [("HMGET", meta, "life", "last", "gone", number) for meta in metas]
            for run, answer in zip(some, redis.pipeline(commands), strict=True):
                found = read(answer, written[run])
                if found is not None:
                    held[run] = found
        back, torn = self._outbox.recall(held)
        for run in torn:
            keys = self._keys(run)
            redis.run(self._note, [keys.stream, keys.meta], [keys.bell, generation(written[run])])
        if back or torn:
            log.warning(
                "Redis has come back without events that it had stored: %d are written again, of"
                " %d runs a gap is told",
                back,
                len(torn),
            )


def read(answer: Any, life: str | None) -> tuple[int, EventId] | None:
    """Return the newest number and id that Redis has, by its answer about a run.

    ``None`` where nothing is to be written again: the run was deleted, is of a later life, or
    cannot be read.
    """
    try:
        theirs, last, gone, number = answer
        if gone is not None or (theirs and generation(theirs.decode()) != generation(life)):
            return None
        return int(number or 0), replies.event_id(last) if last else ZERO
    except (TypeError, ValueError, CorruptData):
        return None


def generation(life: str | None) -> str:
    """Return which life of a run it is: each deletion begins another."""
    return (life or "").partition(".")[0]


def _slices(runs: Iterable[str]) -> Iterator[list[str]]:
    names = list(runs)
    for start in range(0, len(names), AT_ONCE):
        yield names[start : start + AT_ONCE]
