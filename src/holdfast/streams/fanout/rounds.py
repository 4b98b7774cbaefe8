"""One timer for ten thousand: who wants to be looked at, and in which round.

A timer of the event loop for each open stream would cost more than what it is for: its memory, and
its place in a heap that ten thousand others are in.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

GRAIN = 0.05
"""Seconds between two rounds: whoever is due between them is looked at in the next."""


class Looked(Protocol):
    """What is looked at."""

    def look(self) -> None:
        """Do what is due; whoever wants another look asks for it."""


class Rounds:
    """Looks at things when they ask for it; idle where none do."""

    def __init__(self) -> None:
        self._due: dict[int, set[Looked]] = {}
        # When the timer goes off. It is never cancelled, only overtaken by an earlier one.
        self._armed = math.inf

    def __len__(self) -> int:
        return sum(map(len, self._due.values()))

    def add(self, looked: Looked, seconds: float) -> int:
        """Look at *looked* in *seconds*; return the round, for :meth:`discard`."""
        loop = asyncio.get_running_loop()
        number = math.ceil((loop.time() + seconds) / GRAIN)
        self._due.setdefault(number, set()).add(looked)
        self._arm(loop, number * GRAIN)
        return number

    def discard(self, looked: Looked, number: int) -> None:
        """Look at *looked* no more."""
        due = self._due.get(number)
        if due is not None:
            due.discard(looked)
            if not due:
                del self._due[number]

    def _arm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if when < self._armed:
            self._armed = when
            loop.call_at(when, self._go, loop, when)

    def _go(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if when == self._armed:
            self._armed = math.inf
        now = loop.time()
        for number in sorted(number for number in self._due if number * GRAIN <= now):
            for looked in self._due.pop(number):
                looked.look()
        if self._due:
            self._arm(loop, min(self._due) * GRAIN)
