"""The contract of a session store, and the values that cross it.

Whoever writes a store reads this file alone, and proves the store with
``holdfast.testing.SessionStoreSuite``. A store keeps bytes under an id and judges lifetimes; it
knows nothing of cookies, requests or JSON, and it never sees what a browser holds.

Three rules are what makes a session safe to share:

1. *Absent*, *unavailable* and *corrupt* are three answers. A store that cannot answer raises
   :class:`~holdfast.errors.SessionUnavailable`; it never says "absent" instead.
2. ``create`` is set-if-absent, ``save`` and ``touch`` are set-if-present: a late save cannot undo
   a logout, and an id cannot be given twice.
3. Every verb is atomic: another process sees all of it or nothing.
"""

from __future__ import annotations

import abc
import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds for which a secret replaced by age still reads and writes, for requests in parallel.
GRACE_SECONDS = 30.0
#: Seconds for which a secret killed by ``regenerate_id()`` is known to have a newer one.
SUPERSEDED_SECONDS = 30.0
#: Seconds for which a destroyed id cannot be created again: longer than any request or replay.
TOMBSTONE_SECONDS = 3600.0

Degraded = Literal["stale", "local"]


class SessionKey(NamedTuple):
    """What a store knows of a browser's credential: two SHA-256 hashes, in lower-case hex.

    Attributes:
        id_hash: the id of the session; stable for its whole life.
        secret_hash: proof of the right to it; replaced by each rotation.
    """

    id_hash: str
    secret_hash: str


class Record(NamedTuple):
    """A session as a store found it. Times are seconds since the epoch, by this process's clock.

    Attributes:
        fields: by top-level key, the value as JSON in UTF-8. Not to be changed in place.
        created_at: when it was created.
        expires_at: the end of its absolute lifetime, however active it is.
        seen_at: its last write or touch.
        secret_since: when its present secret was made.
        current: the secret presented is the present one, not one in its grace after a rotation.
        degraded: ``None``, or what it is served from while the real store is away: ``"stale"``, a
            copy of earlier, or ``"local"``, a session born meanwhile.
        skew: seconds by which the store's clock is ahead of this process's, as far as is known.
            With it, ``expires_at`` is to the millisecond what is stored.
    """

    fields: Mapping[str, bytes]
    created_at: float
    expires_at: float
    seen_at: float
    secret_since: float
    current: bool = True
    degraded: Degraded | None = None
    skew: float = 0.0

    def __repr__(self) -> str:
        # Values are what a log, a traceback or a debugger must not show (CWE-532).
        told = zip(self._fields[1:], self[1:], strict=True)
        return f"Record({', '.join(f'{name}={value!r}' for name, value in told)})"

    @classmethod
    def new(cls, fields: Mapping[str, bytes], max_age: float, now: float) -> Record:
        """Return that of a session created at *now*, to live for *max_age* seconds."""
        return cls(dict(fields), now, now + max_age, now, now)

    def alive(self, now: float, idle_timeout: float) -> bool:
        """Whether neither lifetime is over at *now*; *idle_timeout* in seconds, 0 for none."""
        if idle_timeout > 0 and now >= self.seen_at + idle_timeout:
            return False
        return now < self.expires_at

    def after(self, change: Change, now: float) -> Record:
        """Return what it is once *change* was applied at *now*, seconds since the epoch.

        A change is activity; a rotation makes the secret new, and the lifetime where it says so.
        """
        since, end = self.secret_since, self.expires_at
        if change.rotation is not None:
            since = now
            if change.rotation.max_age is not None:
                end = now + change.rotation.max_age
        fields = change.applied(self.fields)
        return Record(
            fields, self.created_at, end, now, since, self.current, self.degraded, self.skew
        )


