"""A session in Redis, as values: which script to call with what, and what a reply means.

Pure. The asynchronous store, the synchronous one and the replay after an outage send the same
calls over different wires. The layout, one hash per session, is told in
``link/scripts/session_common.lua``.
"""

from __future__ import annotations

import hmac
from functools import cache, lru_cache
from importlib import resources
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from holdfast.errors import CorruptData, RedisReplyError, SessionUnsettled
from holdfast.sessions.store import (
    SUPERSEDED_SECONDS,
    TOMBSTONE_SECONDS,
    Change,
    Missing,
    Outcome,
    Record,
    Rotation,
    SessionKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from holdfast.link import Arg, Reply, Script

# No UTF-8, so that no key of an application can be the same.
META, OLD = b"\xffmeta", b"\xffold"

_OUTCOMES = {
    -1: Outcome.GONE,
    0: Outcome.EXISTS,
    1: Outcome.DONE,
    2: Outcome.DESTROYED,
    3: Outcome.NOT_ROTATED,
    4: Outcome.CONFLICT,
}
_UNSETTLED = 5
# Replies of a script that writes after which the session is there.
_THERE = {1, 3, 4}


class Call(NamedTuple):
    """One script with what it is about."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Arg, ...]

    def __repr__(self) -> str:
        # What it carries is a session's data.
        return f"<Call of {self.script.name} on {self.keys[0]}>"


class Calls:
    """Builds the calls of one key prefix.

    Args:
        prefix: put before every key.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = f"{prefix}session:"

    def name(self, id_hash: str) -> str:
        """Return the key of a session."""
        return self._prefix + id_hash

    def _names(self, id_hash: str) -> tuple[str, str]:
        name = self._prefix + id_hash
        # The braces put both into one slot of a cluster.
        return name, f"{{{name}}}:gone"

    def create(
        self,
        key: SessionKey,
        fields: Mapping[str, bytes],
        *,
        max_age: float,
        idle_timeout: float,
        age: float = 0.0,
    ) -> Call:
        """Build ``SessionStore.create``; *age* is how many seconds ago the session was born."""
        data = (each for pair in fields.items() for each in pair)
        args = (key.secret_hash, _ms(max_age), _ms(idle_timeout), _ms(age), *data)
        return Call(_script("session_create"), self._names(key.id_hash), args)

    def save(
        self, key: SessionKey, change: Change, *, idle_timeout: float, noted: bytes = b""
    ) -> Call:
        """Build ``SessionStore.save``; *noted* is what ``Noted.asked`` says."""
        data: Iterator[Arg] = chain.from_iterable(change.set.items())
        args = (key.secret_hash, _ms(idle_timeout), noted, len(change.set), *data)
        # Noted has something to say of plain changes alone.
        if not noted and not is_plain(change):
            args = (*args, *_beside(change))
        script = _script("session_save", "session_again")
        return Call(script, self._names(key.id_hash), args)

    def merge(
        self,
        key: SessionKey,
        keys: Mapping[str, tuple[bytes | None, Sequence[bytes | None]]],
        *,
        idle_timeout: float,
    ) -> Call:
        """Build the replay of an outage: what each of *keys* becomes, and what may be found there.

        ``None`` is no value. What is found to be something else is somebody else's, and stays.
        """
        told: list[str | bytes | int] = []
        for name, (ours, bases) in keys.items():
            told += (name, _marked(ours), len(bases), *map(_marked, bases))
        args = (key.secret_hash, _ms(idle_timeout), _ms(TOMBSTONE_SECONDS), len(keys), *told)
        return Call(_script("session_merge"), self._names(key.id_hash), args)

    def settle(self, id_hash: str, secret_hash: str) -> Call:
        """Build the word that *secret_hash* is told to whoever asked for it."""
        return Call(_script("session_settle"), (self.name(id_hash),), (secret_hash,))

    def take_back(self, id_hash: str, secret_hash: str) -> Call:
        """Build the return of what was there before *secret_hash*, which nobody has."""
        args = (secret_hash, _ms(TOMBSTONE_SECONDS))
        return Call(_script("session_take_back"), self._names(id_hash), args)

    def restore(self, key: SessionKey, record: Record, now: float) -> Call:
        """Build the return of *record*, a copy, to a Redis that may have lost it."""
        ages = (record.secret_since, record.seen_at)
        args = (
            key.secret_hash,
            _ms(max(0.0, now - record.created_at)),
            _ms(record.expires_at - now),
            *(_ms(max(0.0, now - at)) for at in ages),
            _ms(SUPERSEDED_SECONDS),
            *(each for pair in record.fields.items() for each in pair),
        )
        return Call(_script("session_restore"), self._names(key.id_hash), args)

    def increment(self, key: SessionKey, name: str, by: int, *, idle_timeout: float) -> Call:
        """Build ``SessionStore.increment``."""
        args = (key.secret_hash, _ms(idle_timeout), name, by)
        return Call(_script("session_increment"), (self.name(key.id_hash),), args)

    def touch(self, key: SessionKey, *, idle_timeout: float, interval: float) -> Call:
        """Build ``SessionStore.touch``."""
        args = (key.secret_hash, _ms(idle_timeout), _ms(interval))
        return Call(_script("session_touch"), (self.name(key.id_hash),), args)

    def delete(self, id_hash: str) -> Call:
        """Build ``SessionStore.delete``."""
        return Call(_script("session_delete"), self._names(id_hash), (_ms(TOMBSTONE_SECONDS),))


def is_plain(change: Change) -> bool:
    """Whether *change* sets keys and does nothing else."""
    return not (change.rotation or change.removed or change.renewed or change.expected)


def outcome(reply: Reply) -> Outcome:
    """Return what a writing script's reply means.

    Raises:
        SessionUnsettled: only later can it be said.
        CorruptData: it means nothing.
    """
    if isinstance(reply, int) and reply in _OUTCOMES:
        return _OUTCOMES[reply]
    if reply == _UNSETTLED:
        raise SessionUnsettled
    raise CorruptData("a session script gave an unknown answer")


def incremented(reply: Reply) -> int | Outcome:
    """Return what the reply of ``session_increment`` means: text is the new value."""
    return int(reply) if isinstance(reply, bytes) else outcome(reply)


def _beside(change: Change) -> Iterator[Arg]:
    """What ``session_save`` is asked beside setting keys."""
    rotation = change.rotation or Rotation("")
    max_age = -1 if rotation.max_age is None else _ms(rotation.max_age)
    yield from (rotation.secret_hash, _grace(rotation), max_age)
    yield from (_ms(SUPERSEDED_SECONDS), _ms(TOMBSTONE_SECONDS))
    yield from (len(change.renewed), len(change.expected))
    yield from _expectations(change)
    for name, forms in change.renewed.items():
        yield from (name, *forms)
    yield from change.removed


def _grace(rotation: Rotation) -> int:
    if rotation.grace > 0:
        return _ms(rotation.grace)
    if not rotation.kept:
        return -2
    return -1 if rotation.final else 0


def _expectations(change: Change) -> Iterator[str | bytes]:
    for key, raw in change.expected.items():
        yield key
        yield _marked(raw)


def _marked(raw: bytes | None) -> str | bytes:
    return "-" if raw is None else b"=" + raw


def merged(reply: Reply) -> tuple[bool, int]:
    """Return what the last reply of a replay means.

    Returns:
        Whether the session is there, and how many of its keys others had changed.
    """
    code, conflicts = (reply[0], len(reply) - 1) if isinstance(reply, list) else (reply, 0)
    return isinstance(code, int) and code in _THERE, conflicts


def unsettled(reply: Reply) -> bool:
    """Whether a script refused, because it cannot be said yet which secret is the session's."""
    return reply in (_UNSETTLED, [_UNSETTLED])


def deleted(reply: Reply) -> Outcome:
    """Return what the reply of ``session_delete`` means."""
    return Outcome.DONE if reply == 1 else Outcome.GONE


def corrupt(error: RedisReplyError) -> CorruptData:
    """Return what a refused command means: what lies under the key is no session of ours."""
    return CorruptData(f"what is stored is no session ({error.code})")


def record(
    reply: Reply, secret_hash: str, now: float, idle_timeout: float, skew: float = 0.0
) -> Record | Missing:
    """Return the session that ``HGETALL`` answered.

    Args:
        reply: names and values in turn.
        secret_hash: of the secret that was presented.
        now: seconds since the epoch by the clock of Redis.
        idle_timeout: seconds, 0 for none.
        skew: seconds by which the clock of Redis is ahead of ours.

    Raises:
        SessionUnsettled: *secret_hash* was replaced, and may be good again.
        CorruptData: it is something else than a session.
    """
    if not isinstance(reply, list):
        raise CorruptData("what is stored is no session")
    if not reply:
        return Missing.ABSENT
    raw = dict(zip(reply[::2], reply[1::2], strict=True))
    secret, created, expires, seen, since = _meta(raw.pop(META, None))
    old = raw.pop(OLD, None)
    # Redis has expired it by itself, unless its expiry was lost or the timeout was cut since.
    if now >= expires or (idle_timeout > 0 and now >= seen + idle_timeout):
        return Missing.EXPIRED
    given = secret_hash.encode()
    current = hmac.compare_digest(secret, given)
    if not current:
        standing = _old_standing(old, given, now)
        if standing is not None:
            return standing
    times = (created - skew, expires - skew, seen - skew, since - skew)
    return Record(_fields(raw), *times, current, skew=skew)


def bare_record(meta: bytes) -> Record:
    """Return what the metadata alone says of a session, by the clock of Redis.

    Raises:
        CorruptData: it is no metadata that this version can read.
    """
    _, created, expires, seen, since = _meta(meta)
    return Record({}, created, expires, seen, since)


# Cached, because it changes with the activity that is noted, and that is only now and then.
@lru_cache(maxsize=1024)
def _meta(text: bytes | None) -> tuple[bytes, float, float, float, float]:
    try:
        version, secret, created, expires, seen, since = (text or b"").split(b" ")
        if version == b"1":
            return (
                secret,
                int(created) / 1000,
                int(expires) / 1000,
                int(seen) / 1000,
                int(since) / 1000,
            )
    except ValueError:
        pass
    raise CorruptData("the stored session has no metadata that this version can read")


def _old_standing(old: bytes | None, given: bytes, now: float) -> Missing | None:
    """``None`` for a secret in its grace."""
    olds, _, replaced = (old or b"").partition(b";|")
    for entry in olds.split(b";"):
        kind, _, rest = entry.partition(b":")
        secret, _, until = rest.partition(b":")
        if secret == given and until.isdigit() and int(until) / 1000 > now:
            if kind == b"g":
                return None
            if _returns(replaced, given):
                raise SessionUnsettled
            return Missing.SUPERSEDED
    return Missing.ABSENT


def _returns(replaced: bytes, given: bytes) -> bool:
    """Whether a secret would be good again if what was *replaced* were put back."""
    meta, olds, *_ = (*replaced.split(b"|", 2), b"")
    return given in meta.split(b" ")[1:2] or b"g%1" + given in olds


def _fields(raw: dict[bytes, bytes]) -> dict[str, bytes]:
    try:
        return {key.decode(): value for key, value in raw.items()}
    except UnicodeDecodeError:
        raise CorruptData("the stored session has a key that is no text") from None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


@cache
def _script(name: str, *first: str) -> Script:
    from holdfast.link import Script

    folder = resources.files("holdfast.link") / "scripts"
    parts = [folder / f"{each}.lua" for each in (*first, "session_common", name)]
    return Script(name, "".join(part.read_text(encoding="utf-8") for part in parts))
