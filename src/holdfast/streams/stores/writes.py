"""What a write asks of Redis, by the long way or the short one, and what its answer teaches.

Values, and what this process knows of the runs that it writes; no I/O. When something is sent, and
who is told what came of it, is said in ``sending``.
"""

from __future__ import annotations

import itertools
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.errors import CorruptData
from holdfast.link import Script
from holdfast.streams.store import Entry
from holdfast.streams.stores import replies, tail
from holdfast.streams.stores.tail import ASK_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast.link import Reply
    from holdfast.settings import Settings
    from holdfast.streams.store import Draft
    from holdfast.streams.stores.outbox import Waiting
    from holdfast.streams.stores.pubsub import Transports
    from holdfast.streams.stores.replies import Keys, Result
    from holdfast.streams.stores.tail import Short, Tail

META_EXTRA = 86400
"""Seconds, at the least, for which more is known of a run than its events are kept."""

MAX_KNOWN = 4096

Call = tuple[list[str], list[Any]]
"""The keys and the arguments of a script."""


class Limits(NamedTuple):
    """What every write says of a run's size and age, in the order in which the script takes it.

    Attributes:
        maxlen: events that are kept.
        max_bytes: bytes of them.
        retention: milliseconds for which they are.
        meta_extra: milliseconds more for which it is known that there was such a run.
    """

    maxlen: int
    max_bytes: int
    retention: int
    meta_extra: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Take them from the ``STREAM_*`` variables."""
        retention = settings.stream_retention
        extra = int(max(retention, META_EXTRA) * 1000)
        limits = settings.stream_maxlen, settings.stream_max_run_bytes
        return cls(*limits, int(retention * 1000), extra)

    @property
    def kept(self) -> int:
        """Milliseconds for which something of a run is known."""
        return self.retention + self.meta_extra


class Writes:
    """Writes as this process makes them.

    Args:
        limits: what is kept of a run.
        keys: the names that a run has in Redis.
        transports: how runs travel.
    """

    def __init__(self, limits: Limits, keys: Callable[[str], Keys], transports: Transports) -> None:
        self.publish = Script.load("stream_publish")
        self.append = Script.load("stream_append")
        self._limits = limits
        self._maxlen = str(limits.maxlen)
        self._keys = keys
        self._transports = transports
        self._tails: dict[str, Tail] = {}
        self._may_ask = True

    def forked(self) -> None:
        """In a forked child: another process writes the parent's runs."""
        self._tails = {}

    # -- what is asked

    def short(self, run_id: str, batch: Sequence[Waiting]) -> Short | None:
        """Return how *batch* may be written by the short way, where it may."""
        known = self._tails.get(run_id)
        if known is None or not self._may_ask or self._transports.options(run_id):
            return None
        return tail.short(known, batch, self._keys(run_id), self._maxlen, time.monotonic())

    def long(self, run_id: str, batch: Sequence[Waiting]) -> Call:
        """Return the call that also asks for what the short way has to know.

        It does so where the run has that way at all.
        """
        return self._batch(run_id, batch, self._transports.options(run_id) or ASK_TAIL)

    def waiting(self, run_id: str, batch: Sequence[Waiting]) -> Call:
        """Return the call that writes what has waited for Redis."""
        return self._batch(run_id, batch, self._transports.options(run_id))

    def now(
        self,
        run_id: str,
        producer: str,
        first: int,
        drafts: Sequence[Draft] = (),
        options: Sequence[str] = (),
        owner: str = "",
    ) -> Call:
        """Return the call that writes *drafts* past the outbox, or none: then it has a look.

        Args:
            producer: who writes them, :data:`~holdfast.streams.stores.replies.NOBODY` where no
                retry is told by their numbers.
            first: the number of the first of them.
            options: names and values, beside what is to be said of the run's transport.
        """
        name = secrets.token_hex(8)
        said = [*options, *self._transports.options(run_id)]
        head = (producer, first, *self._limits, name, "", owner)
        return self._call(run_id, head, said, itertools.chain(*drafts))

    def heard(self, run_id: str, producer: str, *, ended: bool) -> Call:
        """Return the call that notes a Pub/Sub run of another program's."""
        head = (producer, 0, *self._limits, secrets.token_hex(8), "", "")
        return self._call(run_id, head, self._transports.heard(ended=ended), ())

    def _batch(self, run_id: str, batch: Sequence[Waiting], options: Sequence[str]) -> Call:
        head = batch[0]
        # No other write of any process has this name.
        name = f"{head.producer}{head.seq}"
        first = (head.producer, head.seq, *self._limits, name, head.life or "", head.owner or "")
        events = itertools.chain.from_iterable([waiting.draft for waiting in batch])
        return self._call(run_id, first, options, events)

    def _call(
        self, run_id: str, head: Iterable[Any], options: Sequence[str], events: Iterable[Any]
    ) -> Call:
        keys = self._keys(run_id)
        args = [keys.bell, *head, len(options) // 2, *options, *events]
        return [keys.stream, keys.meta], args

    # -- what it teaches

    def declined(self, reply: Reply) -> bool:
        """Whether the short way wrote nothing; whether it ever will is noted."""
        if reply == b"":
            self._may_ask = False
        return not reply

    def learn(self, run_id: str, reply: Any) -> bytes | None:
        """Take note of the transport that a reply shows; return the reply's status.

        ``b"pubsub"`` says that nothing was written: the next call says what was missing.
        """
        status: bytes | None = reply[0] if isinstance(reply, list) and reply else None
        if status == b"pubsub" or status in replies.LIVE:
            self._transports.learn(run_id, live=True)
        elif status in {b"ok", b"stopping"}:
            self._transports.learn(run_id, live=False)
        return status

    def after_long(
        self, run_id: str, batch: Sequence[Waiting], reply: Any
    ) -> tuple[str | None, list[Result]]:
        """Return the life of the run and what became of each event; note how the run ends now."""
        known = self._tails.pop(run_id, None)
        limits = self._limits
        found = tail.after_long(known, reply, limits.max_bytes, limits.retention, time.monotonic())
        if found is not None:
            if len(self._tails) >= MAX_KNOWN:
                self._tails.clear()  # all are learnt again with their next event
            self._tails[run_id] = found
        return replies.results(run_id, batch, reply)

    def after_short(
        self, run_id: str, batch: Sequence[Waiting], write: Short, reply: Any
    ) -> tuple[str | None, list[Result]]:
        """The same of the short way."""
        try:
            self._tails[run_id], results = tail.after_short(write, batch, reply)
        except (CorruptData, TypeError, ValueError, AttributeError) as error:
            corrupt = CorruptData(f"the answer about the run {run_id!r}: {error}")
            return None, [corrupt] * len(batch)
        return write.tail.life, results

    def marked(self, run_id: str, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return *entries*, which are not stored, as what their run's transport makes of them."""
        if not self._transports.expects_live(run_id):
            return entries
        return [entry._replace(kept=False) for entry in entries]


def in_a_row(results: Iterable[Result]) -> list[Entry]:
    """What a reader may take as it is; empty where it must look, because a number is not known."""
    entries = [result for result in results if isinstance(result, Entry)]
    return entries if all(entry.n for entry in entries) else []