class Missing(enum.Enum):
    """Why a store has no session to give."""

    ABSENT = "never was, expired or destroyed"
    EXPIRED = "past its lifetime, where that can still be seen; ABSENT says it too"
    SUPERSEDED = "the secret was killed a moment ago; the browser has a newer one"


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new secret for a session.

    Attributes:
        secret_hash: SHA-256 of the new secret.
        grace: seconds for which the old one reads and writes; 0 kills every older secret at once.
        max_age: a new absolute lifetime in seconds from now, ``None`` to keep the old end.
        final: whoever was logged in is not any more, and so what was before it never comes back, as
            it may where the browser is not told of another. Only with a *grace* of 0.
        kept: what it replaces is kept by the store, until it is settled that the browser is told.
    """

    secret_hash: str
    grace: float = 0.0
    max_age: float | None = None
    final: bool = False
    kept: bool = False


_NONE: Mapping[str, Any] = MappingProxyType({})


class Change(NamedTuple):
    """What one request did to a session, key by key; keys it does not name stay as they are.

    Attributes:
        set: new values as JSON, by top-level key.
        removed: keys that are gone.
        rotation: a new secret, in the same atomic step.
        renewed: the same values in another form, as ``(old, new)`` by key: each is taken only
            where the old bytes still stand, so that no parallel write is undone. Names neither
            set nor removed. A store may leave them out.
        expected: what has to be stored under these keys, ``None`` for nothing, or else the change
            is refused whole: compare-and-set.
        noted: the session is seen at this moment; else a store may leave that out where it was seen
            less than ``HOLDFAST_SESSION_TOUCH_INTERVAL`` ago.
    """

    set: Mapping[str, bytes] = _NONE
    removed: tuple[str, ...] = ()
    rotation: Rotation | None = None
    renewed: Mapping[str, tuple[bytes, bytes]] = _NONE
    expected: Mapping[str, bytes | None] = _NONE
    noted: bool = False

    def __repr__(self) -> str:
        # Without the values, as of a record.
        return f"Change(removed={self.removed}, rotation={self.rotation}, noted={self.noted})"

    def fits(self, fields: Mapping[str, bytes]) -> bool:
        """Whether *fields* are as expected."""
        return all(fields.get(key) == raw for key, raw in self.expected.items())

    def applied(self, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return what *fields* become by it."""
        result = dict(fields)
        for key in self.removed:
            result.pop(key, None)
        result.update(self.set)
        for key, (old, new) in self.renewed.items():
            if result.get(key) == old:
                result[key] = new
        return result


class Outcome(enum.Enum):
    """What became of a write."""

    DONE = "done"
    DESTROYED = "keys were removed and none is left: destroyed as by delete"
    NOT_ROTATED = "done, but another request has rotated the secret just before"
    GONE = "refused: no such session, or not with this secret"
    EXISTS = "refused: the id is taken"
    CONFLICT = "refused: what is stored is not what the change expected"


class SessionStore(abc.ABC):
    """Where sessions live. Every verb may raise ``SessionUnavailable`` (no answer can be given).

    One store serves all event loops and threads of a process, and may be used before and after a
    fork: it is bound to no loop.
    """

    @property
    def waits_in_place(self) -> bool:
        """Whether the verbs wait in their thread where ``sync.blocking()`` says so. Default no."""
        return False

    @property
    def writable(self) -> bool:
        """Whether a write has any prospect now, as far as is known without I/O. Default true."""
        return True

    @abc.abstractmethod
    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        """Return the session, or why there is none. Creates nothing and prolongs nothing.

        A session past its absolute end, or *idle_timeout* seconds (0: off) after it was last seen,
        is absent, whether or not its data is still there. A secret in its grace is found with
        ``current=False``. A wrong secret is as absent as an unknown id.

        Raises:
            CorruptData: something is stored that cannot be understood.
        """

    @abc.abstractmethod
    async def create(
        self,
        key: SessionKey,
        fields: Mapping[str, bytes],
        *,
        max_age: float,
        idle_timeout: float = 0.0,
    ) -> Outcome:
        """Store a new session for *max_age* seconds.

        Returns:
            ``DONE``; ``EXISTS`` where the id is taken; ``GONE`` where it was destroyed within
            ``TOMBSTONE_SECONDS``. The same id and secret again are ``DONE`` and change nothing: it
            is the retry of a call whose answer was lost.
        """

    @abc.abstractmethod
    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        """Apply *change* to a session that exists, and count it as activity.

        A session from which keys are removed and that has none left is destroyed. The same
        rotation again (a lost answer) is ``DONE``.

        Returns:
            ``DONE``, ``DESTROYED``, ``NOT_ROTATED`` (a rotation with grace, by a secret in its
            grace), ``GONE``, or ``CONFLICT`` where *change* expected something else; nothing is
            written then, and ``GONE`` comes first.
        """

    async def increment(
        self, key: SessionKey, name: str, by: int, *, idle_timeout: float = 0.0
    ) -> int | Outcome:
        """Add *by* to the whole number stored under *name*, and count it as activity.

        A key that is not there counts as 0. The default says ``CONFLICT``, so that the caller goes
        by ``save`` with ``expected``; a store that can add in one step does it here.

        Returns:
            The new value; ``GONE``; or ``CONFLICT``, with nothing written, where no whole number
            is stored, or where the sum would be one that the store cannot add to.
        """
        return Outcome.CONFLICT

    @abc.abstractmethod
    async def touch(
        self, key: SessionKey, *, idle_timeout: float, interval: float = 0.0
    ) -> Outcome:
        """Count a request as activity, unless that was done less than *interval* seconds ago.

        Returns:
            ``DONE``, or ``GONE``, with nothing written, where there is no such session.
        """

    @abc.abstractmethod
    async def delete(self, id_hash: str) -> Outcome:
        """Destroy a session whatever its secret, and remember its id for ``TOMBSTONE_SECONDS``.

        Returns:
            ``DONE``, or ``GONE`` where it was absent already (the id is remembered all the same).
        """

    async def flush(self) -> None:  # noqa: B027 - most stores have nothing that waits
        """Write what waits to be written; called when the application shuts down."""
