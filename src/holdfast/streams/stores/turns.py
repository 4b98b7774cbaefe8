"""How threads without an event loop wait for what they publish, and who of them sends.

Threads that publish to one run at once share batches: one sends for all who wait, and when its
answer is there, the turn goes to the first whose events are still in the queue. State only: what is
sent, and by which way, is the store's.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.streams.store import Entry


class Turn:
    """What one thread waits with: for its answers, or to be the one who sends.

    Args:
        size: how many answers are to come.

    Attributes:
        asked: it is this thread's turn to send.
        sending: this thread has a batch on its way.
        gone: nobody waits here any more.
    """

    __slots__ = ("_answers", "_lock", "asked", "gone", "sending")

    def __init__(self, size: int = 0) -> None:
        self.asked = False
        self.sending = False
        self.gone = False
        self._answers: list[Entry | HoldfastError | None] = [None] * size
        self._lock: threading.Lock | None = None

    @property
    def done(self) -> bool:
        """Whether every answer is there."""
        return None not in self._answers

    def callbacks(self) -> list[Callable[[Entry | HoldfastError], None]]:
        """What takes each answer, in any thread."""
        return [partial(self._tell, index) for index in range(len(self._answers))]

    def give(self) -> bool:
        """Have this thread send next; false where nobody would."""
        self.asked = True
        self._wake()
        return not self.gone

    def wait(self, seconds: float) -> None:
        """Wait until every answer is there or it is this thread's turn, at most *seconds*."""
        if self._lock is None:
            lock = threading.Lock()
            lock.acquire()
            self._lock = lock
        # Looked at after the lock was put down, as _wake() looks for it after the news: one of the
        # two sees the other.
        if not self.done and not self.asked:
            self._lock.acquire(timeout=seconds)

    def entries(self) -> list[Entry]:
        """Return the answers, once every one is there.

        Raises:
            HoldfastError: the first refusal among them.
        """
        found: list[Entry] = []
        for answer in self._answers:
            if isinstance(answer, HoldfastError):
                raise answer
            if answer is not None:
                found.append(answer)
        return found

    def _tell(self, index: int, answer: Entry | HoldfastError) -> None:
        self._answers[index] = answer
        if self.done:
            self._wake()

    def _wake(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(RuntimeError):  # it is awake already
                self._lock.release()
