"""One session that Redis does not know as this process does: what waits to be written of it.

Pure data with no clock, no lock and no I/O. An entry says at any moment both what this process
shows of the session and what Redis has to be told.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from holdfast.sessions.store import (
    SUPERSEDED_SECONDS,
    Change,
    Missing,
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
            lives = record.alive(now, idle_timeout) and record.alive(now, self.idle_timeout)
            return record if lives else Missing.ABSENT
        if secret_hash == self.known_secret:
            recently = now < record.secret_since + SUPERSEDED_SECONDS
            return Missing.SUPERSEDED if recently else Missing.ABSENT
        return None

    def after(self, seen: Record, change: Change, now: float, *, asked: bool) -> Entry:
        """Return the entry with *change* made; a new one, so that a refusal leaves this as it is.

        Args:
            seen: what the bearer of the presented secret sees.
            change: what was done.
            now: seconds since the epoch.
            asked: Redis was asked to do it, and may have done it without an answer.
        """
        rotation, (was, doubted) = change.rotation, self._known_perhaps()
        # Of a session born here Redis can hold nothing but what this process told it.
        for name in () if self.born else (*change.set, *change.removed):
            was.setdefault(name, (seen.fields.get(name),))
            if asked:
                was[name] = (*was[name], change.set.get(name))
        if asked and rotation is not None:
            doubted = (*doubted, rotation.secret_hash)
        changed = {k: v for k, v in self.changed.items() if k not in change.removed}
        changed.update(change.set)
        return replace(
            self,
            secret_hash=self.secret_hash if rotation is None else rotation.secret_hash,
            record=seen.after(change, now),
            changed=changed,
            removed=(self.removed | set(change.removed)) - set(change.set),
            was=was,
            doubted=doubted,
            tried=False,
        )

    def _known_perhaps(self) -> tuple[dict[str, tuple[bytes | None, ...]], tuple[str, ...]]:
        """Return what Redis may hold, and the secrets that it may have, of what was told so far."""
        was, doubted = dict(self.was), self.doubted
        if self.tried and self.record is not None:
            for name, bases in was.items():
                told = self.record.fields.get(name)
                was[name] = bases if told in bases else (*bases, told)
            if self.secret_hash not in {self.known_secret, *doubted}:
                doubted = (*doubted, self.secret_hash)
        return was, doubted

    def follow(self, told: Entry, record: Record) -> None:
        """Note that Redis knows *told*, which this was with *record* before more was added."""
        self.born, self.known_secret = False, told.secret_hash
        self.known_since, self.doubted = record.secret_since, ()
        for name in self.changed.keys() | self.removed:
            self.was[name] = (*self.was.get(name, ()), record.fields.get(name))

    def calls(self, calls: Calls, now: float, *, lost: bool = False) -> tuple[Call, ...]:
        """Return the scripts that tell Redis all of it, in their order; the last reply counts.

        Args:
            calls: builds them.
            now: seconds since the epoch.
            lost: Redis may have lost the session, so that its absence says nothing.
        """
        if self.record is None:
            return (calls.delete(self.id_hash),)
        if self.born:
            return self._creating(self.record, calls, now)
        return self._merging(self.record, calls, now, lost=lost)

    def _creating(self, record: Record, calls: Calls, now: float) -> tuple[Call, ...]:
        *older, last = self._secrets()
        rotation = self._rotation(record, last, now) if older else None
        # With the secret of its birth: where a creation reached Redis and its answer was lost, this
        # is a retry, which changes nothing.
        birth = calls.create(
            SessionKey(self.id_hash, self.known_secret),
            self._fields_at_birth(record) if rotation else record.fields,
            max_age=record.expires_at - record.created_at,
            idle_timeout=self.idle_timeout,
            age=max(0.0, now - record.created_at),
        )
        if not (self.changed or self.removed or rotation):
            return (birth,)
        change = Change(self.changed, tuple(sorted(self.removed)), rotation)
        key = SessionKey(self.id_hash, older[-1] if older else last)
        saving = calls.save(key, change, idle_timeout=self.idle_timeout)
        return birth, *self._rotating(record, older, calls, now), saving

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
        # Where a rotation was made and its answer lost, this is a retry, which changes nothing.
        for older, newer in pairwise(secrets):
            change = Change(rotation=self._rotation(record, newer, now))
            key = SessionKey(self.id_hash, older)
            yield calls.save(key, change, idle_timeout=self.idle_timeout)

    def _rotation(self, record: Record, secret: str, now: float) -> Rotation:
        return Rotation(secret, max_age=max(0.0, record.expires_at - now))
