"""What a store does in a forked child: its locks may be held by threads that no longer exist."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_watched: list[tuple[weakref.ref[Any], Callable[[Any], None]]] = []


def after_fork(owner: Any, action: Callable[[Any], None]) -> None:
    """Have *action* called with *owner*, while it lives, in every child forked from now on."""
    if not _watched and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_run)
    _watched[:] = [each for each in _watched if each[0]() is not None]
    _watched.append((weakref.ref(owner), action))


def _run() -> None:
    for reference, action in _watched:
        owner = reference()
        if owner is not None:
            action(owner)
