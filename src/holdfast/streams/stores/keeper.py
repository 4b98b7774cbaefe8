"""The one thread of a process that keeps the leases of its runs and listens for their stop.

A thread and no task: a lease must not lapse because an event loop is busy, and publishers in plain
threads have no loop. It knows no Redis command; what it asks is given to it.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

from holdfast.forks import watch_forks
from holdfast.link import LinkState, LinkStatus, ThreadListener

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.link import Link
    from holdfast.streams.hold import Hold

log = logging.getLogger("holdfast.streams")

LINGER = 5.0
"""Seconds for which the thread waits for the next run after the last one has gone."""


class Keeper:
    """Looks after holds: each in good time, and at once where its channel rang.

    Args:
        link: the supervised link.
        attend: renews some holds and tells them what there is to tell; it blocks. In the thread.
        channel: the channel on which a run's stop is rung.
        interval: seconds within which every hold is attended to.

    A hold that nobody refers to any more is forgotten, and its lease lapses.
    """

    def __init__(
        self,
        link: Link,
        attend: Callable[[Sequence[Hold]], None],
        channel: Callable[[str], str],
        interval: float,
    ) -> None:
        self._link = link
        self._attend = attend
        self._channel = channel
        self._interval = interval
        self._listener: ThreadListener | None = None
        self._begin()
        link.on_transition(self._on_transition)
        watch_forks(self)

    def __repr__(self) -> str:
        return f"<Keeper of {len(self)} runs>"

    def __len__(self) -> int:
        return len(self._holds)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        # Each with its channel.
        self._holds: weakref.WeakKeyDictionary[Hold, str] = weakref.WeakKeyDictionary()
        # The channels of those added since the last round.
        self._new: set[str] = set()
        self._thread: threading.Thread | None = None
        self._all_now = False

    def forked(self) -> None:
        """In a forked child: the runs are the parent's, and so is the thread."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._begin()

    def add(self, hold: Hold) -> None:
        """Look after *hold* from now on. Any thread.

        Raises:
            RuntimeError: there is no thread to be had for it.
        """
        channel = self._channel(hold.run_id)
        with self._lock:
            if self._thread is None:
                self._start()
            self._holds[hold] = channel
            self._new.add(channel)
        self._wake()

    def _start(self) -> None:
        listener = ThreadListener(self._link)
        thread = threading.Thread(
            target=self._run, args=[listener], name="holdfast-leases", daemon=True
        )
        try:
            thread.start()
        except BaseException:
            # The system has no thread left; the next hold asks for one again.
            listener.close()
            raise
        self._listener, self._thread = listener, thread

    def discard(self, hold: Hold) -> None:
        """Look after *hold* no more. Any thread."""
        with self._lock:
            self._holds.pop(hold, None)

    def holds(self, channel: str) -> bool:
        """Whether a lease is kept here for the run whose stop is rung on *channel*."""
        return any(hold.name for hold in self._of({channel}))

    def _wake(self) -> None:
        listener = self._listener
        if listener is not None:
            listener.wake()

    def _on_transition(self, status: LinkStatus) -> None:
        if status.state is LinkState.UP:
            # What lapsed meanwhile is renewed before anybody may call it lost.
            self._all_now = True
        self._wake()

    # From here on: the thread.

    def _run(self, listener: ThreadListener) -> None:
        due = time.monotonic() + self._interval
        needed_at = time.monotonic()
        try:
            while True:
                channels, now = self._channels(), time.monotonic()
                needed_at = now if channels else needed_at
                if self._ended(listener, needed_at, now):
                    return
                try:
                    due = self._round(listener, channels, due)
                except Exception:
                    if self._listener is not listener:
                        return
                    log.exception("the leases could not be looked after, and are again in a second")
                    time.sleep(1)
        finally:
            listener.close()

    def _round(self, listener: ThreadListener, channels: set[str], due: float) -> float:
        """Wait until something is to be done, and do it; return when every hold is due again."""
        left = due - time.monotonic()
        rung = listener.wait(channels, min(left, LINGER)) if left > 0 else channels
        # A channel that is listened to already is confirmed to nobody who joins.
        rung = rung | self._take_new()
        if self._all_now or left <= 0:
            self._all_now, rung = False, channels
            due = time.monotonic() + self._interval
        if rung and self._link.up:
            self._attend(self._of(rung))
        return due

    def _take_new(self) -> set[str]:
        with self._lock:
            new, self._new = self._new, set()
            return new

    def _channels(self) -> set[str]:
        # Names, no holds: what this thread refers to while it waits would never be forgotten.
        with self._lock:
            return set(self._holds.values())

    def _of(self, channels: set[str]) -> list[Hold]:
        with self._lock:
            return [hold for hold, channel in self._holds.items() if channel in channels]

    def _ended(self, listener: ThreadListener, needed_at: float, now: float) -> bool:
        """Whether nobody has needed the thread for a while; then the next hold starts another.

        A link that is closed stays so, whatever is held; who holds it may be collected much later.
        """
        with self._lock:
            if self._listener is not listener:
                # gevent's threads live on in a forked child, and this one was the parent's.
                return True
            idle = not self._holds and now - needed_at >= LINGER
            if not (idle or self._link.status.reason == "closed"):
                return False
            self._thread = self._listener = None
            return True
