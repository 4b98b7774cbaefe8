"""Doorbells within one process: who wants to hear of which run.

No I/O. A listener may be called in any thread and must only take note.
"""

from __future__ import annotations

import threading

from holdfast.streams.store import Doorbell, News, Ring


class LocalBells:
    """The listeners of this process, by run."""

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """In a forked child: whoever listens belongs to the parent's event loops."""
        self._listeners: dict[str, list[Ring]] = {}
        self._lock = threading.Lock()

    def add(self, run_id: str, ring: Ring) -> None:
        """Have *ring* called for every ring of *run_id*."""
        with self._lock:
            self._listeners[run_id] = [*self._listeners.get(run_id, ()), ring]

    def discard(self, run_id: str, ring: Ring) -> None:
        """Call *ring* no more for *run_id*; nothing happens where it never was."""
        with self._lock:
            left = [each for each in self._listeners.get(run_id, ()) if each != ring]
            if left:
                self._listeners[run_id] = left
            else:
                self._listeners.pop(run_id, None)

    def heard(self, run_id: str) -> bool:
        """Whether anybody listens to *run_id*: what nobody hears need not be put together."""
        return run_id in self._listeners

    def ring(self, run_id: str, news: News) -> None:
        """Tell everybody who listens to *run_id*."""
        for listener in self._listeners.get(run_id, ()):
            listener(run_id, news)


class LocalDoorbell(Doorbell):
    """A doorbell for runs that only this process writes."""

    def __init__(self, bells: LocalBells, ring: Ring) -> None:
        self._bells = bells
        self._ring = ring
        self._runs: set[str] = set()

    async def add(self, run_id: str) -> None:
        if run_id not in self._runs:
            self._runs.add(run_id)
            self._bells.add(run_id, self._ring)

    async def discard(self, run_id: str) -> None:
        self._runs.discard(run_id)
        self._bells.discard(run_id, self._ring)

    async def aclose(self) -> None:
        self.release()

    def release(self) -> None:
        while self._runs:
            self._bells.discard(self._runs.pop(), self._ring)
