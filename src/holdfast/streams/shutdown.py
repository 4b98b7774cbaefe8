"""Ending streams and detached runs when the process is told to stop.

No server tells an open stream that it stops, and a mounted app never sees a lifespan; so the signal
handlers are chained: ours tells every hub of the process and its detached runs, and then the old
one does its work. Only the main thread may do that; elsewhere, and where the variable says no,
``await holdfast.aclose()`` ends them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType


class Stoppable(Protocol):
    """What ends its work when the process is told to stop: a hub, or what runs here."""

    def stop_soon(self) -> None:
        """End it soon. Called in a signal handler, so it only takes note."""


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_watched: weakref.WeakSet[Stoppable] = weakref.WeakSet()
_chained: dict[int, Callable[[int, FrameType | None], Any]] = {}
_stopping_pid: int | None = None


def watch(each: Stoppable) -> None:
    """Have *each* end its work at SIGTERM or SIGINT."""
    _watched.add(each)
    listen()


def listen() -> None:
    """Have what is watched hear of the signals, where this thread may see to it; again is nothing.

    For whoever knows that a thread which may not will watch something later.
    """
    # Asked by trying: a greenlet of the main thread is one to Python, and may.
    with contextlib.suppress(ValueError):
        for number in _SIGNALS:
            _chain(number)


def forget(each: Iterable[Stoppable]) -> None:
    """Watch none of *each* any more."""
    _watched.difference_update(each)


def stopping() -> bool:
    """Whether this process has been told to stop."""
    return _stopping_pid == os.getpid()


def _chain(number: int) -> None:
    """Put our handler before the one installed now: a server installs its own after import.

    The two default handlers are left alone. They do not let a server finish its answers: one ends
    the process where it stands, the other raises ``KeyboardInterrupt`` there, which an interactive
    program survives, and its streams should too.
    """
    current = signal.getsignal(number)
    if current is _chained.get(number) or current is signal.default_int_handler:
        return
    if not callable(current):
        return

    def handler(signum: int, frame: FrameType | None) -> None:
        global _stopping_pid  # noqa: PLW0603 - a signal has no other place to leave word
        _stopping_pid = os.getpid()
        for each in list(_watched):
            each.stop_soon()
        current(signum, frame)

    signal.signal(number, handler)
    _chained[number] = handler
