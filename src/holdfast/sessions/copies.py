"""Sessions of which this process lately saw what Redis holds: what an outage is bridged with.

A bounded dictionary, least recently used first out. Nothing here knows whether Redis is there.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from holdfast.sessions.store import Record, SessionKey


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

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._copies)

    def put(self, key: SessionKey, record: Record, at: float) -> None:
        """Keep *record* as what Redis held at *at* (seconds since the epoch)."""
        self.drop(key.id_hash)
        size = sum(map(len, record.fields.values()))
        self._copies[key.id_hash] = _Copy(key.secret_hash, record, at, size)
        self._bytes += size
        while len(self._copies) > self._max_sessions or self._bytes > self._max_bytes:
            _, oldest = self._copies.popitem(last=False)
            self._bytes -= oldest.size

    def get(self, key: SessionKey, since: float) -> Record | None:
        """Return the copy for this very secret, if it was made at *since* or later."""
        copy = self._copies.get(key.id_hash)
        if copy is None or copy.secret_hash != key.secret_hash or copy.at < since:
            return None
        return copy.record

    def drop(self, id_hash: str) -> None:
        """Forget one."""
        copy = self._copies.pop(id_hash, None)
        if copy is not None:
            self._bytes -= copy.size

    def clear(self) -> None:
        """Forget all."""
        self._copies.clear()
        self._bytes = 0
