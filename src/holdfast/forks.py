"""What a forked child must not share with its parent: told to whoever keeps it, in the child.

Locks may be held by threads that no child has; sockets, threads and what waits to be written are
the parent's. One hook of the interpreter serves all, made at the first use and never at import.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

log = logging.getLogger("holdfast")


class Forked(Protocol):
    """Whoever keeps something that a forked child must not share."""

    def forked(self) -> None:
        """In a child: begin anew, and never touch what the parent is still using."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()
_registered: list[bool] = []
_told_in: list[int] = []


def watch_forks(owner: Forked) -> None:
    """Have ``owner.forked()`` called in every child forked from now on, while *owner* lives.

    Owners are told in no order, from any thread that forks, before the fork returns.
    """
    _watched.add(owner)
    if not _registered and hasattr(os, "register_at_fork"):
        # Noted after it is done: two threads at once register twice, which tells nobody twice. A
        # lock would be one more that a child may find held.
        os.register_at_fork(after_in_child=_tell)
        _registered.append(True)


def _tell() -> None:
    pid = os.getpid()
    if pid in _told_in:
        return
    # Only this process: the id of a parent that has ended may be given to a child of ours.
    _told_in[:] = [pid]
    for owner in list(_watched):
        try:
            owner.forked()
        except Exception:
            log.exception("%r could not begin anew in a forked child", owner)


class ForkSafeLock:
    """A reentrant lock for as long as a module lives, which a forked child finds free.

    ``with lock():`` holds it.
    """

    def __init__(self) -> None:
        self._watching = False
        self.forked()

    def forked(self) -> None:
        """In a forked child: whoever held it may not exist here."""
        self._lock = threading.RLock()

    def __call__(self) -> AbstractContextManager[object]:
        """Return what to hold."""
        if not self._watching:
            watch_forks(self)
            self._watching = True
        return self._lock
