"""Sessions of which this process lately saw what Redis holds: what an outage is bridged with.

Copies of those that live, and the ids of those that it saw end. Bounded dictionaries, the oldest
first out. Nothing here knows whether Redis is there.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from holdfast.sessions.store import SessionKey

if TYPE_CHECKING:
    from holdfast.sessions.store import Record

# How many outdated ids are remembered. An answer asked for before the oldest of them is never kept:
# whether its session was outdated since, nobody can tell.
_MAX_OUTDATED = 1024


class _Copy(NamedTuple):
    secret_hash: str
    record: Record
    at: float
    size: int


class Copies:
    """The copies of one process.

    Args:
        max_sessions: how many are kept.
        max_bytes: what their data may come to.
    """

    def __init__(self, max_sessions: int, max_bytes: int) -> None:
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._bytes = 0
        #: A clock that :meth:`outdate` moves on. It is read before Redis is asked, for :meth:`put`.
        self.asked = 0
        self._outdated: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._copies)

    def put(self, key: SessionKey, record: Record, at: float, asked: int | None = None) -> None:
        """Keep *record*.

        Args:
            key: its id and present secret.
            record: what Redis held.
            at: when, in seconds since the epoch.
            asked: :attr:`asked` as it was before; nothing is kept of a session outdated since.
        """
        if asked is not None and self._outdated_since(key.id_hash, asked):
            return
        before = self._copies.pop(key.id_hash, None)
        size = sum(map(len, record.fields.values()))
        self._copies[key.id_hash] = _Copy(key.secret_hash, record, at, size)
        self._bytes += size if before is None else size - before.size
        while len(self._copies) > self._max_sessions or self._bytes > self._max_bytes:
            _, oldest = self._copies.popitem(last=False)
            self._bytes -= oldest.size

    def get(self, key: SessionKey, since: float) -> Record | None:
        """Return the copy for this very secret, if it was made at *since* or later."""
        copy = self._copies.get(key.id_hash)
        if copy is None or copy.secret_hash != key.secret_hash or copy.at < since:
            return None
        return copy.record

    def since(self, since: float) -> list[tuple[SessionKey, Record]]:
        """Return all that were made at *since* or later, with their secrets."""
        return [
            (SessionKey(id_hash, copy.secret_hash), copy.record)
            for id_hash, copy in self._copies.items()
            if copy.at >= since
        ]

    def touch(self, key: SessionKey, now: float, interval: float) -> None:
        """Note activity at *now*, unless some was noted less than *interval* seconds before."""
        record = self.get(key, 0.0)
        if record is not None and now - record.seen_at >= interval:
            seen = self._copies[key.id_hash]._replace(record=record._replace(seen_at=now))
            self._copies[key.id_hash] = seen

    def outdate(self, id_hash: str) -> None:
        """Forget one, and have no answer of Redis kept that was asked for before this."""
        self.drop(id_hash)
        self.asked += 1
        self._outdated[id_hash] = self.asked
        self._outdated.move_to_end(id_hash)
        if len(self._outdated) > _MAX_OUTDATED:
            self._outdated.popitem(last=False)

    def _outdated_since(self, id_hash: str, asked: int) -> bool:
        forgotten = self.asked - asked >= _MAX_OUTDATED
        return forgotten or self._outdated.get(id_hash, 0) > asked

    def drop(self, id_hash: str) -> None:
        """Forget one."""
        copy = self._copies.pop(id_hash, None)
        if copy is not None:
            self._bytes -= copy.size

    def drop_before(self, at: float) -> None:
        """Forget all that were made before *at*."""
        for id_hash in [each for each, copy in self._copies.items() if copy.at < at]:
            self.drop(id_hash)

    def clear(self) -> None:
        """Forget all."""
        self._copies.clear()
        self._bytes = 0


class Ended:
    """The sessions that ended here, for a Redis that may forget it.

    Args:
        max_sessions: how many are remembered.
    """

    def __init__(self, max_sessions: int) -> None:
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._max_sessions = max_sessions

    def note(self, id_hash: str, now: float) -> None:
        """Remember that one has ended at *now*, seconds since the epoch."""
        self._ended[id_hash] = now
        self._ended.move_to_end(id_hash)
        while len(self._ended) > self._max_sessions:
            self._ended.popitem(last=False)

    def since(self, since: float) -> list[str]:
        """Return those that ended at *since* or later; who ended before is forgotten."""
        while self._ended and next(iter(self._ended.values())) < since:
            self._ended.popitem(last=False)
        return list(self._ended)
