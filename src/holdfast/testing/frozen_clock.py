"""A wall clock that stands still until a test moves it."""

from __future__ import annotations

import time
from typing import Self


class FrozenClock:
    """Seconds since the epoch, as the test says. A callable, and a context manager.

    Give it to what takes a clock (``MemorySessionStore(clock=clock)``). Inside its ``with`` block
    it is ``time.time()`` for the whole process as well, so that what looks at the time by itself
    agrees. Timers, sleeps and ``time.monotonic()`` go on; so does the clock of a real Redis.

        with FrozenClock() as clock:
            store = MemorySessionStore(clock=clock)
            ...
            clock.advance(3600)

    Args:
        now: where it stands. Default: now.
    """

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now
        self._real = time.time

    def __call__(self) -> float:
        """Return where it stands."""
        return self.now

    def __repr__(self) -> str:
        return f"<FrozenClock at {self.now}>"

    def advance(self, seconds: float) -> None:
        """Move it by *seconds*; negative ones are a clock that was set back."""
        self.now += seconds

    def __enter__(self) -> Self:
        self._real, time.time = time.time, self
        return self

    def __exit__(self, *_: object) -> None:
        time.time = self._real
