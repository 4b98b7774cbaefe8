"""The way of the journal to Redis: what waits of a session is written by one at a time.

A request writes what waits of its session before it reads or writes anything else of it; the thread
of the link writes all. When that is so, and in which order, ``recovery.py`` says.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from holdfast import signals
from holdfast.errors import RedisReplyError, RedisUnavailable, SessionUnavailable, SessionUnsettled
from holdfast.sessions.outage.batches import run_groups
from holdfast.sessions.stores import calls
from holdfast.sessions.stores.sync import blocking, pause

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast.link import Link, Recovery, Reply
    from holdfast.sessions.outage.entry import Entry
    from holdfast.sessions.outage.known import KnownSessions
    from holdfast.sessions.outage.rotations import Rotations

logger = logging.getLogger("holdfast.sessions")

# Sessions that are claimed and written at once: meanwhile requests for them wait.
_BATCH = 50
# Seconds for which somebody else's write is waited for.
_TURN_SECONDS = 0.25
_TURN_PAUSE = 0.002


class Replayed(NamedTuple):
    """What became of an entry of the journal.

    Attributes:
        entry: of one session.
        there: whether its session was there; ``None`` where nobody can say yet, and so it waits on.
        conflicts: how many of its keys others had changed: they were left as they are.
    """

    entry: Entry
    there: bool | None
    conflicts: int = 0


class Replay:
    """Writes what waits, for one process.

    Args:
        link: to Redis.
        calls: builds the scripts.
        known: where it waits.
        rotations: what may have to be taken back before.
    """

    def __init__(
        self, link: Link, calls: calls.Calls, known: KnownSessions, rotations: Rotations
    ) -> None:
        self._link = link
        self._calls = calls
        self._known = known
        self._rotations = rotations
        #: Whether Redis may have lost sessions, so that what waits has to bring them along.
        self.lost = False

    async def write_one(self, id_hash: str) -> None:
        """Write what waits of a session, if anything does, and in whichever way the caller waits.

        Raises:
            SessionUnavailable: Redis is away, or somebody else takes too long to write it.
            SessionUnsettled: it cannot be written yet.
        """
        deadline = time.monotonic() + _TURN_SECONDS
        while (entry := self._known.waiting_of(id_hash)) is not None:
            if self._known.claim(entry):
                await self._write(entry)
            elif time.monotonic() > deadline:
                raise SessionUnavailable("what waited of this session is still being written")
            else:
                await pause(_TURN_PAUSE)

    async def _write(self, entry: Entry) -> None:
        reply: Reply = None
        try:
            # A logout asks for no secret, and must not fail because of what is to be undone.
            undoing = [] if entry.record is None else self._rotations.undoing(entry.id_hash)
            for call in (*undoing, *self._scripts(entry)):
                reply = self._link.run_sync(*call) if blocking() else await self._link.run(*call)
                if calls.unsettled(reply):
                    raise SessionUnsettled
        except RedisUnavailable as error:
            raise SessionUnavailable(str(error)) from error
        except RedisReplyError as error:
            self._drop(entry, error)
        else:
            self._note(entry, reply)
        finally:
            self._known.release(entry)

    def write_all(self, entries: Sequence[Entry], recovery: Recovery) -> Iterator[Replayed]:
        """Write *entries* in their order, many in one round trip, in the thread of *recovery*.

        Yields:
            What became of each, but for those that a request has written meanwhile, or is writing.

        Raises:
            RedisUnavailable: Redis is gone.
        """
        for first in range(0, len(entries), _BATCH):
            mine = [each for each in entries[first : first + _BATCH] if self._claimed(each)]
            try:
                replies = run_groups(recovery, [self._scripts(each) for each in mine])
                for entry, reply in zip(mine, replies, strict=True):
                    if isinstance(reply, RedisReplyError):
                        yield self._drop(entry, reply)
                    elif calls.unsettled(reply):
                        yield Replayed(entry, None)
                    else:
                        yield self._note(entry, reply)
            finally:
                for entry in mine:
                    self._known.release(entry)

    def _claimed(self, entry: Entry) -> bool:
        deadline = time.monotonic() + _TURN_SECONDS
        while (claimed := self._known.claim(entry)) is False and time.monotonic() <= deadline:
            time.sleep(_TURN_PAUSE)
        return claimed is True

    def _scripts(self, entry: Entry) -> tuple[calls.Call, ...]:
        return entry.calls(self._calls, time.time(), lost=self.lost)

    def _note(self, entry: Entry, reply: Reply) -> Replayed:
        there, conflicts = calls.merged(reply)
        as_shown = there and not conflicts and not self._link.up
        self._known.written(entry, as_shown=as_shown)
        return Replayed(entry, entry.record is None or there, conflicts)

    def _drop(self, entry: Entry, error: RedisReplyError) -> Replayed:
        # Redis would refuse it at every try.
        signals.count("session_replayed", "refused")
        logger.error("Redis refused a session change of the outage: %s", error.code)
        self._known.written(entry, as_shown=False)
        return Replayed(entry, entry.record is None)
