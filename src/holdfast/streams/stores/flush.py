"""Redis is back: what waited for it is written, in order and once, before anything is read.

In the supervisor's thread. What Redis has lost meanwhile has been put back among what waits by
``lost``.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError, RedisReplyError, RedisUnavailable
from holdfast.link import LinkState, LinkStatus
from holdfast.streams.store import News
from holdfast.streams.stores import replies
from holdfast.streams.stores.writes import in_a_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.link import Link, Recovery, Reply, Script
    from holdfast.streams.stores.bell import LocalBells
    from holdfast.streams.stores.outbox import Outbox, Waiting
    from holdfast.streams.stores.replies import Result
    from holdfast.streams.stores.writes import Writes

log = logging.getLogger("holdfast.streams")


class Flush:
    """Writes the journal whenever Redis is back.

    Args:
        link: the supervised link.
        outbox: what waits.
        writes: what a batch asks, and what its answer teaches.
        bells: who hears in this process of what was written.
    """

    def __init__(self, link: Link, outbox: Outbox, writes: Writes, bells: LocalBells) -> None:
        self._link = link
        self._outbox = outbox
        self._writes = writes
        self._bells = bells
        link.on_recovery("streams", self._flush)
        link.on_transition(self._on_transition)

    def _on_transition(self, status: LinkStatus) -> None:
        """What was accepted between the flush and the gate's opening has nobody else to send it."""
        if status.state is LinkState.UP and self._outbox.waiting_runs():
            with contextlib.suppress(RedisUnavailable):  # the next way back flushes again
                self._flush(_Direct(self._link))

    def _flush(self, redis: Recovery | _Direct) -> None:
        for run_id in self._outbox.waiting_runs():
            while batch := self._outbox.head(run_id):
                self._write(redis, run_id, batch)

    def _write(self, redis: Recovery | _Direct, run_id: str, batch: Sequence[Waiting]) -> None:
        try:
            reply: Any = redis.run(self._writes.publish, *self._writes.waiting(run_id, batch))
        except RedisReplyError as error:
            reply = error
        status = self._writes.learn(run_id, reply)
        if status == b"pubsub":
            return
        life, results = replies.results(run_id, batch, reply)
        _log_refused(run_id, batch, results)
        self._outbox.done(run_id, batch, results)
        # Of a Pub/Sub run nothing can be read afterwards.
        passed_on = in_a_row(results) if status in replies.LIVE else ()
        self._bells.ring(run_id, News(life, passed_on))


@dataclass(frozen=True, slots=True)
class _Direct:
    """The link's own synchronous door, once it is open again."""

    link: Link

    def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Any]) -> Reply:
        return self.link.run_sync(script, keys, args)


def _log_refused(run_id: str, batch: Sequence[Waiting], results: Sequence[Result]) -> None:
    # What was never acknowledged is told to whoever waits for it.
    told = zip(batch, results, strict=True)
    refused = [
        error for waiting, error in told if waiting.base and isinstance(error, HoldfastError)
    ]
    if refused:
        log.warning(
            "%d of %d events that waited for Redis were refused for the run %r: %s",
            len(refused),
            len(batch),
            run_id,
            refused[0],
        )
