"""What this process does, said to whoever measures it: counts, durations, readings of what is.

Nobody measures by default, and then `observers` is all that is looked at on the way of a request:
whoever says something asks for it first. Nothing here knows a tool; what hears is above, in
``metrics`` and ``tracing``, and its failures harm nobody of whom it hears.

A word becomes the name of a metric by its place: ``count("session_journal_full")`` is
``holdfast_session_journal_full_total``, ``Operation("session_load")`` is
``holdfast_session_load_duration_seconds``, a reading has its name as it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from holdfast import errors
from holdfast.forks import ForkSafeLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

log = logging.getLogger("holdfast")

#: What an error comes to, the first that fits.
_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (errors.SessionUnavailable, "unavailable"),
    (errors.RedisUnavailable, "unavailable"),
    (errors.SessionTooLarge, "too_large"),
    (errors.JournalFull, "journal_full"),
    (errors.RunEnded, "ended"),
    (asyncio.CancelledError, "cancelled"),
)


class Observer(Protocol):
    """Whoever measures. It is called in any thread, in the midst of what it hears of."""

    def count(self, what: str, labels: tuple[str, ...], by: float) -> None:
        """Something happened, *by* times."""

    def begin(self, operation: Operation) -> Callable[[], None] | None:
        """An operation begins; what is returned is called when it has ended."""


observers: tuple[Observer, ...] = ()
"""Who measures now. Empty: nothing need be said."""

_lock = ForkSafeLock()


def observe(observer: Observer) -> Callable[[], None]:
    """Have *observer* told from now on; returns the way to end that."""
    global observers  # noqa: PLW0603 - one tuple, replaced whole, so that saying takes no lock
    with _lock():
        observers = (*observers, observer)

    def end() -> None:
        global observers  # noqa: PLW0603 - as above
        with _lock():
            observers = tuple(each for each in observers if each is not observer)

    return end


def count(what: str, *labels: str, by: float = 1) -> None:
    """Say that something happened, *by* times. Raises nothing."""
    for observer in observers:
        try:
            observer.count(what, labels, by)
        except Exception:
            log.exception("what measures this process failed on %r", what)


class Operation:
    """Something that takes time and comes to something; used as a context manager.

    Args:
        name: such as ``session_load``.
        session: the ``id_hash`` of its session, where it has one.
        run_id: its run, where it has one.
        current: whether what else is traced meanwhile is a part of it.

    Attributes:
        outcome: one word of few; of an error it is made from the error.
        error: what it ended with.
        events: how many events it was about.
        seconds: how long it took, once it has ended.
    """

    __slots__ = (
        "_began",
        "_enders",
        "current",
        "error",
        "events",
        "name",
        "outcome",
        "run_id",
        "seconds",
        "session",
    )

    def __init__(
        self,
        name: str,
        *,
        session: str | None = None,
        run_id: str | None = None,
        current: bool = True,
    ) -> None:
        self.name = name
        self.session = session
        self.run_id = run_id
        self.current = current
        self.outcome = "done"
        self.events = 0
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._began = 0.0
        self._enders: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        for observer in observers:
            try:
                ender = observer.begin(self)
            except Exception:
                log.exception("what measures this process failed on %r", self.name)
            else:
                if ender is not None:
                    self._enders.append(ender)
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        if exc is not None:
            self.error, self.outcome = exc, outcome_of(exc)
        for ender in reversed(self._enders):
            try:
                ender()
            except Exception:
                log.exception("what measures this process failed on %r", self.name)


def outcome_of(error: BaseException) -> str:
    """Return what *error* comes to, in one word of few."""
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "error")


class Reading(NamedTuple):
    """What something is at this moment, or has come to since it was made.

    Attributes:
        name: of the metric, without ``holdfast_``.
        value: in base units.
        labels: the values of its labels.
    """

    name: str
    value: float
    labels: tuple[str, ...] = ()


class Readable(Protocol):
    """Whoever can say how much there is of what it keeps."""

    def readings(self) -> Iterable[Reading]:
        """Return what there is. Called in any thread; it never waits."""


_readable: weakref.WeakSet[Readable] = weakref.WeakSet()


def readable(thing: Readable) -> None:
    """Have *thing* read by whoever measures, while it lives."""
    with _lock():
        _readable.add(thing)


def everything() -> list[Readable]:
    """Return all that can be read now."""
    with _lock():
        return list(_readable)
