"""What waits to be written to Redis: one entry per session, coalesced, bounded, in replay order.

Pure data with no clock, no lock and no I/O: ``known.py`` and ``replay.py`` bring those. An entry
says at any moment both what this process shows of the session and what Redis has to be told.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from holdfast.errors import SessionUnavailable
from holdfast.sessions.atomic import incremented
from holdfast.sessions.store import (
    SUPERSEDED_SECONDS,
    Change,
    Missing,
    Outcome,
    Record,
    Rotation,
    SessionKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast.sessions.stores.calls import Call, Calls


@dataclass(slots=True)
class Entry:
    """One session that Redis does not know as this process does.

    Attributes:
        id_hash: its id.
        secret_hash: of the secret that is good now.
        known_secret: of the secret that Redis knows; the same unless it was rotated meanwhile.
        record: the session as it is shown; ``None`` once it is destroyed.
        born: Redis has never heard of it, as far as is known.
        changed, removed: keys since Redis last knew it.
        was: by each of those, what Redis may hold if nobody else has changed it.
        idle_timeout: seconds, as last asked for.
        known_since: when the known secret was made, in seconds since the epoch.
        doubted: secrets of rotations that Redis may have made, with its answer lost; in order.
        tried: Redis is being told, or was, and no answer has come: it may know all of this.
    """

    id_hash: str
    secret_hash: str
    known_secret: str
    record: Record | None
    born: bool = False
    changed: dict[str, bytes] = field(default_factory=dict, repr=False)
    removed: set[str] = field(default_factory=set)
    was: dict[str, tuple[bytes | None, ...]] = field(default_factory=dict, repr=False)
    idle_timeout: float = 0.0
    known_since: float = 0.0
    doubted: tuple[str, ...] = ()
    tried: bool = False

    @property
    def size(self) -> int:
        """Bytes of data, roughly."""
        if self.record is None:
            return 0
        bases = (raw for each in self.was.values() for raw in each if raw is not None)
        return sum(map(len, self.record.fields.values())) + sum(map(len, bases))

    def seen_with(
        self, secret_hash: str, now: float, idle_timeout: float
    ) -> Record | Missing | None:
        """Return what the bearer of *secret_hash* sees; ``None`` if only Redis could say."""
        record = self.record
        if record is None:
            return Missing.ABSENT
        if secret_hash == self.secret_hash:
            lives = alive(record, now, idle_timeout) and alive(record, now, self.idle_timeout)
            return record if lives else Missing.ABSENT
        if secret_hash == self.known_secret:
            recently = now < record.secret_since + SUPERSEDED_SECONDS
            return Missing.SUPERSEDED if recently else Missing.ABSENT
        return None

    def calls(self, calls: Calls, now: float, *, lost: bool = False) -> tuple[Call, ...]:
        """Return the scripts that tell Redis all of it, in their order; the last reply counts.

        *lost*: Redis may have lost the session, so that its absence says nothing.
        """
        if self.record is None:
            return (calls.delete(self.id_hash),)
        if not self.born:
            return self._merging(self.record, calls, now, lost=lost)
        *older, last = self._secrets()
        rotation = self._rotation(self.record, last, now) if older else None
        # With the secret of its birth: where a creation reached Redis and its answer was lost, this
        # is a retry, which changes nothing.
        birth = calls.create(
            SessionKey(self.id_hash, self.known_secret),
            self._fields_at_birth(self.record) if rotation else self.record.fields,
            max_age=self.record.expires_at - self.record.created_at,
            idle_timeout=self.idle_timeout,
            age=max(0.0, now - self.record.created_at),
        )
        if not (self.changed or self.removed or rotation):
            return (birth,)
        change = Change(self.changed, tuple(sorted(self.removed)), rotation)
        key = SessionKey(self.id_hash, older[-1] if older else last)
        saving = calls.save(key, change, idle_timeout=self.idle_timeout)
        return birth, *self._rotating(self.record, older, calls, now), saving

    def _fields_at_birth(self, record: Record) -> dict[str, bytes]:
        # What was written since comes with the last secret alone: an older one must not open what a
        # login wrote (CWE-384), not even for a moment, or where Redis is lost between the scripts.
        return {name: raw for name, raw in record.fields.items() if name not in self.changed}

    def _merging(self, record: Record, calls: Calls, now: float, *, lost: bool) -> tuple[Call, ...]:
        key = SessionKey(self.id_hash, self.known_secret)
        steps: list[Call] = []
        if lost:
            steps.append(calls.restore(key, record._replace(secret_since=self.known_since), now))
        # First, so that nobody with an older secret sees what is written.
        steps += self._rotating(record, self._secrets(), calls, now)
        key = SessionKey(self.id_hash, self.secret_hash)
        keys = {
            name: (self.changed.get(name), self.was[name])
            for name in sorted(self.was)
            if name in self.changed or name in self.removed
        }
        if keys or key.secret_hash == self.known_secret:
            steps.append(calls.merge(key, keys, idle_timeout=self.idle_timeout))
        return tuple(steps)

    def _secrets(self) -> list[str]:
        """Return those that Redis may have, in their order; the last is the one that is good."""
        secrets = [self.known_secret]
        for secret in (*self.doubted, self.secret_hash):
            if secret != secrets[-1]:
                secrets.append(secret)
        return secrets

    def _rotating(
        self, record: Record, secrets: Sequence[str], calls: Calls, now: float
    ) -> Iterator[Call]:
        # One whose answer was lost is made again: that is a retry, and changes nothing.
        for older, newer in pairwise(secrets):
            change = Change(rotation=self._rotation(record, newer, now))
            key = SessionKey(self.id_hash, older)
            yield calls.save(key, change, idle_timeout=self.idle_timeout)

    def _rotation(self, record: Record, secret: str, now: float) -> Rotation:
        return Rotation(secret, max_age=max(0.0, record.expires_at - now))


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
        changed = _applied(entry, seen, change, now, asked=asked)
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
            current.born, current.known_secret = False, entry.secret_hash
            current.known_since, current.doubted = entry.record.secret_since, ()
            for name in current.changed.keys() | current.removed:
                told = entry.record.fields.get(name)
                current.was[name] = (*current.was.get(name, ()), told)
            self._bytes += current.size - size

    def _put(self, entry: Entry) -> None:
        before = self._entries.get(entry.id_hash)
        size = self._bytes + entry.size - (0 if before is None else before.size)
        grown = size > self._bytes and size > self._max_bytes
        # Logouts have a room of their own: nobody is kept in for the sake of what others write.
        beside = self._logouts if entry.record is None else len(self._entries) - self._logouts
        if grown or (before is None and beside >= self._max_sessions):
            self.refused += 1
            raise SessionUnavailable(
                "Redis is away, and as many session changes wait for it as may"
            )
        self._entries[entry.id_hash], self._bytes = entry, size
        was_logout = before is not None and before.record is None
        self._logouts += (entry.record is None) - was_logout


def alive(record: Record, now: float, idle_timeout: float) -> bool:
    """Whether neither lifetime of *record* is over."""
    if idle_timeout > 0 and now >= record.seen_at + idle_timeout:
        return False
    return now < record.expires_at


def _applied(entry: Entry, seen: Record, change: Change, now: float, *, asked: bool) -> Entry:
    """Return *entry* with *change*; a new one, so that a refusal leaves the old as it was."""
    rotation, (was, doubted) = change.rotation, _known_perhaps(entry)
    # Of one born here nothing but its own values can be there.
    for name in () if entry.born else (*change.set, *change.removed):
        was.setdefault(name, (seen.fields.get(name),))
        if asked:
            was[name] = (*was[name], change.set.get(name))
    if asked and rotation is not None:
        doubted = (*doubted, rotation.secret_hash)
    changed = {k: v for k, v in entry.changed.items() if k not in change.removed}
    changed.update(change.set)
    return replace(
        entry,
        secret_hash=entry.secret_hash if rotation is None else rotation.secret_hash,
        record=seen.after(change, now),
        changed=changed,
        removed=(entry.removed | set(change.removed)) - set(change.set),
        was=was,
        doubted=doubted,
        tried=False,
    )


def _known_perhaps(
    entry: Entry,
) -> tuple[dict[str, tuple[bytes | None, ...]], tuple[str, ...]]:
    """Return what Redis may hold, and the secrets that it may have, of what was told so far."""
    was, doubted = dict(entry.was), entry.doubted
    if entry.tried and entry.record is not None:
        for name, bases in was.items():
            told = entry.record.fields.get(name)
            was[name] = bases if told in bases else (*bases, told)
        if entry.secret_hash not in {entry.known_secret, *doubted}:
            doubted = (*doubted, entry.secret_hash)
    return was, doubted
