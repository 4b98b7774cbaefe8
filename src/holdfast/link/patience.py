"""Whether a reply is late, or our own event loop is.

No clock in here: times come in, times go out.
"""

from __future__ import annotations

from dataclasses import dataclass

# What a timer set by an idle loop is never late by.
LATE = 0.02
# Room for a loop that has just come back to read what waits in the socket.
GRACE = 0.005
MOST_EXCUSES = 3


@dataclass(slots=True)
class Patience:
    """Judges an overdue command in two steps, and forgives what the loop itself has lost.

    Args:
        timeout: seconds one operation may take; also the most that one excuse is worth.
    """

    timeout: float
    _until: float = 0.0
    _excuses: int = 0

    def until(self, armed_for: float, now: float) -> float | None:
        """Return when to look again, or ``None``: the command has expired.

        Args:
            armed_for: the time the timer was set for.
            now: the time it fired.
        """
        late = now - armed_for
        excused = late > LATE and self._excuses < MOST_EXCUSES
        if excused:
            self._excuses += 1
        if excused or not self._until:
            self._until = now + GRACE + (min(late, self.timeout) if excused else 0.0)
        return self._until if now < self._until else None

    def reset(self) -> None:
        """Begin anew: nothing is overdue."""
        self._until = 0.0
        self._excuses = 0
