"""Waiting until replicas hold what was written: ``HOLDFAST_REDIS_WAIT``.

``WAIT`` blocks its connection and speaks of that connection's own writes, so it is asked on another
one than that of the requests, after a write of its own: a replica that has that one has all before
it. Whoever waits at the same time waits for the same answer.
"""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError, RedisReplyError, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.link.sync import Answers, Command

# Of REDIS_TIMEOUT: with that of the one before, and the write itself, it still is within it.
_SHARE = 0.4
_TRACE_MS = 1000


@dataclass
class _Line:
    """Those of one event loop that wait for one node: one answer on its way, one to be asked."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    next: asyncio.Task[int | HoldfastError] | None = None


class Replication:
    """Asks how many replicas hold what was written before.

    Args:
        call: sends a batch, blocking its thread, on a connection that nobody else waits on.
        slot: says which keys are of one node.
        timeout: seconds that an operation may take.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Command]], Answers],
        slot: Callable[[str], int],
        timeout: float,
    ) -> None:
        self._call = call
        self._slot = slot
        self._milliseconds = max(1, round(timeout * _SHARE * 1000))
        self._lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Line]] = (
            weakref.WeakKeyDictionary()
        )

    def count(self, key: str, replicas: int) -> int:
        """Return how many replicas hold what was written to the node of *key* before this call.

        Waits for *replicas* of them, at most two fifths of ``REDIS_TIMEOUT``. Blocks the thread.

        Raises:
            RedisUnavailable: Redis is away.
            RedisReplyError: its user may not call ``WAIT``.
        """
        trace = ("SET", f"{{{key}}}:wait", 1, "PX", _TRACE_MS)
        for answer in self._call([trace, ("WAIT", replicas, self._milliseconds)]):
            if isinstance(answer, HoldfastError):
                raise answer
        return answer if isinstance(answer, int) else 0

    async def count_async(self, key: str, replicas: int) -> int:
        """As :meth:`count`, on the running loop."""
        lines = self._lines.setdefault(asyncio.get_running_loop(), {})
        line = lines.setdefault(self._slot(key), _Line())
        if line.next is None:
            line.next = asyncio.create_task(self._ask(line, key, replicas))
        # One caller that is cancelled is not all of them.
        answer = await asyncio.shield(line.next)
        if isinstance(answer, HoldfastError):
            raise answer
        return answer

    async def _ask(self, line: _Line, key: str, replicas: int) -> int | HoldfastError:
        async with line.turn:
            # Whoever comes from now on may have written after this is asked.
            line.next = None
            try:
                return await asyncio.to_thread(self.count, key, replicas)
            except (RedisUnavailable, RedisReplyError) as error:
                return error
