"""What a process does when its Redis is back, in which order, and now and then from then on.

The link's thread calls it: before the first request reads, when the link is up, and at each beat.
What is written, taken back or put back is done in ``replay.py``, ``rotations.py`` and
``restoration.py``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from holdfast import signals
from holdfast.errors import RedisUnavailable
from holdfast.sessions.outage.known import COPY_SECONDS
from holdfast.sessions.outage.presence import Loss
from holdfast.sessions.outage.restoration import restorable_since

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.link import Link, LinkStatus, Recovery
    from holdfast.sessions.outage.entry import Entry
    from holdfast.sessions.outage.known import KnownSessions
    from holdfast.sessions.outage.replay import Replay
    from holdfast.sessions.outage.restoration import Restoration
    from holdfast.sessions.outage.rotations import Rotations

logger = logging.getLogger("holdfast.sessions")

# Seconds for which a replay also writes what requests add meanwhile; logouts it always writes.
_REPLAY_SECONDS = 1.0
# Seconds for which a command that was given up may still reach Redis: until then each beat takes
# back what was refused.
_LATE_SECONDS = 30.0
_SEVERAL = (
    "HOLDFAST_SESSION_ON_OUTAGE=local, and other processes share the sessions (%d now): while "
    "Redis is away each serves what it has seen itself, a session that began in one is not known "
    "to the others, and a logout in one is not heard by them until Redis is back "
    "(docs/sessions/outages.md); readonly and closed promise more"
)


class SessionRecovery:
    """One process's part in a recovery.

    Args:
        link: to Redis.
        known: what this process knows.
        rotations: what may have to be taken back.
        replay: writes what waits.
        restoration: knows what Redis has lost, and gives it back.
        restored: called after sessions were put back; may grow.
        warn: whether it is worth a warning that other processes share the sessions.
    """

    def __init__(
        self,
        link: Link,
        known: KnownSessions,
        rotations: Rotations,
        replay: Replay,
        restoration: Restoration,
        restored: Sequence[Callable[[Recovery], None]],
        *,
        warn: bool,
    ) -> None:
        self._link = link
        self._known = known
        self._rotations = rotations
        self._replay = replay
        self._restoration = restoration
        self._restored = restored
        self._warn = warn
        #: All that waited is written, and the link is not up yet: copies still serve.
        self.replayed = False

    def recover(self, recovery: Recovery) -> None:
        """Write all that waits, logouts first; called before Redis serves its first read.

        Raises:
            RedisUnavailable: it is gone again; what was not written still waits.
        """
        census, loss = self._restoration.ask(recovery)
        since = self._restorable_since(loss)
        if loss is not Loss.NONE:
            self._tell_ended(recovery)
        self._replay.lost = since is not None
        # Before the replay: what waits was written under the secrets that were replaced.
        self._rotations.take_all_back(recovery)
        self._replay_all(recovery)
        self._put_back(recovery, loss, since)
        self._restoration.acknowledge(census)
        self.replayed = True

    def beat(self, recovery: Recovery) -> None:
        """Say that this process is there; called now and then while Redis is up."""
        census, loss = self._restoration.ask(recovery)
        if loss is Loss.EMPTIED:
            # Redis was up, and so it was somebody's command: it is meant for the copies as well.
            self._known.clear_copies()
        elif loss is not Loss.NONE:
            # It was gone for so short a time that nobody noticed.
            since = self._restorable_since(loss)
            self._tell_ended(recovery)
            self._put_back(recovery, loss, since)
        lately = time.time() - _LATE_SECONDS
        # Only this process knows what it refused, and Redis may have carried it out only now.
        self._write_rest(recovery, since=0.0 if self._link.status.since > lately else lately)
        self._restoration.acknowledge(census)
        if census is not None and census.others and self._warn:
            self._warn = False
            logger.warning(_SEVERAL, census.others)

    def follow_link(self, status: LinkStatus) -> None:
        """Keep the time since which Redis is away, and end the outage where it is over."""
        if status.state.value != "up":
            self._known.away_since = self._known.away_since or status.since
            return
        self._known.away_since = None
        if self.replayed:
            # Others may have changed or ended these sessions while nobody could see it. Until here
            # copies serve, because the recovery hooks of others may take their time after ours.
            self.replayed = False
            self._known.drop_copies(status.since)
        # A request that saw the link down may have noted something just after the replay.
        with contextlib.suppress(RedisUnavailable):
            self._write_rest(ByLink(self._link))

    def _write_rest(self, recovery: Recovery, *, since: float = 0.0) -> None:
        """Take back what was refused later than *since*, and write what waits still, or again."""
        self._rotations.take_all_back(recovery, since=since)
        for _ in self._replay.write_all(self._known.all_waiting(), recovery):
            pass

    def _replay_all(self, recovery: Recovery) -> None:
        last = time.monotonic() + _REPLAY_SECONDS
        written = ended = conflicts = 0
        unsettled: dict[str, Entry] = {}
        waiting = self._known.all_waiting()
        while waiting:
            for entry, there, changed in self._replay.write_all(waiting, recovery):
                written += there is True
                ended += there is False
                conflicts += changed
                if there is None:
                    unsettled[entry.id_hash] = entry
            # What requests add meanwhile is written as well, but not for ever: what is left is
            # written before its session is read here. A logout has to be known elsewhere too.
            late = time.monotonic() > last
            waiting = [
                each
                for each in self._known.all_waiting()
                if unsettled.get(each.id_hash) is not each and (each.record is None or not late)
            ]
        if written or ended:
            _tell_replayed(written, ended, conflicts)

    def _restorable_since(self, loss: Loss) -> float | None:
        return restorable_since(loss, self._known.bridged_since, time.time())

    def _tell_ended(self, recovery: Recovery) -> None:
        # Nobody has a copy from before that, which could be put back.
        since = self._known.bridged_since - COPY_SECONDS
        self._restoration.tell_ended(recovery, self._known.ended_since(since))

    def _put_back(self, recovery: Recovery, loss: Loss, since: float | None) -> None:
        if since is None:
            return
        copies = self._known.copies_since(since)
        restored = self._restoration.put_back(recovery, loss, copies)
        signals.count("session_replayed", "restored", by=restored)
        for hook in self._restored:
            hook(recovery)


def _tell_replayed(written: int, ended: int, conflicts: int) -> None:
    signals.count("session_replayed", "written", by=written)
    signals.count("session_replayed", "ended", by=ended)
    signals.count("session_replayed", "conflict", by=conflicts)
    logger.warning(
        "after the outage %d sessions were written, and %d had ended meanwhile; of %d "
        "keys others had changed the value, which was left as it is",
        written,
        ended,
        conflicts,
        extra={
            "sessions_written": written,
            "sessions_ended": ended,
            "keys_conflicting": conflicts,
        },
    )


class ByLink:
    """What a recovery is, on a link that is up: for a thread that is told so."""

    def __init__(self, link: Link) -> None:
        self.execute = link.execute_sync
        self.run = link.run_sync
        self.pipeline = link.pipeline_sync
