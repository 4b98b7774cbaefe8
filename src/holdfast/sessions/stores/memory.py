"""Sessions in the memory of one process: bounded, expiring, safe for threads, bound to no loop.

The same rules as in Redis, in Python: what a script does there, a lock makes atomic here. There
is no await in it, so it serves asyncio and trio alike. Nothing is shared between processes.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.forks import watch_forks
from holdfast.sessions.atomic import incremented
from holdfast.sessions.store import (
    SUPERSEDED_SECONDS,
    TOMBSTONE_SECONDS,
    Change,
    Missing,
    Outcome,
    Record,
    Rotation,
    SessionKey,
    SessionStore,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(slots=True)
class _Past:
    """A secret of earlier, and until when it is remembered."""

    secret_hash: str
    until: float
    grace: bool


@dataclass(slots=True)
class _Entry:
    secret_hash: str
    record: Record
    ends_at: float
    past: list[_Past] = field(default_factory=list)


class MemorySessionStore(SessionStore):
    """Keeps sessions in this process, the least recently used making room for new ones.

    Args:
        max_sessions: how many are kept at most. Default 100,000.
        clock: seconds since the epoch.
    """

    def __init__(
        self, max_sessions: int = 100_000, *, clock: Callable[[], float] = time.time
    ) -> None:
        if max_sessions < 1:
            raise ValueError("max_sessions must be at least 1")
        self._max_sessions = max_sessions
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._tombstones: OrderedDict[str, float] = OrderedDict()
        self.forked()
        watch_forks(self)

    def forked(self) -> None:
        """Begin, also in a forked child: whoever held the lock may not exist there."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemorySessionStore {len(self._entries)} of {self._max_sessions} sessions>"

    def __len__(self) -> int:
        """How many are kept, those not yet seen to be expired included."""
        return len(self._entries)

    @property
    def waits_in_place(self) -> bool:
        """There is nothing to wait for."""
        return True

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        """See :meth:`SessionStore.load`."""
        now = self._clock()
        with self._lock:
            known = key.id_hash in self._entries
            entry = self._alive(key.id_hash, now, idle_timeout)
            if entry is None:
                return Missing.EXPIRED if known else Missing.ABSENT
            standing = _standing(entry, key.secret_hash, now)
            if standing is None or standing is Missing.SUPERSEDED:
                return standing or Missing.ABSENT
            self._entries.move_to_end(key.id_hash)
            current = standing == "current"
            return entry.record if current else entry.record._replace(current=False)

    async def create(
        self,
        key: SessionKey,
        fields: Mapping[str, bytes],
        *,
        max_age: float,
        idle_timeout: float = 0.0,
    ) -> Outcome:
        """See :meth:`SessionStore.create`."""
        now = self._clock()
        with self._lock:
            self._make_room(now)
            if self._tombstones.get(key.id_hash, 0.0) > now:
                return Outcome.GONE
            taken = self._alive(key.id_hash, now, idle_timeout)
            if taken is not None:
                same = hmac.compare_digest(taken.secret_hash, key.secret_hash)
                return Outcome.DONE if same else Outcome.EXISTS
            record = Record.new(fields, max_age, now)
            entry = _Entry(key.secret_hash, record, _end(record, idle_timeout))
            self._entries[key.id_hash] = entry
            return Outcome.DONE

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        """See :meth:`SessionStore.save`."""
        now = self._clock()
        with self._lock:
            entry = self._alive(key.id_hash, now, idle_timeout)
            if entry is None:
                return Outcome.GONE
            standing = _standing(entry, key.secret_hash, now)
            rotation = change.rotation
            if rotation is not None and rotation.secret_hash == entry.secret_hash:
                standing, rotation = "current", None  # done before; its answer was lost
            if standing is None or standing is Missing.SUPERSEDED:
                return Outcome.GONE
            if not change.fits(entry.record.fields):
                return Outcome.CONFLICT
            late = rotation is not None and rotation.grace > 0 and standing == "grace"
            if late:
                rotation = None
            record = entry.record.after(change._replace(rotation=rotation), now)
            if change.removed and not record.fields:
                self._destroy(key.id_hash, now)
                return Outcome.DESTROYED
            entry.record = record
            if rotation is not None:
                _rotate(entry, rotation, now)
            entry.ends_at = _end(entry.record, idle_timeout)
            self._entries.move_to_end(key.id_hash)
            return Outcome.NOT_ROTATED if late else Outcome.DONE

    async def increment(
        self, key: SessionKey, name: str, by: int, *, idle_timeout: float = 0.0
    ) -> int | Outcome:
        """See :meth:`SessionStore.increment`."""
        now = self._clock()
        with self._lock:
            entry = self._alive(key.id_hash, now, idle_timeout)
            if entry is None or _standing(entry, key.secret_hash, now) not in _VALID:
                return Outcome.GONE
            value = incremented(entry.record.fields.get(name), by)
            if value is None:
                return Outcome.CONFLICT
            entry.record = entry.record.after(Change({name: b"%d" % value}), now)
            entry.ends_at = _end(entry.record, idle_timeout)
            self._entries.move_to_end(key.id_hash)
            return value

    async def touch(
        self, key: SessionKey, *, idle_timeout: float, interval: float = 0.0
    ) -> Outcome:
        """See :meth:`SessionStore.touch`."""
        now = self._clock()
        with self._lock:
            entry = self._alive(key.id_hash, now, idle_timeout)
            if entry is None or _standing(entry, key.secret_hash, now) not in _VALID:
                return Outcome.GONE
            if now - entry.record.seen_at >= interval:
                entry.record = entry.record._replace(seen_at=now)
                entry.ends_at = _end(entry.record, idle_timeout)
            return Outcome.DONE

    async def delete(self, id_hash: str) -> Outcome:
        """See :meth:`SessionStore.delete`."""
        return Outcome.DONE if self.destroy(id_hash) else Outcome.GONE

    def destroy(self, id_hash: str) -> bool:
        """Do what ``delete`` does, as a plain call; false where there was no such session."""
        now = self._clock()
        with self._lock:
            was_there = self._alive(id_hash, now, 0.0) is not None
            self._destroy(id_hash, now)
            return was_there

    def peek(self, id_hash: str, idle_timeout: float = 0.0) -> Record | None:
        """Return a session whatever its secret: for lists of sessions, never to let anybody in."""
        with self._lock:
            entry = self._alive(id_hash, self._clock(), idle_timeout)
            return None if entry is None else entry.record

    def _alive(self, id_hash: str, now: float, idle_timeout: float) -> _Entry | None:
        entry = self._entries.get(id_hash)
        if entry is None:
            return None
        # The idle timeout of now counts as well as that of the last write: it may have been cut.
        if now < min(entry.ends_at, _end(entry.record, idle_timeout)):
            return entry
        del self._entries[id_hash]
        return None

    def _destroy(self, id_hash: str, now: float) -> None:
        self._entries.pop(id_hash, None)
        self._tombstones[id_hash] = now + TOMBSTONE_SECONDS
        self._tombstones.move_to_end(id_hash)

    def _make_room(self, now: float) -> None:
        while self._entries:
            oldest = next(iter(self._entries.values()))
            if len(self._entries) < self._max_sessions and now < oldest.ends_at:
                break
            self._entries.popitem(last=False)
        while self._tombstones:
            oldest_end = next(iter(self._tombstones.values()))
            if len(self._tombstones) <= self._max_sessions and now < oldest_end:
                break
            self._tombstones.popitem(last=False)


_VALID = ("current", "grace")


def _standing(entry: _Entry, secret_hash: str, now: float) -> str | Missing | None:
    if hmac.compare_digest(entry.secret_hash, secret_hash):
        return "current"
    for past in entry.past:
        if past.secret_hash == secret_hash and now < past.until:
            return "grace" if past.grace else Missing.SUPERSEDED
    return None


def _rotate(entry: _Entry, rotation: Rotation, now: float) -> None:
    kept = [past for past in entry.past if now < past.until]
    if rotation.grace <= 0:
        # Whoever regenerates wants every older secret dead, those in their grace as well.
        kept = [_Past(past.secret_hash, now + SUPERSEDED_SECONDS, grace=False) for past in kept]
    until = now + (rotation.grace if rotation.grace > 0 else SUPERSEDED_SECONDS)
    entry.past = [*kept[-3:], _Past(entry.secret_hash, until, grace=rotation.grace > 0)]
    entry.secret_hash = rotation.secret_hash


def _end(record: Record, idle_timeout: float) -> float:
    if idle_timeout <= 0:
        return record.expires_at
    return min(record.expires_at, record.seen_at + idle_timeout)
