"""How often Redis went away and for how long: what is counted of a link, for whoever measures.

It follows the transitions in the supervisor's thread, decides nothing and logs nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from holdfast import signals
from holdfast.forks import watch_forks
from holdfast.link.state import LinkState, LinkStatus
from holdfast.signals import Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The reason of a link that its own process has closed: there is nothing to measure then.
_CLOSED = "closed"


class Source(Protocol):
    """Whoever supervises a link."""

    @property
    def running(self) -> bool:
        """Whether it does so now."""

    @property
    def status(self) -> LinkStatus:
        """The state, since when, and why."""


class Tally:
    """What one link has come to.

    Args:
        source: what supervises the link.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.forked()
        watch_forks(self)
        signals.readable(self)

    def forked(self) -> None:
        """Begin, also in a forked child: what happened to the parent is the parent's to tell."""
        # Seconds of all outages that are over, and when the present one began: one tuple, replaced
        # whole, so that a reading in another thread counts no second twice.
        self._away: tuple[float, float | None] = (0.0, None)

    def note(self, status: LinkStatus) -> None:
        """Take note of a transition."""
        signals.count("redis_link_transitions", status.state.value)
        seconds, since = self._away
        if status.state is LinkState.DOWN and since is None:
            signals.count("redis_outages", status.reason or "other")
            self._away = (seconds, status.since)
        elif status.state is LinkState.UP:
            self._away = (self.away_seconds(status.since), None)

    def away_seconds(self, now: float) -> float:
        """Return for how long Redis has been away until *now*, over all outages."""
        seconds, since = self._away
        return seconds + (0.0 if since is None else max(now - since, 0.0))

    def readings(self) -> Iterator[Reading]:
        """See :meth:`~holdfast.signals.Readable.readings`."""
        status = self._source.status
        if status.reason == _CLOSED or not self._source.running:
            return
        for state in LinkState:
            yield Reading("redis_link_state", float(state is status.state), (state.value,))
        yield Reading("redis_away_seconds", self.away_seconds(time.time()))
