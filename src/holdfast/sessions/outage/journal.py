"""What waits to be written to Redis: one entry per session, coalesced, bounded, in replay order.

Pure data with no clock, no lock and no I/O: ``known.py`` and ``replay.py`` bring those. What an
entry is, says ``entry.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import SessionUnavailable
from holdfast.sessions.atomic import incremented
from holdfast.sessions.outage.entry import Entry
from holdfast.sessions.store import Change, Missing, Outcome, Record

if TYPE_CHECKING:
    from holdfast.sessions.store import SessionKey


class Journal:
    """The entries of one process.

    Args:
        max_sessions: how many sessions may wait, and how many logouts beside them.
        max_bytes: what their data may come to.
    """

    def __init__(self, max_sessions: int, max_bytes: int) -> None:
        self._entries: dict[str, Entry] = {}
        self._logouts = 0
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._bytes = 0
        #: How often something was refused because it is full.
        self.refused = 0

    def __len__(self) -> int:
        """How many sessions wait."""
        return len(self._entries)

    def get(self, id_hash: str) -> Entry | None:
        """Return the entry of a session, if something of it waits."""
        return self._entries.get(id_hash)

    def in_order(self) -> list[Entry]:
        """Return all, in the order of their replay: logouts, changes, sessions born meanwhile."""
        return sorted(
            self._entries.values(), key=lambda entry: (entry.record is not None, entry.born)
        )

    def create(self, key: SessionKey, record: Record, idle_timeout: float) -> Outcome:
        """Note a session born now.

        Raises:
            SessionUnavailable: the journal is full, so that its survival cannot be promised.
        """
        taken = self._entries.get(key.id_hash)
        if taken is not None:
            same = taken.record is not None and taken.secret_hash == key.secret_hash
            return Outcome.DONE if same else Outcome.GONE
        entry = Entry(*key, key.secret_hash, record, born=True, idle_timeout=idle_timeout)
        self._put(entry)
        return Outcome.DONE

    def save(
        self,
        key: SessionKey,
        known: Record | None,
        change: Change,
        idle_timeout: float,
        now: float,
        *,
        asked: bool = False,
    ) -> Outcome:
        """Note a change, and show it from now on.

        Args:
            key: as presented.
            known: the session as this process last knew it, where nothing of it waits yet.
            change: what was done.
            idle_timeout: seconds.
            now: seconds since the epoch.
            asked: Redis was asked to do it, and may have done it without an answer.

        Raises:
            SessionUnavailable: the journal is full, or the session is not known here.
        """
        entry, seen = self._seen(key, known, idle_timeout, now)
        if isinstance(seen, Missing):
            return Outcome.GONE
        if not change.fits(seen.fields):
            return Outcome.CONFLICT
        changed = entry.after(seen, change, now, asked=asked)
        if change.removed and changed.record is not None and not changed.record.fields:
            self.delete(key.id_hash)
            return Outcome.DESTROYED
        self._put(changed)
        return Outcome.DONE

    def increment(
        self,
        key: SessionKey,
        known: Record | None,
        name: str,
        by: int,
        idle_timeout: float,
        now: float,
        *,
        asked: bool = False,
    ) -> int | Outcome:
        """Add to a whole number, as :meth:`save` does; Redis is told the sum, not the addition.

        What was added at the very start of an outage may have reached Redis with its answer lost:
        a sum can be told twice, an addition cannot.

        Raises:
            SessionUnavailable: as :meth:`save`.
        """
        _, seen = self._seen(key, known, idle_timeout, now)
        if isinstance(seen, Missing):
            return Outcome.GONE
        value = incremented(seen.fields.get(name), by)
        if value is None:
            return Outcome.CONFLICT
        self.save(key, known, Change({name: b"%d" % value}), idle_timeout, now, asked=asked)
        return value

    def _seen(
        self, key: SessionKey, known: Record | None, idle_timeout: float, now: float
    ) -> tuple[Entry, Record | Missing]:
        entry = self._entries.get(key.id_hash)
        if entry is None:
            if known is None:
                raise SessionUnavailable("the session is not known here while Redis is away")
            since = known.secret_since
            entry = Entry(
                *key, key.secret_hash, known, idle_timeout=idle_timeout, known_since=since
            )
        seen = entry.seen_with(key.secret_hash, now, idle_timeout)
        if seen is None:
            raise SessionUnavailable("only Redis knows this secret, and it is away")
        return entry, seen

    def delete(self, id_hash: str) -> None:
        """Note a logout: from now on the session is absent here, and Redis is told first of all.

        Raises:
            SessionUnavailable: as many logouts wait as may.
        """
        self._put(Entry(id_hash, "", "", None))

    def touch(self, key: SessionKey, idle_timeout: float, interval: float, now: float) -> Outcome:
        """Show activity; Redis is not told, because it kept counting."""
        entry = self._entries.get(key.id_hash)
        if entry is None or entry.record is None:
            return Outcome.GONE
        seen = entry.seen_with(key.secret_hash, now, idle_timeout)
        if not isinstance(seen, Record):
            return Outcome.GONE
        if now - seen.seen_at >= interval:
            entry.record = seen._replace(seen_at=now)
        return Outcome.DONE

    def forget(self, id_hash: str) -> None:
        """Drop what waits of a session that is destroyed in Redis."""
        entry = self._entries.pop(id_hash, None)
        if entry is not None:
            self._bytes -= entry.size
            self._logouts -= entry.record is None

    def done(self, entry: Entry) -> None:
        """Note that Redis knows *entry*; what was added to it since still waits."""
        current = self._entries.get(entry.id_hash)
        if current is entry:
            self.forget(entry.id_hash)
        elif current is not None and entry.record is not None:
            size = current.size
            current.follow(entry, entry.record)
            self._bytes += current.size - size

    def _put(self, entry: Entry) -> None:
        before = self._entries.get(entry.id_hash)
        size = self._bytes + entry.size - (0 if before is None else before.size)
        grown = size > self._bytes and size > self._max_bytes
        # Logouts have room of their own: what others write must not keep anybody logged in.
        beside = self._logouts if entry.record is None else len(self._entries) - self._logouts
        if grown or (before is None and beside >= self._max_sessions):
            self.refused += 1
            raise SessionUnavailable(
                "Redis is away, and as many session changes wait for it as may"
            )
        self._entries[entry.id_hash], self._bytes = entry, size
        was_logout = before is not None and before.record is None
        self._logouts += (entry.record is None) - was_logout
