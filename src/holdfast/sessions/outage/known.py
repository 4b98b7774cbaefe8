"""What this process knows of sessions by itself: all that can serve while Redis is away.

Copies of what Redis held, the journal of what it has not heard, and which sessions ended here: all
under one lock, with a clock, without I/O. ``fallback.py`` says when this is asked instead of Redis.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from holdfast.errors import SessionUnavailable
from holdfast.sessions.outage.copies import Copies, Ended
from holdfast.sessions.outage.journal import Journal
from holdfast.sessions.store import Change, Missing, Outcome, Record, SessionKey

if TYPE_CHECKING:
    from holdfast.sessions.outage.entry import Entry

#: Seconds before the outage within which a session must have been seen here to be served. Longer
#: serves more visitors; shorter, fewer sessions that were logged out in another process.
COPY_SECONDS = 900.0


class KnownSessions:
    """The sessions that one process knows. Safe for threads.

    Args:
        max_sessions: how many copies are kept, how many sessions and how many logouts may wait in
            the journal, and how many that ended are remembered.
        max_bytes: what the data of the copies may come to, and that of the journal.
        copying: whether copies are kept at all.
    """

    def __init__(self, max_sessions: int, max_bytes: int, *, copying: bool = True) -> None:
        self._lock = threading.Lock()
        self._copies = Copies(max_sessions, max_bytes)
        self._journal = Journal(max_sessions, max_bytes)
        self._ended = Ended(max_sessions)
        self._being_written: set[str] = set()
        self._copying = copying
        #: Since when Redis is away, in seconds since the epoch; ``None`` while it is there.
        self.away_since: float | None = None

    @property
    def copied(self) -> int:
        """How many copies are kept."""
        return len(self._copies)

    @property
    def waiting(self) -> int:
        """How many sessions have something that Redis has not heard yet."""
        return len(self._journal)

    @property
    def refused(self) -> int:
        """How often something was refused because the journal was full."""
        return self._journal.refused

    @property
    def bridged_since(self) -> float:
        """The age, in seconds since the epoch, that a copy may have to be served."""
        return (self.away_since or time.time()) - COPY_SECONDS

    # --- what Redis said ------------------------------------------------------------------------

    @property
    def asked(self) -> int:
        """See :attr:`Copies.asked`: to be read before Redis is asked, for :meth:`remember`."""
        return self._copies.asked

    def remember(self, key: SessionKey, found: Record | Missing, asked: int) -> None:
        """Copy what Redis answered, or forget the copy where it has none.

        Args:
            key: as presented.
            found: the answer.
            asked: :attr:`asked`, as it was when Redis was asked.
        """
        if not self._copying:
            return
        with self._lock:
            if isinstance(found, Missing):
                # That Redis knows no session with another secret says nothing about the copy.
                if self._copies.get(key, 0.0) is not None:
                    self._copies.drop(key.id_hash)
            elif found.current:
                self._copies.put(key, found, time.time(), asked)

    def follow(self, key: SessionKey, change: Change, outcome: Outcome) -> None:
        """Have the copy show a change that Redis was told of, lest an outage shows the old."""
        now = time.time()
        with self._lock:
            copy = self._copies.get(key, 0.0)
            # A load on its way may have found what this has changed, or ended.
            self._copies.outdate(key.id_hash)
            if outcome is Outcome.DESTROYED:
                self._ended.note(key.id_hash, now)
            if copy is None or outcome is not Outcome.DONE:
                return
            if change.rotation is not None:
                key = SessionKey(key.id_hash, change.rotation.secret_hash)
            self._copies.put(key, copy.after(change, now), now)

    def follow_touch(self, key: SessionKey, interval: float) -> None:
        """Have the copy show activity, unless it shows some of less than *interval* seconds ago."""
        now = time.time()
        with self._lock:
            self._copies.touch(key, now, interval)

    def outdate(self, id_hash: str) -> None:
        """Forget a copy, and have no answer of Redis kept that was asked for before this."""
        with self._lock:
            self._copies.outdate(id_hash)

    def end(self, id_hash: str) -> None:
        """Forget the copy of a session that ends, and remember that it ended here."""
        with self._lock:
            self._end(id_hash)

    def _end(self, id_hash: str) -> None:
        self._copies.outdate(id_hash)
        self._ended.note(id_hash, time.time())

    # --- what is done here ----------------------------------------------------------------------

    def load(self, key: SessionKey, idle_timeout: float) -> Record | Missing:
        """Return the session as it is known here, marked as ``stale`` or ``local``.

        Raises:
            SessionUnavailable: it is not known here, and only Redis can say.
        """
        now = time.time()
        with self._lock:
            entry = self._journal.get(key.id_hash)
            if entry is not None:
                found = entry.seen_with(key.secret_hash, now, idle_timeout)
            else:
                found = self._copy(key)
                if found is not None and not found.alive(now, idle_timeout):
                    return Missing.ABSENT
            born = entry is not None and entry.born
        if found is None:
            raise SessionUnavailable("the session is not known here while Redis is away")
        if isinstance(found, Missing):
            return found
        return found._replace(degraded="local" if born else "stale")

    def _copy(self, key: SessionKey) -> Record | None:
        return self._copies.get(key, self.bridged_since)

    def create(self, key: SessionKey, record: Record, idle_timeout: float) -> Outcome:
        """See :meth:`Journal.create`."""
        with self._lock:
            return self._journal.create(key, record, idle_timeout)

    def save(self, key: SessionKey, change: Change, idle_timeout: float, *, asked: bool) -> Outcome:
        """See :meth:`Journal.save`."""
        with self._lock:
            outcome = self._journal.save(
                key, self._copy(key), change, idle_timeout, time.time(), asked=asked
            )
            self._copies.outdate(key.id_hash)
            if outcome is Outcome.DESTROYED:
                self._ended.note(key.id_hash, time.time())
        return outcome

    def increment(
        self, key: SessionKey, name: str, by: int, idle_timeout: float, *, asked: bool
    ) -> int | Outcome:
        """See :meth:`Journal.increment`."""
        with self._lock:
            value = self._journal.increment(
                key, self._copy(key), name, by, idle_timeout, time.time(), asked=asked
            )
            self._copies.outdate(key.id_hash)
        return value

    def touch(self, key: SessionKey, idle_timeout: float, interval: float) -> Outcome:
        """Show activity, unless there was some less than *interval* seconds ago."""
        now = time.time()
        with self._lock:
            if self._journal.get(key.id_hash) is not None:
                return self._journal.touch(key, idle_timeout, interval, now)
            self._copies.touch(key, now, interval)
        return Outcome.DONE

    def delete(self, id_hash: str) -> None:
        """End a session here; see :meth:`Journal.delete`."""
        with self._lock:
            self._journal.delete(id_hash)
            # Not before: where the journal is full, the session has not ended.
            self._end(id_hash)

    # --- what waits -----------------------------------------------------------------------------

    def all_waiting(self) -> list[Entry]:
        """Return all that waits, in the order in which Redis has to hear it."""
        with self._lock:
            return self._journal.in_order()

    def waiting_of(self, id_hash: str) -> Entry | None:
        """Return what waits of one session."""
        with self._lock:
            return self._journal.get(id_hash)

    def claim(self, entry: Entry) -> bool | None:
        """Have the caller alone write *entry*, until it is released.

        Returns:
            Whether the caller may; ``None`` where it is no longer what waits: what a request wrote
            meanwhile may be older by now than what Redis holds.
        """
        with self._lock:
            if self._journal.get(entry.id_hash) is not entry:
                return None
            if entry.id_hash in self._being_written:
                return False
            self._being_written.add(entry.id_hash)
            entry.tried = True
            return True

    def release(self, entry: Entry) -> None:
        """Let others write what waits of this session."""
        with self._lock:
            self._being_written.discard(entry.id_hash)

    def written(self, entry: Entry, *, as_shown: bool) -> None:
        """Note that Redis was told of *entry*.

        Args:
            entry: what was written.
            as_shown: Redis holds it as it was shown here, and nobody can ask Redis for it yet.
        """
        with self._lock:
            self._journal.done(entry)
            self._copies.drop(entry.id_hash)
            # A request may have noted more since, even a logout: that is shown, and written later.
            more = self._journal.get(entry.id_hash) is not None
            if as_shown and entry.record is not None and not more:
                key = SessionKey(entry.id_hash, entry.secret_hash)
                self._copies.put(key, entry.record, time.time())

    def forget_waiting(self, id_hash: str) -> None:
        """Drop what waits of a session that is destroyed in Redis."""
        with self._lock:
            self._journal.forget(id_hash)

    # --- for a Redis that has lost something ----------------------------------------------------

    def copies_since(self, since: float) -> list[tuple[SessionKey, Record]]:
        """Return the copies made at *since* or later, in seconds since the epoch."""
        with self._lock:
            return self._copies.since(since)

    def ended_since(self, since: float) -> list[str]:
        """Return the ids of those that ended here at *since* or later."""
        with self._lock:
            return self._ended.since(since)

    def drop_copies(self, before: float) -> None:
        """Forget the copies made before that, in seconds since the epoch."""
        with self._lock:
            self._copies.drop_before(before)

    def clear_copies(self) -> None:
        """Forget all copies."""
        with self._lock:
            self._copies.clear()
