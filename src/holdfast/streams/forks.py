"""What a store does in a forked child: its locks may be held by threads that no longer exist."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Whoever keeps something that a forked child must not share."""

    def forked(self) -> None:
        """In a child: begin anew, and never touch what the parent is still using."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()
_registered: list[bool] = []


def watch_forks(owner: Forked) -> None:
    """Have ``owner.forked()`` called in every child forked from now on, while *owner* lives."""
    _watched.add(owner)
    # At the first use, not at import; it cannot be taken back, so once per process.
    if not _registered and hasattr(os, "register_at_fork"):
        _registered.append(True)
        os.register_at_fork(after_in_child=_tell)


def _tell() -> None:
    for owner in list(_watched):
        owner.forked()
